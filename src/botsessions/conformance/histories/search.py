"""Search for an order of events that explains all their answers, by Wing and Gong.

Is there one that respects real time and in which each answer is right? An event that
nobody knows the outcome of may be in it or not. States that were tried before are
remembered. What an event does is said by ``linearizability`` (sessions that list their
changes) and by ``registers`` (values).
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from botsessions.conformance.histories.history import NEVER

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator


class UndecidedError(Exception):
    """The search was given up: too many orders to try."""


class _Event(Protocol):
    @property
    def called(self) -> int: ...

    @property
    def end(self) -> int: ...


E = TypeVar("E", bound=_Event)
S = TypeVar("S", bound="Hashable")


class Search(abc.ABC, Generic[E, S]):
    """A walk through states: which events have taken effect, and what is there then.

    Events are told by the bits of a number, in the order in which they were called.
    """

    def __init__(self, events: Iterable[E]) -> None:
        self._events = sorted(events, key=lambda one: one.called)
        self._required = sum(
            1 << index
            for index, one in enumerate(self._events)
            if self._is_required(one)
        )
        self.stuck: list[E] = []
        """What is left over by the order that explains the most."""

    def succeeds(self, state: S, budget: int) -> bool:
        """Search; whether an order was found that begins with this state."""
        tried: set[tuple[int, S]] = set()
        stack: list[tuple[int, S]] = [(0, state)]
        fewest = len(self._events) + 1
        while stack:
            done, state = stack.pop()
            done = self._after_reads(done, state)
            left = self._required & ~done
            if not left:
                return True
            if (done, state) in tried:
                continue
            tried.add((done, state))
            if len(tried) > budget:
                raise UndecidedError(f"{len(tried):,} states tried")
            if left.bit_count() < fewest:
                fewest = left.bit_count()
                self.stuck = [
                    one for i, one in enumerate(self._events) if left >> i & 1
                ]
            stack += self._next(done, state)
        return False

    @abc.abstractmethod
    def _is_required(self, event: E) -> bool:
        """Tell whether an order must have it."""

    @abc.abstractmethod
    def _reads(self, event: E, state: S) -> bool:
        """Tell whether it may come now, is answered so, and changes nothing."""

    @abc.abstractmethod
    def _next(self, done: int, state: S) -> Iterator[tuple[int, S]]:
        """Walk the states that something can lead to."""

    def _possible(self, done: int) -> Iterator[tuple[int, E]]:
        """Walk the events that may come next: none that is left had returned before."""
        earliest = NEVER
        first_left = (~done & (done + 1)).bit_length() - 1
        for index in range(first_left, len(self._events)):
            if done >> index & 1:
                continue
            one = self._events[index]
            if one.called > earliest:
                return  # and so were all that follow: they are in the order of calling
            earliest = min(earliest, one.end)
            yield 1 << index, one

    def _after_reads(self, done: int, state: S) -> int:
        """Let all take effect that may and changes nothing: never worse than later."""
        found = True
        while found:
            found = False
            for bit, one in self._possible(done):
                if self._reads(one, state):
                    done |= bit
                    found = True
        return done
