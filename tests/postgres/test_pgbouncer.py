"""Behind PgBouncer in transaction mode: no connection is ours for longer than that."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

import botsessions as bs
from tests.changes import Load, Log
from tests.conftest import missing
from tests.servers.pgbouncer import PROGRAM, PgBouncer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.servers.postgres import PostgresServer

KEYS = [bs.SessionKey(chat_id=number) for number in range(50)]


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"n": session.get("n", 0) + 1}


@asynccontextmanager
async def all_connections(
    pgbouncer: PgBouncer,
) -> AsyncIterator[list[asyncpg.Connection]]:
    """Hold, as guests, each of the three connections to the server."""
    async with AsyncExitStack() as stack:
        guests = []
        for _ in range(3):
            guest = await asyncpg.connect(pgbouncer.dsn, statement_cache_size=0)
            stack.push_async_callback(guest.close)
            await stack.enter_async_context(guest.transaction())
            await guest.execute("SELECT 1")
            guests.append(guest)
        yield guests


@pytest.fixture
def start(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], PgBouncer]]:
    """Return what starts a PgBouncer with more settings, until the test is over."""
    started: list[PgBouncer] = []

    def start(more: str = "") -> PgBouncer:
        if PROGRAM is None:
            missing("PgBouncer (apt-get install pgbouncer)")
        directory = tmp_path_factory.mktemp("pgbouncer")
        started.append(PgBouncer(directory, postgres_server, 3, more))
        return started[-1]

    yield start
    for pgbouncer in started:
        pgbouncer.stop()


async def test_many_stores_share_its_few_connections(
    pgbouncer: PgBouncer, schema: str
) -> None:
    url = f"{pgbouncer.dsn}?schema={schema}"
    stores = [bs.open_store(url, pgbouncer=True) for _ in range(8)]
    log, rng = Log(), random.Random(4)

    async def caller(store: bs.SessionStore) -> None:
        for _ in range(10):
            await log.note(store, rng.choice(KEYS))
            # Other statements, which must not be taken for each other.
            await store.get(rng.choice(KEYS))
            assert [key async for key in store.keys(chat_id=1)] in ([], [KEYS[1]])

    await asyncio.gather(*(caller(store) for store in stores for _ in range(6)))
    assert len(log.acknowledged) == 8 * 6 * 10
    await log.check(stores[0])
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_who_forgets_to_name_it_is_told_to(pgbouncer: PgBouncer) -> None:
    with pytest.raises(bs.BackendUnavailableError, match="pgbouncer=True"):
        await bs.open_store(pgbouncer.dsn).get(KEYS[0])


async def test_who_forgets_and_gets_by_at_first_is_told_later(
    start: Callable[[str], PgBouncer], schema: str
) -> None:
    """PgBouncer may be told to overlook what it does not know; statements get lost."""
    overlooked = "statement_timeout,lock_timeout,enable_seqscan"
    pgbouncer = start(f"ignore_startup_parameters = {overlooked}")
    url = f"{pgbouncer.dsn}?schema={schema}"
    stores = [bs.open_store(url) for _ in range(8)]
    errors: list[bs.BackendError] = []

    async def caller(store: bs.SessionStore) -> None:
        for key in KEYS[:10]:
            try:
                await store.update(key, count)
            except bs.BackendError as exc:
                errors.append(exc)

    await asyncio.gather(*(caller(store) for store in stores for _ in range(4)))
    await asyncio.gather(*(store.aclose() for store in stores))
    assert errors
    for error in errors:
        assert isinstance(error, bs.BackendUnavailableError)
        assert "pgbouncer=True" in str(error)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_under_load_loses_and_doubles_nothing(
    start: Callable[[], PgBouncer], schema: str, how: str
) -> None:
    pgbouncer = start()
    url = f"{pgbouncer.dsn}?schema={schema}"
    async with bs.open_store(url, pgbouncer=True, timeout=3) as store:
        async with Load(store, seed=5) as load:
            for _ in range(5):
                await asyncio.to_thread(getattr(pgbouncer, how))
                await asyncio.sleep(0.05)
                await asyncio.to_thread(pgbouncer.start)
                await load.served(within=3)
        await load.log.check(store)
        assert load.log.unknown == []


@pytest.mark.parametrize(
    "timeouts",
    [
        {"statement_timeout": 0.1, "lock_timeout": 5},
        {"statement_timeout": 5, "lock_timeout": 0.1},
    ],
    ids=str,
)
async def test_timeouts_hold_for_our_writes_and_for_nobody_else(
    postgres_server: PostgresServer,
    pgbouncer: PgBouncer,
    schema: str,
    timeouts: dict[str, float],
) -> None:
    url = f"{pgbouncer.dsn}?schema={schema}"
    async with bs.open_store(url, pgbouncer=True, timeout=2, **timeouts) as store:
        await store.put(KEYS[0], {"n": 1})
        other = await asyncpg.connect(postgres_server.dsn)
        async with other.transaction():
            await other.execute(f"SELECT FROM {schema}.botsessions FOR UPDATE")
            with pytest.raises(bs.ConflictError):
                await store.update(KEYS[0], count)
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            assert await other.fetch(waits) == []
        assert await store.update(KEYS[0], count) == {"n": 2}
        await other.close()
        # On the very connections that the store has just used.
        async with all_connections(pgbouncer) as guests:
            for name, guest in itertools.product(timeouts, guests):
                assert await guest.fetchval(f"SHOW {name}") == "0"


async def test_a_table_that_grows_is_found_by_its_index(
    postgres_server: PostgresServer, pgbouncer: PgBouncer, schema: str
) -> None:
    """Each statement is planned when it is run: no plan is there to be outgrown."""
    read = f"SELECT seq_tup_read FROM pg_stat_user_tables WHERE schemaname = '{schema}'"

    async def scanned() -> int:
        """Return how many rows were read without the index."""
        await asyncio.sleep(1.1)  # a connection tells its figures once a second
        async with all_connections(pgbouncer) as guests:
            await asyncio.gather(*(guest.execute("SELECT 1") for guest in guests))
        [(count,)] = await asyncio.to_thread(postgres_server.execute, read)
        return int(count)

    async def use(store: bs.SessionStore) -> None:
        # One by one: for many keys at once, all of a small table may be less work.
        for key in KEYS:
            await store.update(key, count)

    url = f"{pgbouncer.dsn}?schema={schema}"
    async with bs.open_store(url, pgbouncer=True) as store:
        await use(store)  # plans for a small table, were they kept
        users = [bs.SessionKey(user_id=number) for number in range(2_000)]
        await asyncio.gather(*(store.put(user, {}) for user in users))
        before = await scanned()
        await use(store)
        assert await scanned() - before < len(users)  # not even once all of it
