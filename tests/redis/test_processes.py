"""Several processes that change the same sessions at the same time."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from tests.bot import told, work

if TYPE_CHECKING:
    from tests.changes import Log
    from tests.servers.redis import RedisCluster, RedisServer


async def together(url: str, count: int, seed: int, **orders: Any) -> Log:
    """Let so many processes work on the same sessions; return what they were told."""
    works = [
        work(number, url=url, seed=seed + number, **orders) for number in range(count)
    ]
    answers = await asyncio.gather(*works)
    assert all(answer["acknowledged"] for answer in answers)
    return told(answers)


async def check(log: Log, url: str, options: dict[str, Any]) -> None:
    async with bs.open_store(url, **options) as store:
        await log.check(store)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", ["redis_server", "redis_cluster"])
async def test_processes_on_common_keys_lose_and_double_nothing(
    request: pytest.FixtureRequest, namespace: str, kind: str, count: int
) -> None:
    server: RedisServer | RedisCluster = request.getfixturevalue(kind)
    options = {"namespace": namespace}
    log = await together(server.url, count, seed=6, seconds=1, options=options)
    await check(log, server.url, options)
    assert len(log.acknowledged) > 100 * count
    assert (log.refused, log.unknown) == ([], [])


@pytest.mark.soak
async def test_processes_for_a_long_time_with_kills_and_cuts_now_and_then(
    own_redis: RedisServer,
) -> None:
    """Rounds of some seconds, each with sessions of its own, as logs grow."""
    ends = time.monotonic() + 60 * float(os.environ.get("MINUTES", "60"))
    rng = random.Random(seed := int(os.environ.get("SEED", "0")))
    print(f"SEED={seed}")  # noqa: T201 - to play it again
    totals = {"acknowledged": 0, "refused": 0}
    for number in itertools.count():
        if time.monotonic() > ends:
            return
        options = {"namespace": f"round{number}"}
        orders: dict[str, Any] = {
            "seed": seed + 10 * number,
            "seconds": 15,
            "options": options,
        }
        working = asyncio.create_task(together(own_redis.url, 4, **orders))
        while not working.done():
            await asyncio.wait([working], timeout=rng.uniform(0.5, 5))
            if rng.random() < 0.2:
                await asyncio.to_thread(own_redis.kill)
                await asyncio.to_thread(own_redis.start)
            else:
                cut = ("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.to_thread(own_redis.execute, *cut)
        log = working.result()
        await check(log, own_redis.url, options)
        # Each fault was shorter than the time of a call.
        assert log.unknown == []
        for what in totals:
            totals[what] += len(getattr(log, what))
        print(number, totals)  # noqa: T201 - an hour is long
        own_redis.empty()
