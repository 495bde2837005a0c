"""Locks that other programs hold: waited for, within bounds, beside the event loop."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from botsessions import (
    BackendUnavailableError,
    SessionKey,
    SessionStore,
    SQLiteBackend,
)
from botsessions.backends import sqlite
from tests.sqlite import history

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.sqlite.processes import Process

Session = dict[str, int]
KEY, OTHER = SessionKey(chat_id=1), SessionKey(chat_id=2)
WRITING = pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
LOCKED = "another program keeps .* locked, nothing was written; find the one with"


def count(session: Session) -> Session:
    return {"n": session.get("n", 0) + 1}


def make_empty(path: str) -> None:
    Path(path).touch()


def size(path: str) -> int:
    return Path(path).stat().st_size if Path(path).exists() else 0


@asynccontextmanager
async def responsive() -> AsyncIterator[None]:
    """Check that the event loop is not blocked: far from as long as the locks last."""
    pauses: list[float] = []

    async def tick() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            pauses.append(time.monotonic() - began)

    ticking = asyncio.create_task(tick())
    yield
    ticking.cancel()
    with suppress(asyncio.CancelledError):
        await ticking
    assert max(pauses) < 0.5


@WRITING
async def test_a_lock_that_is_released_in_time_is_waited_for(
    start: Callable[[], Process], path: str, lock: str
) -> None:
    other = start()
    async with SessionStore(SQLiteBackend(path)) as store:
        await store.put(KEY, {"n": 1})
        other.call("begin", path, lock)
        began = time.monotonic()
        asyncio.get_running_loop().call_later(1.0, other.tell, "end")
        async with responsive():
            changes = asyncio.gather(
                store.update(KEY, count), store.put(OTHER, {}), store.delete(OTHER)
            )
            await asyncio.sleep(0.1)
            # Who reads does not wait for who writes.
            assert await store.get(KEY) == {"n": 1}
            assert [key async for key in store.keys()] == [KEY]
            assert time.monotonic() - began < 1.0
            assert not changes.done()
            await changes
        assert time.monotonic() - began > 1.0
        assert await store.get(KEY) == {"n": 2}
        assert other.answer() is None


@WRITING
async def test_a_lock_that_is_held_too_long_is_a_definite_error_in_time(
    start: Callable[[], Process], path: str, lock: str
) -> None:
    other = start()
    async with SessionStore(SQLiteBackend(path), timeout=2.0) as store:
        await store.put(KEY, {"n": 1})
        other.call("begin", path, lock)
        began = time.monotonic()
        async with responsive():
            answers = await asyncio.gather(
                store.update(KEY, count),
                store.put(OTHER, {}),
                store.delete(KEY),
                return_exceptions=True,
            )
            assert time.monotonic() - began < 4.0
            # Not a conflict: nobody has changed anything.
            for answer in answers:
                assert isinstance(answer, BackendUnavailableError), repr(answer)
                assert re.match(LOCKED, str(answer))
            assert await store.get(KEY) == {"n": 1}
        other.call("end")
        # Definite: none of the three comes afterwards.
        await asyncio.sleep(0.2)
        assert await store.get(KEY) == {"n": 1}
        assert await store.update(KEY, count) == {"n": 2}


@pytest.fixture
def less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait one second, not five, where no call's deadline says how long."""
    monkeypatch.setattr(sqlite, "_PATIENCE", 1.0)


@pytest.mark.usefixtures("less_patience")
async def test_beside_a_lock_a_store_opens_and_a_sweep_gives_up_in_the_end(
    start: Callable[[], Process], path: str
) -> None:
    other = start()
    async with SessionStore(SQLiteBackend(path)) as store:
        await store.put(KEY, {"n": 1})
        other.call("begin", path, "BEGIN IMMEDIATE")
        async with SessionStore(SQLiteBackend(path)) as second:
            assert await second.get(KEY) == {"n": 1}
        began = time.monotonic()
        async with responsive():
            with pytest.raises(BackendUnavailableError, match=LOCKED):
                await store.delete_expired()
        assert 1.0 < time.monotonic() - began < 4.0
        other.call("end")
        assert await store.delete_expired() == 0


@pytest.mark.parametrize("exists", [False, True], ids=["a new file", "an old file"])
async def test_opening_waits_for_whoever_holds_the_whole_file(
    start: Callable[[], Process], path: str, *, exists: bool
) -> None:
    if exists:
        async with SessionStore(SQLiteBackend(path)) as store:
            await store.put(KEY, {"n": 1})
    else:
        make_empty(path)
    other = start()
    exclusively = ["PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"]
    other.call("begin", path, *exclusively)
    asyncio.get_running_loop().call_later(1.0, other.tell, "end")
    async with responsive(), SessionStore(SQLiteBackend(path)) as store:
        assert await store.update(KEY, count) == {"n": 1 + exists}
    assert other.answer() is None


@pytest.mark.usefixtures("less_patience")
async def test_opening_a_file_that_another_program_has_to_itself_is_refused(
    start: Callable[[], Process], path: str
) -> None:
    async with SessionStore(SQLiteBackend(path)) as store:
        await store.put(KEY, {"n": 1})
    other = start()
    exclusively = ["PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"]
    other.call("begin", path, *exclusively)
    store = SessionStore(SQLiteBackend(path))
    with pytest.raises(BackendUnavailableError, match=LOCKED):
        await store.get(KEY)
    other.call("end")
    assert await store.get(KEY) == {"n": 1}
    await store.aclose()


async def test_a_reader_that_takes_its_time_holds_nobody_up_and_sees_one_moment(
    start: Callable[[], Process], path: str
) -> None:
    other = start()
    keys = [SessionKey(chat_id=number) for number in range(200)]
    count_all = "SELECT count(*) FROM botsessions"
    async with SessionStore(SQLiteBackend(path, durability="normal")) as store:
        await store.put(KEY, {"n": 1})
        other.call("begin", path, "BEGIN", count_all)
        for number in range(5):
            for key in keys:
                await store.put(key, {"text": str(number) * 3_000})
        assert other.call("execute", count_all) == 1
        # The log cannot be used again from its beginning as long as it is read.
        assert size(f"{path}-wal") > 5 * 200 * 3_000
        other.call("end")
        found = await asyncio.gather(*map(store.get, keys))
        assert found == [{"text": "4" * 3_000}] * 200
    assert size(f"{path}-wal") == 0
    history.check_file(path)


def test_a_forked_process_is_refused_and_does_no_harm(
    start: Callable[[], Process], path: str
) -> None:
    process = start()
    process.call("open", path)
    process.call("add", "chat=1")
    inherited_store, inherited_backend = process.call("fork", "chat=1")
    assert inherited_store == (
        "BackendError: this store belongs to another event loop; open one store for "
        "each loop"
    )
    assert inherited_backend == (
        "BackendError: this SQLite store was opened before a fork; open one in each "
        "process"
    )
    # The locks of the parent are still its own, and so is its log.
    other = start()
    other.call("open", path)
    for each in (process, other):
        each.tell("count", ["chat=1"], callers=4, times=50, seed=1)
    for each in (process, other):
        each.answer()
    process.call("close")
    assert other.call("get", "chat=1") == {"n": 401}
    history.check_file(path)
