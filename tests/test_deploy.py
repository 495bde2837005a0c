"""The commands of docs/deploy.md, each run as it stands there, on real servers."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from tests.conftest import need_redis
from tests.servers.postgres import PostgresServer, aside, free_port, programs
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
BLOCKS = re.findall(r"<!-- tried: ([\w ]+) -->\n```sh\n([^`]*)```", PAGE.read_text())
KEYS = [bs.SessionKey(chat_id=number) for number in range(100)]


def blocks(name: str) -> list[str]:
    found = [block for tried, block in BLOCKS if tried == name]
    assert found, name
    return found


def run(block: str, directory: Path, **names: str) -> None:
    """Run a block as a shell would, with our programs in its path."""
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    there = programs()
    if there is not None:
        path.append(str(there))
    environment = {**os.environ, **names, "PATH": ":".join(path)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def fill(url: str) -> None:
    async def put() -> None:
        async with bs.open_store(url) as store:
            await asyncio.gather(*(store.put(k, {"id": k.chat_id}) for k in KEYS))

    aside(put())


def spoil(url: str) -> None:
    async def change() -> None:
        async with bs.open_store(url) as store:
            await asyncio.gather(*(store.put(k, {"id": "lost"}) for k in KEYS[:50]))
            await asyncio.gather(*(store.delete(k) for k in KEYS[50:]))

    aside(change())


def kept(url: str) -> dict[Any, Any]:
    async def read() -> dict[Any, Any]:
        async with bs.open_store(url) as store:
            # It can be changed as before, too.
            await store.update(KEYS[0], dict)
            return {key: session["id"] async for key, session in store.items()}

    return aside(read())


WHOLE = {key: key.chat_id for key in KEYS}


def test_sqlite(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    fill(store)
    for block in blocks("sqlite"):
        run(block, tmp_path, STORE=store)
    assert kept(f"sqlite:///{tmp_path / 'restored.db'}") == WHOLE


@pytest.fixture
def own_database(postgres_server: PostgresServer) -> Iterator[str]:
    postgres_server.execute("CREATE DATABASE deployed", "SELECT 1")
    yield postgres_server.dsn.replace("/postgres", "/deployed")
    postgres_server.execute("DROP DATABASE deployed", "SELECT 1")


def test_postgres(own_database: str, tmp_path: Path) -> None:
    fill(own_database)
    dumped = False
    for block in blocks("postgres"):
        for line in re.sub(r"\\\n", "", block).splitlines():
            run(line, tmp_path, DATABASE_URL=own_database)
            if line.startswith("pg_dump"):
                dumped = True
                spoil(own_database)
    assert dumped
    assert kept(own_database) == WHOLE


def test_redis(tmp_path: Path) -> None:
    need_redis()
    server = RedisServer(tmp_path / "redis")
    port = str(free_port())
    try:
        fill(server.url)
        for block in blocks("redis"):
            run(block, tmp_path, REDIS_URL=server.url)
        for block in blocks("redis restored"):
            run(block, tmp_path, NEW_PORT=port)
        assert kept(f"redis://127.0.0.1:{port}") == WHOLE
        run(f"redis-cli -p {port} INFO persistence | grep aof_enabled:1", tmp_path)
    finally:
        server.stop()
        # Also while it writes its first append-only file.
        run(f"redis-cli -p {port} SHUTDOWN NOSAVE FORCE", tmp_path)


async def test_a_store_keeps_at_most_three_connections(
    postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    redis_server.empty()
    postgres = f"{postgres_server.dsn}?schema=counted&application_name=counted"
    for url in (postgres, f"{redis_server.url}?client_name=counted"):
        async with bs.open_store(url) as store:
            for _ in range(5):
                await asyncio.gather(
                    *(store.update(key, dict) for key in KEYS),
                    *(store.get(key) for key in KEYS),
                )
            [(count,)] = await asyncio.to_thread(
                postgres_server.execute,
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'counted'",
            )
            clients = await asyncio.to_thread(redis_server.execute, "CLIENT", "LIST")
            assert 2 <= count + clients.count("name=counted") <= 3
