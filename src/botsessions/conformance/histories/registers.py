"""Operations on single registers, and whether any order of them explains the answers.

A register holds a value that is read, replaced, removed, or compared and swapped: a
record of a raw backend by its version, or anything else. ``check_register`` decides by
``search``, so it takes short histories only. ``versions`` judges loads and commits of
any number.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import NEVER, Violation, by_key
from botsessions.conformance.histories.search import Search
from botsessions.record import Version

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence


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
    effect once, whenever, or never. A copy of a commit, sent again after an unknown
    outcome, may also be answered True because what it puts there was there already
    (``check_versions``). Moments are ticks as in ``Call``.
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
    start: Mapping[str, Hashable] | None = None,
    budget: int = 100_000,
) -> None:
    """Raise ``Violation`` unless some order of these operations explains all answers.

    Each key is a register of its own, and was empty at first or held the value in
    ``start``. The order must respect real time: what had returned before another was
    called comes before it. Each operation counts for itself: whether a commit that is
    sent again was right to answer True is for ``check_versions`` to say. ``budget``
    bounds the states to be tried for a key (``UndecidedError``).
    """
    for key, those in by_key(operations).items():
        search = _Search(one for one in those if _matters(one))
        if not search.succeeds(None if start is None else start.get(key), budget):
            raise Violation(
                f"no order of these operations on {key} explains their answers; one "
                "that explains the most leaves over",
                *search.stuck,
            )


class _Search(Search[Operation, "Hashable"]):
    """A state is the value of the register."""

    def _is_required(self, event: Operation) -> bool:
        return event.outcome is not None

    def _reads(self, event: Operation, state: Hashable) -> bool:
        if event.kind is Kind.LOAD:
            return event.version == state
        return event.outcome is False and event.expected != state

    def _next(self, done: int, state: Hashable) -> Iterator[tuple[int, Hashable]]:
        for bit, one in self._possible(done):
            if one.kind is Kind.LOAD or one.outcome is False:
                continue
            if one.kind is not Kind.COMMIT or one.expected == state:
                yield done | bit, one.version


def _matters(one: Operation) -> bool:
    """Tell whether it can take effect or its answer says something."""
    if one.kind is Kind.LOAD:
        return one.outcome is True
    if one.outcome is False:
        return one.kind is Kind.COMMIT and not one.excused
    return True
