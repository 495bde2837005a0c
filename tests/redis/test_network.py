"""Faults of the network, and what is true afterwards."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from tests.changes import Load
from tests.servers import proxy
from tests.servers.proxy import Deed, Proxy, Then, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.redis import RedisServer

KEYS = [bs.SessionKey(chat_id=number) for number in range(50)]
# What every session here holds, so that a proxy knows a commit when it sees one.
MARK = "a commit"


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"mark": MARK, "n": session.get("n", 0) + 1}


def through(between: Proxy, namespace: str, **options: Any) -> bs.SessionStore:
    url = f"redis://127.0.0.1:{between.port}"
    return bs.open_store(url, namespace=namespace, **options)


async def is_known(store: bs.SessionStore) -> None:
    """Let the server learn the script: a commit is then one request."""
    await store.put(KEYS[-1], {"n": 0})


def at_commits(way: Way, deed: Deed, times: float = 1) -> proxy.Rule:
    """Do something to so many commits, or to the first piece of their answers."""
    left = times
    answers = 0

    def rule(this: Way, piece: bytes, before: int) -> Deed:
        nonlocal left, answers
        hit = this is Way.REQUEST and MARK.encode() in piece
        if hit and way is Way.REPLY and left:
            answers += 1
        elif this is Way.REPLY and answers:
            answers -= 1
            hit = True
        if not (hit and this is way and left):
            return proxy.PASS
        left -= 1
        return deed

    return rule


async def until(condition: Callable[[], bool], within: float = 10) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - it changes in many places
            await asyncio.sleep(0.001)


# One commit, cut off: both sides of the truth.


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    ("way", "deed", "lands"),
    [
        pytest.param(Way.REQUEST, proxy.CUT_BEFORE, False, id="the request is lost"),
        pytest.param(Way.REQUEST, Deed(30, Then.CUT), False, id="a part arrives"),
        pytest.param(Way.REQUEST, proxy.CUT_BEHIND, True, id="the answer is lost"),
        pytest.param(Way.REPLY, proxy.CUT_BEFORE, True, id="the answer is cut off"),
        pytest.param(Way.REPLY, Deed(5, Then.CUT), True, id="a part comes back"),
    ],
)
async def test_a_commit_that_is_cut_off_is_applied_once(
    redis_server: RedisServer,
    namespace: str,
    way: Way,
    deed: Deed,
    lands: bool,  # noqa: FBT001 - the truth that is shown
    times: int,
) -> None:
    async with (
        Proxy(redis_server.port) as between,
        through(between, namespace) as store,
    ):
        await is_known(store)
        for n in (1, 2):  # the first makes the record, the second replaces it
            between.rule = at_commits(way, deed, times)
            assert (await store.update(KEYS[0], count))["n"] == n
            assert (await store.get(KEYS[0]))["n"] == n
            # One that landed is not sent again.
            assert between.faults[way, Then.CUT] == n * (1 if lands else times)


@pytest.mark.parametrize("way", Way)
async def test_a_commit_that_gets_no_answer_is_settled_in_time(
    redis_server: RedisServer, namespace: str, way: Way
) -> None:
    async with (
        Proxy(redis_server.port) as between,
        through(between, namespace, timeout=1) as store,
    ):
        await is_known(store)
        for n in (1, 2):
            between.rule = at_commits(way, proxy.SILENCE)
            assert (await store.update(KEYS[0], count))["n"] == n
            assert (await store.get(KEYS[0]))["n"] == n
            assert between.faults[way, Then.SILENCE] == n


@pytest.mark.parametrize(("way", "landed"), [(Way.REQUEST, ""), (Way.REPLY, "yes")])
async def test_a_silence_until_the_end_of_the_call_is_an_unknown_outcome(
    redis_server: RedisServer, namespace: str, way: Way, landed: str
) -> None:
    async with (
        Proxy(redis_server.port) as between,
        through(between, namespace, timeout=0.5) as store,
    ):
        await is_known(store)
        begins = at_commits(way, proxy.SILENCE)

        def rule(this: Way, piece: bytes, before: int) -> Deed:
            deed = begins(this, piece, before)
            if deed is proxy.SILENCE:
                between.rule = proxy.swallow_all  # what came before was no commit
            return deed

        between.rule = rule
        with pytest.raises(bs.OutcomeUnknownError, match="Read before you repeat"):
            await store.update(KEYS[0], count)
        with pytest.raises(bs.BackendUnavailableError):
            await store.get(KEYS[0])
        with pytest.raises(bs.BackendUnavailableError, match="nothing was written"):
            await store.update(KEYS[1], count)
        between.rule = proxy.pass_all
        assert await store.get(KEYS[1]) == {}
        assert await store.get(KEYS[0]) == (count({}) if landed else {})


# Many commits, cut off.


@pytest.mark.parametrize("seed", range(3))
async def test_many_cuts_under_load_lose_and_double_nothing(
    redis_server: RedisServer, namespace: str, seed: int
) -> None:
    async with (
        Proxy(redis_server.port) as between,
        through(between, namespace, timeout=5) as store,
    ):
        async with Load(store, seed) as load:
            between.rule = proxy.at_random(random.Random(seed), share=0.05)
            await until(lambda: between.faults.total() >= 60)
            between.rule = proxy.pass_all
            await load.served(within=5)
        await load.log.check(store)
        # Each fault was shorter than the time of a call.
        assert load.log.unknown == []


@pytest.mark.parametrize("deed", [proxy.CUT_BEFORE, proxy.CUT_BEHIND], ids=repr)
async def test_every_other_commit_cut_under_load_is_settled(
    redis_server: RedisServer, namespace: str, deed: Deed
) -> None:
    async with (
        Proxy(redis_server.port) as between,
        through(between, namespace, timeout=5) as store,
    ):
        async with Load(store, 0) as load:
            turns = itertools.cycle([deed, proxy.PASS])

            def rule(way: Way, piece: bytes, before: int) -> Deed:
                is_commit = way is Way.REQUEST and b"\xa3log" in piece
                return next(turns) if is_commit else proxy.PASS

            between.rule = rule
            await until(lambda: between.faults.total() >= 60)
        await load.log.check(store)
        assert load.log.unknown == []
        assert load.log.refused == []


@pytest.mark.parametrize("seed", range(1))
async def test_silences_under_load_lose_and_double_nothing(
    redis_server: RedisServer, namespace: str, seed: int
) -> None:
    rng = random.Random(seed)
    async with (
        Proxy(redis_server.port) as between,
        through(between, namespace, timeout=0.6) as store,
    ):
        async with Load(store, seed) as load:
            for swallow in (proxy.swallow_replies, proxy.swallow_all):
                for seconds in (0.1, 1.0):  # shorter than a call, and longer
                    await asyncio.sleep(rng.random() * 0.01)
                    between.rule = swallow
                    await asyncio.sleep(seconds)
                    between.rule = proxy.pass_all
                    await load.served(within=3)
        await load.log.check(store)


async def test_a_proxy_that_is_away_for_a_while_is_found_again(
    redis_server: RedisServer, namespace: str
) -> None:
    """The outcome of what was under way is known: it could be read in time."""
    async with (
        Proxy(redis_server.port) as between,
        through(between, namespace, timeout=2) as store,
    ):
        async with Load(store, 0) as load:
            for _ in range(5):
                between.rule = proxy.cut_after(Way.REPLY, 0)
                await between.cut_all()
                await asyncio.sleep(0.2)
                between.rule = proxy.pass_all
                await load.served(within=2)
        await load.log.check(store)
        assert load.log.unknown == []


# Connections that died while nobody used them.


async def several_idle(store: bs.SessionStore) -> None:
    """Leave several connections behind that nobody uses."""

    async def walk() -> None:
        async for _ in store.keys():
            pass

    calls = (store.update(KEYS[0], count), store.get(KEYS[1]))
    await asyncio.gather(*calls, *(walk() for _ in range(4)))


def idle(server: RedisServer, name: str) -> int:
    return str(server.execute("CLIENT", "LIST")).count(f" name={name} ")


@pytest.mark.parametrize("verb", ["get", "update", "list"])
async def test_connections_that_the_server_ended_meanwhile_are_not_noticed(
    redis_server: RedisServer, namespace: str, verb: str
) -> None:
    async with bs.open_store(
        redis_server.url, namespace=namespace, client_name=namespace
    ) as store:
        await several_idle(store)
        assert idle(redis_server, namespace) > 2
        # Not in a thread: the loop learns of it with the first call, not before.
        redis_server.execute("CLIENT", "KILL", "TYPE", "normal")
        if verb == "get":
            assert (await store.get(KEYS[0]))["n"] == 1
        elif verb == "update":
            assert (await store.update(KEYS[0], count))["n"] == 2
        else:
            assert [key async for key in store.keys()] == [KEYS[0]]


async def test_connections_that_the_server_found_idle_for_too_long_are_not_noticed(
    own_redis: RedisServer, namespace: str
) -> None:
    own_redis.execute("CONFIG", "SET", "timeout", 1)
    try:
        async with bs.open_store(
            own_redis.url, namespace=namespace, client_name=namespace
        ) as store:
            await several_idle(store)
            time.sleep(2.2)  # noqa: ASYNC251 - the loop must not learn of it
            assert idle(own_redis, namespace) == 0
            await store.update(KEYS[0], count)
    finally:
        own_redis.execute("CONFIG", "SET", "timeout", 0)


async def test_connections_that_fell_silent_meanwhile_fail_calls_once(
    redis_server: RedisServer, namespace: str
) -> None:
    """As behind a router that forgot them: the next calls, together, pay for all."""
    async with (
        Proxy(redis_server.port) as between,
        through(between, namespace, timeout=0.4) as store,
    ):
        await several_idle(store)
        assert between.forget_all() > 2
        with pytest.raises(bs.BackendUnavailableError):
            await store.update(KEYS[0], count)
        for key in KEYS:
            await store.update(key, count)


# A network that swallows everything.


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


async def test_in_a_black_hole_nothing_waits_for_ever(
    redis_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botsessions.backends.redis._STEP_PATIENCE", 0.3)
    async with Proxy(redis_server.port) as between:
        store = through(between, namespace, timeout=0.5)
        for _ in range(2):
            await several_idle(store)
            between.rule = proxy.swallow_all
            between.forget_all()
            async with asyncio.timeout(3):
                with pytest.raises(bs.BackendUnavailableError, match="no answer"):
                    [key async for key in store.keys()]
            between.rule = proxy.pass_all
        await several_idle(store)
        between.rule = proxy.swallow_all
        between.forget_all()
        async with asyncio.timeout(3):
            await store.aclose()
