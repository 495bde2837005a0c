"""Operations on single registers, and whether any order of them explains the answers.

A register holds a value that is read, replaced, removed, or compared and swapped: a
record of a raw backend by its version, or anything else. ``check_register`` decides by
Wing and Gong's search, so it takes short histories only. ``versions`` judges loads and
commits of any number, and is held against this module in its tests.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import NEVER, Violation, by_key
from botsessions.conformance.histories.linearizability import UndecidedError
from botsessions.record import Version

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence


class Kind(enum.StrEnum):
    """What an operation asks for."""

    LOAD = "load"
    COMMIT = "commit"
    """Compare and swap: ``version`` takes the place of ``expected``, or nothing."""
    PUT = "put"
    """``version`` takes the place of whatever is there."""
    DELETE = "delete"


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one register, and its answer.

    ``version`` is what a load found, or what a write puts there: a ``Version``, or any
    other hashable value; None stands for no record. ``expected`` is for commits.

    ``outcome`` True: it took effect between ``called`` and ``returned``. False: it took
    none and never will, and a commit is also right about it, which means that at some
    moment in between something else than ``expected`` was there; ``excused`` is a
    commit whose False says no more than that it took no effect (``not_after`` had
    passed, or the backend said that it failed). None: unknown, so it took or will take
    effect once, whenever, or never. Moments are ticks as in ``Call``.
    """

    key: str
    worker: str
    kind: Kind
    expected: Hashable = None
    version: Hashable = None
    outcome: bool | None = None
    called: int = 0
    returned: int = NEVER
    excused: bool = False

    @property
    def end(self) -> int:
        """The tick by which it has taken effect, if it does."""
        return NEVER if self.outcome is None else self.returned

    @property
    def asked(self) -> str:
        """What was asked for, as text."""
        match self.kind:
            case Kind.COMMIT:
                value = (
                    f" {version_text(self.expected)} -> {version_text(self.version)}"
                )
            case Kind.PUT:
                value = f" {version_text(self.version)}"
            case _:
                value = ""
        return f"{self.kind}{value}"

    @property
    def answered(self) -> str:
        """What was answered, as text."""
        if self.outcome is None:
            return "unknown"
        if not self.outcome:
            return "no effect" if self.excused else "False"
        if self.kind is Kind.LOAD:
            return version_text(self.version)
        return "True"

    def __str__(self) -> str:
        end = "…" if self.returned == NEVER else self.returned
        return (
            f"{self.asked} of {self.key} by {self.worker or 'a caller'} "
            f"[{self.called}, {end}]: {self.answered}"
        )


def version_text(version: Hashable) -> str:
    """Return a version as text, short enough for a message."""
    if version is None:
        return "nothing"
    if isinstance(version, Version):
        return f"{version.counter}:{version.token & 0xFFFFFF:06x}"
    return repr(version)


def check_register(
    operations: Sequence[Operation],
    *,
    start: Hashable = None,
    budget: int = 100_000,
) -> None:
    """Raise ``Violation`` unless some order of these operations explains all answers.

    Each key is a register of its own, and holds ``start`` at first. The order must
    respect real time: what had returned before another was called comes before it.
    ``budget`` bounds the states to be tried for a key (``UndecidedError``).
    """
    for key, those in by_key(operations).items():
        search = _Search(those)
        if not search.succeeds(start, budget):
            raise Violation(
                f"no order of these operations on {key} explains their answers; one "
                "that explains the most leaves over",
                *search.stuck,
            )


class _Search:
    """A walk through states: which operations have taken effect, and the value then."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = sorted(
            (one for one in operations if _matters(one)), key=lambda one: one.called
        )
        self._required = sum(
            1 << index
            for index, one in enumerate(self._operations)
            if one.outcome is not None
        )
        self.stuck: list[Operation] = []

    def succeeds(self, value: Hashable, budget: int) -> bool:
        """Search; whether an order was found."""
        tried: set[tuple[int, Hashable]] = set()
        stack: list[tuple[int, Hashable]] = [(0, value)]
        fewest = len(self._operations) + 1
        while stack:
            done, value = stack.pop()
            done = self._read(done, value)
            left = self._required & ~done
            if not left:
                return True
            if (done, value) in tried:
                continue
            tried.add((done, value))
            if len(tried) > budget:
                raise UndecidedError(f"{len(tried):,} states tried")
            if left.bit_count() < fewest:
                fewest = left.bit_count()
                self.stuck = [
                    one for i, one in enumerate(self._operations) if left >> i & 1
                ]
            stack += [
                (done | bit, one.version)
                for bit, one in self._possible(done)
                if _writes(one)
                and (one.kind is not Kind.COMMIT or one.expected == value)
            ]
        return False

    def _read(self, done: int, value: Hashable) -> int:
        """Let all that changes nothing take effect that now may: never worse later."""
        found = True
        while found:
            found = False
            for bit, one in self._possible(done):
                if not _writes(one) and (
                    one.version == value
                    if one.kind is Kind.LOAD
                    else one.expected != value
                ):
                    done |= bit
                    found = True
        return done

    def _possible(self, done: int) -> Iterator[tuple[int, Operation]]:
        """Walk those that may come next: none that is left had returned before."""
        earliest = NEVER
        for index, one in enumerate(self._operations):
            if done >> index & 1:
                continue
            if one.called > earliest:
                return
            earliest = min(earliest, one.end)
            yield 1 << index, one


def _writes(one: Operation) -> bool:
    return one.kind is not Kind.LOAD and one.outcome is not False


def _matters(one: Operation) -> bool:
    """Tell whether it can take effect or its answer says something."""
    if one.kind is Kind.LOAD:
        return one.outcome is True
    if one.outcome is False:
        return one.kind is Kind.COMMIT and not one.excused
    return True
