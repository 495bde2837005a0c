"""Closing, ending, cancelling in the middle of work: nothing hangs, nothing is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import apsw
import pytest

from botsessions import (
    BackendError,
    BackendUnavailableError,
    SessionKey,
    SessionStore,
    SQLiteBackend,
    StoreClosedError,
)
from tests.sqlite import history

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.sqlite.processes import Process

Session = dict[str, Any]
KEYS = [SessionKey(chat_id=number) for number in range(4)]
KEY = KEYS[0]


def count(session: Session) -> Session:
    return {"n": session.get("n", 0) + 1}


def is_open(path: str) -> bool:
    links = Path("/proc/self/fd").iterdir()
    return any(str(link.resolve()).startswith(path) for link in links)


def files_beside(path: str) -> list[str]:
    return [file.name for file in Path(path).parent.iterdir()]


# Closing.


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
async def test_aclose_finishes_what_is_under_way(path: str, turns: int) -> None:
    store = SessionStore(SQLiteBackend(path))
    await store.put(KEY, {"n": 0})
    calls = [asyncio.create_task(store.update(key, count)) for key in KEYS * 50]
    for _ in range(turns):
        await asyncio.sleep(0)
    await store.aclose()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    done = [answer for answer in answers if isinstance(answer, dict)]
    refused = [answer for answer in answers if isinstance(answer, StoreClosedError)]
    assert len(done) + len(refused) == 200
    # All that were called before are served.
    assert not (turns and refused)
    async with SessionStore(SQLiteBackend(path)) as again:
        found = await asyncio.gather(*map(again.get, KEYS))
    assert sum(session.get("n", 0) for session in found) == len(done)


async def test_aclose_leaves_no_thread_and_no_file_open(
    path: str, our_threads: Callable[[], list[str]]
) -> None:
    # So many are read on a thread of their own.
    many = [SessionKey(chat_id=number) for number in range(100)]
    for _ in range(5):
        store = SessionStore(SQLiteBackend(path))
        await asyncio.gather(*(store.update(key, count) for key in many))
        await asyncio.gather(*map(store.get, many))
        assert our_threads() != []
        await store.aclose()
        assert our_threads() == []
    assert not is_open(path)


async def test_every_call_after_aclose_is_refused(path: str) -> None:
    store = SessionStore(SQLiteBackend(path))
    await store.put(KEY, {})
    await store.aclose()
    await store.aclose()
    for call in (
        store.get(KEY),
        store.put(KEY, {}),
        store.update(KEY, count),
        store.delete(KEY),
        store.delete_expired(),
    ):
        with pytest.raises(StoreClosedError, match="open a new one"):
            await call


async def test_aclose_that_is_cancelled_can_be_repeated(
    start: Callable[[], Process], path: str, our_threads: Callable[[], list[str]]
) -> None:
    other = start()
    store = SessionStore(SQLiteBackend(path))
    await store.put(KEY, {"n": 1})
    other.call("begin", path, "BEGIN IMMEDIATE")
    change = asyncio.create_task(store.update(KEY, count))
    await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.aclose(), 0.1)
    other.call("end")
    await store.aclose()
    assert await change == {"n": 2}
    assert our_threads() == []


async def test_a_store_that_was_never_used_makes_no_file(
    path: str, our_threads: Callable[[], list[str]]
) -> None:
    store = SessionStore(SQLiteBackend(path))
    await store.aclose()
    with pytest.raises(StoreClosedError):
        await store.get(KEY)
    assert files_beside(path) == []
    assert our_threads() == []


# Ending without closing.


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_a_program_that_ends_without_aclose_neither_hangs_nor_loses(
    start: Callable[[], Process], path: str, rng: random.Random, rounds: int
) -> None:
    processes = []
    for number in range(rounds):
        process = start()
        process.call("open", path)
        process.call(
            "hammer",
            f"bot{number}",
            [str(key) for key in KEYS],
            callers=16,
            seed=rng.getrandbits(32),
            seconds=rng.uniform(0.1, 0.3),
        )
        # Its updates are still under way.
        began = time.monotonic()
        assert process.end() == 0
        assert time.monotonic() - began < 10
        assert process.complaints == ""
        assert process.refused == []
        processes.append(process)
    assert all(process.acknowledged for process in processes)
    history.check(history.sessions(path), processes)
    history.check_file(path)


def test_a_loop_that_is_closed_while_a_commit_is_under_way_harms_no_later_one(
    start: Callable[[], Process], path: str, our_threads: Callable[[], list[str]]
) -> None:
    other = start()
    backend = SQLiteBackend(path)

    async def begin_to_count() -> None:
        store = SessionStore(backend)
        await store.put(KEY, {"n": 1})
        other.call("begin", path, "BEGIN IMMEDIATE")
        for _ in range(3):
            task = asyncio.create_task(store.update(KEY, count))
            task.add_done_callback(ended.append)
        await asyncio.sleep(0.05)

    ended: list[asyncio.Task[Any]] = []
    asyncio.run(begin_to_count())
    assert all(task.cancelled() for task in ended)
    other.call("end")

    async def count_on(store: SessionStore) -> int:
        async with store:
            session = await store.update(KEY, count)
            return int(session["n"])

    # The commit was under way and may have landed, all three updates or none.
    first = asyncio.run(count_on(SessionStore(SQLiteBackend(path))))
    assert first in {2, 5}
    # The same object serves on another loop.
    assert asyncio.run(count_on(SessionStore(backend))) == first + 1
    # In the place of the store that could not close it.
    asyncio.run(backend.aclose())
    assert our_threads() == []


# Cancelling.


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.soak)])
async def test_cancelled_callers_are_served_at_most_once_and_others_exactly_once(
    path: str, rng: random.Random, rounds: int
) -> None:
    async with SessionStore(SQLiteBackend(path)) as store:
        acknowledged: list[tuple[SessionKey, str]] = []
        cancelled = 0

        async def note(key: SessionKey, what: str) -> None:
            await store.update(key, lambda s: {"log": [*s.get("log", []), what]})
            acknowledged.append((key, what))

        for turn in range(rounds):
            tasks = []
            for number in range(300):
                what = f"{turn}.{number}"
                tasks.append(asyncio.create_task(note(rng.choice(KEYS), what)))
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.choice([0, 0, 0.0005, 0.002]))
                    rng.choice(tasks[-20:]).cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(
                isinstance(answer, asyncio.CancelledError) for answer in answers
            )
            assert {type(answer) for answer in answers} == {
                type(None),
                asyncio.CancelledError,
            }
        assert cancelled > rounds
        # No key is stuck, and nothing comes later than this.
        logs = {key: (await store.update(key, dict))["log"] for key in KEYS}
        noted = [(key, what) for key, log in logs.items() for what in log]
        assert len(noted) == len(set(noted)), "applied twice"
        assert set(acknowledged) <= set(noted), "acknowledged and lost"
        assert len(noted) <= len(acknowledged) + cancelled
        began = time.monotonic()
    assert time.monotonic() - began < 5, "something was still counted as under way"
    async with SessionStore(SQLiteBackend(path)) as store:
        assert {key: (await store.get(key))["log"] for key in KEYS} == logs


async def test_a_call_that_is_cancelled_while_it_waits_for_a_lock_may_still_land(
    start: Callable[[], Process], path: str
) -> None:
    other = start()
    async with SessionStore(SQLiteBackend(path)) as store:
        await store.put(KEY, {"n": 1})
        other.call("begin", path, "BEGIN IMMEDIATE")
        change = asyncio.create_task(store.update(KEY, count))
        await asyncio.sleep(0.1)
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        other.call("end")
        # Once, and before what is called later.
        assert (await store.update(KEY, count))["n"] in {2, 3}
        reads = await asyncio.gather(*(store.get(KEY) for _ in range(3)))
        assert len({session["n"] for session in reads}) == 1


async def test_opening_can_be_cancelled_and_done_again(
    start: Callable[[], Process], path: str, our_threads: Callable[[], list[str]]
) -> None:
    async with SessionStore(SQLiteBackend(path)) as store:
        await store.put(KEY, {"n": 1})
    other = start()
    other.call("begin", path, "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE")
    store = SessionStore(SQLiteBackend(path))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.get(KEY), 0.1)
    other.call("end")
    assert await store.get(KEY) == {"n": 1}
    await store.aclose()
    assert our_threads() == []


@pytest.mark.parametrize("replaced", [False, True], ids=["same file", "replaced"])
async def test_opening_that_is_cancelled_leaves_no_connection(
    path: str,
    our_threads: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    replaced: bool,
) -> None:
    backend = SQLiteBackend(path)
    connect, cancelled = backend._connect, threading.Event()

    def connect_late() -> apsw.Connection:
        assert cancelled.wait(10)
        return connect()

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_connect", connect_late)
        opening = asyncio.create_task(backend.open())
        await asyncio.sleep(0)
        opening.cancel()
        for _ in range(9):
            await asyncio.sleep(0)
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert backend._inline is None
    assert our_threads() == []
    assert not is_open(path)
    if replaced:
        for file in Path(path).parent.iterdir():
            file.unlink()
    async with SessionStore(SQLiteBackend(path)) as other:
        await other.put(KEY, {"n": 1})
    async with SessionStore(backend) as store:
        assert await store.get(KEY) == {"n": 1}
        assert backend._writer is not None
        with backend._writer._working:  # so that it reads on the other connection
            assert await store.get(KEY) == {"n": 1}
        assert await store.update(KEY, count) == {"n": 2}
    assert our_threads() == []


async def test_closing_that_is_cancelled_still_ends_both_threads(
    path: str, our_threads: Callable[[], list[str]]
) -> None:
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.load([str(key) for key in range(100)])
    before = set(threading.enumerate())
    assert len(our_threads()) == 2
    closing = asyncio.create_task(backend.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    for thread in before:
        if thread.name in our_threads():
            await asyncio.to_thread(thread.join, 10)
    assert our_threads() == []
    assert not is_open(path)


# Not open.


async def test_a_backend_that_was_never_opened_says_so(path: str) -> None:
    backend = SQLiteBackend(path)
    for call in (
        backend.load(["a"]),
        backend.load([str(number) for number in range(100)]),
        backend.commit([]),
        anext(backend.list_pages("", "", 1)),
        backend.sweep("", 1),
    ):
        with pytest.raises(BackendError, match="is not open") as refused:
            await call
        assert "fork" not in str(refused.value)
    assert files_beside(path) == []


# No thread to be had.


def refuse_to_start(_: threading.Thread) -> NoReturn:
    raise RuntimeError("can't start new thread")


async def test_without_a_thread_opening_is_refused_and_can_be_done_later(
    path: str, our_threads: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = SQLiteBackend(path)
    given_up, store = SessionStore(backend), SessionStore(backend)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_to_start)
        for refused in (backend.open(), given_up.get(KEY), store.get(KEY)):
            with pytest.raises(BackendUnavailableError, match="can't start new thread"):
                await refused
        await asyncio.wait_for(given_up.aclose(), 10)
    assert await store.update(KEY, count) == {"n": 1} == await store.get(KEY)
    await store.aclose()
    assert our_threads() == []


async def test_without_a_second_thread_reading_is_refused_and_can_be_done_later(
    path: str, our_threads: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [str(number) for number in range(100)]
    for later in (True, False):
        backend = SQLiteBackend(path)
        await backend.open()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse_to_start)
            for _ in range(2):
                with pytest.raises(BackendUnavailableError, match="no thread"):
                    await asyncio.wait_for(backend.load(many), 10)
        if later:
            loaded = await asyncio.wait_for(backend.load(many), 10)
            assert list(loaded.records) == [None] * 100
        await asyncio.wait_for(backend.aclose(), 10)
        assert our_threads() == []


# What the driver says at the end of a transaction.


class Failing:
    """A connection on which the next of some statements fail, done or not."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.failures: dict[str, apsw.Error] = {}
        self.done = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *args: Any) -> Any:
        failure = self.failures.pop(sql, None)
        if failure is None:
            return self._connection.execute(sql, *args)
        if self.done:
            self._connection.execute(sql, *args)
        raise failure


def wrapped(backend: SQLiteBackend) -> Failing:
    """Put a connection that may fail in the place of the one that writes."""
    writer: Any = backend._writer
    writer._connection = Failing(writer._connection)
    failing: Failing = writer._connection
    return failing


UNCLEAR = [apsw.NoMemError, apsw.CorruptError, apsw.CantOpenError, apsw.IOError]


@pytest.mark.parametrize("done", [False, True], ids=["lost", "landed"])
@pytest.mark.parametrize("error", UNCLEAR)
async def test_a_commit_whose_outcome_the_driver_does_not_know_counts_once(
    path: str, error: type[apsw.Error], *, done: bool
) -> None:
    backend = SQLiteBackend(path)
    async with SessionStore(backend) as store:
        await store.put(KEY, {"n": 1})
        failing = wrapped(backend)
        failing.done = done
        failing.failures = {"COMMIT": error("said the driver")}
        assert await store.update(KEY, count) == {"n": 2} == await store.get(KEY)
        assert failing.failures == {}
        assert await store.update(KEY, count) == {"n": 3} == await store.get(KEY)
    async with SessionStore(SQLiteBackend(path)) as store:
        assert await store.get(KEY) == {"n": 3}


async def test_a_rollback_that_fails_hides_neither_the_error_nor_the_truth(
    path: str,
) -> None:
    backend = SQLiteBackend(path)
    async with SessionStore(backend) as store, SessionStore(SQLiteBackend(path)) as two:
        await store.put(KEY, {"n": 1})
        failing = wrapped(backend)
        failing.failures = {
            "COMMIT": apsw.FullError("at the end"),
            "ROLLBACK": apsw.IOError("while it went back"),
        }
        with pytest.raises(BackendError, match="the disk is full") as refused:
            await store.update(KEY, count)
        assert refused.type is BackendError
        assert failing.failures == {}
        # What was not committed is seen by nobody, and the next change ends it.
        assert await store.get(KEY) == {"n": 1} == await two.get(KEY)
        assert await store.update(KEY, count) == {"n": 2} == await store.get(KEY)
        # An unknown outcome stays one: it is settled.
        failing.failures = {
            "COMMIT": apsw.IOError("at the end"),
            "ROLLBACK": apsw.IOError("while it went back"),
        }
        assert await store.update(KEY, count) == {"n": 3} == await store.get(KEY)
        assert failing.failures == {}
        assert await two.update(KEY, count) == {"n": 4} == await store.get(KEY)
