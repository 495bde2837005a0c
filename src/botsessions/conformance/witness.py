"""From calls that overlap to a verdict, and to the few calls that show what is wrong.

Neighbours: ``order`` and ``linearizability`` (the judges), ``contention`` and ``laws``
(whose histories they are).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botsessions.conformance.history import Violation
from botsessions.conformance.linearizability import UndecidedError, check_linearizable
from botsessions.conformance.order import check_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botsessions.conformance.history import Call
    from botsessions.conformance.subject import Subject


def judge(subject: Subject, calls: Sequence[Call]) -> None:
    """Raise ``Violation`` unless the answers for each key can all be true."""
    for key in sorted({call.key for call in calls}):
        of_key = [call for call in calls if call.key == key]
        try:
            check(of_key)
        except Violation as wrong:
            lines = [line.strip() for line in str(wrong).splitlines()[1:]]
            subject.steps[:] = lines or [str(call) for call in of_key]
            raise


def check(calls: Sequence[Call]) -> None:
    """Raise ``Violation`` unless the answers for one key can all be true."""
    check_order(calls)
    try:
        check_linearizable(calls, budget=20_000)
    except UndecidedError:
        return  # too many orders to try; what ``order`` finds, it found
