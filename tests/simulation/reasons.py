"""No call fails, and none is of unknown outcome, unless something was in its way.

What was in the way is noted by the network (``faulty``), the server and the watch of
whoever called: an engine that gives up too soon, or takes one call's trouble for
another's, gives itself away. Neighbour: ``moments``, which judges what was answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from botsessions.conformance.histories.history import CHANGES, Call, Verb, Violation
from botsessions.errors import (
    BackendError,
    ConflictError,
    LockLostError,
    LockTimeoutError,
    OverloadedError,
    SessionError,
    StoreClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tests.simulation.faulty import Attempt


# A timer may be so much early, in seconds.
_EARLY = 1e-6


class Circumstances(NamedTuple):
    """What could be a reason for a call to fail.

    ``took`` and ``timeout``, and the ``patience`` with a lock (seconds) are by the
    clock of its process. ``beside``: how many other calls of the process were under
    way with it, of which ``most`` may wait.
    """

    took: float
    timeout: float
    patience: float
    beside: int
    most: int
    is_closed: bool
    lock_is_lost: bool
    failures: Sequence[Attempt]


def check_failed(
    call: Call, error: SessionError, places: Collection[str], was: Circumstances
) -> None:
    """Raise ``Violation`` if a call failed, with this error, and had no reason to.

    ``places`` are the names of its record, and of its lock's if it has one.
    """
    took = was.took + _EARLY
    match error:
        case OverloadedError():
            reason = was.beside >= was.most
        case StoreClosedError():
            reason = was.is_closed
        case LockLostError():
            reason = was.lock_is_lost
        case LockTimeoutError():
            reason = took >= was.patience
        case ConflictError():
            reason = took >= was.timeout
        case BackendError():
            reason = took >= was.timeout or any(
                call.called < failure.settled < call.returned
                and (failure.places is None or not failure.places.isdisjoint(places))
                for failure in reversed(was.failures)
            )
        case _:
            reason = False
    if not reason:
        raise Violation("it failed for no reason", call)


def check_unknown(call: Call, place: str, attempts: Sequence[Attempt]) -> None:
    """Raise ``Violation`` unless a write for its place got no answer in time."""
    if call.verb not in (*CHANGES, Verb.DELETE):
        raise Violation("it changes nothing, so nothing is doubtful", call)
    if not any(
        attempt.places is not None
        and place in attempt.places
        and call.called < attempt.sent < call.returned < attempt.settled
        for attempt in attempts
    ):
        raise Violation("there was nothing doubtful about it", call)
