"""The judges judged that are the simulation's own: moments, presence and fences.

Those of the kit, which it uses too, are judged in ``tests/conformance``.
"""

from __future__ import annotations

import pytest

from botsessions.conformance.histories.history import (
    Call,
    Ids,
    Outcome,
    Verb,
    Violation,
)
from botsessions.record import Record, Version
from tests.simulation.fences import check_fenced
from tests.simulation.moments import Lifetime, check_moments, check_presence
from tests.simulation.server import NAMESPACE, Landing

GET, UPDATE = Verb.GET, Verb.UPDATE


# Moments: what the journal adds. A landing is: tick, time, expiry, content.


def journal(*landings: tuple[int, int, int | None, Ids]) -> list[Landing]:
    return [
        Landing(tick, now, "key", Record(Version(n, n), b"", b"", now, end), ids)
        for n, (tick, now, end, ids) in enumerate(landings)
    ]


def get(called: tuple[int, int], returned: tuple[int, int], saw: Ids) -> Call:
    (tick, now), (last_tick, last_now) = called, returned
    call = Call(9, "key", GET, tick, now, returned=last_tick, returned_at=last_now)
    call.outcome, call.saw = Outcome.DONE, saw
    return call


ALIVE_TO_100 = journal((10, 50, 100, (1,)))


@pytest.mark.parametrize(
    "call",
    [
        get((5, 40), (20, 60), ()),
        get((5, 40), (20, 60), (1,)),
        get((11, 99), (20, 200), (1,)),
        get((11, 99), (20, 200), ()),
        get((11, 100), (20, 200), ()),
    ],
)
def test_a_read_is_right_at_some_moment(call: Call) -> None:
    check_moments([call], ALIVE_TO_100, Lifetime())


@pytest.mark.parametrize(
    "call",
    [
        get((5, 40), (9, 49), (1,)),  # before it landed
        get((11, 100), (20, 200), (1,)),  # after its end
        get((11, 60), (20, 99), ()),  # while it lived
        get((11, 60), (20, 70), (1, 2)),  # never there
    ],
)
def test_a_read_is_right_at_no_moment(call: Call) -> None:
    with pytest.raises(Violation, match="at no moment"):
        check_moments([call], ALIVE_TO_100, Lifetime())


def test_what_has_ended_is_not_continued() -> None:
    fresh = journal((1, 50, 100, (1,)), (2, 100, 200, (2,)))
    check_moments([], fresh, Lifetime())
    revived = journal((1, 50, 100, (1,)), (2, 100, 200, (1, 2)))
    with pytest.raises(Violation, match="revived"):
        check_moments([], revived, Lifetime())


def test_a_version_comes_once() -> None:
    again = journal((1, 50, None, (1,))) + journal((2, 60, None, (1, 2)))
    with pytest.raises(Violation, match="version"):
        check_moments([], again, Lifetime())


@pytest.mark.parametrize(
    ("lifetime", "right", "wrong"),
    [
        (Lifetime(ttl=100), (130, 150, 160), (None, 129, 161)),
        (Lifetime(max_age=30), (80,), (None, 79, 81)),
        (Lifetime(ttl=100, max_age=30), (70, 80), (None, 69, 81, 150)),
    ],
)
def test_a_change_sets_the_end(
    lifetime: Lifetime, right: tuple[int, ...], wrong: tuple[int | None, ...]
) -> None:
    call = Call(9, "key", UPDATE, 5, 40, returned=20, returned_at=60)
    call.outcome, call.saw = Outcome.DONE, (9,)
    for end in (*right, *wrong):
        landings = journal((10, 50, end, (9,)))
        if end in right:
            check_moments([call], landings, lifetime)
        else:
            with pytest.raises(Violation, match="expires at"):
                check_moments([call], landings, lifetime)


def test_a_session_is_not_older_than_the_call_that_made_it() -> None:
    call = Call(9, "key", UPDATE, 5, 60, returned=20, returned_at=90)
    call.outcome, call.saw = Outcome.DONE, (9,)
    with pytest.raises(Violation, match="made at 50"):
        check_moments([call], journal((10, 50, 150, (9,))), Lifetime(ttl=100))


def test_what_was_tested_in_time_may_be_seen_later() -> None:
    first, second = journal((1, 50, 100, (1,)), (2, 110, 200, (1, 2)))
    check_moments([], [first, second._replace(lag=11)], Lifetime())
    with pytest.raises(Violation, match="revived"):
        check_moments([], [first, second._replace(lag=10)], Lifetime())


def test_a_walk_meets_what_is_there_whatever_it_holds() -> None:
    check_presence([get((11, 60), (20, 70), (-1,))], ALIVE_TO_100)
    check_presence([get((11, 60), (20, 200), ())], ALIVE_TO_100)
    for wrong in (
        get((11, 100), (20, 200), (-1,)),
        get((11, 60), (20, 70), ()),
        get((5, 40), (9, 49), (-1,)),
    ):
        with pytest.raises(Violation, match="at no moment"):
            check_presence([wrong], ALIVE_TO_100)


def lock(tick: int, now: int, end: int, value: bytes) -> Landing:
    record = Record(Version(tick, tick), value, b"", now, end)
    return Landing(tick, now, f"!{{{NAMESPACE}/key}}", record, ())


def test_a_change_lands_while_its_lock_lives_or_not_at_all() -> None:
    locks = [lock(1, 10, 100, b"mine"), lock(5, 100, 200, b"another's")]
    in_time = journal((4, 99, None, (7,)))
    check_fenced("key", {7: b"mine"}, in_time, locks)
    check_fenced("key", {8: b"mine"}, journal((9, 300, None, (7,))), locks)
    # It shows again in what another writes later, which is no change of it.
    later = journal((4, 99, None, (7,)), (9, 150, None, (7, 8)))
    check_fenced("key", {7: b"mine", 8: b"another's"}, later, locks)
    for landings in (
        journal((4, 100, None, (7,))),  # the lease is over
        journal((9, 150, None, (7,))),  # another has it
        journal((9, 150, None, (8, 7))),
    ):
        with pytest.raises(Violation, match="lost before"):
            check_fenced("key", {7: b"mine"}, landings, locks)
    with pytest.raises(Violation, match="lost before"):
        check_fenced("key", {7: b"mine"}, in_time, [])
