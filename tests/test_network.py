"""Faults of the network before a server, and what is true afterwards."""

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

    from tests.lines import Line

KEYS = [bs.SessionKey(chat_id=number) for number in range(50)]
# What every session here holds, so that a proxy knows a commit when it sees one.
MARK = "a commit"


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"mark": MARK, "n": session.get("n", 0) + 1}


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


async def until(condition: Callable[[], bool], pause: float = 0.001) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it changes in many places
            await asyncio.sleep(pause)


# One commit, cut off: both sides of the truth.


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    ("way", "deed", "lands"),
    [
        pytest.param(*(Way.REQUEST, proxy.CUT_BEFORE, ""), id="the request is lost"),
        pytest.param(*(Way.REQUEST, Deed(30, Then.CUT), ""), id="a part of it arrives"),
        pytest.param(Way.REQUEST, proxy.CUT_BEHIND, "soon", id="the answer is lost"),
        pytest.param(Way.REPLY, proxy.CUT_BEFORE, "yes", id="the answer is cut off"),
        pytest.param(Way.REPLY, Deed(5, Then.CUT), "yes", id="a part comes back"),
        pytest.param(Way.REPLY, Deed(9, Then.CUT), "yes", id="more of it comes back"),
    ],
)
async def test_a_commit_that_is_cut_off_is_applied_once(
    line: Line, way: Way, deed: Deed, lands: str, times: int
) -> None:
    async with Proxy(line.port) as between, line.store(between.port) as store:
        await line.prepare(store)
        for n in (1, 2):  # the first makes the record, the second replaces it
            between.rule = at_commits(way, deed, times)
            assert (await store.update(KEYS[0], count))["n"] == n
            assert (await store.get(KEYS[0]))["n"] == n
            # One that landed is not sent again. Cut as soon as it has gone out, it may
            # land after a busy server was asked whether it has.
            fewest = n * (1 if lands else times)
            most = n * times if lands == "soon" else fewest
            assert fewest <= between.faults[way, Then.CUT] <= most


@pytest.mark.parametrize("way", Way)
async def test_a_commit_that_gets_no_answer_is_settled_in_time(
    line: Line, way: Way
) -> None:
    async with (
        Proxy(line.port) as between,
        line.store(between.port, timeout=0.6) as store,
    ):
        await line.prepare(store)
        for n in (1, 2):
            between.rule = at_commits(way, proxy.SILENCE)
            assert (await store.update(KEYS[0], count))["n"] == n
            assert (await store.get(KEYS[0]))["n"] == n
            assert between.faults[way, Then.SILENCE] == n


@pytest.mark.parametrize(("way", "landed"), [(Way.REQUEST, ""), (Way.REPLY, "yes")])
async def test_a_silence_until_the_end_of_the_call_is_an_unknown_outcome(
    line: Line, way: Way, landed: str
) -> None:
    async with (
        Proxy(line.port) as between,
        line.store(between.port, timeout=0.4) as store,
    ):
        await line.prepare(store)
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
    line: Line, seed: int
) -> None:
    async with (
        Proxy(line.port) as between,
        line.store(between.port, timeout=5) as store,
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
    line: Line, deed: Deed
) -> None:
    async with (
        Proxy(line.port) as between,
        line.store(between.port, timeout=5) as store,
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


@pytest.mark.parametrize(
    ("seed", "swallows"),
    [
        pytest.param(0, [proxy.swallow_replies, proxy.swallow_all], id="one by one"),
        pytest.param(7, [proxy.swallow_replies], id="answers"),
        pytest.param(7, [proxy.swallow_all], id="everything"),
    ],
)
async def test_silences_under_load_lose_and_double_nothing(
    line: Line, seed: int, swallows: list[proxy.Rule]
) -> None:
    rng = random.Random(seed)
    async with (
        Proxy(line.port) as between,
        line.store(between.port, timeout=0.4) as store,
    ):
        async with Load(store, seed) as load:
            for swallow in swallows:
                for seconds in (0.1, 0.7):  # shorter than a call, and longer
                    await asyncio.sleep(rng.random() * 0.01)
                    between.rule = swallow
                    await asyncio.sleep(seconds)
                    between.rule = proxy.pass_all
                    await load.served(within=3)
        await load.log.check(store)


async def test_a_proxy_that_is_away_for_a_while_is_found_again(line: Line) -> None:
    """The outcome of what was under way is known: it could be read in time."""
    async with (
        Proxy(line.port) as between,
        line.store(between.port, timeout=2) as store,
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


@pytest.mark.parametrize(
    "verbs", ["get update list", "update list get", "list get update"]
)
async def test_connections_that_the_server_ended_meanwhile_are_not_noticed(
    line: Line, verbs: str
) -> None:
    async with line.store(line.port) as store:
        n = 0
        for verb in verbs.split() * 4:
            n += 1
            await several_idle(store)
            assert line.connections() > 2
            # Not in a thread: the loop learns of it with the first call, not before.
            line.end_connections()
            if verb == "get":
                assert (await store.get(KEYS[0]))["n"] == n
            elif verb == "update":
                n += 1
                assert (await store.update(KEYS[0], count))["n"] == n
            else:
                assert [key async for key in store.keys()] == [KEYS[0]]


async def test_connections_that_the_server_found_idle_for_too_long_are_not_noticed(
    line: Line,
) -> None:
    with line.ending_idle_ones():
        async with line.store(line.port) as store:
            await several_idle(store)
            time.sleep(2.2)  # noqa: ASYNC251 - the loop must not learn of it
            assert line.connections() == 0
            await store.update(KEYS[0], count)
            await until(lambda: line.connections() == 0, pause=0.05)
            await store.update(KEYS[0], count)


async def test_connections_that_fell_silent_meanwhile_fail_calls_once(
    line: Line,
) -> None:
    """As behind a router that forgot them: the next calls, together, pay for all."""
    async with (
        Proxy(line.port) as between,
        line.store(between.port, timeout=0.4) as store,
    ):
        await several_idle(store)
        assert between.forget_all() > 2
        with pytest.raises(bs.BackendUnavailableError):
            await store.update(KEYS[0], count)
        for key in KEYS:
            await store.update(key, count)


async def test_connections_that_the_server_ends_under_load_are_not_felt(
    line: Line,
) -> None:
    async with line.store(line.port) as store:
        async with Load(store, seed=2) as load:
            for _ in range(10):
                await asyncio.to_thread(line.end_connections)
                await load.served(within=5)
        await load.log.check(store)
        assert (load.log.refused, load.log.unknown) == ([], [])


# A network that swallows everything.


async def test_opening_in_a_black_hole_ends_with_an_error(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = line.hurry_opening(monkeypatch)
    async with Proxy(line.port) as between:
        store = line.store(between.port, timeout=0.5, **options)
        between.rule = proxy.swallow_all
        async with asyncio.timeout(2):
            with pytest.raises(bs.BackendUnavailableError, match="no answer in time"):
                await store.get(KEYS[0])
        between.rule = proxy.pass_all
        assert (await store.update(KEYS[0], count))["n"] == 1
        await store.aclose()


async def test_in_a_black_hole_nothing_waits_for_ever(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = line.hurry_listing(monkeypatch)
    async with Proxy(line.port) as between:
        store = line.store(between.port, timeout=1, **options)
        for _ in range(2):
            await several_idle(store)
            between.rule = proxy.swallow_all
            between.forget_all()
            async with asyncio.timeout(3):
                with pytest.raises(
                    bs.BackendUnavailableError, match="no answer in time"
                ):
                    [key async for key in store.keys()]
            between.rule = proxy.pass_all
        await several_idle(store)
        between.rule = proxy.swallow_all
        between.forget_all()
        async with asyncio.timeout(3):
            await store.aclose()
