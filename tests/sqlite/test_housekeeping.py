"""Sweeping and listing, on a file that is in use: bounded, and right at the edges."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from botsessions import SessionKey, SessionStore, SQLiteBackend
from botsessions.record import GRACE_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sqlite.processes import Process

Session = dict[str, Any]
MB = 1024 * 1024
GRACE = GRACE_MS / 1000
KEYS = [SessionKey(chat_id=number) for number in range(1_200)]


class Clock:
    """Seconds since the epoch, which stand still until they are moved."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend(path: str, clock: Clock) -> SQLiteBackend:
    return SQLiteBackend(path, durability="normal", clock=clock)


def count(session: Session) -> Session:
    return {"n": session.get("n", 0) + 1}


async def put_all(store: SessionStore, keys: list[SessionKey]) -> None:
    await asyncio.gather(*(store.put(key, {"key": str(key)}) for key in keys))


async def listed(store: SessionStore, **parts: Any) -> list[SessionKey]:
    return [key async for key in store.keys(**parts)]


# Sweeping.


async def test_a_sweep_removes_what_has_been_dead_for_the_grace_and_nothing_else(
    backend: SQLiteBackend, clock: Clock
) -> None:
    deleted, replaced, expiring = KEYS[:100], KEYS[100:200], KEYS[200:]
    lasting = SessionKey(name="lasting")
    async with (
        SessionStore(backend, ttl=10) as store,
        SessionStore(backend) as endless,
    ):
        await put_all(store, KEYS)
        await endless.put(lasting, {"n": 1})
        await asyncio.gather(*map(store.delete, deleted))
        clock.now += 10
        assert await listed(store) == [lasting]
        # What has been written again is not dead any more.
        await put_all(endless, replaced)
        clock.now += GRACE - 10.001
        assert await store.delete_expired() == 0
        clock.now += 0.001
        assert await store.delete_expired() == len(deleted)
        clock.now += 9.999
        assert await store.delete_expired() == 0
        clock.now += 0.001
        assert await store.delete_expired() == len(expiring)
        assert await store.delete_expired() == 0
        assert set(await listed(store)) == {*replaced, lasting}
        assert await endless.get(lasting) == {"n": 1}


async def test_a_sweep_goes_in_batches_of_the_size_that_is_asked_for(
    backend: SQLiteBackend, clock: Clock
) -> None:
    async with SessionStore(backend, ttl=1) as store:
        await put_all(store, KEYS)
        clock.now += 1 + GRACE
        assert await backend.sweep("sessions/", 500) == 500
        assert await backend.sweep("sessions/", 500) == 500
        assert await backend.sweep("sessions/", 500) == 200
        assert await backend.sweep("sessions/", 500) == 0


async def test_a_sweep_spares_other_namespaces(
    backend: SQLiteBackend, clock: Clock
) -> None:
    names = ["a", "a.b", "a-b", "ab", "b"]
    stores = {name: SessionStore(backend, namespace=name, ttl=1) for name in names}
    for store in stores.values():
        await put_all(store, KEYS[:10])
    clock.now += 1 + GRACE
    for store in stores.values():
        assert await store.delete_expired() == 10
        await store.aclose()


async def test_a_sweep_beside_live_traffic_removes_no_living_session(
    backend: SQLiteBackend, clock: Clock, path: str
) -> None:
    living = KEYS[:50]
    async with (
        SessionStore(backend, ttl=100) as store,
        SessionStore(SQLiteBackend(path, clock=clock), ttl=100) as other,
    ):
        await put_all(store, KEYS)
        clock.now += 100 + GRACE
        sweeps = [asyncio.create_task(each.delete_expired()) for each in (store, other)]
        for _ in range(10):
            # At first they are dead: swept before they are written again, or after.
            await asyncio.gather(*(store.update(key, count) for key in living))
        removed = sum(await asyncio.gather(*sweeps))
        assert [await other.get(key) for key in living] == [{"n": 10}] * len(living)
        # Between them the two have removed each of the dead once.
        assert len(KEYS) - len(living) <= removed <= len(KEYS)
        assert set(await listed(store)) == set(living)


async def test_what_was_deleted_stays_so_when_the_clock_is_set_back(
    backend: SQLiteBackend, clock: Clock
) -> None:
    async with SessionStore(backend) as store:
        await put_all(store, KEYS[:3])
        await store.delete(KEYS[0])
        await store.delete(KEYS[1])
        clock.now -= 3600
        assert await store.get(KEYS[0]) == {}
        assert await listed(store) == [KEYS[2]]
        assert [item async for item in store.items()] == [(KEYS[2], {"key": "chat=2"})]
        assert await store.update(KEYS[0], count) == {"n": 1}
        assert await store.get(KEYS[0]) == {"n": 1}
        await store.delete(KEYS[1])
        assert await store.delete_expired() == 0
        clock.now += 3600 + GRACE
        assert await store.delete_expired() == 1
        assert await store.get(KEYS[0]) == {"n": 1}


def test_processes_sweep_together(start: Callable[[], Process], path: str) -> None:
    clock = Clock()
    clock.now = 1_000_000_000  # long ago

    async def fill() -> None:
        backend = SQLiteBackend(path, durability="normal", clock=clock)
        async with SessionStore(backend, ttl=1) as store:
            await put_all(store, KEYS)

    asyncio.run(fill())
    processes = [start(), start()]
    for process in processes:
        process.call("open", path)
    for process in processes:
        process.tell("delete_expired")
    assert sum(process.answer() for process in processes) == len(KEYS)


# Listing.


async def test_a_listing_of_many_pages_has_each_key_once_and_in_order(
    backend: SQLiteBackend,
) -> None:
    async with SessionStore(backend) as store:
        await put_all(store, KEYS)
        keys = await listed(store)
        assert keys == sorted(KEYS, key=str)
        items = {key: session async for key, session in store.items()}
        assert items == {key: {"key": str(key)} for key in KEYS}
        for at in (0, 499, 500, 1_198, 1_199):
            assert await listed(store, after=keys[at]) == keys[at + 1 :]


async def test_a_filter_by_chat_takes_the_number_and_not_its_beginning(
    backend: SQLiteBackend,
) -> None:
    one = [
        SessionKey(chat_id=1),
        SessionKey(chat_id=1, user_id=2),
        SessionKey(chat_id=1, user_id=12, topic_id=3),
        SessionKey(chat_id=1, name="cart"),
    ]
    others = [
        SessionKey(chat_id=12),
        SessionKey(chat_id=12, user_id=1),
        SessionKey(chat_id=-1),
        SessionKey(chat_id="1"),
        SessionKey(user_id=1),
        SessionKey(chat_id=10**15),
    ]
    async with SessionStore(backend) as store:
        await put_all(store, one + others)
        assert await listed(store, chat_id=1) == sorted(one, key=str)
        assert await listed(store, chat_id="1") == [SessionKey(chat_id="1")]
        assert await listed(store, chat_id=12) == sorted(others[:2], key=str)
        assert await listed(store, chat_id=1, user_id=12) == [one[2]]
        assert await listed(store, user_id=1) == [others[1], others[4]]
        assert await listed(store, chat_id=1, after=one[1]) == []
        assert await listed(store, chat_id=1, after=one[0]) == sorted(one, key=str)[1:]
        assert await listed(store, chat_id=2) == []


async def test_pages_are_bounded_in_bytes_and_none_is_left_out(
    backend: SQLiteBackend,
) -> None:
    large = [SessionKey(chat_id=number) for number in range(100, 125)]
    async with SessionStore(backend) as store:
        for key in large:
            await store.put(key, {"text": "x" * (MB - 100)})
        sizes = [
            [len(record.value) for _, record in page.entries]
            async for page in backend.list_pages("sessions/", "", 500)
        ]
        assert max(map(sum, sizes)) <= 9 * MB
        assert len(sizes) > 2
        assert sum(map(len, sizes)) == len(large)
        assert await listed(store) == large


async def test_a_listing_passes_over_whole_pages_of_the_dead(
    backend: SQLiteBackend,
) -> None:
    last = SessionKey(user_id=1)
    async with SessionStore(backend) as store:
        await put_all(store, [*KEYS, last])
        await asyncio.gather(*map(store.delete, KEYS))
        assert await listed(store) == [last]


async def test_a_listing_beside_live_traffic_has_what_is_there_all_the_time_once(
    backend: SQLiteBackend, clock: Clock, path: str
) -> None:
    staying = [SessionKey(chat_id=number, name="stays") for number in range(1_000)]
    passing = [SessionKey(chat_id=number, name="passes") for number in range(1_000)]
    async with (
        SessionStore(backend) as store,
        SessionStore(SQLiteBackend(path, clock=clock)) as other,
    ):
        await put_all(store, staying)
        seen = []
        async for key, session in other.items():
            seen.append(key)
            assert session
            if len(seen) % 100 == 0:
                some = passing[len(seen) % 1_000 :: 10]
                await put_all(store, some)
                await asyncio.gather(*map(store.delete, some[::2]))
                await asyncio.gather(*(store.update(k, count) for k in staying[::50]))
        assert len(seen) == len(set(seen))
        assert [key for key in seen if key.name == "stays"] == sorted(staying, key=str)
