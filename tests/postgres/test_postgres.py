"""What only a real PostgreSQL server shows: its table, many at once, its figures."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

KEYS = [bs.SessionKey(chat_id=number) for number in range(50)]


def made(server: PostgresServer, schema: str, **options: Any) -> bs.SessionStore:
    return bs.open_store(f"{server.dsn}?schema={schema}", **options)


# Making the table.


async def test_many_stores_that_start_at_once_make_one_table(
    postgres_server: PostgresServer, schema: str
) -> None:
    stores = [made(postgres_server, schema) for _ in range(20)]
    await asyncio.gather(*(store.update(KEYS[0], _count) for store in stores))
    assert await stores[0].get(KEYS[0]) == {"n": 20}
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_a_table_of_somebody_else_and_a_newer_one_are_left_alone(
    postgres_server: PostgresServer, schema: str
) -> None:
    execute = postgres_server.execute
    await asyncio.to_thread(
        execute, f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.botsessions ()"
    )
    with pytest.raises(bs.BackendUnavailableError, match="is there and is not ours"):
        await made(postgres_server, schema).get(KEYS[0])
    comment = f"COMMENT ON TABLE {schema}.botsessions IS 'botsessions schema 2'"
    await asyncio.to_thread(execute, comment)
    with pytest.raises(bs.BackendUnavailableError, match="newer botsessions"):
        await made(postgres_server, schema).get(KEYS[0])


@pytest.mark.parametrize("name", ["", "a b", 'x"; DROP', "1st", "ü", "a" * 64])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a schema or table"):
        bs.PostgresBackend("postgresql://h/d", table=name)


# Many at once.


async def test_batches_of_many_stores_on_few_keys_never_deadlock(
    postgres_server: PostgresServer, schema: str
) -> None:
    stores = [made(postgres_server, schema) for _ in range(4)]
    rng = random.Random(3)

    async def caller(store: bs.SessionStore) -> None:
        for _ in range(20):
            await store.update(rng.choice(KEYS), _count)

    await asyncio.gather(*(caller(store) for store in stores for _ in range(30)))
    total = 0
    async for _, session in stores[0].items():  # noqa: PERF102 - no dict
        total += session["n"]
    await asyncio.gather(*(store.aclose() for store in stores))
    assert total == 4 * 30 * 20
    deadlocks = "SELECT sum(deadlocks) FROM pg_stat_database"
    [(count,)] = await asyncio.to_thread(postgres_server.execute, deadlocks)
    assert count == 0


async def test_updates_with_a_ttl_touch_no_index(
    postgres_server: PostgresServer, schema: str
) -> None:
    async with made(postgres_server, schema, ttl=3600) as store:
        for _ in range(20):
            await asyncio.gather(*(store.update(key, _count) for key in KEYS))
    await asyncio.sleep(1)  # the server gathers its figures once a second
    figures = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables "
        f"WHERE schemaname = '{schema}'"
    )
    [(updated, hot)] = await asyncio.to_thread(postgres_server.execute, figures)
    assert updated == 19 * len(KEYS)
    assert hot > 0.95 * updated


async def test_a_page_of_large_sessions_is_short(
    postgres_server: PostgresServer, schema: str
) -> None:
    backend = bs.PostgresBackend(postgres_server.dsn, schema=schema)
    async with bs.SessionStore(backend) as store:
        await asyncio.gather(*(store.put(key, {"x": "y" * 900_000}) for key in KEYS))
        page = await anext(backend.list_pages("", "", 500))
        assert 0 < len(page.entries) < len(KEYS)
        assert len([key async for key in store.keys()]) == len(KEYS)


def test_connections_are_closed_with_the_last_store(
    postgres_server: PostgresServer, schema: str
) -> None:
    backend = bs.PostgresBackend(
        postgres_server.dsn, schema=schema, application_name=schema
    )
    theirs = f"SELECT 1 FROM pg_stat_activity WHERE application_name = '{schema}'"

    async def use() -> None:
        async with bs.SessionStore(backend) as one, bs.SessionStore(backend) as two:
            await asyncio.gather(one.update(KEYS[0], _count), two.get(KEYS[0]))
            assert await asyncio.to_thread(postgres_server.execute, theirs)

    for _ in range(2):  # each time on another event loop
        asyncio.run(use())
    assert postgres_server.execute(theirs) == []


def _count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {**session, "n": session.get("n", 0) + 1}
