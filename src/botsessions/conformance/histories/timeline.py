"""Draw calls as bars over time, so that a person sees what was called before what.

Each worker has a lane. A bar goes from call to return, and on to the edge if nobody
knows the outcome; what was asked and answered stands over it. Moments are set out in
their order, at equal distances. What a colour says the shape says too: a full bar took
effect, a hollow one with a cross did not, a dashed one with an open end is unknown, and
a mark ▶ with bold text points at the calls that are to blame.

``spans`` makes bars of calls and operations, ``timeline`` an SVG of bars, ``page`` the
HTML around it, and ``explain`` all that of a history that was rejected.
"""

from __future__ import annotations

import dataclasses
import html
import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from botsessions.conformance.histories.history import NEVER, Call, Outcome, shown
from botsessions.conformance.histories.registers import Operation
from botsessions.conformance.histories.shrink import One, shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

_CHARACTER = 7.3  # pixels of the widest of the usual monospaced fonts, at 12 px
_LONGEST_LABEL = 96
_LONGEST_LANE = 22
_ROW = 36
_EDGE = 16
_NARROWEST = 14.0  # a column, so that every fifth has room for its number

_STYLE = """
.tl text{font:12px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
.tl text{fill:#1f2328}
.tl .title{font-size:15px;font-weight:bold}
.tl .faint{fill:#59636e}
.tl .accused{font-weight:bold}
.tl .paper{fill:#fff}.tl .stripe{fill:#f3f5f8}.tl .blame{fill:#fde8e8}
.tl .grid{stroke:#d5dae0}.tl .when{stroke:#8c959f;stroke-dasharray:2 3}
.tl .done{fill:#2f6fd6;stroke:#1b4a9a}
.tl .failed{fill:#fff;stroke:#57606a;stroke-width:1.5}
.tl .unknown{fill:#fff3d1;stroke:#9a6700;stroke-width:1.5;stroke-dasharray:5 3}
.tl .open{fill:none;stroke:#9a6700;stroke-width:1.5}
.tl .cross{stroke:#57606a;stroke-width:1.5}
.tl .ring{fill:none;stroke:#c1121f;stroke-width:2.5}
@media (prefers-color-scheme:dark){
.tl text{fill:#e6edf3}.tl .faint{fill:#9aa4af}
.tl .paper{fill:#0d1117}.tl .stripe{fill:#161b22}.tl .blame{fill:#3d1519}
.tl .grid{stroke:#2b323b}.tl .when{stroke:#6e7681}
.tl .done{fill:#4f8ef0;stroke:#a5c7ff}
.tl .failed{fill:#0d1117;stroke:#aab4bf}
.tl .unknown{fill:#3a2d0a;stroke:#e3b341}.tl .open{stroke:#e3b341}
.tl .cross{stroke:#aab4bf}.tl .ring{stroke:#ff6b6b}
}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A bar: who asked what of which key, and was answered what, from when to when.

    ``returned`` is ``NEVER`` if there was no answer. ``accused`` points at it.
    """

    lane: str
    key: str
    asked: str
    answered: str
    called: int
    returned: int
    outcome: Outcome
    accused: bool = False


def spans(
    calls: Iterable[Call | Operation], *, accused: Collection[object] = ()
) -> list[Span]:
    """Return the bars of calls; ``accused`` are the ``calls`` of a ``Violation``."""
    marked = {id(call) for call in accused}
    return [
        dataclasses.replace(_span(call), accused=id(call) in marked) for call in calls
    ]


def _span(call: Call | Operation) -> Span:
    if isinstance(call, Operation):
        outcome = {True: Outcome.DONE, False: Outcome.FAILED, None: Outcome.UNKNOWN}
        return Span(
            call.worker,
            call.key,
            call.asked,
            call.answered,
            call.called,
            call.returned,
            outcome[call.outcome],
        )
    answered = [call.outcome.value] if call.outcome is not Outcome.DONE else []
    if call.saw is not None:
        answered.append(f"saw {shown(call.saw)}")
    if call.count is not None:
        answered.append(f"count {call.count}")
    if call.note:
        answered.append(call.note)
    return Span(
        call.process,
        call.key,
        f"#{call.id} {call.verb}",
        ", ".join(answered) or "done",
        call.called,
        call.returned,
        call.outcome,
    )


def timeline(spans: Sequence[Span], *, title: str = "", note: str = "") -> str:
    """Return a self-contained SVG; it follows the reader's light or dark colours."""
    return _Drawing(spans, title, note).svg()


def page(spans: Sequence[Span], *, title: str, text: str = "", note: str = "") -> str:
    """Return an HTML page with a timeline and, below it, a text as it is.

    It runs no script and loads nothing.
    """
    lines = "\n".join(_text(line) for line in text.splitlines())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{_text(title)}</title>
<style>
body{{font:15px system-ui,sans-serif;margin:2em;line-height:1.4}}
.drawing{{overflow-x:auto}}
pre{{white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}}
</style>
</head>
<body>
<h1>{_text(title)}</h1>
<div class="drawing">
{timeline(spans, note=note)}
</div>
<pre>{lines}</pre>
</body>
</html>
"""


def explain(
    calls: Sequence[One],
    judge: Callable[[Sequence[One]], object],
    *,
    title: str = "This cannot have been",
    seconds: float = 10.0,
) -> str:
    """Return the page of a history that the judge rejects, shrunk to what shows it."""
    shrunk = shrink(calls, judge, seconds=seconds)
    keys = ", ".join(sorted({call.key for call in shrunk.calls}))
    note = f"{keys}: {len(shrunk.calls)} of {len(calls)} calls"
    if shrunk.beside:
        note += f"; they contradict each other; {shrunk.granted}"
    return page(
        spans(shrunk.calls, accused=shrunk.violation.calls),
        title=title,
        text=str(shrunk.violation),
        note=note,
    )


class _Placed(NamedTuple):
    """A bar in its row, in pixels, with the text over it."""

    span: Span
    row: int
    left: float
    right: float
    text: float
    label: str


class _Drawing:
    """Where everything comes: rows for the lanes, columns for the moments."""

    def __init__(self, spans: Sequence[Span], title: str, note: str) -> None:
        self._title = title
        self._keys = {span.key for span in spans}
        moments = {span.called for span in spans}
        moments |= {span.returned for span in spans if span.returned != NEVER}
        self._columns = {tick: i for i, tick in enumerate(sorted(moments))}
        labels = {id(span): self._label(span) for span in spans}
        widest = max((_width(label) for label in labels.values()), default=0)
        lanes = list(dict.fromkeys(span.lane for span in sorted(spans, key=_lane)))
        names = {lane: _cut(lane or "a caller", _LONGEST_LANE) for lane in lanes}
        self._left = _EDGE + 20 + max([60, *map(_width, names.values())])
        count = max(1, len(moments))
        across = max(560.0, widest + 24, count * _NARROWEST, min(count * 60.0, 900.0))
        self._column = across / count
        self._right = self._left + across
        self._full = self._right + _EDGE + 14
        self._note = [
            line
            for part in note.splitlines()
            for line in _wrapped(part, int((self._full - 2 * _EDGE) / _CHARACTER))
        ]
        self._lanes: list[tuple[str, int, int]] = []
        self._bars: list[_Placed] = []
        rows = 0
        for lane in lanes:
            those = [span for span in spans if span.lane == lane]
            count = self._place(those, labels, rows)
            self._lanes.append((names[lane], rows, count))
            rows += count
        self._rows = rows
        self._top = _EDGE + (26 if title else 0) + 17 * len(self._note) + 24

    def _label(self, span: Span) -> str:
        key = f" {span.key}" if len(self._keys) > 1 else ""
        mark = "▶ " if span.accused else ""
        return _cut(f"{mark}{span.asked}{key}: {span.answered}", _LONGEST_LABEL)

    def _place(self, spans: Iterable[Span], labels: dict[int, str], first: int) -> int:
        """Give each bar of a lane the first row where it has room; return how many."""
        ends: list[float] = []
        for span in sorted(spans, key=lambda span: (span.called, span.returned)):
            label = labels[id(span)]
            left = self._x(span.called)
            right = (
                self._right
                if span.outcome is Outcome.UNKNOWN or span.returned == NEVER
                else max(self._x(span.returned), left + 5)
            )
            text = max(self._left, min(left, self._right - _width(label)))
            start, end = min(left, text) - 6, max(right, text + _width(label)) + 6
            row = next((i for i, taken in enumerate(ends) if taken <= start), len(ends))
            ends[row : row + 1] = [end]
            self._bars.append(_Placed(span, first + row, left, right, text, label))
        return len(ends)

    def _x(self, tick: int) -> float:
        return self._left + (self._columns[tick] + 0.5) * self._column

    def _y(self, row: int) -> float:
        return self._top + row * _ROW

    def svg(self) -> str:
        """Return the whole drawing."""
        bottom = self._y(self._rows)
        height = bottom + 40
        size = f'width="{self._full:.0f}" height="{height:.0f}"'
        box = f'viewBox="0 0 {self._full:.0f} {height:.0f}"'
        space = 'xmlns="http://www.w3.org/2000/svg"'
        return "\n".join(
            [
                f'<svg {space} class="tl" role="img" {size} {box}>',
                f"<title>{_text(self._title or 'A timeline of calls')}</title>",
                f"<style>{_STYLE}</style>",
                f'<rect class="paper" {size}/>',
                *self._head(),
                *self._stripes(),
                *self._axis(bottom),
                *(part for bar in self._bars for part in self._bar(bar)),
                *self._legend(bottom + 26),
                "</svg>",
                "",
            ]
        )

    def _head(self) -> Iterator[str]:
        y = _EDGE + 12
        if self._title:
            room = int((self._full - 2 * _EDGE) / (_CHARACTER * 15 / 12))
            yield _words(_EDGE, y, _cut(self._title, room), "title")
            y += 26
        for line in self._note:
            yield _words(_EDGE, y, line, "faint")
            y += 17

    def _stripes(self) -> Iterator[str]:
        for index, (name, row, count) in enumerate(self._lanes):
            if index % 2 == 0:
                yield (
                    f'<rect class="stripe" x="{_EDGE / 2}" y="{self._y(row)}" '
                    f'width="{self._full - _EDGE}" height="{count * _ROW}"/>'
                )
            yield _words(_EDGE, self._y(row) + 20, name)

    def _axis(self, bottom: float) -> Iterator[str]:
        every = next(n for n in (1, 2, 5) if n * self._column >= 30)
        yield _words(_EDGE, self._top - 8, "moment", "faint")
        for index in self._columns.values():
            if (index + 1) % every == 0:
                x = self._left + (index + 0.5) * self._column
                yield _line("grid", x, self._top, x, bottom)
                label = str(index + 1)
                yield _words(x - _width(label) / 2, self._top - 8, label, "faint")
        for bar in self._bars:
            if bar.span.accused:
                moments = {bar.span.called, bar.span.returned} - {NEVER}
                for x in sorted(map(self._x, moments)):
                    yield _line("when", x, self._top, x, bottom)

    def _bar(self, bar: _Placed) -> Iterator[str]:
        span, y = bar.span, self._y(bar.row)
        end = "no answer" if span.returned == NEVER else str(span.returned)
        yield (
            f"<g><title>{_text(span.lane)}: {_text(span.asked)} {_text(span.key)}: "
            f"{_text(span.answered)} [{span.called}, {end}]</title>"
        )
        if span.accused:
            left = min(bar.left, bar.text) - 4
            right = max(bar.right, bar.text + _width(bar.label)) + 4
            yield (
                f'<rect class="blame" x="{left:.1f}" y="{y + 2}" '
                f'width="{right - left:.1f}" height="{_ROW - 4}" rx="3"/>'
            )
        yield _words(bar.text, y + 13, bar.label, "accused" if span.accused else "")
        yield from _shape(bar, y + 19)
        if span.outcome is Outcome.UNKNOWN and span.returned != NEVER:
            x = self._x(span.returned)
            yield _line("open", x, y + 18, x, y + 30)
        yield "</g>"

    def _legend(self, y: float) -> Iterator[str]:
        x = float(_EDGE)
        key = Span("", "", "", "", 0, 0, Outcome.DONE)
        for outcome, says in (
            (Outcome.DONE, "done"),
            (Outcome.FAILED, "no effect"),
            (Outcome.UNKNOWN, "unknown, perhaps still to come"),
        ):
            span = dataclasses.replace(key, outcome=outcome)
            yield from _shape(_Placed(span, 0, x, x + 30, 0, ""), y - 10)
            yield _words(x + 46, y, says, "faint")
            x += 46 + _width(says) + 22
        yield _words(x, y, "▶ shows what is wrong", "accused")


def _shape(bar: _Placed, y: float) -> Iterator[str]:
    """Draw the bar itself, 10 pixels high."""
    span, width = bar.span, bar.right - bar.left
    box = f'x="{bar.left:.1f}" y="{y}" width="{width:.1f}" height="10"'
    if span.outcome is Outcome.UNKNOWN:
        path = f"M{bar.right:.1f} {y}H{bar.left:.1f}V{y + 10}H{bar.right:.1f}"
        yield f'<path class="unknown" d="{path}"/>'
        tip = f"M{bar.right + 2:.1f} {y}l6 5l-6 5"
        yield f'<path class="open" d="{tip}"/>'
    else:
        yield f'<rect class="{span.outcome.value}" {box}/>'
    if span.outcome is Outcome.FAILED:
        x = (bar.left + bar.right) / 2
        yield _line("cross", x - 4, y + 1, x + 4, y + 9)
        yield _line("cross", x - 4, y + 9, x + 4, y + 1)
    if span.accused:
        yield (
            f'<rect class="ring" x="{bar.left - 2:.1f}" y="{y - 2}" '
            f'width="{width + 4:.1f}" height="14" rx="2"/>'
        )


def _lane(span: Span) -> tuple[bool, list[object]]:
    """Sort names of lanes so that worker 10 comes behind worker 9."""
    parts: list[object] = []
    for part in re.findall(r"\d+|\D+", span.lane):
        digits = part.lstrip("0")
        # Of two numbers the longer one is greater; ``int`` takes only so many digits.
        parts += [True, len(digits), digits] if part.isdecimal() else [False, part]
    return span.lane == "", parts


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    start, end = f'x1="{x1:.1f}" y1="{y1:.1f}"', f'x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {start} {end}/>'


def _words(x: float, y: float, text: str, kind: str = "") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" xml:space="preserve">'
        f"{_text(text)}</text>"
    )


def _visible(text: str) -> str:
    """Return a text with what cannot be seen, or would reorder others, written out."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character)[0] == "C"
        or unicodedata.category(character) in {"Zl", "Zp"}
        else character
        for character in text
    )


def _text(text: str) -> str:
    return html.escape(_visible(text))


def _columns(character: str) -> float:
    if unicodedata.combining(character):
        return 0.25  # it takes no room, but a text of nothing else must have an end
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _width(text: str) -> float:
    return sum(map(_columns, text)) * _CHARACTER


def _cut(text: str, columns: int) -> str:
    """Return a text that takes so many columns at most, its middle left out."""
    text = _visible(text)
    if sum(map(_columns, text)) <= columns:
        return text
    tail = columns // 4
    return _take(text, columns - tail - 1) + "…" + _take(text[::-1], tail)[::-1]


def _take(text: str, columns: int) -> str:
    taken = 0.0
    for index, character in enumerate(text):
        taken += _columns(character)
        if taken > columns:
            return text[:index]
    return text


def _wrapped(text: str, columns: int) -> list[str]:
    """Return the lines of a text, none of which takes more columns."""
    lines = [""]
    for word in _visible(text).split():
        joined = f"{lines[-1]} {word}".lstrip()
        if sum(map(_columns, joined)) <= columns:
            lines[-1] = joined
            continue
        rest = word
        while rest:
            lines.append(_take(rest, columns))
            rest = rest.removeprefix(lines[-1])
    return [line for line in lines if line]
