"""The places that sessions can live in: one set of tests runs over all of them.

A place hands out backends over the same data, as several programs or restarts would
make them, and a clock that tests can move. What a place cannot do is said by a protocol
or by one of its properties, never by its name.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

from botsessions import (
    Backend,
    MemoryBackend,
    Page,
    PostgresBackend,
    RedisBackend,
    SessionStore,
    SQLiteBackend,
)
from botsessions.backends import redis_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from botsessions import Loaded, Write
    from tests.servers.postgres import PostgresServer
    from tests.servers.redis import RedisCluster, RedisSentinels, RedisServer


class Clock:
    """Seconds since the epoch, standing still until a test moves it."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class ServerClock(Clock):
    """The same for a server that has the time from a table of ours."""

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self._server = server
        self._schema = schema
        self._now = Clock.now
        server.execute(
            f"CREATE SCHEMA {schema}",
            f"CREATE TABLE {schema}.time AS SELECT to_timestamp({self._now}) AS at",
            # It goes before the function of the same name in the search path.
            f"CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz "
            f"LANGUAGE sql VOLATILE AS 'SELECT at FROM {schema}.time'",
        )

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        self._now = now
        self._server.execute(f"UPDATE {self._schema}.time SET at = to_timestamp({now})")


class RedisClock(Clock):
    """The same for servers of which nothing but the time is asked of us.

    The backends are told to send the time with each command, instead of asking for it.
    """

    def __init__(self) -> None:
        self._now = Clock.now
        self._backends: list[RedisBackend] = []

    def rule(self, backend: RedisBackend) -> RedisBackend:
        """Let a backend go by this clock."""
        self._backends.append(backend)
        self.now = self._now
        return backend

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        self._now = now
        seconds, rest = divmod(round(now * 1_000_000), 1_000_000)
        time = f"{{'{seconds}', '{rest}'}}"
        clock = redis_record.Clock(("EVAL", f"return {time}", "0"), time)
        for backend in self._backends:
            backend._clock, backend._swap = clock, redis_record.swapping(clock)


class Place:
    """Somewhere to keep records, and the clock by which they expire."""

    server: str | None = None
    """The fixture of the server that it needs."""
    sweeps_itself = False
    """Whether the server removes what is dead, and leaves nothing to sweep."""
    clock: Clock

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.directory = directory

    def backend(self) -> Backend:
        """Return a new backend over this place's data."""
        raise NotImplementedError

    def elsewhere(self) -> Callable[[], Backend]:
        """Return what makes a backend over this place's data in another process."""
        raise NotImplementedError

    def store(self, **options: Any) -> SessionStore:
        """Return a new store over a new backend."""
        return SessionStore(self.backend(), **options)


class Memory(Place):
    """The memory backend as it is used: its records taken inline."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._backend = MemoryBackend(clock=self.clock)

    def backend(self) -> Backend:
        return self._backend


class MemoryByContract(Memory):
    """The memory backend behind nothing but the contract: the batched engine's."""

    def backend(self) -> Backend:
        return OnlyContract(self._backend)


class SQLite(Place):
    """A file, opened by a new backend each time."""

    def backend(self) -> Backend:
        # Tests kill nothing here that "normal" could lose, and it spares the disk.
        return SQLiteBackend(
            self.directory / "sessions.db", durability="normal", clock=self.clock
        )

    def elsewhere(self) -> Callable[[], Backend]:
        path = self.directory / "sessions.db"
        return partial(SQLiteBackend, path, durability="normal")


class Postgres(Place):
    """A table of its own on a real server."""

    server = "postgres_server"

    def __init__(self, directory: Path, server: PostgresServer) -> None:
        super().__init__(directory)
        self._schema = new_name()
        self.clock = ServerClock(server, self._schema)
        path = f"{self._schema},pg_catalog"
        self._dsn = f"{server.dsn}?options=-csearch_path%3D{path}"

    def backend(self) -> Backend:
        return PostgresBackend(self._dsn, schema=self._schema)

    def elsewhere(self) -> Callable[[], Backend]:
        return partial(PostgresBackend, self._dsn, schema=self._schema)


class Redis(Place):
    """A real Redis server, emptied."""

    server = "redis_server"
    sweeps_itself = True
    clock: RedisClock

    def __init__(
        self, directory: Path, server: RedisServer | RedisSentinels | RedisCluster
    ) -> None:
        super().__init__(directory)
        self.clock = RedisClock()
        self._url = server.url
        server.empty()

    def backend(self) -> Backend:
        return self.clock.rule(RedisBackend(self._url))

    def elsewhere(self) -> Callable[[], Backend]:
        return partial(RedisBackend, self._url)


class Valkey(Redis):
    """A real Valkey server."""

    server = "valkey_server"


class RedisBehindSentinels(Redis):
    """Whichever server three Sentinels call the master."""

    server = "redis_sentinels"


class RedisInCluster(Redis):
    """Three masters, each with a third of the keys."""

    server = "redis_cluster"


class OnlyContract:
    """Shows of a memory backend what a third party's backend would show."""

    concurrent_batches = 1

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    async def open(self) -> None:
        await self._backend.open()

    async def aclose(self) -> None:
        await self._backend.aclose()

    async def load(self, keys: Sequence[str]) -> Loaded:
        return await self._backend.load(keys)

    async def commit(self, writes: Sequence[Write]) -> Sequence[bool]:
        return await self._backend.commit(writes)

    def list_pages(self, prefix: str, after: str, limit: int) -> AsyncIterator[Page]:
        return self._backend.list_pages(prefix, after, limit)

    async def sweep(self, prefix: str, limit: int) -> int:
        return await self._backend.sweep(prefix, limit)


def new_name() -> str:
    """Return a name for what is to be of one test only: a schema, a namespace."""
    return f"alone{next(_numbers)}"


_numbers = itertools.count(1)
PLACES = [
    Memory,
    MemoryByContract,
    SQLite,
    Postgres,
    Redis,
    Valkey,
    RedisBehindSentinels,
    RedisInCluster,
]
