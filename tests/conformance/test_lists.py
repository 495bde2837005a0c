"""The judges of lists: no false alarm on what can be, and no lie gets through.

``linearizability`` is held against trying all orders, and is itself held against
``order``, on random histories that are true and on the same with something changed.
"""

from __future__ import annotations

import copy
import random
import time
from typing import TYPE_CHECKING

import pytest

from botsessions.conformance.histories.history import (
    READS,
    Call,
    History,
    Ids,
    Outcome,
    Verb,
    Violation,
)
from botsessions.conformance.histories.linearizability import check_linearizable
from botsessions.conformance.histories.order import check_order
from tests.histories import Line, explained, history, rejects, tied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

GET, UPDATE, PUT, DELETE = Verb.GET, Verb.UPDATE, Verb.PUT, Verb.DELETE
OBSERVE, REFUSE = Verb.OBSERVE, Verb.REFUSE
FAILED, UNKNOWN = Outcome.FAILED, Outcome.UNKNOWN
ABSENT: Ids = ()

TRUE = {
    "nothing": history(),
    "one after the other": history(
        (UPDATE, 1, 2, (1,)), (UPDATE, 3, 4, (1, 2)), (GET, 5, 6, (1, 2))
    ),
    "at once, the later call first": history(
        (UPDATE, 1, 4, (2, 1)), (UPDATE, 2, 3, (2,)), (GET, 5, 6, (2, 1))
    ),
    "a read during an update sees it or not": history(
        (UPDATE, 1, 9, (1,)), (GET, 2, 3, ()), (GET, 4, 5, (1,))
    ),
    "unknown and applied": history((UPDATE, 1, 2, UNKNOWN), (GET, 3, 4, (1,))),
    "unknown and applied later": history(
        (UPDATE, 1, 2, UNKNOWN), (GET, 3, 4, ()), (GET, 5, 6, (1,))
    ),
    "unknown and never applied": history((UPDATE, 1, 2, UNKNOWN), (GET, 3, 4, ())),
    "failed and not applied": history(
        (UPDATE, 1, 2, FAILED), (UPDATE, 3, 4, (2,)), (GET, 5, 6, (2,))
    ),
    "put over something": history(
        (UPDATE, 1, 2, (1,)), (PUT, 3, 4, None), (UPDATE, 5, 6, (2, 3))
    ),
    "put over a put that nobody saw": history(
        (PUT, 1, 4, None), (PUT, 2, 3, None), (GET, 5, 6, (2,))
    ),
    "deleted and made again": history(
        (UPDATE, 1, 2, (1,)),
        (DELETE, 3, 4, None),
        (GET, 5, 6, ()),
        (UPDATE, 7, 8, (4,)),
    ),
    "gone by a delete of unknown outcome": history(
        (UPDATE, 1, 2, (1,)),
        (DELETE, 3, 4, UNKNOWN),
        (GET, 5, 6, (1,)),
        (GET, 7, 8, ()),
    ),
    "one delete ends two lives that nobody saw apart": history(
        (PUT, 1, 9, None), (PUT, 2, 8, None), (DELETE, 3, 7, None), (GET, 10, 11, ())
    ),
    "deleted in the tick in which nothing was there": history(
        (PUT, 0, 0, None), (OBSERVE, 1, 1, ()), (DELETE, 1, 2, None)
    ),
    "made again in the tick of a delete": history(
        (UPDATE, 1, 2, (1,)), (DELETE, 5, 6, None), (UPDATE, 4, 5, (3,))
    ),
    "raising and unchanging updates are reads": history(
        (UPDATE, 1, 2, (1,)), (REFUSE, 3, 4, (1,)), (OBSERVE, 5, 6, (1,))
    ),
}

FALSE = {
    "lost update": history((UPDATE, 1, 3, (1,)), (UPDATE, 2, 4, (2,))),
    "lost update, later": history(
        (PUT, 1, 2, None), (UPDATE, 3, 5, (1, 2)), (UPDATE, 4, 6, (1, 3))
    ),
    "lost and never seen again": history((UPDATE, 1, 2, (1,)), (GET, 3, 4, ())),
    "applied twice": history((UPDATE, 1, 2, (1,)), (GET, 3, 4, (1, 1))),
    "unknown and applied twice": history(
        (UPDATE, 1, 2, UNKNOWN), (UPDATE, 3, 4, (1, 2)), (GET, 5, 6, (1, 2, 1))
    ),
    "unknown and applied in two lives": history(
        (UPDATE, 1, 2, UNKNOWN),
        (GET, 3, 4, (1,)),
        (DELETE, 5, 6, None),
        (PUT, 7, 8, None),
        (GET, 9, 10, (4, 1)),
    ),
    "failed and applied": history((UPDATE, 1, 2, FAILED), (GET, 3, 4, (1,))),
    "raised and applied": history((REFUSE, 1, 2, ()), (GET, 3, 4, (1,))),
    "made by nobody": history((GET, 1, 2, (7,))),
    "stale read": history(
        (UPDATE, 1, 2, (1,)), (UPDATE, 3, 4, (1, 2)), (GET, 5, 6, (1,))
    ),
    "stale no-change answer": history(
        (UPDATE, 1, 2, (1,)), (UPDATE, 3, 4, (1, 2)), (OBSERVE, 5, 6, (1,))
    ),
    "two reads in the wrong order": history(
        (UPDATE, 1, 9, (1,)), (GET, 2, 3, (1,)), (GET, 4, 5, ())
    ),
    "read of the future": history((GET, 1, 2, (2,)), (UPDATE, 3, 4, (2,))),
    "against real time": history((UPDATE, 1, 2, (2, 1)), (UPDATE, 3, 4, (2,))),
    "revived after a delete": history(
        (UPDATE, 1, 2, (1,)), (DELETE, 3, 4, None), (GET, 5, 6, (1,))
    ),
    "updated after a delete": history(
        (UPDATE, 1, 2, (1,)), (DELETE, 3, 4, None), (UPDATE, 5, 6, (1, 3))
    ),
    "absent in between": history(
        (UPDATE, 1, 2, (1,)), (GET, 3, 4, ()), (UPDATE, 5, 6, (1, 3))
    ),
    "gone without a delete": history(
        (UPDATE, 1, 2, (1,)), (GET, 3, 4, ()), (DELETE, 5, 6, None)
    ),
    "gone by a delete that failed": history(
        (UPDATE, 1, 2, (1,)), (DELETE, 3, 4, FAILED), (GET, 5, 6, ())
    ),
    "begun anew without a delete": history((UPDATE, 1, 2, (1,)), (UPDATE, 3, 4, (2,))),
    "put did not replace": history(
        (UPDATE, 1, 2, (1,)), (PUT, 3, 4, None), (GET, 5, 6, (1, 2))
    ),
    "put undone": history((PUT, 1, 2, None), (PUT, 3, 4, None), (GET, 5, 6, (1,))),
    "two lives at once": history(
        (PUT, 1, 9, None),
        (PUT, 2, 10, None),
        (GET, 3, 4, (1,)),
        (GET, 5, 6, (2,)),
        (GET, 7, 8, (1,)),
    ),
    "answer is not what it made": history((UPDATE, 1, 2, ())),
}


@pytest.mark.parametrize("name", TRUE)
def test_a_true_history_is_accepted(name: str) -> None:
    check_order(TRUE[name])
    check_linearizable(TRUE[name])


@pytest.mark.parametrize("name", FALSE)
def test_a_false_history_is_rejected(name: str) -> None:
    for judge in (check_order, check_linearizable):
        with pytest.raises(Violation) as caught:
            judge(FALSE[name])
        assert caught.value.calls
        assert set(caught.value.calls) <= set(FALSE[name])


@pytest.mark.parametrize("where", [4, 40, 85])
def test_both_of_two_orders_are_shown(where: int) -> None:
    every = tuple(range(1, 91))
    updates = [(UPDATE, 2 * i, 2 * i + 1, every[:i]) for i in every]
    tampered = list(every)
    tampered[where : where + 2] = tampered[where + 1], tampered[where]
    calls = history(*updates, (GET, 200, 201, tuple(tampered)))
    with pytest.raises(Violation, match="applied twice") as caught:
        check_order(calls)
    assert calls[-1] in caught.value.calls
    assert len(caught.value.calls) > 1
    text = str(caught.value)
    assert f" {where + 2} {where + 1} " in text
    assert f" {where} {where + 1} " in text


def test_only_the_search_counts_the_deletes() -> None:
    calls = history(
        (PUT, 1, 2, None),
        (DELETE, 3, 4, UNKNOWN),
        (GET, 5, 6, ()),
        (PUT, 7, 8, None),
        (GET, 9, 10, ()),
    )
    assert not rejects(check_order, calls)
    assert rejects(check_linearizable, calls)


def test_what_was_stored_counts_though_nobody_saw_it() -> None:
    calls = history((UPDATE, 1, 2, FAILED), (PUT, 3, 4, None), (GET, 5, 6, (2,)))
    check_order(calls, stored={(2,)})
    with pytest.raises(Violation, match="told it is not"):
        check_order(calls, stored={(1,), (2,)})


def test_a_session_that_expires_needs_no_delete() -> None:
    calls = history((UPDATE, 1, 2, (1,)), (GET, 3, 4, ()), (UPDATE, 5, 6, (3,)))
    check_order(calls, expiring=True)
    check_linearizable(calls, expiring=True)
    calls += history(*[(GET, 0, 0, None)] * 3, (GET, 7, 8, (1,)))[3:]
    assert rejects(check_order, calls, expiring=True)
    assert rejects(check_linearizable, calls, expiring=True)


@pytest.mark.parametrize("judge", [check_order, check_linearizable])
def test_only_calls_of_one_key_with_ids_of_their_own_are_judged(
    judge: Callable[[Sequence[Call]], None],
) -> None:
    calls = history((UPDATE, 1, 2, (1,)), (UPDATE, 3, 4, (1, 1)))
    calls[1].id = 1  # as of a second worker that forgot ``first`` and ``stride``
    with pytest.raises(ValueError, match=r"have one id.*\n.*#1 .*\n.*#1 "):
        judge(calls)
    calls[1].id, calls[1].key = 2, "other"
    with pytest.raises(ValueError, match="several keys"):
        judge(calls)


def test_many_lives_are_judged_in_no_time() -> None:
    """Each is held against the ones around it, not against all others."""
    lines: list[Line] = []
    for number in range(1, 2001, 4):
        tick = 2 * number
        lines += [
            (UPDATE, tick, tick + 1, (number,)),
            (GET, tick + 2, tick + 3, (number,)),
            (DELETE, tick + 4, tick + 5, None),
            (GET, tick + 6, tick + 7, ()),
        ]
    calls = history(*lines)
    began = time.process_time()
    check_order(calls)
    assert time.process_time() - began < 2  # a cube takes twenty seconds


# Random histories.


def true_history(rng: random.Random, clients: int, calls: int) -> list[Call]:
    """Return what callers of one perfect session may have seen."""
    noted = History()
    content: Ids = ()
    under_way: list[tuple[Call, list[Ids | None]]] = []
    lost: list[Call] = []
    verbs = [*Verb, Verb.UPDATE, Verb.UPDATE]
    while len(noted.calls) < calls or under_way:
        step = rng.random()
        if step < 0.3 and len(under_way) < clients and len(noted.calls) < calls:
            under_way.append((noted.begin("key", rng.choice(verbs)), []))
        elif step < 0.6 and under_way:
            call, seen = rng.choice(under_way)
            if not seen:
                content, answer = applied(call, content)
                seen.append(answer)
        elif under_way:
            call, seen = rng.choice(under_way)
            if seen and rng.random() < 0.8:
                noted.end(call, Outcome.DONE, seen[0])
            elif rng.random() < 0.3:
                noted.end(call, rng.choice([FAILED, UNKNOWN]) if not seen else UNKNOWN)
                if not seen and call.outcome is UNKNOWN:
                    lost.append(call)
            else:
                continue
            under_way.remove((call, seen))
        if lost and rng.random() < 0.2:
            content, _ = applied(lost.pop(), content)
    return noted.calls


def applied(call: Call, content: Ids) -> tuple[Ids, Ids | None]:
    """Return the content after a call, and its answer."""
    if call.verb in READS:
        return content, content
    if call.verb is UPDATE:
        return (*content, call.id), (*content, call.id)
    return ((call.id,) if call.verb is PUT else ()), None


def changed(rng: random.Random, calls: Sequence[Call]) -> list[Call]:
    """Return the history with one thing changed; it may still be a true one."""
    calls = [copy.copy(call) for call in calls]
    for call in calls:
        call.called *= 2
        call.returned *= 2
    showing = [call for call in calls if call.saw is not None]
    call, other = rng.choice(showing or calls), rng.choice(showing or calls)
    match rng.randrange(6) if showing else 5:
        case 0:
            call.saw, other.saw = other.saw, call.saw
        case 1 if call.saw:
            call.saw = call.saw[:-1]
        case 2 if call.saw and other.saw:
            call.saw = (*call.saw, *other.saw[-1:])
        case 3:
            call.outcome, call.saw = FAILED, None
        case 4:
            call.saw = ()
        case _:
            length = call.returned - call.called
            call.called = rng.randrange(1, 4 * len(calls), 2)  # odd: nobody else's tick
            call.returned = call.called + length
    return calls


def effect(call: Call, content: Ids) -> Iterator[Ids]:
    """Walk what may be there after a call that is answered as it was."""
    if call.outcome is FAILED:
        yield content
        return
    after, answer = applied(call, content)
    if call.outcome is UNKNOWN or (call.saw or ()) == (answer or ()):
        yield after


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_no_true_history_is_rejected(start: int) -> None:
    for seed in range(start, start + 100):
        rng = random.Random(f"true {seed}")
        calls = tied(rng, true_history(rng, rng.randint(1, 6), rng.randint(1, 40)))
        assert not rejects(check_order, calls), f"seed {seed}"
        assert not rejects(check_linearizable, calls), f"seed {seed}"


@pytest.mark.parametrize("expiring", [False, True])
def test_the_search_decides_as_trying_all_orders_does(*, expiring: bool) -> None:
    def fading(call: Call, content: Ids) -> set[Ids]:
        """A session may vanish before any call."""
        return {*effect(call, content), *effect(call, ABSENT)}

    decisions = []
    for seed in range(500):
        rng = random.Random(f"short {seed}")
        calls = true_history(rng, rng.randint(2, 4), rng.randint(4, 9))
        calls = tied(rng, changed(rng, calls))
        possible = explained(calls, ABSENT, fading if expiring else effect)
        assert rejects(check_linearizable, calls, expiring=expiring) is not possible, (
            f"seed {seed}"
        )
        if possible:
            assert not rejects(check_order, calls, expiring=expiring), f"seed {seed}"
        decisions.append(possible)
    assert 100 < sum(decisions) < 400


def test_the_order_is_right_and_misses_little() -> None:
    found = missed = 0
    for seed in range(1000):
        rng = random.Random(f"long {seed}")
        calls = true_history(rng, rng.randint(2, 5), 30)
        calls = tied(rng, changed(rng, calls))
        if rejects(check_order, calls):
            assert rejects(check_linearizable, calls), f"seed {seed}: a false alarm"
            found += 1
        elif rejects(check_linearizable, calls):
            missed += 1
    assert found > 330
    assert missed < found / 20
