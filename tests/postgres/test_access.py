"""Who is let in, with what rights; and the table made by an administrator."""

from __future__ import annotations

import asyncio
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import pytest

import botsessions as bs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgres import PostgresServer

KEYS = [bs.SessionKey(chat_id=number) for number in range(20)]
DOCUMENTED = Path(__file__).parents[2] / "docs" / "postgres.md"


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"n": session.get("n", 0) + 1}


async def run(url: str, *statements: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetch(statements[-1])
    finally:
        await connection.close()


async def use(url: str, **options: Any) -> None:
    """Use a store in all the ways there are."""
    async with bs.open_store(url, **options) as store:
        for n in (1, 2):
            assert await store.update(KEYS[0], count) == {"n": n}
        await store.put(KEYS[1], {})
        await store.delete(KEYS[1])
        assert await store.get(KEYS[0]) == {"n": 2}
        assert [key async for key in store.keys()] == [KEYS[0]]
        await store.delete_expired()


# Who is let in.

PASSWORD = "correct / horse ? battery # staple @ %25 : ö"  # noqa: S105 - of a test


@pytest.fixture(scope="module")
def guarded(own_postgres: PostgresServer) -> PostgresServer:
    """Return a server with a role that needs a password, and one that may not come."""
    own_postgres.execute(
        "SET password_encryption = 'scram-sha-256'",
        f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'",
        "CREATE SCHEMA guarded AUTHORIZATION guarded",
    )
    own_postgres.let_in(
        "host all guarded 127.0.0.1/32 scram-sha-256",
        "host all stranger 127.0.0.1/32 reject",
    )
    return own_postgres


async def test_a_password_is_escaped_in_the_url(guarded: PostgresServer) -> None:
    url = guarded.dsn.replace("bot@", f"guarded:{quote(PASSWORD, safe='')}@")
    await use(f"{url}?schema=guarded")


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ("guarded:secret", "password authentication failed.*the password in the URL"),
        ("guarded", "password authentication failed.*the password in the URL"),
        ("stranger:secret", r"pg_hba\.conf rejects.*that pg_hba\.conf lets it in"),
        ("nobody:secret", 'role "nobody" does not exist.*check the user'),
    ],
)
async def test_who_is_not_let_in_is_told_why(
    guarded: PostgresServer, login: str, said: str
) -> None:
    store = bs.open_store(guarded.dsn.replace("bot@", f"{login}@"))
    with pytest.raises(bs.BackendUnavailableError, match=said) as caught:
        await store.get(KEYS[0])
    assert "secret" not in f"{caught.value} {caught.value!r} {store!r}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("/postgres", "/nosuch"), 'database "nosuch" does not exist; correct its'),
        (("127.0.0.1", "nosuch.invalid"), "check that it runs"),
        (("PORT", "1"), "check that it runs"),
    ],
)
async def test_a_server_or_database_that_is_not_there_is_named(
    postgres_server: PostgresServer, change: tuple[str, str], said: str
) -> None:
    was, instead = change
    url = postgres_server.dsn.replace(
        was.replace("PORT", str(postgres_server.port)), instead
    )
    where = f"PostgreSQL at {'nosuch.invalid' if '.' in instead else '127.0.0.1'}/"
    with pytest.raises(bs.BackendUnavailableError, match=f"{where}.*{said}"):
        await bs.open_store(url).get(KEYS[0])


@pytest.mark.parametrize("sign", "/?#@")
@pytest.mark.parametrize("before", ["12", "se"])
def test_a_password_that_is_not_escaped_is_refused_and_not_shown(
    before: str, sign: str
) -> None:
    url = f"postgresql://bot:{before}{sign}cret@db.example:5432/bot"
    with pytest.raises(ValueError, match="write / as %2F") as caught:
        bs.PostgresBackend(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "cret" not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///bot",
        "postgresql://db1.example:5432,db2.example/bot",
        "postgresql://[::1]:5432/bot?sslmode=require",
        "postgresql://db.example/bot?user=bot@db&password=s3cret",
        "postgresql:///bot?host=/run/postgresql",
    ],
)
def test_a_url_of_another_form_is_taken(url: str) -> None:
    assert "s3cret" not in repr(bs.open_store(url))


async def test_an_option_that_the_driver_does_not_know_is_named(
    postgres_server: PostgresServer,
) -> None:
    url = f"{postgres_server.dsn}?channel_binding=prefer"
    said = "channel_binding.*take out of the URL what asyncpg does not know"
    with pytest.raises(bs.BackendUnavailableError, match=said):
        await bs.open_store(url).get(KEYS[0])


# With what rights.


@pytest.fixture
def database(own_postgres: PostgresServer, schema: str) -> Iterator[str]:
    """Return the URL of a database of its own, for its administrator."""
    own_postgres.execute(f"CREATE DATABASE {schema}")
    yield own_postgres.dsn.replace("/postgres", f"/{schema}")
    # What the test made there goes with it, but for the roles.
    own_postgres.execute(
        f"DROP DATABASE {schema} WITH (FORCE)", "DROP ROLE IF EXISTS chatbot"
    )


def documented() -> str:
    """Return the SQL that the page tells an administrator to run."""
    [sql] = re.findall(r"```sql\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    return str(sql)


async def test_the_documented_sql_makes_a_table_that_a_plain_user_can_use(
    database: str,
) -> None:
    await run(database, documented(), "SELECT 1")
    await use(database.replace("bot@", "chatbot@"))


LOOK = """
SELECT attname, format_type(atttypid, atttypmod), attnotnull, attstorage::text,
    attcollation::regcollation::text, reloptions, obj_description(pg_class.oid),
    (SELECT array_agg(pg_get_indexdef(indexrelid) ORDER BY 1) FROM pg_index
     WHERE indrelid = pg_class.oid)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relname = 'botsessions' AND attnum > 0 ORDER BY attnum
"""


async def test_the_documented_table_is_the_one_that_a_store_makes(
    database: str,
) -> None:
    await run(database, documented(), "SELECT 1")
    theirs = await run(database, LOOK)
    await run(database, "DROP TABLE botsessions", "SELECT 1")
    await use(database)
    assert theirs == await run(database, LOOK)
    assert len(theirs) == 7


async def test_who_may_not_make_the_table_is_told_what_to_run(database: str) -> None:
    await run(database, "CREATE ROLE chatbot LOGIN", "SELECT 1")
    url = database.replace("bot@", "chatbot@")
    for options, granted in (
        ({}, "botsessions"),
        ({"table": "mine"}, "mine"),
    ):
        with pytest.raises(bs.BackendUnavailableError, match="may not make") as caught:
            await bs.open_store(url, **options).get(KEYS[0])
        said = str(caught.value)
        assert "SELECT, INSERT, UPDATE and DELETE" in said
        await run(database, said.partition("on it:\n")[2], "SELECT 1")
        # The table is there, and the right to use it is not.
        async with bs.open_store(url, **options) as store:
            with pytest.raises(bs.BackendUnavailableError, match="grant this user"):
                await store.get(KEYS[0])
        grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {granted} TO chatbot"
        await run(database, grant, "SELECT 1")
        await use(url, **options)


async def test_a_schema_that_the_user_owns_is_enough(database: str) -> None:
    await run(
        database,
        "CREATE ROLE chatbot LOGIN",
        "CREATE SCHEMA mine AUTHORIZATION chatbot",
        "SELECT 1",
    )
    await use(database.replace("bot@", "chatbot@"), schema="mine")
    with pytest.raises(bs.BackendUnavailableError, match=r"may not make(.|\n)*SCHEMA"):
        await use(database.replace("bot@", "chatbot@"), schema="missing")


async def test_a_table_that_was_dropped_is_made_again_by_another_opening(
    database: str,
) -> None:
    async with bs.open_store(database) as store:
        await store.put(KEYS[0], {})
        await run(database, "DROP TABLE botsessions", "SELECT 1")
        for call in (store.get(KEYS[0]), store.put(KEYS[0], {})):
            with pytest.raises(bs.BackendUnavailableError, match="open the store ag"):
                await call
        async with bs.open_store(database):
            pass
        await store.put(KEYS[0], {})


# What of one row is wrong.


async def test_a_row_that_is_refused_fails_alone_and_is_not_quoted(
    postgres_server: PostgresServer, schema: str
) -> None:
    url = f"{postgres_server.dsn}?schema={schema}"
    async with bs.open_store(url) as store:
        await store.put(KEYS[0], {})
        alter = f"ALTER TABLE {schema}.botsessions ADD CHECK (length(b) < 300)"
        await asyncio.to_thread(postgres_server.execute, alter)
        secret = "my secret " * 50
        puts = [store.put(key, {"x": secret if key is KEYS[7] else ""}) for key in KEYS]
        answers = await asyncio.gather(*puts, return_exceptions=True)
        [error] = [answer for answer in answers if answer is not None]
        assert answers[7] is error
        assert isinstance(error, bs.BackendError)
        assert "check constraint" in str(error)
        # The server quotes the whole row, in hex; a traceback shows the cause, too.
        assert b"secret".hex() not in "".join(traceback.format_exception(error))
        quoting = (
            f"INSERT INTO {schema}.botsessions (k, v, t, r, c, b) "
            "VALUES ('x', 1, 1, '', 1, repeat('secret', 60)::bytea)"
        )
        with pytest.raises(asyncpg.CheckViolationError) as quoted:
            await run(postgres_server.dsn, quoting)
        assert b"secret".hex() in str(quoted.value)
        assert len([key async for key in store.keys()]) == len(KEYS) - 1


# Where the primary is.


async def test_a_server_that_turned_read_only_is_left_for_one_that_writes(
    own_postgres: PostgresServer, postgres_server: PostgresServer, schema: str
) -> None:
    hosts = f"127.0.0.1:{own_postgres.port},127.0.0.1:{postgres_server.port}"
    url = f"postgresql://bot@{hosts}/postgres?schema={schema}"
    async with bs.open_store(f"{url}&target_session_attrs=read-write") as store:
        await store.put(KEYS[0], {"on": "the first"})
        async with bs.open_store(f"{postgres_server.dsn}?schema={schema}") as second:
            await second.put(KEYS[0], {"on": "the second"})
        read_only = "default_transaction_read_only"
        await asyncio.to_thread(own_postgres.configure, read_only, "on")
        try:
            with pytest.raises(bs.BackendUnavailableError, match="read-only"):
                await store.update(KEYS[0], count)
            await store.update(KEYS[0], lambda s: {"was": s["on"]})
            assert await store.get(KEYS[0]) == {"was": "the second"}
        finally:
            await asyncio.to_thread(own_postgres.configure, read_only, "off")


async def test_hosts_of_which_none_writes_are_refused(
    postgres_server: PostgresServer, schema: str
) -> None:
    role = f"CREATE ROLE {schema} LOGIN"
    binds = f"ALTER ROLE {schema} SET default_transaction_read_only = on"
    await asyncio.to_thread(postgres_server.execute, role, binds)
    url = postgres_server.dsn.replace("bot@", f"{schema}@")
    with pytest.raises(bs.BackendUnavailableError, match="target attribute"):
        await bs.open_store(f"{url}?target_session_attrs=read-write").get(KEYS[0])
