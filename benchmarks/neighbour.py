"""Two processes on one SQLite file: is a lone caller starved beside a busy one?"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, Run, figure
from benchmarks.sessions import FLAT, increment
from botsessions import SessionKey, SessionStore, SQLiteBackend

ROUNDS = 5
CALLS = 1000
BUSY_CALLERS = 64


async def report() -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "shared.db"
        command = [sys.executable, "-m", "benchmarks.neighbour", str(path)]
        busy = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE
        )
        assert busy.stdout is not None
        await busy.stdout.readline()
        try:
            async with SessionStore(SQLiteBackend(path)) as store:
                runs = [await _call(store) for _ in range(ROUNDS)]
        finally:
            busy.kill()
            await busy.wait()
    return [
        figure(
            "beside 64 busy callers of another process: p99 / median",
            [run.percentile(0.99) / run.percentile(0.5) for run in runs],
            10,
            "x",
        ),
        figure(
            "beside 64 busy callers of another process: median",
            [run.percentile(0.5) * 1000 for run in runs],
            float("inf"),
            "ms",
        ),
    ]


async def _call(store: SessionStore) -> Run:
    key = SessionKey(name="neighbour")
    latencies = []
    started = time.perf_counter()
    for _ in range(CALLS):
        called = time.perf_counter()
        await store.update(key, lambda s: {"n": s.get("n", 0) + 1})
        latencies.append(time.perf_counter() - called)
    return Run(CALLS, time.perf_counter() - started, latencies)


async def _be_busy(path: str) -> None:
    async with SessionStore(SQLiteBackend(path)) as store:
        keys = [SessionKey(chat_id=n) for n in range(1000)]
        await asyncio.gather(*(store.put(key, FLAT) for key in keys))
        sys.stdout.write("ready\n")
        sys.stdout.flush()

        async def caller(start: int) -> None:
            for number in range(10**9):
                await store.update(keys[(start + number * 7) % 1000], increment)

        await asyncio.gather(*(caller(start) for start in range(BUSY_CALLERS)))


if __name__ == "__main__":
    asyncio.run(_be_busy(sys.argv[1]))
