"""When Redis removes a record by itself, and listings while keys come and go."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import botsessions as bs

if TYPE_CHECKING:
    from tests.servers.redis import RedisCluster, RedisServer

KEY = bs.SessionKey(chat_id=1)
GRACE = 60_000


def left(server: RedisServer, namespace: str) -> int:
    """Return for how many milliseconds more Redis keeps the record (-1: for ever)."""
    found: int = server.execute("PTTL", f"{namespace}/{KEY}")
    return found


async def test_a_record_outlives_its_session_by_the_grace_and_no_longer(
    redis_server: RedisServer, namespace: str
) -> None:
    url = redis_server.url
    async with (
        bs.open_store(url, namespace=namespace) as for_ever,
        bs.open_store(url, namespace=namespace, ttl=30) as short,
        bs.open_store(url, namespace=namespace, max_age=timedelta(hours=1)) as aged,
    ):
        await for_ever.put(KEY, {"n": 1})
        assert left(redis_server, namespace) == -1
        await short.put(KEY, {"n": 2})
        assert 29_000 < left(redis_server, namespace) - GRACE <= 30_000
        await aged.put(KEY, {"n": 3})
        assert 3_590_000 < left(redis_server, namespace) - GRACE <= 3_600_000
        await for_ever.put(KEY, {"n": 4})
        assert left(redis_server, namespace) == -1
        await for_ever.delete(KEY)
        assert GRACE - 1_000 < left(redis_server, namespace) <= GRACE
        await for_ever.put(KEY, {"n": 5})
        assert left(redis_server, namespace) == -1


async def test_what_expired_is_not_shown_though_redis_has_it_still(
    redis_server: RedisServer, namespace: str
) -> None:
    async with bs.open_store(redis_server.url, namespace=namespace, ttl=0.05) as store:
        await store.put(KEY, {"n": 1})
        await asyncio.sleep(0.06)
        assert left(redis_server, namespace) > 0
        assert await store.get(KEY) == {}
        assert [key async for key in store.keys()] == []
        assert await store.update(KEY, lambda s: {**s, "m": 1}) == {"m": 1}


@pytest.mark.parametrize(
    ("kind", "window"), [("redis_server", 7), ("redis_cluster", 70)]
)
async def test_a_listing_gives_each_key_once_and_in_order_while_others_come_and_go(
    request: pytest.FixtureRequest,
    namespace: str,
    kind: str,
    window: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server: RedisServer | RedisCluster = request.getfixturevalue(kind)
    monkeypatch.setattr("botsessions.backends.redis._WINDOW", window)
    monkeypatch.setattr("botsessions.backends.redis._SCAN", 200)
    stay = [bs.SessionKey(chat_id=number) for number in range(0, 1000, 2)]
    async with (
        bs.open_store(server.url, namespace=namespace) as store,
        bs.open_store(server.url, namespace=f"{namespace}.") as another,
    ):
        await asyncio.gather(*(store.put(key, {"at": str(key)}) for key in stay))

        async def come_and_go() -> None:
            """Let the server's table grow, and grow again, with all sorts of keys."""
            for begin in range(1, 1000, 40):
                keys = [bs.SessionKey(chat_id=begin + n) for n in range(0, 40, 2)]
                for other in (store, another):
                    await asyncio.gather(*(other.put(key, {}) for key in keys))
                await asyncio.gather(*(store.delete(key) for key in keys[::2]))
                await asyncio.sleep(0.01)

        coming = asyncio.create_task(come_and_go())
        found = [(key, session) async for key, session in store.items()]
        await coming
    texts = [str(key) for key, _ in found]
    assert texts == sorted(set(texts))
    wanted = {str(key) for key in stay}
    assert [text for text in texts if text in wanted] == sorted(wanted)
    assert all(session == {"at": str(key)} for key, session in found if session)


async def test_a_prefix_means_itself_whatever_signs_it_holds(
    redis_server: RedisServer, namespace: str
) -> None:
    key = bs.SessionKey(name="a*b?c[d]e\\f")
    for _ in range(2):
        async with bs.open_store(redis_server.url, namespace=namespace) as store:
            await store.put(key, {})
            await store.put(bs.SessionKey(name="axbxcdex"), {})
            assert len([found async for found in store.keys()]) == 2
