"""Several processes that change the same sessions at the same time."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from tests.bot import told, work

if TYPE_CHECKING:
    from tests.changes import Log
    from tests.servers.postgres import PostgresServer

DEADLOCKS = "SELECT sum(deadlocks) FROM pg_stat_database"
CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'botsessions'"
)


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


@pytest.mark.soak
async def test_processes_for_a_long_time_with_cuts_now_and_then(
    own_postgres: PostgresServer, schema: str
) -> None:
    """Rounds of some seconds, each with sessions of its own, as logs grow."""
    ends = time.monotonic() + 60 * float(os.environ.get("MINUTES", "60"))
    seed = int(os.environ.get("SEED", "0"))
    print(f"SEED={seed}")  # noqa: T201 - to play it again
    rng = random.Random(seed)
    totals: dict[str, int] = {}
    for number in range(10**9):
        if time.monotonic() > ends:
            break
        options = {"namespace": f"round{number}"}
        orders = {"seconds": 15, "options": options, "schema": schema}
        working = asyncio.create_task(
            together(own_postgres, 4, seed=seed + 10 * number, **orders)
        )
        while not working.done():
            await asyncio.wait([working], timeout=rng.uniform(0.5, 5))
            if rng.random() < 0.1:
                # The server forgets its figures when it is killed.
                assert await deadlocks(own_postgres) == 0
                await asyncio.to_thread(own_postgres.kill)
                await asyncio.to_thread(own_postgres.start)
            else:
                await asyncio.to_thread(own_postgres.execute, CUT)
        url, answers = working.result()
        log = await check(url, answers, **options)
        # Each fault was shorter than the time of a call.
        assert log.unknown == []
        assert log.acknowledged
        totals = {
            name: totals.get(name, 0) + len(getattr(log, name))
            for name in ("acknowledged", "refused")
        }
        print(number, totals)  # noqa: T201 - an hour is long
        empty = f"TRUNCATE {schema}.botsessions"
        await asyncio.to_thread(own_postgres.execute, empty)
    assert await deadlocks(own_postgres) == 0
