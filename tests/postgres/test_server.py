"""A server that is killed, locked, full, or read-only, and what is true afterwards."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import botsessions as bs
from tests.changes import Load, Log

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

KEYS = [bs.SessionKey(chat_id=number) for number in range(50)]


def made(server: PostgresServer, schema: str, **options: Any) -> bs.SessionStore:
    return bs.open_store(f"{server.dsn}?schema={schema}", **options)


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"n": session.get("n", 0) + 1}


# Ended under load.


async def test_a_server_that_is_killed_and_started_again_has_lost_nothing(
    own_postgres: PostgresServer, schema: str
) -> None:
    async with made(own_postgres, schema, timeout=5) as store:
        async with Load(store, seed=2) as load:
            for _ in range(2):
                await asyncio.to_thread(own_postgres.kill)
                await asyncio.to_thread(own_postgres.start)
                await load.served(within=5)
        await load.log.check(store)
        # It was back before the time of a call was over.
        assert load.log.unknown == []


async def test_a_read_is_asked_again_on_a_connection_that_is_new(
    postgres_server: PostgresServer, schema: str
) -> None:
    """Not on one that others give back meanwhile: it may have died as unseen."""

    def end_all() -> None:  # before the event loop can learn of it
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'unseen'"
        )

    async def have_the_next() -> None:
        async with backend._connections.one():
            end_all()

    backend = bs.PostgresBackend(
        postgres_server.dsn, schema=schema, pool_size=1, application_name="unseen"
    )
    await backend.open()
    try:
        end_all()
        loaded, _ = await asyncio.gather(backend.load(["a"]), have_the_next())
        assert loaded.records == [None]
    finally:
        await backend.aclose()


# Locks of others.


async def test_a_statement_that_waits_too_long_for_a_lock_is_a_conflict(
    postgres_server: PostgresServer, schema: str
) -> None:
    dsn = f"{postgres_server.dsn}?schema={schema}"
    async with bs.open_store(dsn, lock_timeout=0.1, timeout=0.5) as store:
        await store.put(KEYS[0], {"n": 1})
        other = await asyncpg.connect(postgres_server.dsn)
        async with other.transaction():
            await other.execute(f"SELECT FROM {schema}.botsessions FOR UPDATE")
            with pytest.raises(bs.ConflictError):
                await store.update(KEYS[0], count)
            assert await store.get(KEYS[0]) == {"n": 1}
        await other.close()
        assert await store.update(KEYS[0], count) == {"n": 2}


async def test_a_statement_that_takes_too_long_is_a_conflict_and_then_works(
    postgres_server: PostgresServer, schema: str
) -> None:
    url = f"{postgres_server.dsn}?schema={schema}"
    times = {"statement_timeout": 0.1, "lock_timeout": 5, "timeout": 0.5}
    async with bs.open_store(url, **times) as store:
        await store.put(KEYS[0], {"n": 1})
        other = await asyncpg.connect(postgres_server.dsn)
        async with other.transaction():
            await other.execute(f"SELECT FROM {schema}.botsessions FOR UPDATE")
            with pytest.raises(bs.ConflictError):
                await store.update(KEYS[0], count)
            assert await store.get(KEYS[0]) == {"n": 1}
        assert (await store.update(KEYS[0], count))["n"] == 2
        async with other.transaction():
            await other.execute(f"LOCK TABLE {schema}.botsessions")
            began = time.monotonic()
            gets = [store.get(key) for key in KEYS]
            for result in await asyncio.gather(*gets, return_exceptions=True):
                assert isinstance(result, bs.BackendUnavailableError)
                assert "statement timeout" in str(result)
            # One attempt for all of them, not one for each.
            assert time.monotonic() - began < 1
        await other.close()
        assert (await store.get(KEYS[0]))["n"] == 2


async def test_a_row_that_somebody_holds_fails_its_own_callers_only(
    postgres_server: PostgresServer, schema: str
) -> None:
    url = f"{postgres_server.dsn}?schema={schema}"
    async with bs.open_store(url, lock_timeout=0.1, timeout=1.5) as store:
        await asyncio.gather(*(store.put(key, {}) for key in KEYS))
        other = await asyncpg.connect(postgres_server.dsn)
        async with other.transaction():
            held = f"k = 'sessions/{KEYS[0]}'"
            await other.execute(
                f"SELECT FROM {schema}.botsessions WHERE {held} FOR UPDATE"
            )
            updates = [store.update(key, count) for key in KEYS]
            first, *others = await asyncio.gather(*updates, return_exceptions=True)
        await other.close()
        assert isinstance(first, bs.ConflictError)
        assert others == [count({})] * len(others)


# Too few connections.


@pytest.mark.parametrize("pool_size", [1, 2])
async def test_callers_wait_for_the_few_connections_there_are(
    postgres_server: PostgresServer, schema: str, pool_size: int
) -> None:
    url = f"{postgres_server.dsn}?schema={schema}&application_name={schema}"
    async with bs.open_store(url, pool_size=pool_size) as store:

        async def caller(number: int) -> None:
            for key in KEYS[number : number + 10]:
                await store.update(key, count)
                await store.get(key)
            assert [key async for key in store.keys()]

        await asyncio.gather(*(caller(number) for number in range(40)))
        assert postgres_server.connections(schema) == pool_size


@pytest.mark.parametrize(
    "options", [{"pool_size": 0}, {"statement_timeout": 0}, {"lock_timeout": -1}]
)
def test_a_pool_without_room_and_a_time_of_nothing_are_refused(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        bs.open_store("postgresql://h/d", **options)


async def test_a_server_that_is_full_is_named_and_used_once_it_has_room(
    own_postgres: PostgresServer, schema: str
) -> None:
    log = Log()
    url = own_postgres.dsn.replace("bot@", "plain@")
    await asyncio.to_thread(
        own_postgres.execute,
        "CREATE ROLE plain LOGIN",
        f"CREATE SCHEMA {schema} AUTHORIZATION plain",
    )
    others = []
    try:
        while True:
            others.append(await asyncpg.connect(url))
    except asyncpg.TooManyConnectionsError:
        pass
    async with asyncio.timeout(10):
        store = bs.open_store(f"{url}?schema={schema}")
        with pytest.raises(bs.BackendUnavailableError, match="raise max_connections"):
            await store.get(KEYS[0])
        await others.pop().close()
        while not await is_served(store):  # noqa: ASYNC110 - the server's doing
            await asyncio.sleep(0.01)
    # One connection, and no other to be had: it serves, if not everybody.
    await asyncio.gather(*(log.note(store, key) for key in KEYS for _ in range(4)))
    assert log.acknowledged
    refused = len(log.refused)
    for other in others:
        await other.close()
    await asyncio.gather(*(log.note(store, key) for key in KEYS))
    await log.check(store)
    assert log.unknown == []
    assert len(log.refused) == refused
    await store.aclose()


async def is_served(store: bs.SessionStore) -> bool:
    """Tell whether the store can be used: a server needs a moment to see who left."""
    try:
        await store.get(KEYS[0])
    except bs.BackendUnavailableError:
        return False
    return True


# A server that does not write.


async def test_a_server_that_turns_read_only_is_named_and_reads_go_on(
    own_postgres: PostgresServer, schema: str
) -> None:
    async with bs.open_store(f"{own_postgres.dsn}?schema={schema}") as store:
        await asyncio.gather(*(store.put(key, {"n": 1}) for key in KEYS))
        read_only = "default_transaction_read_only"
        await asyncio.to_thread(own_postgres.configure, read_only, "on")
        try:
            for _ in range(2):
                updates = [store.update(key, count) for key in KEYS]
                for error in await asyncio.gather(*updates, return_exceptions=True):
                    assert isinstance(error, bs.BackendUnavailableError)
                    assert "read-only" in str(error)
                    assert "target_session_attrs=read-write" in str(error)
            assert await store.get(KEYS[0]) == {"n": 1}
        finally:
            await asyncio.to_thread(own_postgres.configure, read_only, "off")
        assert (await store.update(KEYS[0], count))["n"] == 2
