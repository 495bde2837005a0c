"""What only a real PostgreSQL server shows: faults, many at once, its own figures."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import botsessions as bs
from tests.changes import Log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.pgbouncer import PgBouncer
    from tests.servers.postgres import PostgresServer

KEYS = [bs.SessionKey(chat_id=number) for number in range(50)]
_numbers = itertools.count(1)


@pytest.fixture
def schema() -> str:
    """Return the name of a schema that no other test uses."""
    return f"alone{next(_numbers)}"


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


# What goes wrong.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("/postgres", "/nosuch"), 'database "nosuch" does not exist'),
        (("bot@", "nobody:secret@"), 'role "nobody" does not exist'),
        ((":", ":1"), "cannot be used"),
    ],
)
async def test_what_keeps_us_out_is_said_without_the_password(
    postgres_server: PostgresServer, change: tuple[str, str], said: str
) -> None:
    dsn = postgres_server.dsn
    if change[0] == ":":
        change = (f":{postgres_server.port}", ":1")
    with pytest.raises(bs.BackendUnavailableError) as caught:
        await bs.open_store(dsn.replace(*change)).get(KEYS[0])
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(bs.open_store(dsn.replace(*change)))


async def test_connections_that_are_cut_under_load_lose_and_double_nothing(
    postgres_server: PostgresServer, schema: str
) -> None:
    log, rng = Log(), random.Random(1)
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'botsessions'"
    )
    async with made(postgres_server, schema, timeout=5) as store:

        async def caller() -> None:
            for _ in range(60):
                await log.note(store, rng.choice(KEYS))

        async def cutter() -> None:
            for _ in range(10):
                await asyncio.sleep(0.03)
                await asyncio.to_thread(postgres_server.execute, cut)

        await asyncio.gather(cutter(), *(caller() for _ in range(20)))
        await log.check(store)
    assert len(log.acknowledged) > 600


async def test_a_server_that_is_killed_and_started_again_has_lost_nothing(
    own_postgres: PostgresServer, schema: str
) -> None:
    log, rng = Log(), random.Random(2)
    async with made(own_postgres, schema, timeout=3) as store:
        over = False

        async def caller() -> None:
            while not over:
                await log.note(store, rng.choice(KEYS))
                await asyncio.sleep(0.001)

        async def killer() -> None:
            nonlocal over
            for _ in range(3):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(own_postgres.kill)
                await asyncio.to_thread(own_postgres.start)
                before = len(log.acknowledged)
                await asyncio.sleep(0.5)
                assert len(log.acknowledged) > before, "no service after the restart"
            over = True

        await asyncio.gather(killer(), *(caller() for _ in range(10)))
        await log.check(store)


async def test_a_statement_that_waits_too_long_for_a_lock_is_a_conflict(
    postgres_server: PostgresServer, schema: str
) -> None:
    dsn = f"{postgres_server.dsn}?schema={schema}"
    async with bs.open_store(dsn, lock_timeout=0.1, timeout=1) as store:
        await store.put(KEYS[0], {"n": 1})
        other = await asyncpg.connect(postgres_server.dsn)
        async with other.transaction():
            await other.execute(f"SELECT FROM {schema}.botsessions FOR UPDATE")
            with pytest.raises(bs.ConflictError):
                await store.update(KEYS[0], _count)
            assert await store.get(KEYS[0]) == {"n": 1}
        await other.close()
        assert await store.update(KEYS[0], _count) == {"n": 2}


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


async def test_many_stores_share_the_few_connections_of_a_pgbouncer(
    postgres_server: PostgresServer, pgbouncer: PgBouncer, schema: str
) -> None:
    url = f"{pgbouncer.dsn}?schema={schema}"
    stores = [bs.open_store(url, pgbouncer=True) for _ in range(8)]
    log, rng = Log(), random.Random(4)

    async def caller(store: bs.SessionStore) -> None:
        for _ in range(10):
            await log.note(store, rng.choice(KEYS))

    await asyncio.gather(*(caller(store) for store in stores for _ in range(6)))
    assert len(log.acknowledged) == 8 * 6 * 10
    await log.check(stores[0])
    await asyncio.gather(*(store.aclose() for store in stores))


def _count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {**session, "n": session.get("n", 0) + 1}


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Return a server that the test may kill."""
    from tests.conftest import missing  # noqa: PLC0415
    from tests.servers.postgres import PostgresServer, programs  # noqa: PLC0415

    if programs() is None:
        missing("PostgreSQL (apt-get install postgresql)")
    server = PostgresServer(tmp_path_factory.mktemp("own"))
    yield server
    server.stop()
