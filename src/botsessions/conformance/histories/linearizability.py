"""Decide exactly whether the answers for one key can be explained, by searching.

Since each content shows how it came about, the ``search`` has few orders to try. The
judge of ``order``, and the last word on every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import (
    CHANGES,
    READS,
    Call,
    Ids,
    Outcome,
    Verb,
    Violation,
    require_one_key,
)
from botsessions.conformance.histories.search import Search

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ABSENT: Ids = ()


def check_linearizable(
    calls: Sequence[Call], *, expiring: bool = False, budget: int = 100_000
) -> None:
    """Raise ``Violation`` unless some order explains all answers for one key.

    ``expiring`` allows a session to vanish by itself. ``budget`` bounds the states to
    be tried (``UndecidedError``).
    """
    require_one_key(calls)
    search = _Search(calls, expiring=expiring)
    if not search.succeeds(_ABSENT, budget):
        raise Violation(
            "no order of these calls explains their answers; one that explains the "
            "most leaves over",
            *search.stuck,
        )


class _Search(Search[Call, Ids]):
    """A state is the content of the session."""

    def __init__(self, calls: Sequence[Call], *, expiring: bool) -> None:
        self._expiring = expiring
        # Contents that an answer shows, or that led to one. A change of unknown outcome
        # that never shows may be left out: nothing that was seen can rest on it.
        self._shown = {
            call.saw[:length]
            for call in calls
            if call.saw is not None
            for length in range(1, len(call.saw) + 1)
        }
        known = {ids[-1] for ids in self._shown}
        super().__init__(
            call
            for call in calls
            if call.outcome is Outcome.DONE
            or (
                call.outcome is Outcome.UNKNOWN
                and (
                    call.verb is Verb.DELETE
                    or (call.verb in CHANGES and call.id in known)
                )
            )
        )

    def _is_required(self, event: Call) -> bool:
        return event.verb is not Verb.DELETE or event.outcome is Outcome.DONE

    def _reads(self, event: Call, state: Ids) -> bool:
        return event.verb in READS and (event.saw or _ABSENT) == state

    def _next(self, done: int, state: Ids) -> Iterator[tuple[int, Ids]]:
        """Walk the states that a change can lead to, or the end of the session.

        Deletes of unknown outcome that may come now are as good as each other, also
        later, so the first stands for all; where nothing is, none is worth trying.
        """
        if self._expiring and state:
            yield done, _ABSENT
        tried = not state
        for bit, call in self._possible(done):
            if call.verb is Verb.DELETE and call.outcome is Outcome.UNKNOWN:
                if tried:
                    continue
                tried = True
            after = self._after(call, state)
            if after is not None:
                yield done | bit, after

    def _after(self, call: Call, content: Ids) -> Ids | None:
        """Return the content after a change, None if it cannot come now."""
        if call.verb is Verb.DELETE:
            return _ABSENT
        if call.verb is Verb.PUT:
            return (call.id,)
        if call.verb is Verb.UPDATE:
            after = (*content, call.id)
            fits = after in self._shown if call.saw is None else after == call.saw
            return after if fits else None
        return None
