"""PostgreSQL: what do combining and group commit gain over a transaction per update?

The baseline is what one would write by hand: a pool of the same driver, and for each
update SELECT … FOR UPDATE and UPDATE in a transaction. Client and server share this
machine's cores; the server is a private one with its usual durability.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import ormsgpack

from benchmarks.measure import Load, Row, compare
from benchmarks.sessions import FLAT, increment
from botsessions import SessionKey, SessionStore, open_store
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS = 10_000
POOL = 16
ROUNDS = 7


class Baseline:
    """One transaction for each update."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def fill(self, keys: Sequence[str]) -> None:
        body = ormsgpack.packb(FLAT)
        await self._pool.execute("CREATE TABLE s (k text PRIMARY KEY, b bytea)")
        await self._pool.executemany(
            "INSERT INTO s VALUES ($1, $2)", [(key, body) for key in keys]
        )

    async def update(self, key: str) -> object:
        async with self._pool.acquire() as connection, connection.transaction():
            body = await connection.fetchval(
                "SELECT b FROM s WHERE k = $1 FOR UPDATE", key
            )
            session = increment(ormsgpack.unpackb(body))
            await connection.execute(
                "UPDATE s SET b = $2 WHERE k = $1", key, ormsgpack.packb(session)
            )
            return session


async def report() -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        server = await asyncio.to_thread(PostgresServer, Path(directory))
        try:
            async with (
                asyncpg.create_pool(server.dsn, min_size=1, max_size=POOL) as pool,
                open_store(server.dsn) as store,
            ):
                return await _report(store, Baseline(pool))
        finally:
            await asyncio.to_thread(server.stop)


async def _report(store: SessionStore, baseline: Baseline) -> list[Row]:
    keys = [SessionKey(chat_id=n, user_id=n) for n in range(KEYS)]
    texts = list(map(str, keys))
    await baseline.fill(texts)
    await asyncio.gather(*(store.put(key, FLAT) for key in keys))

    async def ours(number: int) -> object:
        return await store.update(keys[number], increment)

    async def theirs(number: int) -> object:
        return await baseline.update(texts[number])

    return await compare(
        ours,
        theirs,
        [
            Load("one caller, 10,000 keys", 1, 500, 500, KEYS, 0.9),
            Load("64 callers, 10,000 keys", 64, 120, 20, KEYS, 6),
            Load("1,000 callers, 10,000 keys", 1000, 20, 2, KEYS, 13),
            Load("1,000 callers, one key", 1000, 40, 1, 1, 130),
        ],
        ROUNDS,
    )
