"""Make a history that was rejected short, and leave it true.

Leaving a change out would make holes: who saw it would seem to have seen what nobody
wrote. So nothing is cut out that others may rest on. A change that is not *kept* stays
*beside* with all that is known about it taken away: it may have taken effect at any
moment, or never, and as whatever kind of change suits the answers. (An addition to a
counter loses its time only, and keeps the count that it made: that much is taken for
granted then.) Reads that are not kept are left out, since nothing rests on them.

Why what is left is a true witness: every kept call happened, and was answered as it
says. Had the store kept the laws, an order of all calls would explain all answers; the
same order, without the reads, would explain those of the kept calls too, for taking
knowledge away forbids no order. The judge says that there is none. So the kept calls
contradict the laws, whatever became of those beside them, or at whatever moment they
made their counts.

Deletes and changes that are answered by no content stay beside for the same reason:
they could be what a kept call needs. What is the only one that could be is kept.

No kept call alone can be spared. There may be a smaller part of another kind, and a few
calls that are no evidence are put back in the end, for the reader.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

from botsessions.conformance.histories.history import (
    NEVER,
    Call,
    Outcome,
    Verb,
    Violation,
    by_key,
)
from botsessions.conformance.histories.registers import Kind, Operation
from botsessions.conformance.histories.search import UndecidedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Sequence

    Judge: TypeAlias = Callable[[Sequence["Event"]], object]

Event: TypeAlias = Call | Operation
One = TypeVar("One", bound=Event)


@dataclasses.dataclass(frozen=True, slots=True)
class Shrunk(Generic[One]):
    """The part of a history that shows what is wrong with it.

    ``calls`` are the kept ones, untouched, in the order in which they began; ``beside``
    are changes of which the judge was told no more than that they may have been (and
    what they counted); it rejects both together, and ``violation`` says why.
    ``is_finished`` tells that no call could be spared, apart from those that a reader
    needs, and not only that the time was up.
    """

    calls: tuple[One, ...]
    beside: tuple[One, ...]
    violation: Violation
    is_finished: bool

    @property
    def history(self) -> list[One]:
        """What the judge rejected: the kept calls and those beside them."""
        together = [*self.calls, *self.beside]
        return sorted(together, key=lambda call: call.called)

    @property
    def steps(self) -> list[str]:
        """The kept calls as lines of text."""
        lines = [str(call) for call in self.calls]
        if self.beside:
            lines.append(f"({self.granted})")
        return lines

    @property
    def granted(self) -> str:
        """What the judge was told about those beside, as text."""
        others = f"the {len(self.beside)} other changes beside them"
        if any(isinstance(one, Call) and one.count is not None for one in self.beside):
            return f"{others} made the counts that they were told, at whatever moment"
        return f"whatever became of {others}"

    def __str__(self) -> str:
        return "\n".join([str(self.violation), *self.steps])


def shrink(
    calls: Sequence[One],
    judge: Callable[[Sequence[One]], object],
    *,
    seconds: float = 10.0,
    timer: Callable[[], float] = time.monotonic,
) -> Shrunk[One]:
    """Return a part of a history that the judge still rejects, and no call too much.

    ``judge`` raises ``Violation`` for the whole of it (else this raises ``ValueError``,
    or the judge's ``UndecidedError``) and looks at each key alone, as ``check_calls``
    and ``check_versions`` do. After ``seconds`` the smallest part found so far is
    taken.
    """
    judges = cast("Judge", judge)
    work = _Shrinking(_of_one_key(calls, judges), judges, timer, timer() + seconds)
    work.follow()
    finished = work.cut()
    work.complete()
    return Shrunk(
        tuple(cast("list[One]", work.calls)),
        tuple(cast("list[One]", work.beside)),
        work.violation,
        finished,
    )


def _of_one_key(calls: Sequence[Event], judge: Judge) -> list[Event]:
    """Return the calls of a key that is rejected by itself."""
    try:
        judge(calls)
    except Violation as violation:
        accused = {call.key for call in violation.calls}
    else:
        raise ValueError("the judge accepts this history; there is nothing to shrink")
    groups: dict[str, list[Event]] = by_key(calls)
    for key in sorted(groups, key=lambda key: key not in accused):
        if _violation(groups[key], judge) is not None:
            return groups[key]
    return list(calls)


def _violation(calls: Sequence[Event], judge: Judge) -> Violation | None:
    """Return what the judge complains of, None if it does not or cannot decide."""
    try:
        judge(calls)
    except Violation as violation:
        return violation
    except UndecidedError:
        pass
    return None


class _Shrinking:
    """A history and the part of it that is kept at the moment, by index."""

    def __init__(
        self,
        calls: list[Event],
        judge: Judge,
        timer: Callable[[], float],
        deadline: float,
    ) -> None:
        self._calls = _ordered(calls)
        self._judge = judge
        self._timer = timer
        self._deadline = deadline
        self._kept: list[int] = []
        self._named: set[int] = set()
        self.violation = Violation("nothing was judged yet")
        if not self._try(list(range(len(calls)))):
            raise ValueError("the judge does not reject these calls in their order")

    def follow(self) -> None:
        """Keep no more than the calls that the complaint names, while that will do."""
        while True:
            named = sorted(self._named)
            if not named or len(named) >= len(self._kept) or not self._try(named):
                return

    def cut(self) -> bool:
        """Drop what can be spared: halves first, one by one in the end.

        Tell whether that came to its end in time.
        """
        size = max(1, len(self._kept) // 2)
        while True:
            before, start = len(self._kept), 0
            while start < len(self._kept):
                if self._timer() > self._deadline:
                    return False
                if self._try(self._kept[:start] + self._kept[start + size :]):
                    self.follow()
                else:
                    start += size
            if size > 1:
                size //= 2
            elif len(self._kept) == before:
                return True

    def complete(self) -> None:
        """Keep again what is no evidence for the judge but needed by a reader.

        That is whatever the complaint names, and commits that link two versions which
        kept operations name.
        """
        while True:
            kept = set(self._kept)
            wanted = self._named | _links(kept, self._calls)
            if wanted <= kept or not self._try(sorted(kept | wanted)):
                return

    @property
    def calls(self) -> list[Event]:
        """The kept calls."""
        return [self._calls[i] for i in self._kept]

    @property
    def beside(self) -> list[Event]:
        """What was judged together with them."""
        return list(_beside(self._calls, set(self._kept)).values())

    def _try(self, kept: list[int]) -> bool:
        """Keep these alone if the judge still rejects them."""
        shown = {i: self._calls[i] for i in kept} | _beside(self._calls, set(kept))
        violation = _violation(_ordered(shown.values()), self._judge)
        if violation is None:
            return False
        accused = {id(call) for call in violation.calls}
        self._named = {i for i, call in shown.items() if id(call) in accused}
        self._kept, self.violation = kept, violation
        return True


def _ordered(calls: Collection[Event]) -> list[Event]:
    return sorted(calls, key=lambda call: call.called)


def _beside(calls: Sequence[Event], kept: set[int]) -> dict[int, Event]:
    """Return those not kept that others may rest on, with all but counts forgotten."""
    first = min((call.called for call in calls), default=0)
    contents = [
        call.saw
        for call in (calls[i] for i in kept)
        if isinstance(call, Call) and call.saw
    ]
    begins = {ids[0] for ids in contents}
    follows = {number for ids in contents for number in ids[1:]}
    counters = {
        call.key for call in calls if isinstance(call, Call) and call.count is not None
    }
    found: dict[int, Event] = {}
    for index, call in enumerate(calls):
        if index in kept:
            continue
        if isinstance(call, Operation):
            if call.kind is not Kind.LOAD:
                found[index] = dataclasses.replace(
                    call, outcome=None, called=first, returned=NEVER, excused=False
                )
            continue
        verb: Verb | None
        if call.key in counters:
            if call.verb is Verb.UPDATE:
                found[index] = _at_any_moment(call, first)
            continue
        if call.id in follows:
            verb = Verb.UPDATE
        elif call.id in begins:
            verb = Verb.PUT  # as the first of a life it suits whatever an update does
        else:
            verb = Verb.DELETE if call.verb is Verb.DELETE else None
        if verb is not None:
            found[index] = Call(
                call.id, call.key, verb, first, process=call.process, note="beside"
            )
    return found


def _at_any_moment(call: Call, first: int) -> Call:
    """Return an addition to a counter with no time, but with the count that it made.

    Without that it could have made any other count as well, and each of them would be
    evidence when one is missing.
    """
    free = dataclasses.replace(call, called=first, returned=NEVER, note="beside")
    if call.outcome is Outcome.FAILED:
        free.outcome = Outcome.UNKNOWN
    return free


def _links(kept: set[int], calls: Sequence[Event]) -> set[int]:
    """Return the commits between two versions that kept operations name."""
    named = {
        version
        for one in (calls[i] for i in kept)
        if isinstance(one, Operation)
        for version in [one.version, *_expected(one)]
    }
    return {
        i
        for i, one in enumerate(calls)
        if isinstance(one, Operation)
        and one.kind is Kind.COMMIT
        and one.version in named
        and one.expected in named
    }


def _expected(one: Operation) -> list[Hashable]:
    return [one.expected] if one.kind is Kind.COMMIT else []
