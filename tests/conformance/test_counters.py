"""The judge of counters: as a search decides, on histories true and tampered with."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING

import pytest

from botsessions.conformance.histories.counters import check_counter
from botsessions.conformance.histories.history import (
    Call,
    History,
    Outcome,
    Verb,
    Violation,
)
from tests.histories import explained, history, rejects, tied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GET, UPDATE, OBSERVE = Verb.GET, Verb.UPDATE, Verb.OBSERVE
DONE, FAILED, UNKNOWN = Outcome.DONE, Outcome.FAILED, Outcome.UNKNOWN

TRUE = {
    "nothing": history(),
    "one after the other": history(
        (UPDATE, 1, 2, 1), (UPDATE, 3, 4, 2), (GET, 5, 6, 2)
    ),
    "at once": history((UPDATE, 1, 4, 2), (UPDATE, 2, 3, 1), (OBSERVE, 2, 9, 0)),
    "unknown and in": history((UPDATE, 1, 2, UNKNOWN), (UPDATE, 3, 4, 2)),
    "unknown and in later": history(
        (UPDATE, 1, 2, UNKNOWN), (UPDATE, 3, 4, 1), (UPDATE, 5, 6, 3)
    ),
    "answered in the tick of the call": history((UPDATE, 1, 2, 2), (UPDATE, 2, 3, 1)),
    "unknown ones, the later first": history(
        (UPDATE, 5, 6, UNKNOWN), (UPDATE, 1, 2, UNKNOWN), (GET, 3, 4, 1), (GET, 7, 8, 2)
    ),
    "unknown and not in": history((UPDATE, 1, 2, UNKNOWN), (GET, 3, 4, 0)),
    "failed and not in": history((UPDATE, 1, 2, FAILED), (GET, 3, 4, 0)),
    "a read that failed": history((GET, 1, 2, FAILED), (OBSERVE, 1, 2, UNKNOWN)),
}

FALSE = {
    "a lost update": (
        history((UPDATE, 1, 3, 1), (UPDATE, 2, 4, 1)),
        "a lost update",
    ),
    "failed and in": (history((UPDATE, 1, 2, FAILED), (GET, 3, 4, 1)), "only 0"),
    "made by nobody": (history((GET, 1, 2, 10**15)), "only 0 of unknown"),
    "unknown and in twice": (
        history((UPDATE, 1, 2, UNKNOWN), (GET, 3, 4, 2)),
        "only 1 of unknown",
    ),
    "a stale read": (
        history((UPDATE, 1, 2, 1), (UPDATE, 3, 4, 2), (GET, 5, 6, 1)),
        "counted back",
    ),
    "two reads in the wrong order": (
        history((UPDATE, 1, 9, 1), (GET, 2, 3, 1), (GET, 4, 5, 0)),
        "counted back",
    ),
    "a read of the future": (
        history((GET, 1, 2, 1), (UPDATE, 3, 4, 1)),
        "counted back",
    ),
    "an unknown one comes too late": (
        history((GET, 1, 2, 1), (UPDATE, 3, 4, UNKNOWN)),
        "called too late",
    ),
    "below what it began with": (history((GET, 1, 2, -1)), "began with 0"),
    "an update that added nothing": (history((UPDATE, 1, 2, 0)), "began with 0"),
}


@pytest.mark.parametrize("name", TRUE)
def test_a_true_history_is_accepted(name: str) -> None:
    check_counter(TRUE[name])


@pytest.mark.parametrize("name", FALSE)
def test_a_false_history_is_rejected(name: str) -> None:
    calls, said = FALSE[name]
    with pytest.raises(Violation, match=said) as caught:
        check_counter(calls)
    assert set(caught.value.calls) <= set(calls)
    assert caught.value.calls


def test_the_final_count_is_held_against_all() -> None:
    calls = history((UPDATE, 1, 2, 1), (UPDATE, 3, 4, UNKNOWN), (UPDATE, 5, 6, FAILED))
    check_counter(calls, final=1)
    check_counter(calls, final=2)
    with pytest.raises(Violation, match="the final count"):
        check_counter(calls, final=0)
    with pytest.raises(Violation, match="only 1 of unknown"):
        check_counter(calls, final=3)


def test_a_counter_may_begin_anywhere() -> None:
    calls = history((GET, 1, 2, 40), (UPDATE, 3, 4, 41))
    check_counter(calls, start=40, final=41)
    for start in (39, 41):
        with pytest.raises(Violation):
            check_counter(calls, start=start)


def test_what_is_no_counter_is_refused() -> None:
    with pytest.raises(ValueError, match="only read and added to"):
        check_counter(history((Verb.PUT, 1, 2, 1)))
    with pytest.raises(ValueError, match="no count"):
        check_counter(history((GET, 1, 2, DONE)))
    calls = history((GET, 1, 2, 0), (GET, 1, 2, 0))
    calls[1].key = "other"
    with pytest.raises(ValueError, match="several keys"):
        check_counter(calls)


# Random histories.


def true_history(rng: random.Random, clients: int, calls: int) -> list[Call]:
    """Return what callers of one perfect counter may have been told."""
    noted = History()
    count = 0
    under_way: list[tuple[Call, list[int]]] = []
    lost = 0
    while len(noted.calls) < calls or under_way:
        step = rng.random()
        if step < 0.3 and len(under_way) < clients and len(noted.calls) < calls:
            under_way.append(
                (noted.begin("key", rng.choice([GET, UPDATE, UPDATE])), [])
            )
        elif step < 0.6 and under_way:
            call, told = rng.choice(under_way)
            if not told:
                count += call.verb is UPDATE
                told.append(count)
        elif under_way:
            call, told = rng.choice(under_way)
            if told and rng.random() < 0.7:
                noted.end(call, DONE, count=told[0])
            elif rng.random() < 0.4:
                noted.end(call, UNKNOWN if told else rng.choice([FAILED, UNKNOWN]))
                if not told and call.outcome is UNKNOWN and call.verb is UPDATE:
                    lost += 1
            else:
                continue
            under_way.remove((call, told))
        if lost and rng.random() < 0.2:
            count += 1
            lost -= 1
    return noted.calls


def changed(rng: random.Random, calls: Sequence[Call]) -> list[Call]:
    """Return the history with one thing changed; it may still be a true one."""
    calls = [copy.copy(call) for call in calls]
    for call in calls:
        call.called *= 2
        call.returned *= 2
    telling = [call for call in calls if call.count is not None]
    call, other = rng.choice(telling or calls), rng.choice(telling or calls)
    match rng.randrange(5) if telling else 4:
        case 0:
            call.count, other.count = other.count, call.count
        case 1:
            call.count = (call.count or 0) + rng.choice([-1, 1])
        case 2:
            call.outcome, call.count = FAILED, None
        case 3:
            call.count = other.count
        case _:
            length = call.returned - call.called
            call.called = rng.randrange(1, 4 * len(calls), 2)  # odd: nobody else's tick
            call.returned = call.called + length
    return calls


def effect(call: Call, count: int) -> Iterator[int]:
    """Walk the counts after a call that is answered as it was."""
    after = count + (call.verb is UPDATE and call.outcome is not FAILED)
    if call.outcome is not DONE or call.count == after:
        yield after


def test_no_true_history_is_rejected() -> None:
    for seed in range(300):
        rng = random.Random(f"true {seed}")
        calls = tied(rng, true_history(rng, rng.randint(1, 6), rng.randint(1, 60)))
        assert not rejects(check_counter, calls), f"seed {seed}"


def test_the_judge_decides_as_the_search_does() -> None:
    decisions = []
    for seed in range(2500):
        rng = random.Random(f"changed {seed}")
        calls = true_history(rng, rng.randint(1, 4), rng.randint(2, 9))
        calls = tied(rng, changed(rng, calls))
        possible = explained(calls, 0, effect)
        assert rejects(check_counter, calls) is not possible, f"seed {seed}"
        decisions.append(possible)
    assert 500 < sum(decisions) < 2000
