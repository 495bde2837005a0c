"""What each command reports, as tables or as JSON.

``app`` hands over the results of ``sessions`` and ``replay``; ``output`` prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Column

from botsessions.cli import output
from botsessions.cli.json_form import shown
from botsessions.cli.routing import Outcome, Result
from botsessions.cli.sessions import explained
from botsessions.errors import CorruptRecordError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from botsessions.cli.replay import Summary
    from botsessions.cli.sessions import Entry, Statistics
    from botsessions.keys import SessionKey

_MAX_PROBLEMS = 20
_LABELS = {
    Outcome.APPLIED: "applied",
    Outcome.EARLIER: "done by an earlier run",
    Outcome.NO_KEY: "without chat and user",
    Outcome.MALFORMED: "malformed",
    Outcome.FAILED: "failed",
    Outcome.BLANK: "blank",
}


class Problems:
    """Says which lines of a replay went wrong, and why; after some, only counts."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, result: Result) -> None:
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
