"""SQLite at full durability: what do combining and group commit gain?

The baseline is what one would write by hand: each update is one transaction (begin,
read, function, write, commit) on a worker thread, with the same driver and settings.
Both are measured as in a bot that has run for a while: their write-ahead logs have been
full once, so that a commit does not also make its file longer.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import ormsgpack

from benchmarks.measure import Row, alternate, drive, ratio
from benchmarks.sessions import FLAT, increment
from botsessions import SessionKey, SessionStore, SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS = 10_000
ROUNDS = 15
# Changes of all keys (of ours), single changes (of the baseline) until a log is full.
PASSES = 8
CHANGES = 1_500


class Baseline:
    """One transaction for each update."""

    def __init__(self, path: Path) -> None:
        self._worker = ThreadPoolExecutor(1)
        self._connection = apsw.Connection(str(path))
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE s (k TEXT PRIMARY KEY, b BLOB) STRICT")

    async def update(self, key: str) -> object:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self.transaction, key)

    def fill(self, keys: Sequence[str]) -> None:
        body = ormsgpack.packb(FLAT)
        with self._connection:
            self._connection.executemany(
                "INSERT INTO s VALUES (?, ?)", [(key, body) for key in keys]
            )

    def transaction(self, key: str) -> dict[str, Any]:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        body = execute("SELECT b FROM s WHERE k = ?", (key,)).get
        session = increment(ormsgpack.unpackb(body))
        execute("UPDATE s SET b = ? WHERE k = ?", (ormsgpack.packb(session), key))
        execute("COMMIT")
        return session


async def report(rounds: int = ROUNDS) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        return await _report(Path(directory), rounds)


async def _report(directory: Path, rounds: int) -> list[Row]:
    keys = [SessionKey(chat_id=n, user_id=n) for n in range(KEYS)]
    texts = list(map(str, keys))
    baseline = Baseline(directory / "baseline.db")
    baseline.fill(texts)
    for number in range(CHANGES):
        await baseline.update(texts[number * 7919 % KEYS])
    rows = []
    async with SessionStore(SQLiteBackend(directory / "ours.db")) as store:
        for seen in range(PASSES):
            random.shuffle(keys)
            await asyncio.gather(
                *(store.put(key, {**FLAT, "seen": seen}) for key in keys)
            )

        async def ours(number: int) -> object:
            return await store.update(keys[number], increment)

        async def theirs(number: int) -> object:
            return await baseline.update(texts[number])

        async def compare(
            callers: int, ours_each: int, theirs_each: int, spread: int
        ) -> Any:
            return await alternate(
                {
                    "ours": lambda: drive(ours, callers, ours_each, spread),
                    "theirs": lambda: drive(theirs, callers, theirs_each, spread),
                },
                rounds,
            )

        one = await compare(1, 700, 700, KEYS)
        rows.append(ratio("one caller, 10,000 keys", one["ours"], one["theirs"], 0.9))
        many = await compare(64, 300, 50, KEYS)
        rows.append(ratio("64 callers, 10,000 keys", many["ours"], many["theirs"], 7))
        rows.append(
            ratio(
                "64 callers, 10,000 keys: p99 latency",
                many["ours"],
                many["theirs"],
                0.25,
                of=lambda run: run.percentile(0.99),
                at_least=False,
            )
        )
        hot = await compare(1000, 40, 3, 1)
        rows.append(ratio("1,000 callers, one key", hot["ours"], hot["theirs"], 100))
        wide = await compare(1000, 20, 3, KEYS)
        rows.append(
            ratio("1,000 callers, 10,000 keys", wide["ours"], wide["theirs"], 7)
        )
    return rows
