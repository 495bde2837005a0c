"""Growth: what does a session cost when there are a thousand, and when ten million?

For each backend the same place is filled further and further; at each size: the latency
of an update (one caller, random keys), updates a second with 64 callers, bytes of a
session on disk and in the server's memory, and what listing and ``delete_expired`` cost
for each session. ``GROWTH`` (default 1,000,000) is the last size.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.measure import drive, say
from benchmarks.sessions import FLAT, increment
from botsessions import (
    Backend,
    Codec,
    MemoryBackend,
    PostgresBackend,
    Record,
    RedisBackend,
    SessionKey,
    SessionStore,
    SQLiteBackend,
    SupportsListing,
    SupportsSweeping,
    Version,
    Write,
)
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
CALLS = 2_000
CALLS_OF_64 = 200
BATCH = 500
# Of each size so many more are put in that have been dead for long, to be swept.
DEAD = 5_000
HOUR = 3_600_000
LISTED = 200_000


class Figures(NamedTuple):
    """One line of the table."""

    sessions: int
    filled: float
    median: float
    p99: float
    of_64: float
    disk: float
    memory: float
    listed: float
    swept: float | None

    def __str__(self) -> str:
        swept = "by itself" if self.swept is None else f"{self.swept * 1e6:7.1f} µs"
        return (
            f"{self.sessions:>12,} {self.filled:>9,.0f}/s {self.median * 1e6:>7.0f} µs "
            f"{self.p99 * 1e6:>7.0f} µs {self.of_64:>8,.0f}/s {self.disk:>7.0f} B "
            f"{self.memory:>7.0f} B {self.listed * 1e6:>7.1f} µs {swept}"
        )


_HEADER = (
    f"{'sessions':>12} {'filled':>11} {'update':>10} {'p99':>10} {'64 callers':>10} "
    f"{'disk':>9} {'memory':>9} {'listed':>10} swept, each"
)


class Place(NamedTuple):
    """Where sessions are put: a backend, and what it takes up there."""

    name: str
    backend: Backend
    disk: Callable[[], int]
    memory: Callable[[], int]
    sweeps: bool = True


async def report() -> list[str]:
    last = int(os.environ.get("GROWTH", "1000000"))
    for make in (_memory, _sqlite, _redis, _postgres):
        with tempfile.TemporaryDirectory() as directory:
            async with make(Path(directory)) as place:
                say(f"\n{place.name}\n{_HEADER}")
                empty = place.disk(), place.memory()
                filled = 0
                async with SessionStore(place.backend) as store:
                    for size in SIZES:
                        if size <= last:
                            say(await _grow(place, store, filled, size, empty))
                            filled = size
    return []


async def _grow(
    place: Place, store: SessionStore, begin: int, end: int, empty: tuple[int, int]
) -> Figures:
    started = time.perf_counter()
    await _fill(place.backend, begin, end, "sessions/", None)
    filled = (end - begin) / (time.perf_counter() - started)
    gc.collect()
    disk, memory = place.disk() - empty[0], place.memory() - empty[1]
    rng = random.Random(end)

    async def update(_: int) -> object:
        return await store.update(_key(rng.randrange(end)), increment)

    await drive(update, 1, CALLS // 4, end)
    one = await drive(update, 1, CALLS, end)
    many = await drive(update, 64, CALLS_OF_64, end)
    return Figures(
        end,
        filled,
        one.percentile(0.5),
        one.percentile(0.99),
        many.speed,
        disk / end,
        memory / end,
        await _list(place.backend, end),
        await _sweep(place.backend) if place.sweeps else None,
    )


async def _fill(
    backend: Backend, begin: int, end: int, prefix: str, ends: int | None
) -> None:
    """Put records in as the engine would, without the work of a store."""
    value = Codec().encode(FLAT)
    now = (await backend.load(["clock"])).now
    waiting: set[asyncio.Task[Any]] = set()
    for first in range(begin, end, BATCH):
        writes = [
            Write(
                f"{prefix}{_key(number)}",
                None,
                Record(
                    Version(1, number),
                    value,
                    b"",
                    now,
                    None if ends is None else now + ends,
                ),
                now + 24 * HOUR,
            )
            for number in range(first, min(first + BATCH, end))
        ]
        waiting.add(asyncio.ensure_future(backend.commit(writes)))
        if len(waiting) >= backend.concurrent_batches:
            _, waiting = await asyncio.wait(
                waiting, return_when=asyncio.FIRST_COMPLETED
            )
    if waiting:
        await asyncio.wait(waiting)


async def _list(backend: Backend, size: int) -> float:
    """Return seconds for each session, of those that a while's walk meets."""
    assert isinstance(backend, SupportsListing)
    started, count = time.perf_counter(), 0
    async for page in backend.list_pages("sessions/", "sessions/", 500):
        count += len(page.entries)
        if count >= LISTED:
            break
    assert count == min(count, size)
    return (time.perf_counter() - started) / count


async def _sweep(backend: Backend) -> float:
    assert isinstance(backend, SupportsSweeping)
    await _fill(backend, 0, DEAD, "dead/", -HOUR)
    started, count = time.perf_counter(), 0
    while swept := await backend.sweep("dead/", 500):
        count += swept
    assert count == DEAD
    return (time.perf_counter() - started) / count


def _key(number: int) -> SessionKey:
    return SessionKey(chat_id=number, user_id=number)


@contextlib.asynccontextmanager
async def _memory(_: Path) -> AsyncIterator[Place]:
    yield Place("memory", MemoryBackend(), lambda: 0, lambda: _resident(os.getpid()))


@contextlib.asynccontextmanager
async def _sqlite(directory: Path) -> AsyncIterator[Place]:
    path = directory / "growth.db"
    yield Place("SQLite", SQLiteBackend(path), lambda: _size(directory), lambda: 0)


@contextlib.asynccontextmanager
async def _redis(directory: Path) -> AsyncIterator[Place]:
    server = await asyncio.to_thread(
        RedisServer, directory / "redis", "--appendfsync", "everysec"
    )

    def used() -> int:
        return int(server.info("INFO", "memory")["used_memory"])

    try:
        backend = RedisBackend(server.url)
        yield Place("Redis", backend, lambda: _size(directory), used, sweeps=False)
    finally:
        await asyncio.to_thread(server.stop)


@contextlib.asynccontextmanager
async def _postgres(directory: Path) -> AsyncIterator[Place]:
    server = await asyncio.to_thread(PostgresServer, directory)

    def size() -> int:
        [(found,)] = server.execute("SELECT pg_total_relation_size('botsessions')")
        return int(found)

    backend = PostgresBackend(server.dsn, statement_timeout=60)
    try:
        async with SessionStore(backend):
            yield Place("PostgreSQL", backend, size, lambda: 0)
    finally:
        await asyncio.to_thread(server.stop)


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in _files(directory))


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())
