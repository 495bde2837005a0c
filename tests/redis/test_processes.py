"""Several processes that change the same sessions at the same time."""

from __future__ import annotations

import asyncio
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
