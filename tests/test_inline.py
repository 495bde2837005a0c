"""The short cut of the memory engine gives the answers of the long way.

The same operations go to a memory store twice: once as it is, once with the short cut
closed. And what only this engine has: its records taken by several event loops.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import botsessions as bs
from tests.test_codec import REFUSED, same, sessions

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = bs.SessionKey(chat_id=1)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.binary(max_size=9).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab"), inner, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=8,
)
near_plain = st.dictionaries(st.text("abc"), plain, max_size=4)


async def outcome(store: bs.SessionStore, returned: Any) -> tuple[Any, Any, Any]:
    try:
        answer: Any = await store.update(KEY, lambda _: returned)
    except bs.SessionError as exc:
        answer = type(exc), str(exc)
    return answer, await store.get(KEY), [key async for key in store.keys()]


async def both_ways(*returned: Any, **options: Any) -> None:
    short = bs.SessionStore(bs.MemoryBackend(), **options)
    long = bs.SessionStore(bs.MemoryBackend(), **options)
    async with short, long:
        assert long._inline is not None
        long._inline._short = 0
        for session in returned:
            one, two = await outcome(short, session), await outcome(long, session)
            assert same(one, two)


@given(st.lists(near_plain | sessions, min_size=1, max_size=3))
def test_the_short_cut_answers_as_the_long_way_does(returned: list[Any]) -> None:
    asyncio.run(both_ways(*returned))


@pytest.mark.parametrize("session", [session for session, _ in REFUSED])
async def test_the_short_cut_refuses_what_the_long_way_refuses(session: Any) -> None:
    await both_ways({"n": 1}, session, {"n": 2}, session)


@pytest.mark.parametrize(
    "returned",
    [
        {},
        [],
        [1],
        None,
        7,
        "x",
        b"\x80",
        {"a": ormsgpack.Fragment(b"\x80")},
        {"a": [ormsgpack.Fragment(b"\x01")]},
        {"a": ormsgpack.Ext(1, b"")},
        {"a": b"bytes"},
        {"a": "Ą" * 9},
        {"a": "x" * 251},
        {"a": "x" * 252},
        {"a": "x" * 253},
    ],
    ids=lambda x: repr(x).partition(" at 0x")[0],
)
async def test_edges_of_the_short_cut(returned: Any) -> None:
    await both_ways(returned, {"n": 1}, returned)
    await both_ways({"n": 1}, returned, max_session_bytes=255)
    await both_ways({"n": 1}, returned, ttl=60)


@pytest.mark.parametrize("change", [{"n": 5}, {"n": [5]}])
async def test_a_function_that_calls_the_store_is_told_so_and_loses_nothing(
    change: dict[str, Any],
) -> None:
    async with bs.SessionStore(bs.MemoryBackend()) as store:
        await store.put(KEY, {"n": 0})

        def calls_the_store(session: dict[Any, Any]) -> dict[Any, Any]:
            coroutine = store.update(KEY, lambda _: {"inner": 1})
            with pytest.raises(StopIteration):
                coroutine.send(None)
            return {**session, **change}

        with pytest.raises(bs.InvalidUpdateError, match="called the store itself"):
            await store.update(KEY, calls_the_store)
        assert await store.get(KEY) == {"inner": 1}


def in_threads(work: Callable[[], None], count: int) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - reported below
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_many_event_loops_share_one_memory_backend() -> None:
    backend = bs.MemoryBackend()

    def work() -> None:
        async def run() -> None:
            async with bs.SessionStore(backend) as store:
                for number in range(300):
                    await store.update(KEY, lambda s: {"n": s.get("n", 0) + 1})
                    key = bs.SessionKey(user_id=number)
                    await store.update(key, lambda s: {"n": [*s.get("n", []), 1]})

        asyncio.run(run())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(work, 6)
    finally:
        sys.setswitchinterval(interval)

    async def check() -> None:
        async with bs.SessionStore(backend) as store:
            assert await store.get(KEY) == {"n": 1800}
            for number in range(300):
                key = bs.SessionKey(user_id=number)
                assert await store.get(key) == {"n": [1] * 6}

    asyncio.run(check())


def test_who_comes_after_a_closed_owner_shares_with_those_who_are_there() -> None:
    backend = bs.MemoryBackend()
    owner, guest, newcomer = (asyncio.Runner() for _ in range(3))
    for runner in (owner, guest, newcomer):
        assert runner.run(bs.SessionStore(backend).get(KEY)) == {}
        if runner is guest:
            owner.close()  # with its store left open
    assert backend._home.is_shared
    guest.close()
    newcomer.close()


async def test_a_second_loop_may_come_while_the_first_one_works() -> None:
    backend = bs.MemoryBackend()
    key = bs.SessionKey(name="shared")

    def count(session: dict[Any, Any]) -> dict[Any, Any]:
        return {"n": session.get("n", 0) + 1}

    def visitor() -> None:
        async def run() -> None:
            async with bs.SessionStore(backend) as store:
                for _ in range(200):
                    await store.update(key, count)

        asyncio.run(run())

    async with bs.SessionStore(backend) as store:
        threads = [threading.Thread(target=visitor) for _ in range(3)]
        for thread in threads:
            thread.start()
        mine = 0
        while any(thread.is_alive() for thread in threads):
            await store.update(key, count)
            mine += 1
            if mine % 50 == 0:
                await asyncio.sleep(0)
        assert await store.get(key) == {"n": 600 + mine}


def test_a_backend_outlives_the_loop_that_used_it_first() -> None:
    backend = bs.MemoryBackend()

    async def once() -> dict[Any, Any]:
        store = bs.SessionStore(backend)  # not closed, like in a forgetful program
        return await store.update(KEY, lambda s: {"n": s.get("n", 0) + 1})

    assert [asyncio.run(once())["n"] for _ in range(3)] == [1, 2, 3]
