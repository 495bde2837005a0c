"""Threads: what does the blocking face gain over one transaction for each call?

There are two baselines, each one transaction for each call at full durability: what
blocking code does, a connection of ``sqlite3`` for each thread, which wait for each
other by sleeping; and the best that one would write by hand, a connection of ``apsw``
that all threads share under a lock. All have filled their write-ahead logs once. In
memory one thread is held against the async face.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ormsgpack

from benchmarks.measure import Row, Run, alternate, ratio, timed
from benchmarks.sessions import FLAT, increment
from benchmarks.sqlite import CHANGES, PASSES, Baseline
from botsessions import SessionKey, open_store, open_sync_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEYS = 1_000
THREADS = 32
ROUNDS = 9
CALLS = 20_000


def in_threads(update: Callable[[int], object], each: int) -> Run:
    """Let threads update keys in turn, each in an order of its own."""

    def work(start: int) -> None:
        number = start * 7919
        for _ in range(each):
            number = (number + 4973) % KEYS
            update(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Run(THREADS * each, time.perf_counter() - started)


class OwnConnections:
    """One transaction for each update, and one connection for each thread."""

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self._path = path
        self._own = threading.local()
        connection = self._connection()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE s (k TEXT PRIMARY KEY, b BLOB) STRICT")
        body = ormsgpack.packb(FLAT)
        with connection:
            connection.executemany(
                "INSERT INTO s VALUES (?, ?)", [(key, body) for key in keys]
            )

    def transaction(self, key: str) -> dict[str, Any]:
        execute = self._connection().execute
        execute("BEGIN IMMEDIATE")
        [body] = execute("SELECT b FROM s WHERE k = ?", (key,)).fetchone()
        session = increment(ormsgpack.unpackb(body))
        execute("UPDATE s SET b = ? WHERE k = ?", (ormsgpack.packb(session), key))
        execute("COMMIT")
        return session

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._own, "connection"):
            # None waits for so long; a shorter time would end in "database is locked".
            made = sqlite3.connect(self._path, timeout=300, isolation_level=None)
            made.execute("PRAGMA synchronous = FULL")
            self._own.connection = made
        connection: sqlite3.Connection = self._own.connection
        return connection


async def report() -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        return [*await on_disk(Path(directory), ROUNDS), await _in_memory()]


async def on_disk(directory: Path, rounds: int) -> list[Row]:
    keys = [SessionKey(chat_id=n, user_id=n) for n in range(KEYS)]
    texts = list(map(str, keys))
    shared, lock = Baseline(directory / "shared.db"), threading.Lock()
    shared.fill(texts)
    own = OwnConnections(directory / "own.db", texts)
    for number in range(CHANGES):
        shared.transaction(texts[number % KEYS])
        own.transaction(texts[number % KEYS])

    def in_turn(number: int) -> object:
        with lock:
            return shared.transaction(texts[number])

    async with open_store(f"sqlite:///{directory}/ours.db") as store:
        for _ in range(PASSES * 10_000 // KEYS):
            await asyncio.gather(*(store.put(key, FLAT) for key in keys))
    with open_sync_store(f"sqlite:///{directory}/ours.db") as blocking:

        async def ours() -> Run:
            return in_threads(lambda n: blocking.update(keys[n], increment), 100)

        async def theirs() -> Run:
            return in_threads(lambda n: own.transaction(texts[n]), 10)

        async def best() -> Run:
            return in_threads(in_turn, 50)

        runs = await alternate({"ours": ours, "theirs": theirs, "best": best}, rounds)
    what = "SQLite: 32 threads, of a connection for each"
    best_of = "SQLite: 32 threads, of one connection under a lock"
    return [
        ratio(what, runs["ours"], runs["theirs"], 10),
        ratio(best_of, runs["ours"], runs["best"], 10),
    ]


async def _in_memory() -> Row:
    key = SessionKey(chat_id=1, user_id=1)
    async with contextlib.AsyncExitStack() as stack:
        blocking = stack.enter_context(open_sync_store("memory://"))
        store = await stack.enter_async_context(open_store("memory://"))
        blocking.put(key, FLAT)
        await store.put(key, FLAT)

        async def awaited() -> None:
            for _ in range(CALLS):
                await store.update(key, increment)

        async def blocked() -> None:
            for _ in range(CALLS):
                blocking.update(key, increment)

        runs = await alternate(
            {
                "ours": lambda: timed(CALLS, blocked()),
                "theirs": lambda: timed(CALLS, awaited()),
            },
            ROUNDS,
        )
    what = "memory: one thread, of the async face"
    return ratio(what, runs["ours"], runs["theirs"], 0.5)
