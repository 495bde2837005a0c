"""Redis: what do combining and batches gain over one exchange per update?

The baselines are what one would write by hand (a lock in the process for each key, GET,
and a script that swaps if nothing changed) and aiogram's storage under its isolation.
Client and server share this machine's cores; the server writes its log every second.
A Cluster of three masters is held against our own single server; both have two cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ormsgpack
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.redis import RedisStorage
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.measure import Load, Row, compare
from benchmarks.sessions import FLAT, increment
from botsessions import SessionKey, open_store
from tests.servers.redis import RedisCluster, RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

KEYS = 10_000
ROUNDS = 7
CONNECTIONS = 16
EVERY_SECOND = ("--appendfsync", "everysec")
_SWAP = """\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class Baseline:
    """A lock, a GET and a compare-and-swap for each update."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._swap = client.register_script(_SWAP)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def fill(self, keys: Sequence[str]) -> None:
        body = ormsgpack.packb(FLAT)
        await self._client.mset({f"theirs/{key}": body for key in keys})

    async def update(self, key: str) -> object:
        key = f"theirs/{key}"
        async with self._locks[key]:
            while True:
                body: Any = await self._client.get(key)
                session = increment(ormsgpack.unpackb(body))
                packed = ormsgpack.packb(session)
                if await self._swap(keys=[key], args=[body, packed]):
                    return session


class Aiogram:
    """What a handler of aiogram does under its isolation: lock, read, write."""

    def __init__(self, client: Redis) -> None:
        self._storage = RedisStorage(client)
        self._isolation = self._storage.create_isolation()

    async def fill(self, count: int) -> None:
        for number in range(count):
            await self._storage.set_data(_aiogram_key(number), FLAT)

    async def update(self, number: int) -> object:
        key = _aiogram_key(number)
        async with self._isolation.lock(key):
            session = increment(await self._storage.get_data(key))
            await self._storage.set_data(key, session)
            return session


def _aiogram_key(number: int) -> StorageKey:
    return StorageKey(bot_id=1, chat_id=number, user_id=number)


async def report() -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        server = await asyncio.to_thread(RedisServer, place / "one", *EVERY_SECOND)
        try:
            async with (
                contextlib.aclosing(_client(server)) as client,
                _filled(server.url) as ours,
            ):
                rows = await _beside_a_lock(ours, Baseline(client))
                rows += await _beside_aiogram(ours, Aiogram(client))
                rows += await _in_a_cluster(ours, place / "cluster")
                return rows
        finally:
            await asyncio.to_thread(server.stop)


def _client(server: RedisServer) -> Redis:
    # Without a bound a thousand callers would be a thousand connections.
    pool = BlockingConnectionPool(
        port=server.port, max_connections=CONNECTIONS, timeout=None
    )
    return Redis(connection_pool=pool)


@contextlib.asynccontextmanager
async def _filled(url: str) -> AsyncIterator[Callable[[int], Awaitable[object]]]:
    """Open a store and fill it; give what updates the session of a number."""
    keys = [SessionKey(chat_id=n, user_id=n) for n in range(KEYS)]
    async with open_store(url) as store:
        await asyncio.gather(*(store.put(key, FLAT) for key in keys))

        async def update(number: int) -> object:
            return await store.update(keys[number], increment)

        yield update


async def _beside_a_lock(
    ours: Callable[[int], Awaitable[object]], baseline: Baseline
) -> list[Row]:
    texts = [str(SessionKey(chat_id=n, user_id=n)) for n in range(KEYS)]
    await baseline.fill(texts)

    async def theirs(number: int) -> object:
        return await baseline.update(texts[number])

    return await compare(
        ours,
        theirs,
        [
            Load("a lock: one caller, 10,000 keys", 1, 1500, 1500, KEYS, 0.9),
            Load("a lock: 64 callers, 10,000 keys", 64, 200, 40, KEYS, 6),
            Load("a lock: 1,000 callers, 10,000 keys", 1000, 25, 3, KEYS, 14),
            Load("a lock: 1,000 callers, one key", 1000, 60, 2, 1, 60),
        ],
        ROUNDS,
    )


async def _beside_aiogram(
    ours: Callable[[int], Awaitable[object]], aiogram: Aiogram
) -> list[Row]:
    await aiogram.fill(KEYS)
    return await compare(
        ours,
        aiogram.update,
        [
            Load("aiogram: 64 callers, 10,000 keys", 64, 200, 20, KEYS, 15),
            Load("aiogram: 100 callers, one key", 100, 600, 1, 1, 1000),
        ],
        ROUNDS,
    )


async def _in_a_cluster(
    single: Callable[[int], Awaitable[object]], directory: Path
) -> list[Row]:
    def start() -> RedisCluster:
        return RedisCluster(directory, *EVERY_SECOND, replicas=0)

    cluster = await asyncio.to_thread(start)
    try:
        async with _filled(cluster.url) as ours:
            return await compare(
                ours,
                single,
                [
                    Load("a Cluster: 64 callers, 10,000 keys", 64, 200, 200, KEYS, 0.8),
                    Load(
                        "a Cluster: 1,000 callers, 10,000 keys", 1000, 25, 25, KEYS, 0.8
                    ),
                ],
                ROUNDS,
            )
    finally:
        await asyncio.to_thread(cluster.stop)
