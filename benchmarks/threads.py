"""Threads: what does the blocking face gain over one transaction for each call?

The baseline is what one would write by hand: threads share a connection under a lock,
and each call is one transaction at full durability. (With a connection for each thread
SQLite makes them wait for each other by sleeping, which is slower.) In memory one
thread is held against the async face.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Row, Run, alternate, ratio, timed
from benchmarks.sessions import FLAT, increment
from benchmarks.sqlite import Baseline
from botsessions import SessionKey, open_store, open_sync_store

if TYPE_CHECKING:
    from collections.abc import Callable

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


async def report() -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        return [await _on_disk(Path(directory)), await _in_memory()]


async def _on_disk(directory: Path) -> Row:
    keys = [SessionKey(chat_id=n, user_id=n) for n in range(KEYS)]
    texts = list(map(str, keys))
    baseline, lock = Baseline(directory / "baseline.db"), threading.Lock()
    baseline.fill(texts)

    def one_by_one(number: int) -> object:
        with lock:
            return baseline.transaction(texts[number])

    with open_sync_store(f"sqlite:///{directory}/ours.db") as store:
        for key in keys:
            store.put(key, FLAT)

        async def ours() -> Run:
            return in_threads(lambda n: store.update(keys[n], increment), 100)

        async def theirs() -> Run:
            return in_threads(one_by_one, 50)

        runs = await alternate({"ours": ours, "theirs": theirs}, ROUNDS)
    return ratio("SQLite: 32 threads, 1,000 keys", runs["ours"], runs["theirs"], 10)


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
