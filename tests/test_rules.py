"""The engine's decisions, called without an engine."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from botsessions.engine.rules import (
    Policy,
    Verdict,
    backoff,
    check_function,
    new_token,
    next_record,
    not_after,
    settle,
)
from botsessions.errors import InvalidUpdateError
from botsessions.record import RING_LENGTH, Record, Write, tokens

FOREVER = Policy(None, None, 100)


def chain(*made: int, policy: Policy = FOREVER) -> list[Record]:
    """Return the records that a key goes through with these tokens."""
    records: list[Record] = []
    for token in made:
        last = records[-1] if records else None
        records.append(next_record(policy, last, b"value", 1000, token))
    return records


def write_after(record: Record | None, token: int) -> Write:
    following = next_record(FOREVER, record, b"mine", 1000, token)
    return Write("key", record.version if record else None, following, 5000)


# Versions and rings.


def test_a_version_grows_by_one_and_has_the_token_of_its_attempt() -> None:
    records = chain(11, -12, 13)
    assert [record.version for record in records] == [(1, 11), (2, -12), (3, 13)]


def test_the_ring_remembers_the_tokens_before_newest_first() -> None:
    records = chain(*range(1, 21))
    assert tokens(records[2]) == [3, 2, 1]
    assert tokens(records[19]) == list(range(20, 20 - RING_LENGTH - 1, -1))


def test_a_deleted_session_keeps_version_and_ring_and_is_dead_at_once() -> None:
    (first,) = chain(1)
    deleted = next_record(FOREVER, first, b"", 2000, 2)
    assert deleted.version == (2, 2)
    assert deleted.is_dead(2000)
    assert tokens(deleted) == [2, 1]
    again = next_record(FOREVER, deleted, b"new", 3000, 3)
    assert again.version == (3, 3)
    assert again.created_at == 3000
    assert tokens(again) == [3, 2, 1]


def test_tokens_are_signed_64_bit_and_differ() -> None:
    rng = random.Random(1)
    made = {new_token(rng) for _ in range(1000)}
    assert len(made) == 1000
    assert all(-(1 << 63) <= token < 1 << 63 for token in made)
    assert min(made) < 0 < max(made)


# What became of a write without an answer.


def test_a_write_landed_if_its_token_is_there_or_remembered() -> None:
    first, second = chain(1, 2)
    mine = write_after(first, 2)
    assert settle(mine, second, 1000) is Verdict.LANDED
    later = chain(1, 2, *range(3, 3 + RING_LENGTH))
    assert settle(mine, later[-1], 9_999_999) is Verdict.LANDED


@pytest.mark.parametrize("now", [4999, 5000, 9_999_999])
def test_a_write_may_still_land_while_its_version_is_there(now: int) -> None:
    # Also when its time is over: the clock may be set back while it is on its way.
    (first,) = chain(1)
    assert settle(write_after(first, 2), first, now) is Verdict.NOT_YET
    assert settle(write_after(None, 2), None, now) is Verdict.NOT_YET


def test_it_is_unknown_when_what_it_continued_has_expired() -> None:
    (first,) = chain(1, policy=Policy(500, None, 100))
    assert settle(write_after(first, 2), first, 1499) is Verdict.NOT_YET
    assert settle(write_after(first, 2), first, 1500) is Verdict.UNKNOWN


def test_a_new_session_in_the_place_of_a_dead_one_may_still_land() -> None:
    (first,) = chain(1)
    dead = next_record(FOREVER, first, b"", 1000, 2)
    begun = next_record(FOREVER, dead, b"mine", 2000, 3)
    mine = Write("key", dead.version, begun, 5000)
    assert settle(mine, dead, 3000) is Verdict.NOT_YET


def test_a_new_session_in_the_place_of_an_expired_one_may_still_land() -> None:
    policy = Policy(500, None, 100)
    (expired,) = chain(1, policy=policy)
    begun = next_record(policy, expired, b"mine", 2000, 2)
    mine = Write("key", expired.version, begun, 2500)
    assert settle(mine, expired, 2100) is Verdict.NOT_YET


def test_a_write_is_lost_if_another_took_its_place() -> None:
    first, other = chain(1, 3)
    assert settle(write_after(first, 2), other, 1000) is Verdict.LOST
    assert settle(write_after(None, 2), first, 1000) is Verdict.LOST
    full = chain(*range(10, 10 + RING_LENGTH + 1))
    assert settle(write_after(None, 2), full[-1], 1000) is Verdict.LOST


def test_it_is_unknown_when_the_record_does_not_reach_back() -> None:
    records = chain(1, *range(3, 4 + RING_LENGTH))
    assert settle(write_after(records[0], 2), records[-1], 1000) is Verdict.UNKNOWN
    assert settle(write_after(None, 2), records[-1], 1000) is Verdict.UNKNOWN


def test_it_is_unknown_when_the_record_vanished_or_went_backwards() -> None:
    first, second = chain(1, 2)
    assert settle(write_after(second, 3), None, 1000) is Verdict.UNKNOWN
    assert settle(write_after(second, 3), first, 1000) is Verdict.UNKNOWN


@given(st.data())
def test_settle_never_says_what_is_not_so(data: st.DataObject) -> None:
    """Whatever happened, LANDED and LOST are true, and NOT_YET is before any other."""
    before = data.draw(st.integers(0, 10), "commits before")
    after = data.draw(st.integers(0, 10), "commits after")
    landed = data.draw(st.booleans(), "landed")
    records = chain(*range(1, before + 1))
    mine = write_after(records[-1] if records else None, 99)
    made = [*range(1, before + 1), *([99] if landed else []), *range(200, 200 + after)]
    now = data.draw(st.sampled_from([1000, 6000]), "now")
    states = chain(*made)
    verdict = settle(mine, states[-1] if states else None, now)
    if verdict is Verdict.LANDED:
        assert landed
    elif verdict is Verdict.LOST:
        assert not landed
    elif verdict is Verdict.NOT_YET:
        assert not landed
        assert after == 0
    else:
        assert after >= RING_LENGTH


# Expiry.


def test_without_ttl_and_max_age_a_session_never_expires() -> None:
    assert chain(1)[0].expires_at is None


def test_ttl_counts_from_the_write_and_max_age_from_the_creation() -> None:
    policy = Policy(1000, 2500, 100)
    record = next_record(policy, None, b"v", 10_000, 1)
    assert record.expires_at == 11_000
    record = next_record(policy, record, b"v", 10_900, 2)
    assert record.expires_at == 11_900
    record = next_record(policy, record, b"v", 11_800, 3)
    assert record.expires_at == 12_500
    assert record.created_at == 10_000


@pytest.mark.parametrize(("later", "moved"), [(0, 0), (100, 0), (101, 101)])
def test_the_end_moves_only_after_a_tenth(later: int, moved: int) -> None:
    policy = Policy(1000, None, 100)
    record = next_record(policy, None, b"v", 10_000, 1)
    assert next_record(policy, record, b"v", 10_000 + later, 2).expires_at == (
        11_000 + moved
    )


def test_a_shorter_ttl_holds_at_once() -> None:
    record = next_record(Policy(100_000, None, 100), None, b"v", 0, 1)
    assert next_record(Policy(1000, None, 100), record, b"v", 10, 2).expires_at == 1010


def test_a_write_must_not_revive_what_expired_meanwhile() -> None:
    record = next_record(Policy(1000, None, 100), None, b"v", 0, 1)
    assert not_after(record, 10, 5000) == 1000
    assert not_after(record, 10, 500) == 510
    assert not_after(record, 1000, 500) == 1500
    assert not_after(None, 10, 500) == 510


# Backing off.


def test_backing_off_grows_to_50_ms_and_is_jittered() -> None:
    rng = random.Random(7)
    for attempt, most in ((1, 0.002), (3, 0.008), (6, 0.05), (1000, 0.05)):
        waits = [backoff(attempt, rng) for _ in range(300)]
        assert 0 <= min(waits) < most / 4
        assert most * 3 / 4 < max(waits) <= most


# Functions.


class Callable:
    def __call__(self, session: dict[Any, Any]) -> dict[Any, Any]:
        return session


class AsyncCallable:
    async def __call__(self, session: dict[Any, Any]) -> dict[Any, Any]:
        return session

    async def method(self, session: dict[Any, Any]) -> dict[Any, Any]:
        return session


async def coroutine(session: dict[Any, Any]) -> dict[Any, Any]:
    return session


@pytest.mark.parametrize(
    "function",
    [lambda s: s, Callable(), Callable().__call__, dict, functools.partial(dict, a=1)],
)
def test_functions_that_can_be_called(function: Any) -> None:
    check_function(function)


@pytest.mark.parametrize(
    "function",
    [
        None,
        {},
        coroutine,
        AsyncCallable(),
        AsyncCallable().method,
        functools.partial(coroutine),
    ],
    ids=lambda x: repr(x).partition(" at 0x")[0],
)
def test_functions_that_cannot(function: Any) -> None:
    with pytest.raises(InvalidUpdateError):
        check_function(function)
