"""From calls that overlap to a verdict, and to the few calls that show what is wrong.

Neighbours: ``judge`` (who decides), ``shrink`` and ``timeline`` (who show it),
``contention``, ``endings`` and ``laws`` (whose calls they are).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import NEVER, Violation
from botsessions.conformance.histories.judge import check_calls
from botsessions.conformance.histories.shrink import shrink
from botsessions.conformance.histories.timeline import spans, timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botsessions.conformance.histories.history import Call
    from botsessions.conformance.subject import Subject


def judge(subject: Subject, calls: Sequence[Call]) -> None:
    """Raise ``Violation`` unless all can be true; then keep the calls that show it."""
    try:
        check_calls(calls)
    except Violation:
        shrunk = shrink(calls, check_calls)
        legible = _legible(shrunk.calls, subject.prefix)
        subject.steps[:] = dataclasses.replace(shrunk, calls=legible).steps
        accused = {call.id for call in shrunk.violation.calls}
        subject.drawing = timeline(
            spans(legible, accused=[call for call in legible if call.id in accused]),
            title=str(shrunk.violation).split("\n", 1)[0],
        )
        raise shrunk.violation from None


def _legible(calls: Sequence[Call], prefix: str) -> tuple[Call, ...]:
    """Return calls with moments that count from 1, and without the prefix of keys."""
    ticks = sorted({tick for call in calls for tick in (call.called, call.returned)})
    moments = {tick: number for number, tick in enumerate(ticks, 1)} | {NEVER: NEVER}
    return tuple(
        dataclasses.replace(
            call,
            key=call.key.removeprefix(prefix),
            called=moments[call.called],
            returned=moments[call.returned],
        )
        for call in calls
    )
