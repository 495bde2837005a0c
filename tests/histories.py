"""Histories for the tests of the judges: made by hand, with ties, and tried out.

``explained`` tries all orders of a short history, with the rules of what is judged
handed in: no judge, and nothing that a judge is made of, is needed for it. The random
histories are with the tests of each judge.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from botsessions.conformance.histories.history import (
    NEVER,
    Call,
    Ids,
    Outcome,
    Verb,
    Violation,
)
from botsessions.conformance.histories.registers import Kind, Operation

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Hashable, Iterable, Sequence

# Verb, call, return, then the count, the ids that were seen or made, or the outcome.
Line: TypeAlias = tuple[Verb, int, int, int | Ids | Outcome | None]

_One = TypeVar("_One", Call, Operation)
_State = TypeVar("_State", bound="Hashable")


def history(*lines: Line) -> list[Call]:
    """Return calls of one key, numbered from 1."""
    calls = []
    for number, (verb, called, returned, answer) in enumerate(lines, 1):
        call = Call(number, "key", verb, called, returned=returned)
        call.outcome = answer if isinstance(answer, Outcome) else Outcome.DONE
        call.count = answer if isinstance(answer, int) else None
        call.saw = answer if isinstance(answer, tuple) else None
        calls.append(call)
    return calls


def load(called: int, returned: int, version: Hashable) -> Operation:
    return Operation("key", "w", Kind.LOAD, None, version, True, called, returned)


def commit(
    called: int,
    returned: int,
    expected: Hashable,
    version: Hashable,
    *outcome: bool | None,
    excused: bool = False,
) -> Operation:
    answer = outcome[0] if outcome else True
    return Operation(
        "key", "w", Kind.COMMIT, expected, version, answer, called, returned, excused
    )


def rejects(judge: Callable[..., object], calls: Sequence[Any], **options: Any) -> bool:
    try:
        judge(calls, **options)
    except Violation:
        return True
    return False


def tied(rng: random.Random, calls: Iterable[_One]) -> list[_One]:
    """Return calls by a clock that may be coarse: several moments have one tick."""
    ticks = rng.randint(1, 4)
    return [
        dataclasses.replace(
            call,
            called=call.called // ticks,
            returned=call.returned
            if call.returned == NEVER
            else call.returned // ticks,
        )
        for call in calls
    ]


def explained(
    calls: Sequence[_One],
    start: _State,
    effect: Callable[[_One, _State], Iterable[_State]],
) -> bool:
    """Decide by trying all orders, calls of unknown outcome in them or not.

    ``effect`` returns the states that a call may lead to, none if it cannot come then.
    """
    sure = sum(
        1 << index
        for index, call in enumerate(calls)
        if call.outcome not in {Outcome.UNKNOWN, None}
    )
    before = [
        sum(1 << index for index, other in enumerate(calls) if other.end < call.called)
        for call in calls
    ]
    tried = set()
    stack = [(0, start)]
    while stack:
        done, state = stack.pop()
        if done & sure == sure:
            return True
        if (done, state) in tried:
            continue
        tried.add((done, state))
        for index, call in enumerate(calls):
            if not done >> index & 1 and before[index] & done == before[index]:
                stack += ((done | 1 << index, after) for after in effect(call, state))
    return False
