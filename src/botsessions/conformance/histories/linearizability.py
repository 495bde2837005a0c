"""Decide exactly whether the answers for one key can be explained, by searching.

Wing and Gong's search: is there an order of the calls that respects real time and in
which each answer is right? A call that nobody knows the outcome of may be in it or not.
States that were tried before are remembered; since each content shows how it came
about, few are ever tried. The judge of ``order``, and the last word on every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import (
    CHANGES,
    NEVER,
    READS,
    Call,
    Ids,
    Outcome,
    Verb,
    Violation,
    require_one_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ABSENT: Ids = ()


class UndecidedError(Exception):
    """The search was given up: too many orders to try."""


def check_linearizable(
    calls: Sequence[Call], *, expiring: bool = False, budget: int = 100_000
) -> None:
    """Raise ``Violation`` unless some order of these calls of one key explains them.

    ``expiring`` allows a session to vanish by itself. ``budget`` bounds the states to
    be tried (``UndecidedError``).
    """
    require_one_key(calls)
    search = _Search(calls, expiring=expiring)
    if not search.succeeds(budget):
        raise Violation(
            "no order of these calls explains their answers; one that explains the "
            "most leaves over",
            *search.stuck,
        )


class _Search:
    """A walk through states: which calls have taken effect, and the content then."""

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
        self._calls = sorted(
            (
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
            ),
            key=lambda call: call.called,
        )
        self._required = sum(
            1 << index
            for index, call in enumerate(self._calls)
            if not (call.verb is Verb.DELETE and call.outcome is Outcome.UNKNOWN)
        )
        self.stuck: list[Call] = []

    def succeeds(self, budget: int) -> bool:
        """Search; whether an order was found."""
        tried: set[tuple[int, Ids]] = set()
        stack: list[tuple[int, Ids]] = [(0, _ABSENT)]
        fewest = len(self._calls) + 1
        while stack:
            done, content = self._read(*stack.pop())
            left = self._required & ~done
            if not left:
                return True
            if (done, content) in tried:
                continue
            tried.add((done, content))
            if len(tried) > budget:
                raise UndecidedError(f"{len(tried):,} states tried")
            if left.bit_count() < fewest:
                fewest = left.bit_count()
                self.stuck = [
                    call for i, call in enumerate(self._calls) if left >> i & 1
                ]
            if self._expiring and content:
                stack.append((done, _ABSENT))
            stack += self._next(done, content)
        return False

    def _next(self, done: int, content: Ids) -> Iterator[tuple[int, Ids]]:
        """Walk the states that a change can lead to.

        Deletes of unknown outcome that may come now are as good as each other, also
        later, so the first stands for all; where nothing is, none is worth trying.
        """
        tried = not content
        for bit, call in self._possible(done):
            if call.verb is Verb.DELETE and call.outcome is Outcome.UNKNOWN:
                if tried:
                    continue
                tried = True
            after = self._after(call, content)
            if after is not None:
                yield done | bit, after

    def _read(self, done: int, content: Ids) -> tuple[int, Ids]:
        """Let every read take effect that now may: it is never worse than later."""
        found = True
        while found:
            found = False
            for bit, call in self._possible(done):
                if call.verb in READS and (call.saw or _ABSENT) == content:
                    done |= bit
                    found = True
        return done, content

    def _possible(self, done: int) -> Iterator[tuple[int, Call]]:
        """Walk the calls that may come next: none that is left had returned before."""
        earliest = NEVER
        first_left = (~done & (done + 1)).bit_length() - 1
        for index in range(first_left, len(self._calls)):
            if done >> index & 1:
                continue
            call = self._calls[index]
            if call.called > earliest:
                return  # and so were all that follow: they are in the order of calling
            earliest = min(earliest, call.end)
            yield 1 << index, call

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
