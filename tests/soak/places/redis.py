"""Redis: one server, a master behind Sentinels, a Cluster; each change is flushed.

With Sentinels and in a Cluster all replicas confirm what is acknowledged, as
``docs/redis.md`` asks of whoever wants to lose nothing by a failover.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from redis import RedisError
from redis.crc import key_slot

from tests.servers.redis import (
    SENTINEL,
    SERVER,
    RedisCluster,
    RedisSentinels,
    RedisServer,
)
from tests.soak.places.base import Place, patiently
from tests.soak.places.disk import Disk, OnADisk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from tests.soak.places.base import Bots, Fault

# Seconds that a failover may take, and one that was asked for: it may come to nothing.
_PATIENCE, _ASKED_FOR = 40.0, 10.0
_END_CONNECTIONS = ("CLIENT", "KILL", "TYPE", "normal")
_NEEDED = "Redis (apt-get install redis-server redis-sentinel)"
_LACKING = None if SERVER and SENTINEL else _NEEDED


class Redis(OnADisk):
    """One server."""

    _server: RedisServer
    name = "redis"
    lacks = _LACKING

    @property
    def title(self) -> str:
        version = _version(self._server)
        return f"{version}, one server, appendfsync always, behind a faulty network"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.between.port}"

    @property
    def clear_url(self) -> str:
        return self._server.url

    async def start(self) -> None:
        self._disk = await asyncio.to_thread(Disk, self.directory)
        self._server = await asyncio.to_thread(
            partial(RedisServer, self.directory, environment=self._disk.environment)
        )
        await self.connect(self._server.port)

    async def stop(self) -> None:
        await super().stop()
        await asyncio.to_thread(self._server.stop)

    async def clean(self) -> None:
        await asyncio.to_thread(self._server.empty)

    async def _kill(self, rng: random.Random, bots: Bots) -> None:
        await _kill(self._server, rng.uniform(0, 1.5))

    async def _freeze(self, rng: random.Random, bots: Bots) -> None:
        await _freeze(self._server, rng.uniform(0.2, 3.0))

    async def _end_connections(self, rng: random.Random, bots: Bots) -> None:
        await asyncio.to_thread(self._server.execute, *_END_CONNECTIONS)

    async def _forget_scripts(self, rng: random.Random, bots: Bots) -> None:
        await asyncio.to_thread(self._server.execute, "SCRIPT", "FLUSH")

    faults: ClassVar[Mapping[str, Fault]] = {
        **OnADisk.faults,
        "the server is killed": _kill,
        "the server stands still": _freeze,
        "the server ends connections": _end_connections,
        "the server forgets scripts": _forget_scripts,
    }


class Sentinels(Place):
    """A master, two replicas, three Sentinels."""

    name = "sentinels"
    lacks = _LACKING
    unwilling = (AssertionError, RedisError)

    @property
    def title(self) -> str:
        version = _version(self._all.servers[0])
        return f"{version}, master and two replicas behind Sentinels, wait_replicas=2"

    @property
    def url(self) -> str:
        return self._all.url

    async def start(self) -> None:
        self.options = {"wait_replicas": 2, "wait_timeout": 0.5}
        self._all = await asyncio.to_thread(RedisSentinels, self.directory)

    async def stop(self) -> None:
        await asyncio.to_thread(self._all.stop)

    async def heal(self) -> None:
        await patiently(lambda: _wake(self._all.servers, self._all.sentinels))
        await patiently(self._all.settle)

    async def clean(self) -> None:
        await asyncio.to_thread(self._all.empty)

    async def _replace_dead(self, rng: random.Random, bots: Bots) -> None:
        old = await patiently(lambda: self._all.master)
        old.kill()
        await self._other_than(old)
        await asyncio.sleep(rng.uniform(0, 1))
        await asyncio.to_thread(old.start)
        await self._rejoin()

    async def _replace_still(self, rng: random.Random, bots: Bots) -> None:
        old = await patiently(lambda: self._all.master)
        old.send(signal.SIGSTOP)
        try:
            await self._other_than(old)
            await asyncio.sleep(rng.uniform(0, 1))
        finally:
            old.send(signal.SIGCONT)
        await self._rejoin()

    async def _fail_over(self, rng: random.Random, bots: Bots) -> None:
        old = self._all.master
        ask = ("SENTINEL", "FAILOVER", self._all.name)
        await asyncio.to_thread(self._all.sentinels[0].execute, *ask)
        await self._other_than(old, _ASKED_FOR)
        await self.heal()

    async def _freeze_replica(self, rng: random.Random, bots: Bots) -> None:
        await _freeze(rng.choice(self._all.replicas), rng.uniform(0.2, 3.0))
        await self.heal()

    async def _kill_sentinel(self, rng: random.Random, bots: Bots) -> None:
        await _kill(rng.choice(self._all.sentinels), rng.uniform(0, 1.5))
        await self.heal()

    async def _end_connections(self, rng: random.Random, bots: Bots) -> None:
        await asyncio.to_thread(self._all.master.execute, *_END_CONNECTIONS)

    async def _other_than(self, old: RedisServer, within: float = _PATIENCE) -> None:
        """Wait until every Sentinel says so: one that does not may fail over again."""
        ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._all.name)
        await _until(
            lambda: all(
                one.execute(*ask)[1] != str(old.port) for one in self._all.sentinels
            ),
            within,
        )

    async def _rejoin(self) -> None:
        """Tell the others whom to follow; the Sentinels would, ten seconds later."""
        await asyncio.to_thread(self._follow)
        await self.heal()

    def _follow(self) -> None:
        for server in self._all.replicas:
            server.execute("REPLICAOF", "127.0.0.1", self._all.master.port)

    faults: ClassVar[Mapping[str, Fault]] = {
        **Place.faults,
        "the master is killed and replaced": _replace_dead,
        "the master stands still and is replaced": _replace_still,
        "a failover is asked for": _fail_over,
        "a replica stands still": _freeze_replica,
        "a Sentinel is killed": _kill_sentinel,
        "the master ends connections": _end_connections,
    }


class Cluster(Place):
    """Three masters, each with a replica."""

    name = "cluster"
    lacks = _LACKING
    unwilling = (AssertionError, RedisError)

    @property
    def title(self) -> str:
        version = _version(self._all.servers[0])
        return f"{version} Cluster, three masters with a replica each, wait_replicas=1"

    @property
    def url(self) -> str:
        return self._all.url

    async def start(self) -> None:
        self.options = {"wait_replicas": 1, "wait_timeout": 0.5}
        self._all = await asyncio.to_thread(RedisCluster, self.directory)

    async def stop(self) -> None:
        await asyncio.to_thread(self._all.stop)

    async def heal(self) -> None:
        await patiently(lambda: _wake(self._all.servers))
        await patiently(self._all.settle)

    async def clean(self) -> None:
        await asyncio.to_thread(self._all.empty)

    async def _replace_dead(self, rng: random.Random, bots: Bots) -> None:
        slot, old = await self._owned(rng, bots)
        old.kill()
        await self._other_than(old, slot)
        await asyncio.sleep(rng.uniform(0, 1))
        await asyncio.to_thread(old.start)
        await self.heal()

    async def _replace_still(self, rng: random.Random, bots: Bots) -> None:
        slot, old = await self._owned(rng, bots)
        old.send(signal.SIGSTOP)
        try:
            await self._other_than(old, slot)
            await asyncio.sleep(rng.uniform(0, 1))
        finally:
            old.send(signal.SIGCONT)
        await self.heal()

    async def _fail_over(self, rng: random.Random, bots: Bots) -> None:
        slot, old = await self._owned(rng, bots)
        replica = await asyncio.to_thread(self._replica_of, old)
        await asyncio.to_thread(replica.execute, "CLUSTER", "FAILOVER")
        await self._other_than(old, slot, _ASKED_FOR)
        await self.heal()

    async def _move_slots(self, rng: random.Random, bots: Bots) -> None:
        """Move some slots with what is in them, and back: the Cluster stays as made."""
        for slot in rng.sample(_slots(bots.keys()), 4):
            source = await asyncio.to_thread(self._all.owner, slot)
            others = await asyncio.to_thread(self._masters_but, source)
            target = rng.choice(others)
            await asyncio.to_thread(self._all.move, slot, source, target)
            await asyncio.sleep(rng.uniform(0, 0.2))
            await asyncio.to_thread(self._all.move, slot, target, source)
        await self.heal()

    async def _end_connections(self, rng: random.Random, bots: Bots) -> None:
        _, master = await self._owned(rng, bots)
        await asyncio.to_thread(master.execute, *_END_CONNECTIONS)

    async def _owned(self, rng: random.Random, bots: Bots) -> tuple[int, RedisServer]:
        """Return a slot that is in use, and its master."""
        slot = rng.choice(_slots(bots.keys()))
        return slot, await asyncio.to_thread(self._all.owner, slot)

    async def _other_than(
        self, old: RedisServer, slot: int, within: float = _PATIENCE
    ) -> None:
        """Wait until a slot has another master, by the word of another server."""
        witnesses = [server for server in self._all.servers if server is not old]

        def replaced() -> bool:
            ranges = witnesses[0].execute("CLUSTER", "SLOTS")
            return any(
                first <= slot <= last and port != old.port
                for first, last, (_, port, *_), *_ in ranges
            )

        await _until(replaced, within)

    def _replica_of(self, master: RedisServer) -> RedisServer:
        told = master.info("INFO", "replication").get("slave0", "")
        assert told, "its replica is away"
        port = dict(pair.split("=") for pair in told.split(","))["port"]
        return next(one for one in self._all.servers if str(one.port) == port)

    def _masters_but(self, source: RedisServer) -> list[RedisServer]:
        masters = {self._all.owner(slot) for slot in (0, 8000, 16383)}
        others = [one for one in self._all.servers if one in masters]
        return [one for one in others if one is not source]

    faults: ClassVar[Mapping[str, Fault]] = {
        **Place.faults,
        "a master is killed and replaced": _replace_dead,
        "a master stands still and is replaced": _replace_still,
        "a failover is asked for": _fail_over,
        "slots move": _move_slots,
        "a master ends connections": _end_connections,
    }


def _slots(keys: Iterable[str]) -> list[int]:
    return sorted({int(key_slot(key.encode())) for key in keys})


def _version(server: RedisServer) -> str:
    return f"Redis {server.info('INFO', 'server')['redis_version']}"


async def _kill(server: RedisServer, seconds: float) -> None:
    server.kill()
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.start)


async def _freeze(server: RedisServer, seconds: float) -> None:
    server.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        server.send(signal.SIGCONT)


def _wake(*servers: Iterable[RedisServer]) -> None:
    """Start and continue those that a fault has left behind."""
    for server in itertools.chain(*servers):
        if not server.is_running:
            server.start()
        server.send(signal.SIGCONT)


async def _until(reached: Callable[[], bool], within: float) -> None:
    until = time.monotonic() + within
    while not await asyncio.to_thread(reached):
        assert time.monotonic() < until, "nobody took over"
        await asyncio.sleep(0.05)
