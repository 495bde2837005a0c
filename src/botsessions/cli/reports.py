"""What each command reports, as tables or as JSON.

``app`` hands over the results of ``sessions`` and ``replay``; ``output`` prints.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.table import Column

from botsessions.cli import jsonl, output
from botsessions.cli.imports.carry import LEFT
from botsessions.cli.json_form import shown
from botsessions.cli.options import address
from botsessions.cli.routing import Outcome, Result
from botsessions.cli.sessions import explained
from botsessions.errors import CorruptRecordError
from botsessions.transfer.lineage import Decision

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable
    from pathlib import Path

    from botsessions.cli.imports.carry import Summary as Carried
    from botsessions.cli.replay import Summary
    from botsessions.cli.sessions import Entry, Statistics
    from botsessions.conformance import Report
    from botsessions.conformance import Result as CheckResult
    from botsessions.keys import SessionKey
    from botsessions.transfer import Summary as CopySummary

_MAX_PROBLEMS = 20
_LABELS = {
    Outcome.APPLIED: "applied",
    Outcome.EARLIER: "done by an earlier run",
    Outcome.NO_KEY: "without chat and user",
    Outcome.MALFORMED: "malformed",
    Outcome.FAILED: "failed",
    Outcome.BLANK: "blank",
}


_TAKEN = {
    jsonl.Outcome.IMPORTED: "imported",
    jsonl.Outcome.PRESENT: "there already",
    jsonl.Outcome.DIFFERENT: "there with other contents",
    jsonl.Outcome.EXPIRED: "expired since",
    jsonl.Outcome.MALFORMED: "malformed",
    jsonl.Outcome.BLANK: "blank",
}
_CARRIED: dict[str, str] = {
    jsonl.Outcome.IMPORTED: "imported",
    jsonl.Outcome.PRESENT: "there already",
    jsonl.Outcome.DIFFERENT: "there with other contents",
    jsonl.Outcome.EXPIRED: "expired since",
    LEFT: "left out",
}
_WOULD: dict[str, str] = {jsonl.Outcome.IMPORTED: "to import"}
_WRITTEN = (Decision.COPY, Decision.REPLACE, Decision.REMOVE)
_LEFT = {
    Decision.AHEAD: "changed in the destination",
    Decision.OWN: "the destination's own",
    Decision.EXTRA: "only in the destination",
}


class Problems:
    """Says which lines of a file went wrong, and why; after some, only counts."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, result: Result | jsonl.Result) -> None:
        """Say it in one line."""
        self._seen += 1
        if self._seen <= _MAX_PROBLEMS:
            output.note(f"line {result.number} {result.outcome}: {result.reason}")
        elif self._seen == _MAX_PROBLEMS + 1:
            output.note("there are more such lines; they are counted")


def replay(file: str, summary: Summary, *, json: bool) -> None:
    """Report what became of the lines of a recording."""
    counts = {outcome: summary.outcomes[outcome] for outcome in Outcome}
    lines = summary.outcomes.total()
    rate = counts[Outcome.APPLIED] / summary.seconds
    if json:
        output.document(
            {
                "file": file,
                "pass": summary.pass_number,
                "lines": lines,
                **counts,
                "sessions": summary.sessions,
                "seconds": round(summary.seconds, 3),
                "updates_per_second": round(rate),
            }
        )
        return
    _facts(
        [
            ("lines", lines),
            *((f"  {_LABELS[outcome]}", count) for outcome, count in counts.items()),
            ("sessions", summary.sessions),
            ("updates per second", round(rate)),
            *([("pass", summary.pass_number)] if summary.pass_number else []),
        ]
    )


def copy(
    source: str, destination: str, namespace: str, summary: CopySummary, *, json: bool
) -> None:
    """Report what a copy did, and what is in both stores now."""
    last = summary.last
    written = {what: summary.written[what] for what in _WRITTEN}
    left = {what: last.decisions[what] for what in _LEFT}
    sides = {
        "source": (address(source), last.source),
        "destination": (address(destination), last.destination),
    }
    if json:
        output.document(
            {
                **{
                    side: {
                        "store": place,
                        "sessions": tally.sessions,
                        "checksum": tally.checksum,
                    }
                    for side, (place, tally) in sides.items()
                },
                "namespace": namespace,
                "passes": summary.passes,
                **written,
                **left,
                "to_do": last.to_do,
            }
        )
    else:
        for place, tally in sides.values():
            output.line(f"{tally.checksum}  {tally.sessions:>9,}  {place}")
        _facts(
            [
                *((what, count) for what, count in written.items()),
                *((_LEFT[what], count) for what, count in left.items() if count),
                ("passes", summary.passes),
            ]
        )
    for key in last.own:
        output.note(
            f"{key}: what the destination has does not come of what the source has, "
            "or both were changed; it was left as it is"
        )
    if left[Decision.OWN] > len(last.own):
        output.note("there are more such sessions; they are counted")
    if left[Decision.AHEAD]:
        output.note(
            "sessions that were changed in the destination since they were copied, and "
            f"left as they are: {left[Decision.AHEAD]:,}"
        )
    if last.to_do:
        output.note(
            f"the source is in use: the last pass still found {last.to_do:,} changed, "
            "and copied them. Stop the bot and run this again"
        )
    if not summary.named:
        output.note(
            "the source takes no writes, so it could not be given a name: a later copy "
            "will know what this one wrote by its versions only"
        )


class Unreadable:
    """Says which sessions of an export cannot be read; after some, only counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, key: str, reason: str) -> None:
        """Say it in one line."""
        self.count += 1
        if self.count <= _MAX_PROBLEMS:
            output.note(
                f"{key} is exported as it is, but import will refuse it: {reason}"
            )
        elif self.count == _MAX_PROBLEMS + 1:
            output.note("there are more such sessions; they are counted")


def exported(file: str, count: int, unreadable: int, *, json: bool) -> None:
    """Report how much was written; not among it, if that was standard output."""
    words = f"exported {count:,} sessions"
    if file == "-":
        output.note(words)
    elif json:
        output.document({"file": file, "sessions": count, "unreadable": unreadable})
    else:
        output.line(f"{words} to {file}")


def imported(file: str, outcomes: Counter[jsonl.Outcome], *, json: bool) -> None:
    """Report what became of the lines of an export."""
    counts = {outcome: outcomes[outcome] for outcome in jsonl.Outcome}
    if json:
        output.document({"file": file, "lines": outcomes.total(), **counts})
        return
    _facts(
        [
            ("lines", outcomes.total()),
            *((f"  {_TAKEN[outcome]}", count) for outcome, count in counts.items()),
        ]
    )


class Some:
    """Says some things in one line each; keeps all of them."""

    def __init__(self, more: str) -> None:
        self._more = more
        self.all: list[str] = []

    def __call__(self, text: str) -> None:
        """Say it in one line."""
        self.all.append(text)
        if len(self.all) <= _MAX_PROBLEMS:
            output.note(text)
        elif len(self.all) == _MAX_PROBLEMS + 1:
            output.note(f"there is more that {self._more}; --json lists all")


def carried(  # noqa: PLR0913 - all that is known of one run
    source: str,
    summary: Carried,
    problems: Some,
    changes: Some,
    *,
    written: bool,
    json: bool,
) -> None:
    """Report what became of what another library keeps, or what would become of it."""
    counts = {outcome: summary.outcomes[outcome] for outcome in _CARRIED}
    if json:
        output.document(
            {
                "source": source,
                "written": written,
                "found": summary.outcomes.total(),
                **counts,
                "refused": dict(summary.refused.most_common()),
                "problems": problems.all,
                "changes": changes.all,
            }
        )
        return
    labels = _CARRIED if written else {**_CARRIED, **_WOULD}
    _facts(
        [
            ("sessions found", summary.outcomes.total()),
            *((f"  {labels[outcome]}", count) for outcome, count in counts.items()),
            ("changes", len(changes.all)),
            ("values refused", summary.refused.total()),
            *((f"  {name}", count) for name, count in summary.refused.most_common(20)),
        ]
    )
    for place, key in summary.examples:
        output.line(f"{place} is {key}")


def listing(entries: Iterable[Entry], *, json: bool) -> None:
    """Report sessions, one a line; one that cannot be read says so."""
    if json:
        for key, session in entries:
            output.document({"key": str(key), **_content(session)})
        return
    columns = [
        Column("key", overflow="fold"),
        Column("session", no_wrap=True, overflow="ellipsis", ratio=1),
    ]
    output.table(columns, [(str(key), _brief(session)) for key, session in entries])


def statistics(address: str, namespace: str, found: Statistics, *, json: bool) -> None:
    """Report how many sessions there are, of which kinds, and what they take."""
    kinds = dict(found.kinds.most_common())
    if json:
        output.document(
            {
                "store": address,
                "namespace": namespace,
                "sessions": found.kinds.total(),
                "bytes": found.bytes,
                "kinds": kinds,
                "biggest": [{"key": key, "bytes": n} for key, n in found.biggest],
                "unreadable": found.unreadable,
            }
        )
        return
    output.line(f"{address}, namespace {namespace}")
    _facts(
        [
            ("sessions", found.kinds.total()),
            *((f"  {kind}", count) for kind, count in kinds.items()),
            ("unreadable", len(found.unreadable)),
            ("bytes, encoded", found.bytes),
            *((f"  {key}", size) for key, size in found.biggest),
        ]
    )


def done(what: str, key: SessionKey, *, json: bool) -> None:
    """Report that one session was changed."""
    if json:
        output.document({what: str(key)})
    else:
        output.line(f"{what} {key}")


def _facts(rows: Iterable[tuple[str, int]]) -> None:
    columns = [Column(overflow="fold"), Column(justify="right")]
    output.table(columns, [(name, f"{number:,}") for name, number in rows])


def _content(session: dict[Any, Any] | CorruptRecordError) -> dict[str, Any]:
    if isinstance(session, CorruptRecordError):
        return {"error": explained(session)}
    return {"session": shown(session)}


def _brief(session: dict[Any, Any] | CorruptRecordError) -> str:
    if isinstance(session, CorruptRecordError):
        return f"UNREADABLE: {explained(session)}"
    return output.brief(session)


def conformance(report: Report, *, json: bool) -> None:
    """Report what came of the checks of a backend: a row for each, and a line below."""
    if json:
        output.document([_told(result) for result in report.results])
        return
    rows = []
    for result in report.results:
        status = result.status.value
        rows.append([result.group, result.title, status, result.message])
        rows += [["", "", "", f"  {step}"] for step in result.steps]
    output.table(["of", "check", "result", ""], rows)
    output.line(report.summary)


def _told(result: CheckResult) -> dict[str, Any]:
    """Return all of a result but the exception itself, which JSON cannot hold."""
    names = [field.name for field in dataclasses.fields(result)]
    return {name: getattr(result, name) for name in names if name != "error"}


def draw(report: Report, directory: Path) -> None:
    """Write the timelines of what failed into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for result in report.failed:
        if result.drawing:
            path = directory / f"{result.name}.svg"
            path.write_text(result.drawing)
            output.note(f"drawn: {path}")
