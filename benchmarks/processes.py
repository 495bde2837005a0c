"""Two processes on the same keys: together, how much more than one?

Each has 64 callers on 1,000 common keys. Every change is counted in the sessions, and
the count must be what was acknowledged. Clients and server share this machine's cores.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Row, Run, alternate, ratio
from botsessions import SessionKey, SessionStore, open_store
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 5
SECONDS = 2.0
CALLERS = 64
KEYS = [SessionKey(chat_id=n) for n in range(1000)]


async def report() -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "postgres").mkdir()
        postgres = await asyncio.to_thread(PostgresServer, place / "postgres")
        redis = await asyncio.to_thread(
            RedisServer, place / "redis", "--appendfsync", "everysec"
        )
        try:
            return [
                await _compare("PostgreSQL", postgres.dsn),
                await _compare("Redis", redis.url),
                await _compare("SQLite", f"sqlite:///{place / 'shared.db'}"),
            ]
        finally:
            await asyncio.to_thread(redis.stop)
            await asyncio.to_thread(postgres.stop)


async def _compare(name: str, url: str) -> Row:
    async def one() -> Run:
        return await _together(url, 1)

    async def two() -> Run:
        return await _together(url, 2)

    runs = await alternate({"one": one, "two": two}, ROUNDS)
    return ratio(f"{name}: two processes, of one", runs["two"], runs["one"], 1.3)


async def _together(url: str, count: int) -> Run:
    """Let so many processes work for a while; check that no change was lost."""
    before = await _sum(url)
    command = [sys.executable, "-m", "benchmarks.processes", url]
    workers = [
        await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(count)
    ]
    for worker in workers:
        assert worker.stdout is not None
        await worker.stdout.readline()
    results = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    done = [int(out) for out, _ in results]
    assert await _sum(url) - before == sum(done), "a change was lost, or came twice"
    return Run(sum(done), SECONDS)


async def _sum(url: str) -> int:
    async with open_store(url) as store:
        return sum([session["seen"] async for _, session in store.items()])


async def _work(url: str) -> None:
    async with open_store(url) as store:
        await store.get(KEYS[0])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        until = time.perf_counter() + SECONDS
        counts = await asyncio.gather(
            *(_call(store, start, until) for start in range(CALLERS))
        )
    sys.stdout.write(f"{sum(counts)}\n")


async def _call(store: SessionStore, start: int, until: float) -> int:
    done, keys = 0, _order(start)
    while time.perf_counter() < until:
        await store.update(
            keys[done % len(keys)], lambda s: {"seen": s.get("seen", 0) + 1}
        )
        done += 1
    return done


def _order(start: int) -> Sequence[SessionKey]:
    return [KEYS[(start * 7919 + n * 73) % len(KEYS)] for n in range(len(KEYS))]


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1]))
