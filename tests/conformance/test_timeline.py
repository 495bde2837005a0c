"""Timelines: whole XML, everything in its place, and nothing hostile gets through."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from botsessions.conformance.histories.history import NEVER, Call, Outcome, Verb
from botsessions.conformance.histories.judge import check_calls
from botsessions.conformance.histories.registers import Kind, Operation
from botsessions.conformance.histories.timeline import (
    Span,
    explain,
    page,
    spans,
    timeline,
)
from botsessions.record import Version
from tests.histories import commit, history, load

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "<script>alert('1')</script>\"&]]>--> \x00\x1b[31m \u202eback \ud800 \ufffe\n\t"
)


def span(lane: str, called: int, returned: int, **fields: object) -> Span:
    values: dict[str, object] = {
        "key": "key",
        "asked": "get",
        "answered": "saw",
        "outcome": Outcome.DONE,
    }
    return Span(lane=lane, called=called, returned=returned, **values | fields)  # type: ignore[arg-type]


def drawn(svg: str, name: str, kind: str = "") -> list[ET.Element]:
    """Return the elements of a drawing, apart from those of its legend."""
    root = ET.fromstring(svg)  # noqa: S314 - our own
    found = [e for e in root.iter(SVG + name) if kind in ("", e.get("class"))]
    bottom = float(root.get("height", "0")) - 34
    return [e for e in found if float(e.get("y", e.get("y1", "0"))) < bottom]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in drawn(svg, "text")]


def box(element: ET.Element) -> tuple[float, float, float]:
    x, y, width = (float(element.get(name, "0")) for name in ("x", "y", "width"))
    return x, x + width, y


def test_bars_lie_in_the_order_of_their_moments() -> None:
    svg = timeline([span("a", 10, 10**18), span("b", 10**6, 10**18 + 1)])
    (left, right, _), (left2, right2, _) = map(box, drawn(svg, "rect", "done"))
    assert left < left2 < right < right2
    # However long they were apart, moments are at one distance.
    assert left2 - left == pytest.approx(right - left2, abs=0.2)


def test_workers_have_lanes_in_the_order_of_their_numbers() -> None:
    svg = timeline([span(f"worker {n}", n, n + 1) for n in (10, 9, 2)])
    names = [text for text in texts(svg) if text.startswith("worker")]
    assert names == ["worker 2", "worker 9", "worker 10"]


def test_lanes_may_have_any_number() -> None:
    names = ["worker 7", "worker 007x", "worker 08", "worker " + "1" * 5000]
    svg = timeline([span(name, n, n + 1) for n, name in enumerate(reversed(names))])
    shown = [text for text in texts(svg) if text.startswith("worker")]
    assert [text[:11] for text in shown] == [name[:11] for name in names]


def test_texts_of_one_row_never_meet() -> None:
    many = [
        span("w", 3 * n, 3 * n + 2, answered="x" * (n * 7 % 60)) for n in range(1, 30)
    ]
    rows: dict[str, list[tuple[float, float]]] = {}
    svg = timeline(many)
    width = float(ET.fromstring(svg).get("width", "0"))  # noqa: S314 - our own
    for element in drawn(svg, "text"):
        if (element.text or "").startswith("get"):
            x = float(element.get("x", "0"))
            end = x + 7 * len(element.text or "")
            assert 0 <= x < end <= width
            rows.setdefault(element.get("y", ""), []).append((x, end))
    assert sum(map(len, rows.values())) == 29
    for row in rows.values():
        for (_, end), (start, _) in zip(sorted(row), sorted(row)[1:], strict=False):
            assert end < start


def test_an_unknown_outcome_has_an_open_end() -> None:
    svg = timeline(
        [
            span("a", 1, NEVER, outcome=Outcome.UNKNOWN),
            span("b", 2, 3, outcome=Outcome.UNKNOWN),
            span("c", 4, 5),
        ]
    )
    assert drawn(svg, "rect", "unknown") == []
    paths = [e.get("d", "") for e in drawn(svg, "path", "unknown")]
    assert len(paths) == 3  # the legend has one, too
    assert not any(path.endswith("Z") for path in paths)
    assert len(drawn(svg, "line", "open")) == 1  # when the second was answered
    assert "no answer" in svg
    # The edge is no moment.
    assert [text for text in texts(svg) if text.isdecimal()] == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]


def test_the_shape_tells_what_the_colour_does() -> None:
    svg = timeline(
        [
            span("a", 1, 2),
            span("a", 3, 4, outcome=Outcome.FAILED),
            span("a", 5, 6, accused=True),
        ]
    )
    assert len(drawn(svg, "line", "cross")) == 2
    assert len(drawn(svg, "rect", "ring")) == 1
    assert [text for text in texts(svg) if text.startswith("▶")] == ["▶ get: saw"]
    assert "prefers-color-scheme:dark" in svg


def test_the_key_is_told_where_there_are_several() -> None:
    one, other = span("a", 1, 2), span("a", 3, 4, key="other")
    assert "get: saw" in texts(timeline([one]))
    assert "get other: saw" in texts(timeline([one, other]))


def test_calls_and_operations_become_bars() -> None:
    (call,) = history((Verb.UPDATE, 1, 2, (1,)))
    call.process = "w"
    counted = Call(2, "key", Verb.GET, 3, returned=4, outcome=Outcome.DONE, count=7)
    failed = Call(
        3, "key", Verb.PUT, 5, returned=6, outcome=Outcome.FAILED, note="Ouch"
    )
    version = Version(3, 0x1234567)
    operations = [
        load(1, 2, None),
        commit(3, 4, None, version),
        commit(5, 6, version, "b", False),
        Operation("key", "w", Kind.DELETE, called=7),
    ]
    made = spans([call, counted, failed, *operations], accused=[call, operations[1]])
    assert [f"{one.asked}: {one.answered}" for one in made] == [
        "#1 update: saw <1>",
        "#2 get: count 7",
        "#3 put: failed, Ouch",
        "load: nothing",
        "commit nothing -> 3:234567: True",
        "commit 3:234567 -> 'b': False",
        "delete: unknown",
    ]
    assert [one.accused for one in made] == [True, *[False] * 3, True, *[False] * 2]
    assert {one.outcome for one in made} == set(Outcome)


def test_hostile_texts_are_only_texts() -> None:
    fields = {"key": HOSTILE, "asked": HOSTILE, "answered": HOSTILE}
    bars = [span(HOSTILE, 1, 2, **fields), span("b", 3, 4)]
    svg = timeline(bars, title=HOSTILE, note=HOSTILE)
    ET.fromstring(svg)  # noqa: S314 - our own
    assert "<script" not in svg
    assert any(r"\x1b[31m \u202eback \ud800" in text for text in texts(svg))
    whole = page(bars, title=HOSTILE, text=HOSTILE, note=HOSTILE)
    whole.encode()
    assert "<script" not in whole
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800\ufffe]", whole)
    assert "default-src 'none'" in whole


def test_long_texts_are_cut_and_whole_on_demand() -> None:
    long = "begin " + "日本" * 400 + " end"
    svg = timeline([span("lane " * 20, 1, 2, answered=long)], title=long, note=long)
    (label,) = (text for text in texts(svg) if text.startswith("get"))
    assert label.startswith("get: begin 日本")
    assert label.endswith(" end")
    assert len(label) < 96
    assert long in svg  # as a tooltip
    assert float(ET.fromstring(svg).get("width", "0")) < 1200  # noqa: S314 - our own


def test_marks_that_take_no_room_are_cut_too() -> None:
    svg = timeline([span("w", 1, 2, answered="e" + "\u0301" * 200_000)])
    assert max(map(len, texts(svg))) < 500


def test_a_note_is_wrapped_where_it_ends() -> None:
    words = ["日本" * 9, "Nihon", "本" * 500] * 5
    svg = timeline([span("w", 1, 2)], note=" ".join(words))
    lines = [element.text or "" for element in drawn(svg, "text", "faint")]
    note = lines[: lines.index("moment")]
    assert "".join(note).replace(" ", "") == "".join(words)
    width = float(ET.fromstring(svg).get("width", "0"))  # noqa: S314 - our own
    for line in note:
        columns = sum(1 + (character in "日本") for character in line)
        assert columns * 7.3 < width


def test_nothing_is_a_timeline_too() -> None:
    assert drawn(timeline([]), "rect", "done") == []


def test_a_rejected_history_is_explained_on_a_page() -> None:
    calls = history(
        (Verb.UPDATE, 1, 2, (1,)),
        (Verb.UPDATE, 3, 5, (1, 2)),
        (Verb.GET, 3, 4, (1,)),
        (Verb.UPDATE, 4, 6, (1, 4)),
    )
    whole = explain(calls, check_calls, title="A bad day")
    assert "<h1>A bad day</h1>" in whole
    assert "key: 2 of 4 calls" in whole
    assert "a lost update: two changes were applied on the same state" in whole
    assert ">▶ #2 update: saw &lt;1 2&gt;</text>" in whole
    assert ">▶ #4 update: saw &lt;1 4&gt;</text>" in whole
    assert "#3 get" not in whole
