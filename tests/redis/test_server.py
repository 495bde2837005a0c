"""A server that is killed, hung, full, or read-only, and what is true afterwards."""

from __future__ import annotations

import asyncio
import signal
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from tests.changes import Load
from tests.servers import proxy
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.redis import RedisServer

KEYS = [bs.SessionKey(chat_id=number) for number in range(50)]


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"n": session.get("n", 0) + 1}


async def answers(store: bs.SessionStore) -> list[Any]:
    """Update all keys at once; return what each caller gets."""
    updates = [store.update(key, count) for key in KEYS]
    return await asyncio.gather(*updates, return_exceptions=True)


@pytest.fixture
def settings(own_redis: RedisServer) -> Iterator[dict[str, str]]:
    """Return what was set, for a test to change; it is set back afterwards."""
    names = ("maxmemory", "maxmemory-policy", "min-replicas-to-write")
    was = {name: own_redis.execute("CONFIG", "GET", name)[1] for name in names}
    yield was
    for name, value in was.items():
        own_redis.execute("CONFIG", "SET", name, value)


# Ended, hung, and forgetful under load.


async def test_a_server_that_is_killed_and_started_again_has_lost_nothing(
    own_redis: RedisServer, namespace: str
) -> None:
    async with bs.open_store(own_redis.url, namespace=namespace, timeout=5) as store:
        async with Load(store, seed=1) as load:
            for _ in range(3):
                await asyncio.to_thread(own_redis.kill)
                await asyncio.to_thread(own_redis.start)
                await load.served(within=1)
        await load.log.check(store)
        # It was back before the time of a call was over.
        assert load.log.unknown == []


async def test_a_server_that_forgets_the_script_is_told_it_again(
    redis_server: RedisServer, namespace: str
) -> None:
    async with bs.open_store(redis_server.url, namespace=namespace) as store:
        async with Load(store, seed=3) as load:
            for _ in range(20):
                await asyncio.to_thread(redis_server.execute, "SCRIPT", "FLUSH")
                await load.served(within=1)
        await load.log.check(store)
        assert (load.log.refused, load.log.unknown) == ([], [])


async def test_a_server_that_hangs_under_load_loses_and_doubles_nothing(
    own_redis: RedisServer, namespace: str
) -> None:
    async with bs.open_store(own_redis.url, namespace=namespace, timeout=1) as store:
        async with Load(store, seed=4) as load:
            for seconds in (0.3, 2.5):  # shorter than a call, and longer
                own_redis.send(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                own_redis.send(signal.SIGCONT)
                await load.served(within=1)
        await load.log.check(store)


async def test_a_server_that_hangs_makes_nobody_wait_for_long(
    own_redis: RedisServer, namespace: str
) -> None:
    async with bs.open_store(own_redis.url, namespace=namespace, timeout=0.6) as store:
        await store.put(KEYS[0], {"n": 1})
        own_redis.send(signal.SIGSTOP)
        try:
            for call in (store.get(KEYS[0]), store.update(KEYS[0], count)):
                began = time.monotonic()
                with pytest.raises(bs.BackendUnavailableError):
                    await call
                assert time.monotonic() - began < 1
        finally:
            own_redis.send(signal.SIGCONT)
        assert await store.update(KEYS[0], count) == {"n": 2}

        def hang(session: dict[Any, Any]) -> dict[Any, Any]:
            own_redis.send(signal.SIGSTOP)  # after the load, before the commit
            return count(session)

        try:
            began = time.monotonic()
            with pytest.raises(bs.OutcomeUnknownError, match="Read before you repeat"):
                await store.update(KEYS[0], hang)
            assert time.monotonic() - began < 1
        finally:
            own_redis.send(signal.SIGCONT)
        assert (await store.update(KEYS[0], count))["n"] in (3, 4)


# Not there at all.


async def test_a_server_that_is_away_is_named_at_once_and_found_when_it_is_back(
    own_redis: RedisServer, namespace: str
) -> None:
    own_redis.stop()
    store = bs.open_store(own_redis.url, namespace=namespace)
    began = time.monotonic()
    try:
        with pytest.raises(bs.BackendUnavailableError, match="check that it runs") as e:
            await store.get(KEYS[0])
        assert str(own_redis.port) in str(e.value)
        assert time.monotonic() - began < 1
    finally:
        own_redis.start()
    assert await store.get(KEYS[0]) == {}
    own_redis.stop()
    try:
        for call in (store.get(KEYS[0]), store.update(KEYS[0], count)):
            with pytest.raises(bs.BackendUnavailableError, match="check that it runs"):
                await call
    finally:
        own_redis.start()
    assert await store.update(KEYS[0], count) == {"n": 1}
    await store.aclose()


@pytest.mark.parametrize("kind", ["redis", "redis+sentinel", "redis+cluster"])
async def test_opening_in_a_black_hole_ends_with_an_error(
    redis_server: RedisServer, kind: str
) -> None:
    async with Proxy(redis_server.port) as between:
        between.rule = proxy.swallow_all
        url = f"{kind}://127.0.0.1:{between.port}"
        if kind == "redis":
            url += "?socket_connect_timeout=0.3"
        if kind == "redis+sentinel":
            url += "/bots"
        began = time.monotonic()
        with pytest.raises(bs.BackendUnavailableError) as caught:
            await bs.open_store(url).get(KEYS[0])
        assert time.monotonic() - began < 2
        assert str(between.port) in str(caught.value)


# It cannot write.


async def test_a_server_out_of_memory_refuses_writes_and_reads_go_on(
    own_redis: RedisServer, settings: dict[str, str], namespace: str
) -> None:
    async with bs.open_store(own_redis.url, namespace=namespace) as store:
        await store.put(KEYS[0], {"n": 1})
        own_redis.execute("CONFIG", "SET", "maxmemory", 1)
        for answer in await answers(store):
            assert type(answer) is bs.BackendError
            assert "out of memory and wrote nothing" in str(answer)
        assert await store.get(KEYS[0]) == {"n": 1}
        own_redis.execute("CONFIG", "SET", "maxmemory", 0)
        assert (await answers(store))[:2] == [{"n": 2}, {"n": 1}]


async def test_a_server_that_lacks_replicas_refuses_writes_and_reads_go_on(
    own_redis: RedisServer, settings: dict[str, str], namespace: str
) -> None:
    async with bs.open_store(own_redis.url, namespace=namespace) as store:
        await store.put(KEYS[0], {"n": 1})
        own_redis.execute("CONFIG", "SET", "min-replicas-to-write", 1)
        for answer in await answers(store):
            assert isinstance(answer, bs.BackendUnavailableError)
            assert "NOREPLICAS" in str(answer)
        assert await store.get(KEYS[0]) == {"n": 1}
        own_redis.execute("CONFIG", "SET", "min-replicas-to-write", 0)
        assert (await answers(store))[:2] == [{"n": 2}, {"n": 1}]


async def test_a_replica_is_read_and_says_that_it_does_not_write(
    own_redis: RedisServer, redis_server: RedisServer, namespace: str
) -> None:
    async with bs.open_store(redis_server.url, namespace=namespace) as store:
        await store.put(KEYS[0], {"n": 1})
        own_redis.execute("REPLICAOF", "127.0.0.1", redis_server.port)
        try:
            await asyncio.to_thread(
                own_redis.wait_until,
                lambda: (
                    own_redis.info("INFO", "replication")["master_link_status"] == "up"
                ),
                "it is not in step",
            )
            async with bs.open_store(own_redis.url, namespace=namespace) as replica:
                assert await replica.get(KEYS[0]) == {"n": 1}
                assert [key async for key in replica.keys()] == [KEYS[0]]
                for answer in await answers(replica):
                    assert isinstance(answer, bs.BackendUnavailableError)
                    assert "read-only replica" in str(answer)
        finally:
            own_redis.execute("REPLICAOF", "NO", "ONE")


# Keys that are not ours.


async def test_a_key_of_another_type_fails_alone_and_is_left_as_it_is(
    redis_server: RedisServer, namespace: str
) -> None:
    async with bs.open_store(redis_server.url, namespace=namespace) as store:
        hashed, text = f"{namespace}/{KEYS[3]}", f"{namespace}/{KEYS[7]}"
        redis_server.execute("HSET", hashed, "a", "b")
        redis_server.execute("SET", text, "somebody's")
        results = await answers(store)
        for number, result in enumerate(results):
            if number not in (3, 7):
                assert result == {"n": 1}
        assert type(results[3]) is type(results[7]) is bs.BackendError
        assert f"{hashed!r}: WRONGTYPE" in str(results[3])
        assert f"{text!r} that is not ours" in str(results[7])
        with pytest.raises(bs.BackendError, match="WRONGTYPE"):
            await store.put(KEYS[3], {})
        # To a reader, Redis shows no difference between it and a missing one.
        assert await store.get(KEYS[3]) == {}
        await store.delete(KEYS[3])
        with pytest.raises(bs.BackendError, match="not ours"):
            await store.get(KEYS[7])
        assert redis_server.execute("HGETALL", hashed) == ["a", "b"]
        assert redis_server.execute("GET", text) == "somebody's"


@pytest.mark.parametrize(
    "stored", [b"", b"\xb5", b"\xb5\x01", b"\xb5\x02" + bytes(60), b"\xb5\x01" * 40]
)
async def test_a_record_cut_off_or_of_a_newer_format_is_left_as_it_is(
    redis_server: RedisServer, namespace: str, stored: bytes
) -> None:
    key = f"{namespace}/{KEYS[0]}"
    redis_server.execute("SET", key, stored)
    async with bs.open_store(redis_server.url, namespace=namespace) as store:
        for call in (store.get(KEYS[0]), store.update(KEYS[0], count)):
            with pytest.raises(bs.BackendError, match="not ours, or of a newer"):
                await call
    assert redis_server.execute("STRLEN", key) == len(stored)


# What it may do to sessions.


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_would_drop_sessions_is_warned_of(
    own_redis: RedisServer, settings: dict[str, str], namespace: str, policy: str
) -> None:
    own_redis.execute("CONFIG", "SET", "maxmemory-policy", policy)
    with warnings.catch_warnings(action="error"):
        async with bs.open_store(own_redis.url, namespace=namespace):
            pass  # without a limit nothing is ever removed
    own_redis.execute("CONFIG", "SET", "maxmemory", 10**9)
    said = f"sessions would be lost .maxmemory-policy {policy}.; set it to noeviction"
    with pytest.warns(RuntimeWarning, match=said):
        async with bs.open_store(own_redis.url, namespace=namespace):
            pass
    own_redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    with warnings.catch_warnings(action="error"):
        async with bs.open_store(own_redis.url, namespace=namespace):
            pass
