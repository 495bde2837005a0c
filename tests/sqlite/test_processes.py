"""Several processes, stores and backends on one file: one truth for all of them."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from botsessions import SessionKey, SessionStore, SQLiteBackend
from tests.sqlite import history

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tests.sqlite.processes import Process

Session = dict[str, int]
KEY = SessionKey(chat_id=1)


def count(session: Session) -> Session:
    return {"n": session.get("n", 0) + 1}


@pytest.mark.parametrize(
    ("keys", "times"),
    [
        pytest.param(1, 50, id="one key"),
        pytest.param(50, 25, id="many keys"),
        pytest.param(3, 1_000, id="long", marks=pytest.mark.soak),
    ],
)
def test_processes_that_count_together_miss_nothing(
    start: Callable[[], Process], path: str, rng: random.Random, keys: int, times: int
) -> None:
    names = [f"chat={number}" for number in range(keys)]
    processes = [start() for _ in range(4)]
    for process in processes:
        process.call("open", path)
    for process in processes:
        process.tell("count", names, callers=20, times=times, seed=rng.getrandbits(32))
    for process in processes:
        process.answer()
    found = history.sessions(path)
    assert sum(session["n"] for session in found.values()) == 4 * 20 * times
    history.check_file(path)


@pytest.mark.parametrize("others", [1, 2])
def test_nobody_starves_beside_a_busy_process(
    start: Callable[[], Process], path: str, rng: random.Random, others: int
) -> None:
    one, *busy = (start() for _ in range(1 + others))
    for process in (one, *busy):
        process.call("open", path)

    def wait_until_all_have_counted_on() -> None:
        until = time.monotonic() + 30
        for number in range(others):
            before = one.call("get", f"user={number}")
            while one.call("get", f"user={number}") == before:
                assert time.monotonic() < until, "a busy one has failed, or starves"

    for number, process in enumerate(busy):
        keys, seed = ["chat=1", f"user={number}"], rng.getrandbits(32)
        process.tell("count", keys, callers=300, times=1_000_000, seed=seed)
    wait_until_all_have_counted_on()
    # On the very key that the others never leave alone, and on one of its own.
    for key in ("chat=1", "chat=2"):
        began = time.monotonic()
        for _ in range(50):
            one.call("add", key)
        assert time.monotonic() - began < 30
        wait_until_all_have_counted_on()


def test_many_processes_that_make_the_same_file_at_once_all_succeed(
    start: Callable[[], Process], tmp_path: Path
) -> None:
    processes = [start() for _ in range(8)]
    for number in range(10):
        path = str(tmp_path / f"{number}.db")
        for process in processes:
            process.tell("open", path)
        for process in processes:
            process.answer()
        for process in processes:
            process.tell("add", "chat=1")
        assert {process.answer() for process in processes} == set(range(1, 9))
        for process in processes:
            process.tell("close")
        for process in processes:
            process.answer()
        # All of them closed at once; the last one has cleaned up.
        assert history.sessions(path) == {"chat=1": {"n": 8}}


async def test_a_process_sees_at_once_what_was_acknowledged_to_another(
    start: Callable[[], Process], path: str
) -> None:
    other = start()
    other.call("open", path)
    # A few keys are read in place, many on a thread.
    few = [KEY, SessionKey(chat_id=2)]
    many = [*few, *(SessionKey(user_id=number) for number in range(100))]
    async with SessionStore(SQLiteBackend(path)) as store:
        for number in range(1, 101):
            assert other.call("add", "chat=1") == 2 * number - 1
            assert await store.get(KEY) == {"n": 2 * number - 1}
            for keys in (few, many):
                one, two, *rest = await asyncio.gather(*map(store.get, keys))
                assert one == {"n": 2 * number - 1}
                assert two == ({"n": number - 1} if number > 1 else {})
                assert not any(rest)
            assert await store.update(KEY, count) == {"n": 2 * number}
            assert await store.update(few[1], count) == {"n": number}
            assert other.call("get", "chat=1") == {"n": 2 * number}
            assert other.call("get", "chat=2") == {"n": number}


async def test_two_backends_of_one_process_share_a_file(path: str) -> None:
    async with (
        SessionStore(SQLiteBackend(path)) as one,
        SessionStore(SQLiteBackend(path)) as two,
    ):
        await asyncio.gather(*(store.update(KEY, count) for store in [one, two] * 50))
        assert await one.get(KEY) == await two.get(KEY) == {"n": 100}


def test_closing_one_of_two_backends_keeps_the_locks_of_the_other(
    start: Callable[[], Process], path: str
) -> None:
    """In one process, POSIX locks end when any descriptor of the file is closed."""
    other = start()
    other.call("open", path)

    async def count_on() -> None:
        async with SessionStore(SQLiteBackend(path)) as store:
            for _ in range(50):
                async with SessionStore(SQLiteBackend(path)) as brief:
                    await asyncio.gather(brief.get(KEY), store.update(KEY, count))

    other.tell("count", ["chat=1"], callers=10, times=100, seed=1)
    asyncio.run(count_on())
    other.answer()
    assert history.sessions(path) == {"chat=1": {"n": 1_050}}
    history.check_file(path)


# Several stores over one backend object.


async def test_stores_share_one_backend_object(path: str) -> None:
    backend = SQLiteBackend(path)
    async with SessionStore(backend) as one, SessionStore(backend) as two:
        await asyncio.gather(*(store.update(KEY, count) for store in [one, two] * 50))
        await one.aclose()
        await two.update(KEY, count)
        assert await two.get(KEY) == {"n": 101}


async def test_stores_that_open_one_backend_at_once_all_find_it_open(path: str) -> None:
    backend = SQLiteBackend(path)
    stores = [SessionStore(backend) for _ in range(5)]
    await asyncio.gather(*(store.update(KEY, count) for store in stores))
    assert await stores[0].get(KEY) == {"n": 5}
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("turns", range(5))
async def test_a_backend_can_be_opened_while_its_last_store_closes(
    path: str, turns: int
) -> None:
    backend = SQLiteBackend(path)
    first, second = SessionStore(backend), SessionStore(backend)
    await first.put(KEY, {"n": 1})
    closing = asyncio.create_task(first.aclose())
    for _ in range(turns):
        await asyncio.sleep(0)
    assert await second.update(KEY, count) == {"n": 2}
    await closing
    assert await second.update(KEY, count) == {"n": 3}
    many = [KEY, *(SessionKey(user_id=number) for number in range(100))]
    assert (await asyncio.gather(*map(second.get, many)))[0] == {"n": 3}
    await second.aclose()


async def test_a_backend_that_could_not_be_opened_can_be_opened_later(
    tmp_path: Path, our_threads: Callable[[], list[str]]
) -> None:
    backend = SQLiteBackend(tmp_path / "later" / "sessions.db")
    stores = [SessionStore(backend) for _ in range(3)]
    failed = await asyncio.gather(
        *(store.get(KEY) for store in stores), return_exceptions=True
    )
    assert ["does not exist" in str(error) for error in failed] == [True] * 3
    (tmp_path / "later").mkdir()
    await asyncio.gather(*(store.update(KEY, count) for store in stores))
    assert await stores[0].get(KEY) == {"n": 3}
    for store in stores:
        await store.aclose()
    assert our_threads() == []


def test_threads_share_one_backend_object(path: str) -> None:
    backend = SQLiteBackend(path)

    async def bot() -> None:
        async with SessionStore(backend) as store:
            for _ in range(50):
                await asyncio.gather(store.update(KEY, count), store.get(KEY))

    threads = [threading.Thread(target=asyncio.run, args=[bot()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert history.sessions(path) == {"chat=1": {"n": 200}}


# Namespaces.


async def test_namespaces_of_one_file_are_isolated(path: str) -> None:
    # One is the beginning of another, and their order interleaves with that of keys.
    names = ["a", "a.b", "a-b", "ab", "A", "a_"]
    backend = SQLiteBackend(path)
    async with AsyncExitStack() as stack:
        stores = {
            name: await stack.enter_async_context(SessionStore(backend, namespace=name))
            for name in names
        }
        for number, store in enumerate(stores.values()):
            await store.put(KEY, {"n": number})
            await store.put(SessionKey(name=f"only{number}"), {})
        for number, store in enumerate(stores.values()):
            assert await store.get(KEY) == {"n": number}
            assert [str(key) async for key in store.keys()] == [
                "chat=1",
                f"name=only{number}",
            ]
        await stores["a"].delete(KEY)
        assert await stores["a"].get(KEY) == {}
        assert await stores["a.b"].get(KEY) == {"n": 1}
