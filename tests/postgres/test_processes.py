"""Several processes that change the same sessions at the same time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from tests.bot import told, work

if TYPE_CHECKING:
    from tests.changes import Log
    from tests.servers.postgres import PostgresServer

DEADLOCKS = "SELECT sum(deadlocks) FROM pg_stat_database"


async def together(
    server: PostgresServer, count: int, seed: int, **orders: Any
) -> tuple[str, list[dict[str, list[tuple[str, int]]]]]:
    """Let so many processes work on the same sessions; return where, and the answers"""
    url = f"{server.dsn}?schema={orders.pop('schema')}"
    bots = [
        work(number, url=url, seed=seed + number, **orders) for number in range(count)
    ]
    return url, await asyncio.gather(*bots)


async def check(url: str, answers: list[dict[str, Any]], **options: Any) -> Log:
    """Hold what is stored against what all the processes were told."""
    log = told(answers)
    async with bs.open_store(url, **options) as store:
        await log.check(store)
    return log


async def deadlocks(server: PostgresServer) -> int:
    [(count,)] = await asyncio.to_thread(server.execute, DEADLOCKS)
    return int(count)


@pytest.mark.parametrize("count", [2, 4])
async def test_processes_on_common_keys_lose_nothing_and_never_deadlock(
    postgres_server: PostgresServer, schema: str, count: int
) -> None:
    before = await deadlocks(postgres_server)
    url, answers = await together(
        postgres_server, count, seed=6, schema=schema, seconds=1, options={}
    )
    log = await check(url, answers)
    assert min(len(answer["acknowledged"]) for answer in answers) > 100
    assert (log.refused, log.unknown) == ([], [])
    assert await deadlocks(postgres_server) == before
