"""A Cluster whose masters are killed and whose slots move; and what it says."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

import botsessions as bs
from botsessions.backends import redis_record
from tests.changes import Load
from tests.conftest import need_redis
from tests.redis.faults import hanging, lost
from tests.servers.redis import RedisCluster, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = [bs.SessionKey(chat_id=number) for number in range(50)]


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"n": session.get("n", 0) + 1}


def slot(namespace: str, key: bs.SessionKey) -> int:
    found: int = key_slot(f"{namespace}/{key}".encode())
    return found


@pytest.fixture(scope="module")
def _own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    need_redis()
    cluster = RedisCluster(tmp_path_factory.mktemp("own-cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def own_cluster(_own: RedisCluster) -> Iterator[RedisCluster]:
    """Return a Cluster whose masters a test may kill; it is whole again for each."""
    yield _own
    heal(_own)


def heal(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        if not server.is_running:
            server.start()
        server.send(signal.SIGCONT)
    cluster.settle()


def load_of(
    cluster: RedisCluster, master: RedisServer, store: bs.SessionStore, namespace: str
) -> tuple[Load, Load]:
    """Return callers who work on the keys of one master, and on those of others."""
    keys = [bs.SessionKey(chat_id=number) for number in range(150)]
    slots = cluster.slots_of(master)
    its = Load(store, 1)
    its._keys = [key for key in keys if slot(namespace, key) in slots]
    others = Load(store, 2, first=1_000_000)
    others._keys = [key for key in keys if key not in its._keys]
    return its, others


# A master is away.


@pytest.mark.parametrize("coverage", ["no", "yes"])
async def test_a_master_that_is_killed_is_replaced_and_the_others_go_on(
    own_cluster: RedisCluster, namespace: str, coverage: str
) -> None:
    for server in own_cluster.servers:
        server.execute("CONFIG", "SET", "cluster-require-full-coverage", coverage)
    async with bs.open_store(own_cluster.url, namespace=namespace, timeout=2) as store:
        master = own_cluster.owner(0)
        its, others = load_of(own_cluster, master, store, namespace)
        async with its, others:
            master.kill()
            began = time.monotonic()
            back = asyncio.create_task(its.served(within=15))
            while not back.done():
                await others.served(within=1 if coverage == "no" else 15)
            await back
            away = time.monotonic() - began
            await asyncio.to_thread(master.start)
            await its.served(within=2)
            await others.served(within=2)
            await asyncio.to_thread(own_cluster.settle)
            await its.served(within=1)
        assert await lost(store, others.log, its.log) == 0
        assert others.log.unknown == []
        if coverage == "no":
            assert others.log.refused == []
        else:
            assert others.log.refused
        assert 1 < away < 8


async def test_with_wait_replicas_nothing_acknowledged_is_lost_with_a_master(
    own_cluster: RedisCluster, namespace: str
) -> None:
    options: dict[str, Any] = {"wait_replicas": 1, "wait_timeout": 0.3, "timeout": 2}
    url = own_cluster.url
    async with bs.open_store(url, namespace=namespace, **options) as store:
        master = own_cluster.owner(0)
        async with Load(store, 3) as load:
            master.kill()
            await replaced(own_cluster, master)
            await asyncio.to_thread(heal, own_cluster)
            await load.served(within=3)
        await load.log.check(store)


async def test_a_master_that_hangs_is_replaced_and_its_late_writes_are_nobodys(
    own_cluster: RedisCluster, namespace: str
) -> None:
    options: dict[str, Any] = {"wait_replicas": 1, "wait_timeout": 0.3, "timeout": 2}
    url = own_cluster.url
    async with bs.open_store(url, namespace=namespace, **options) as store:
        master = own_cluster.owner(0)
        async with Load(store, 4) as load:
            master.send(signal.SIGSTOP)
            await replaced(own_cluster, master)
            master.send(signal.SIGCONT)
            await asyncio.to_thread(heal, own_cluster)
            await load.served(within=3)
        await load.log.check(store)


async def test_a_master_that_hangs_holds_up_nobody_else_for_more_than_a_second(
    own_cluster: RedisCluster, namespace: str
) -> None:
    for server in own_cluster.servers:
        server.execute("CONFIG", "SET", "cluster-require-full-coverage", "no")
        server.execute("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    async with bs.open_store(own_cluster.url, namespace=namespace) as store:
        master = own_cluster.owner(0)
        its, others = load_of(own_cluster, master, store, namespace)
        async with its, others:
            with hanging(master):
                async with asyncio.timeout(3):
                    await fallen_silent(store, its._keys[0])
                for _ in range(20):
                    await others.served(within=0.5)
                async with asyncio.timeout(0.5):
                    await fallen_silent(store, its._keys[0])
            await its.served(within=1)
        assert await lost(store, its.log, others.log) == 0
        assert await lost(store, others.log, its.log) == 0
        assert (others.log.refused, others.log.unknown) == ([], [])
    for server in own_cluster.servers:
        server.execute("CONFIG", "SET", "cluster-replica-no-failover", "no")


async def fallen_silent(store: bs.SessionStore, key: bs.SessionKey) -> None:
    """Wait until a call that the key's server would have to answer fails at once."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                with pytest.raises(bs.BackendUnavailableError, match="fell silent"):
                    await store.get(key)
                return


async def replaced(cluster: RedisCluster, gone: RedisServer) -> None:
    """Wait until slot 0 has another master, by the word of another server."""
    witness = next(server for server in cluster.servers if server is not gone)
    for _ in range(150):
        for first, _, (_, port, *_), *_ in witness.execute("CLUSTER", "SLOTS"):
            if first == 0 and port != gone.port:
                return
        await asyncio.sleep(0.1)
    raise TimeoutError("no replica took over")


# Slots move.


def crowded(namespace: str, slots: int, each: int) -> list[bs.SessionKey]:
    """Return keys of which several are in one slot."""
    by_slot: dict[int, list[bs.SessionKey]] = {}
    found: list[bs.SessionKey] = []
    for number in range(10**6):
        key = bs.SessionKey(chat_id=number)
        its = by_slot.setdefault(slot(namespace, key), [])
        its.append(key)
        if len(its) == each:
            found += its
            if len(found) == slots * each:
                break
    return found


@pytest.fixture
def no_flushing(redis_cluster: RedisCluster) -> Iterator[None]:
    """Nobody is killed, so 1,600 keys that move need not be flushed one by one."""
    for server in redis_cluster.servers:
        server.execute("CONFIG", "SET", "appendfsync", "no")
    yield
    for server in redis_cluster.servers:
        server.execute("CONFIG", "SET", "appendfsync", "always")


@pytest.mark.usefixtures("no_flushing")
async def test_slots_that_move_under_load_are_followed_and_nobody_notices(
    redis_cluster: RedisCluster, namespace: str
) -> None:
    keys = crowded(namespace, slots=20, each=40)
    rng = random.Random(6)
    for server in redis_cluster.servers:
        server.execute("CONFIG", "RESETSTAT")
    async with bs.open_store(redis_cluster.url, namespace=namespace) as store:
        load = Load(store, seed=6, callers=60)
        load._keys = keys
        async with load:
            for number in sorted({slot(namespace, key) for key in keys}):
                owners = [redis_cluster.owner(n) for n in (0, 8000, 16383)]
                source = redis_cluster.owner(number)
                target = rng.choice([one for one in owners if one is not source])
                for way in ((source, target), (target, source)):
                    await asyncio.to_thread(redis_cluster.move, number, *way)
            await load.served(within=1)
        await load.log.check(store)
    assert (load.log.refused, load.log.unknown) == ([], [])
    followed = dict.fromkeys(("ASK", "MOVED", "TRYAGAIN"), 0)
    for server in redis_cluster.servers:
        told = server.info("INFO", "errorstats")
        for name in followed:
            followed[name] += int(told.get(f"errorstat_{name}", "count=0")[6:])
    assert min(followed.values()) > 0, followed


async def test_slots_that_valkey_moves_as_a_whole_are_followed_and_nobody_notices(
    tmp_path: Path, valkey_program: str, namespace: str
) -> None:
    cluster = RedisCluster(tmp_path, replicas=0, program=valkey_program)
    try:
        async with bs.open_store(cluster.url, namespace=namespace) as store:
            async with Load(store, seed=8, callers=60, keys=500) as load:
                for source, target in itertools.pairwise([0, 1, 2, 1, 0, 2, 0]):
                    way = (cluster.servers[source], cluster.servers[target])
                    await asyncio.to_thread(cluster.move_whole, range(2000), *way)
                    await load.served(within=1)
            await load.log.check(store)
        assert (load.log.refused, load.log.unknown) == ([], [])
    finally:
        cluster.stop()


# Some services refuse a script that takes keys which it did not declare.


NO = "redis.error_reply('ERR pass keys by KEYS')"
REFUSALS = {
    "the call": f"if #KEYS == 0 then return {NO} end",
    "each key": (
        f"local no = {NO} local redis = redis if #KEYS == 0 then "
        "redis = {call = redis.call, pcall = function() return no end} end"
    ),
}


class Refused(redis_record.Script):
    """Refuses such calls as those services do, and counts them."""

    calls = 0

    def call(self, keys: int, arguments: Any, *, anew: bool) -> Any:
        self.calls += keys == 0
        return super().call(keys, arguments, anew=anew)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_who_refuses_keys_of_several_slots_is_asked_slot_by_slot(
    redis_cluster: RedisCluster, namespace: str, refusal: str
) -> None:
    backend = bs.RedisBackend(redis_cluster.url)
    scripts = (backend._swap, backend._read)
    refused = [Refused(f"{refusal} {script.text}") for script in scripts]
    backend._swap, backend._read = refused
    async with bs.SessionStore(backend, namespace=namespace) as store:
        async with Load(store, seed=9) as load:
            await load.served(within=1)
            before = [script.calls for script in refused]
            await load.served(within=1)
            assert [script.calls for script in refused] == before
        await load.log.check(store)
    assert (load.log.refused, load.log.unknown) == ([], [])
    assert load.log.acknowledged


# What is said of it.


async def test_a_server_of_a_cluster_that_forgets_the_script_is_told_it_again(
    redis_cluster: RedisCluster, namespace: str
) -> None:
    async with bs.open_store(redis_cluster.url, namespace=namespace) as store:
        async with Load(store, seed=7) as load:
            for server in redis_cluster.servers[:3] * 3:
                await asyncio.to_thread(server.execute, "SCRIPT", "FLUSH")
                await load.served(within=1)
        await load.log.check(store)
    assert (load.log.refused, load.log.unknown) == ([], [])


async def test_a_dead_address_in_the_url_is_passed_over(
    redis_cluster: RedisCluster, namespace: str
) -> None:
    living = redis_cluster.servers[1].port
    began = time.monotonic()
    url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{living}"
    async with bs.open_store(url, namespace=namespace) as store:
        assert await store.update(KEYS[0], count) == {"n": 1}
    assert time.monotonic() - began < 1
    with pytest.raises(bs.BackendUnavailableError, match=r"127.0.0.1:2 .*check that"):
        await bs.open_store("redis+cluster://127.0.0.1:1,127.0.0.1:2").get(KEYS[0])


async def test_who_takes_a_cluster_for_one_server_is_told_what_to_write(
    redis_cluster: RedisCluster, redis_server: RedisServer, namespace: str
) -> None:
    said = r"for a Cluster write redis\+cluster://"
    async with bs.open_store(redis_cluster.servers[0].url, namespace=namespace) as one:
        updates = [one.update(key, count) for key in KEYS]
        for error in await asyncio.gather(*updates, return_exceptions=True):
            assert isinstance(error, bs.BackendUnavailableError)
            with pytest.raises(bs.BackendUnavailableError, match=said):
                raise error
        elsewhere = next(
            key
            for key in KEYS
            if redis_cluster.owner(slot(namespace, key)) is not redis_cluster.servers[0]
        )
        with pytest.raises(bs.BackendUnavailableError, match=said):
            await one.get(elsewhere)
    wrong = f"redis+cluster://127.0.0.1:{redis_server.port}"
    with pytest.raises(
        bs.BackendUnavailableError, match=r"it is no Cluster, write redis:"
    ):
        await bs.open_store(wrong).get(KEYS[0])
