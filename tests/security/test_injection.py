"""Hostile keys, namespaces and names of tables: data to the database, never a program.

Each test puts a bystander beside what it does, and compares all that the database has
before and after: nothing but the records that were written may differ.
"""

from __future__ import annotations

import os
import pickle
import sqlite3
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from redis import Redis

import botsessions as bs
from botsessions.cli import main
from botsessions.record import Record, Version, Write
from tests.places import PLACES, Place, new_name

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.postgres import PostgresServer
    from tests.servers.redis import RedisServer

# Keys by the contract: printable ASCII, whatever it means to somebody else.
HOSTILE = [
    "'; DROP TABLE botsessions; --",
    '"; DROP TABLE botsessions; --',
    "' OR '1'='1",
    "x' UNION SELECT k, 1, 1, '', 1, 1, '' FROM botsessions --",
    "$1",
    "$1::text; $$DO$$ %s %(k)s {} {0} :k ?1 @k",
    "E'\\'; SELECT pg_sleep(9) --",
    "\\",
    "\\'",
    "%",
    "_",
    "*",
    "?",
    "[a-z]",
    "[^a]*",
    "{tag}x",
    "}{",
    "'..redis.call('FLUSHALL')..'",
    "]] redis.call('FLUSHALL') --[[",
    "*3\\r\\n$3\\r\\nSET",
    '["$[0]"]',
    "null",
    "../../etc/passwd",
    "`id`$(id)|id;id&&id",
    "<script>alert(1)</script>",
    "~" * 1200,
    "'" * 1200,
]


def record(value: bytes = b"value") -> Record:
    return Record(Version(1, 1), value, b"", 1, None)


@pytest.fixture(params=[kind for kind in PLACES if kind.__name__ != "Memory"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kind = request.param
    server = [] if kind.server is None else [request.getfixturevalue(kind.server)]
    made: Place = kind(tmp_path, *server)
    return made


async def contents(backend: Any) -> dict[str, Record]:
    """Return all that a backend has."""
    return {
        key: found
        async for page in backend.list_pages("", "", 500)
        for key, found in page.entries
    }


async def test_hostile_keys_are_only_keys(there: Place) -> None:
    backend: Any = there.backend()
    await backend.open()
    try:
        expected = {"bystander/chat=1": record(b"as it was")}
        for key in HOSTILE:
            expected[key] = record(key[:40].encode())
        late = int(there.clock() * 1000) + 1000
        writes = [Write(key, None, made, late) for key, made in expected.items()]
        assert await backend.commit(writes) == [True] * len(writes)
        keys = [*HOSTILE, "bystander/chat=1"]
        loaded = (await backend.load(keys)).records
        assert loaded == [expected[key] for key in keys]
        for key in HOSTILE:  # alone, which is another statement
            assert (await backend.load([key])).records == [expected[key]]
            made = Record(Version(2, 2), b"again", b"", 1, None)
            write = Write(key, Version(1, 1), made, late)
            assert await backend.commit([write]) == [True]
            expected[key] = made
        assert await contents(backend) == expected
    finally:
        await backend.aclose()


async def test_hostile_prefixes_select_what_begins_so_and_nothing_else(
    there: Place,
) -> None:
    backend: Any = there.backend()
    await backend.open()
    try:
        now = int(there.clock() * 1000)
        # Long dead, so that sweeping takes what it is told to.
        dead = record()._replace(expires_at=now - 100_000)
        keys = [f"{key[:600]}{end}" for key in HOSTILE for end in ("", "/a", "/b")]
        keys = list(dict.fromkeys([*keys, "bystander"]))
        live = record()
        writes = [Write(key, None, live, now + 1000) for key in keys]
        assert await backend.commit(writes) == [True] * len(writes)
        for key in HOSTILE:
            prefix = key[:600]
            found = [
                entry[0]
                async for page in backend.list_pages(prefix, "", 500)
                for entry in page.entries
            ]
            assert found == sorted(one for one in keys if one.startswith(prefix))
        if there.sweeps_itself:
            return
        buried = [f"{key[:600]}#dead" for key in HOSTILE]
        buried = list(dict.fromkeys(buried))
        writes = [Write(key, None, dead, now + 1000) for key in buried]
        assert await backend.commit(writes) == [True] * len(writes)
        for key in sorted(HOSTILE, key=len):
            prefix = key[:600]
            taken = {one for one in buried if one.startswith(prefix)}
            assert await backend.sweep(prefix, 1000) == len(taken)
            buried = [one for one in buried if one not in taken]
            assert set(await contents(backend)) == {*keys, *buried}
    finally:
        await backend.aclose()


NAMES = [
    'x"; DROP TABLE bystander; --',
    "x'; DROP TABLE bystander; --",
    'a"."b',
    "x y",
    "x;y",
    "$1",
    "{0}",
    "1x",
    "",
    "é",
    "x\0",
    "x\n",
    "x" * 64,
    "../x",
]
# As namespaces.
HARMLESS = ["1x", "x" * 64]


@pytest.mark.parametrize(
    "name",
    [*(name for name in NAMES if name not in HARMLESS), "a/b", "*", "!{x}", "x" * 65],
)
def test_a_hostile_namespace_is_refused_before_anything_happens(name: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        bs.SessionStore(bs.MemoryBackend(), namespace=name)


async def everything(dsn: str) -> list[Any]:
    """Return each row of each table, what a table is like, and who is there."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch(
            "SELECT c.oid::regclass::text AS name, relkind::text, relowner, "
            "relacl::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' "
            "ORDER BY 1"
        )
        rows = [
            (table["name"], await connection.fetch(f"SELECT * FROM {table['name']} x"))
            for table in tables
            if table["relkind"] == "r"
        ]
        others = [
            await connection.fetch(f"SELECT * FROM {catalog} ORDER BY 1")
            for catalog in ("pg_namespace", "pg_roles", "pg_proc", "pg_database")
        ]
        return [tables, rows, others]
    finally:
        await connection.close()


async def test_hostile_names_of_schemas_and_tables_change_nothing_in_the_database(
    postgres_server: PostgresServer,
) -> None:
    name = new_name()
    url = postgres_server.dsn.replace("/postgres", f"/{name}")
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    try:
        own = await asyncpg.connect(url)
        await own.execute(
            "CREATE TABLE bystander AS SELECT 1 AS n; CREATE TABLE x AS SELECT 2 AS n"
        )
        await own.close()
        before = await everything(url)
        for hostile in NAMES:
            for option in ("schema", "table"):
                with pytest.raises(ValueError, match="is no name for a schema"):
                    bs.open_store(url, **{option: hostile})
                if "\0" in hostile or "\n" in hostile:
                    continue  # a URL cannot say it
                quoted = "".join(f"%{byte:02X}" for byte in hostile.encode())
                with pytest.raises(ValueError, match="is no name for a schema"):
                    bs.open_store(f"{url}?{option}={quoted}")
        # What the pattern lets through is quoted: words that mean something in SQL.
        for reserved in ("select", "table", "Drop", "a$b", "_"):
            store = bs.open_store(url, schema=reserved, table=reserved)
            async with store:
                await store.put(bs.SessionKey(name="'; DROP TABLE x; --"), {"n": 1})
                assert await store.get(bs.SessionKey(chat_id=1)) == {}
            own = await asyncpg.connect(url)
            await own.execute(f'DROP SCHEMA "{reserved}" CASCADE')
            await own.close()
        # The table of somebody else is not taken for ours.
        with pytest.raises(bs.BackendUnavailableError, match="is not ours"):
            await bs.open_store(url, table="bystander").get(bs.SessionKey(chat_id=1))
        # The application's name is sent as a setting, not as SQL.
        store = bs.open_store(url, schema="s", application_name="'; DROP TABLE x; --")
        async with store:
            await store.put(bs.SessionKey(chat_id=1), {"n": 1})
        own = await asyncpg.connect(url)
        await own.execute("DROP SCHEMA s CASCADE")
        await own.close()
        assert await everything(url) == before
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


async def test_hostile_keys_change_nothing_else_in_postgres(
    postgres_server: PostgresServer,
) -> None:
    name = new_name()
    url = postgres_server.dsn.replace("/postgres", f"/{name}")
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    try:
        async with bs.open_store(url) as store:
            before = await everything(url)
            for hostile in HOSTILE:
                key = bs.SessionKey(user_id=hostile[:250], name=hostile[:9])
                await store.put(key, {hostile: hostile})
                assert await store.get(key) == {hostile: hostile}
                async with store.lock(key):
                    pass
                assert [found async for found in store.keys(user_id=key.user_id)]
                await store.delete(key)
            sweeping = await asyncpg.connect(url)
            await sweeping.execute("DELETE FROM botsessions")
            await sweeping.close()
            assert await everything(url) == before
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


@pytest.mark.parametrize("kind", ["redis_server", "valkey_server"])
async def test_hostile_keys_change_nothing_else_in_redis(
    request: pytest.FixtureRequest, kind: str
) -> None:
    server: RedisServer = request.getfixturevalue(kind)
    server.empty()
    with Redis(port=server.port, db=3) as client:
        client.hset("bystander", "a", "b")
        client.set("sessionsX", "not ours")
        client.rpush("*", "1", "2")

        def dump() -> dict[bytes, bytes]:
            return {key: client.dump(key) for key in client.keys()}

        def settings() -> dict[str, str]:
            found: dict[str, str] = client.config_get("*")
            return found

        before, configured = dump(), settings()
        async with bs.open_store(f"{server.url}/3") as store:
            for hostile in HOSTILE:
                key = bs.SessionKey(user_id=hostile[:250], name=hostile[:9])
                await store.put(key, {hostile: hostile})
                assert await store.get(key) == {hostile: hostile}
                assert [found async for found in store.keys()] == [key]
                await store.delete(key)
        ours = [name for name in client.keys() if name.startswith(b"sessions/")]
        assert len(ours) == len({(one[:250], one[:9]) for one in HOSTILE})
        client.delete(*ours)
        assert (dump(), settings()) == (before, configured)
        assert client.dbsize() == 3
        assert client.info("keyspace").keys() == {"db3"}


async def test_hostile_keys_change_nothing_else_in_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    async with bs.open_store(f"sqlite:///{path}") as store:
        await store.put(bs.SessionKey(chat_id=1), {})

    def dump() -> list[str]:
        with sqlite3.connect(path) as connection:
            lines = list(connection.iterdump())
            lines += map(str, connection.execute("PRAGMA database_list"))
        connection.close()
        return lines

    before = dump()
    async with bs.open_store(f"sqlite:///{path}") as store:
        for hostile in HOSTILE:
            key = bs.SessionKey(user_id=hostile[:250], name=hostile[:9])
            await store.put(key, {hostile: hostile})
            assert await store.get(key) == {hostile: hostile}
            assert [found async for found in store.keys(user_id=key.user_id)] == [key]
            await store.delete(key)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM botsessions WHERE k LIKE 'sessions/user=%'")
    connection.close()
    assert dump() == before
    files = {"bot.db", "bot.db-wal", "bot.db-shm"}
    assert set(os.listdir(tmp_path)) <= files  # noqa: PTH208 - in a coroutine


# What a terminal would obey, or take for a line of ours: a new title, a clear screen.
ESCAPES = "evil\x1b]0;pwned\x07\x1b[2J\nforged\u202e"


class _Named:
    """Makes a pickle ask for a global of a hostile name."""

    def __reduce__(self) -> Any:
        return eval, ("NAME",)


def pickled() -> bytes:
    name = ESCAPES.encode()
    head, _, tail = pickle.dumps({"user_data": {1: {"a": _Named()}}}, 4).partition(
        b"\x8c\x04eval"
    )
    # Without the frame, which has a length.
    return (head + b"\x8c" + bytes([len(name)]) + name + tail).replace(
        head[2:11], b"", 1
    )


def test_no_terminal_obeys_what_is_printed(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").write_bytes(pickled())
    url = f"{redis_server.url}/8"
    with Redis(port=redis_server.port, db=8) as client:
        client.flushdb()
        client.set(f"fsm:1:2:{ESCAPES}:state", "s")
        for line in (
            ["ptb-pickle", str(tmp_path / "p")],
            ["aiogram-redis", url, "--bot", "7", "--with-destiny"],
        ):
            main(["import-from", *line, "--store", "memory://"])
            printed = capsys.readouterr().out
            assert "evil\\x1b]0;pwned\\x07\\x1b[2J\\nforged\\u202e" in printed
            assert all(text.isprintable() for text in printed.split("\n"))
        client.flushdb()
