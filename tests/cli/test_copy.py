"""Copying a store: exactly, again and again, from a source in use, over what is there.

Between the real backends, both ways. ``tests/test_transfer.py`` has the decisions.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
import pytest
import redis

from botsessions import (
    CorruptRecordError,
    Record,
    SessionKey,
    SessionStore,
    SQLiteBackend,
    Version,
    open_store,
)
from botsessions.transfer.side import Side
from tests.cli.test_process import on_a_terminal
from tests.cli.tool import COMMAND, ENVIRONMENT, PATIENCE
from tests.test_codec import ONE_OF_EACH, OWN, Step, same

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Iterator

    from tests.cli.conftest import Cli, Sessions
    from tests.servers.postgres import PostgresServer
    from tests.servers.redis import RedisServer

ADA, BOB, EVE = (SessionKey(chat_id=number) for number in (1, 2, 3))
HOSTILE = [
    SessionKey(chat_id="a/b=c d%\u00fc\U0001f600'\"\\", user_id=-1, name="\x7f\x00"),
    SessionKey(chat_id="30"),
    SessionKey(chat_id=30),
    SessionKey(chat_id=-(2**63), user_id=2**63 - 1, guest=True),
    SessionKey(name="x" * 256, chat_id="y" * 256, business_connection_id="z" * 256),
    SessionKey(name="~"),
]
_numbers = itertools.count(1)


class Ends(NamedTuple):
    """The URLs of two stores that are empty, or not there yet."""

    source: str
    destination: str


def place(kind: str, name: str, request: pytest.FixtureRequest, where: Path) -> str:
    """Return the URL of a store that is empty, or not there yet."""
    if kind == "sqlite":
        return f"sqlite:///{where / name}.db"
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return f"{server.dsn}?table=copy_{name}_{next(_numbers)}"
    redis_server: RedisServer = request.getfixturevalue("redis_server")
    database = 1 + next(_numbers) % 15
    with redis.Redis(port=redis_server.port, db=database) as client:
        client.flushdb()
    return f"{redis_server.url}/{database}"


PAIRS = [
    "sqlite to sqlite",
    "sqlite to postgres",
    "postgres to sqlite",
    "sqlite to redis",
    "redis to postgres",
]


@pytest.fixture(params=PAIRS)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Ends:
    one, _, other = request.param.split()
    return Ends(
        place(one, "source", request, tmp_path),
        place(other, "destination", request, tmp_path),
    )


@pytest.fixture
def files(tmp_path: Path) -> Ends:
    return Ends(*(f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")))


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[tuple[SessionStore, Side]]:
    async with open_store(url, **options) as store:
        yield store, Side(store._backend, options.get("namespace", "sessions"))


async def records(url: str, **options: Any) -> dict[str, Record]:
    async with opened(url, **options) as (_, side):
        return {key: record async for key, record, _ in side.records()}


async def sessions_in(url: str) -> dict[SessionKey, Any]:
    async with open_store(url) as store:
        return {key: session async for key, session in store.items()}


async def put(url: str, *keys: SessionKey, **session: Any) -> None:
    async with open_store(url) as store:
        await asyncio.gather(*(store.put(key, session) for key in keys))


async def forget(url: str, key: SessionKey) -> None:
    """Delete a session, and all trace of it, as a sweep a minute later would."""
    async with opened(url) as (store, side):
        await store.delete(key)

        def long_dead(_: str, there: Record | None, now: int) -> Record:
            assert there is not None
            version = Version(there.version.counter + 1, 0)
            return there._replace(version=version, expires_at=now - 61_000)

        await side.replace([str(key)], long_dead)
        await store.delete_expired()
    assert str(key) not in await records(url)


def without_rings(found: dict[str, Record]) -> dict[str, Record]:
    return {key: record._replace(ring=b"") for key, record in found.items()}


# Exactly.


def test_a_copy_is_exact(cli: Cli, ends: Ends) -> None:
    async def fill() -> None:
        async with open_store(ends.source, types=OWN) as store:
            await store.put(ADA, ONE_OF_EACH)
            await store.put(BOB, {"step": Step.NAME})
            await store.put(EVE, {})
            for number, key in enumerate(HOSTILE):
                await store.put(key, {"n": number})
                await store.update(key, lambda s: {**s, "changed": True})
        async with open_store(ends.source, ttl=3600.345) as store:
            await store.put(SessionKey(user_id=1), {"short": 1})

    async def check() -> None:
        source, there = await records(ends.source), await records(ends.destination)
        # Version, creation and end to the millisecond, and the very bytes.
        assert without_rings(there) == without_rings(source)
        assert len(there) == 4 + len(HOSTILE)
        assert there["user=1"].expires_at == there["user=1"].created_at + 3_600_345
        async with open_store(ends.destination, types=OWN) as store:
            assert same(await store.get(ADA), ONE_OF_EACH)
            assert (await store.get(BOB)) == {"step": Step.NAME}
            for number, key in enumerate(HOSTILE):
                assert await store.get(key) == {"n": number, "changed": True}
                await store.update(key, lambda s: {**s, "again": True})

    asyncio.run(fill())
    result = cli("copy", *ends, "--json")
    assert (result.code, result.err) == (0, "")
    document = result.document
    source, destination = document["source"], document["destination"]
    assert source["sessions"] == destination["sessions"] == 4 + len(HOSTILE)
    assert source["checksum"] == destination["checksum"]
    assert (document["copied"], document["passes"]) == (4 + len(HOSTILE), 2)
    asyncio.run(check())


def test_a_damaged_session_is_copied_as_it_is(
    cli: Cli, sessions: Sessions, files: Ends
) -> None:
    sessions.put({ADA: {"n": 1}, BOB: {"n": 2}})
    sessions.spoil(ADA)
    assert cli("copy", "sqlite:///bot.db", files.destination).code == 0

    async def check() -> None:
        async with open_store(files.destination) as store:
            assert await store.get(BOB) == {"n": 2}
            with pytest.raises(CorruptRecordError):
                await store.get(ADA)

    asyncio.run(check())
    assert asyncio.run(records(files.destination))["chat=1"].value == b"junk"


def test_a_namespace_is_copied_alone(cli: Cli, files: Ends) -> None:
    source, destination = files
    for name in ("shop", "shop.2", "sessions"):
        arguments = ("--store", source, "--namespace", name)
        assert cli("put", "chat=1", f'{{"of": "{name}"}}', *arguments).code == 0
    result = cli("copy", *files, "--namespace", "shop", "--json")
    assert (result.code, result.document["copied"]) == (0, 1)
    assert asyncio.run(records(destination)) == {}
    assert len(asyncio.run(records(destination, namespace="shop"))) == 1
    assert asyncio.run(records(destination, namespace="shop.2")) == {}


def test_what_is_dead_is_not_copied(cli: Cli, files: Ends) -> None:
    async def fill() -> None:
        an_hour_ago = SQLiteBackend(
            files.source.removeprefix("sqlite:///"), clock=lambda: time.time() - 3600
        )
        async with SessionStore(an_hour_ago, ttl=60) as store:
            await store.put(ADA, {"expired": True})
            await store.put(BOB, {"deleted": True})
            await store.delete(BOB)
        await put(files.source, EVE, n=1)

    asyncio.run(fill())
    document = cli("copy", *files, "--json").document
    assert document["source"]["sessions"] == document["copied"] == 1
    assert list(asyncio.run(records(files.destination))) == ["chat=3"]


@pytest.mark.parametrize("number", [0, 1, 256, 257, 500, 501, 1_100])
def test_any_number_is_copied_and_counted(cli: Cli, files: Ends, number: int) -> None:
    asyncio.run(put(files.source, *(SessionKey(chat_id=n) for n in range(number)), n=1))
    document = cli("copy", *files, "--json").document
    assert document["copied"] == document["destination"]["sessions"] == number
    assert document["passes"] == (2 if number else 1)
    again = cli("copy", *files, "--json").document
    assert (again["copied"], again["replaced"], again["passes"]) == (0, 0, 1)
    assert again["destination"] == document["destination"]


def test_the_checksum_sees_keys_contents_and_ends(cli: Cli, files: Ends) -> None:
    def checksum() -> str:
        result = cli("copy", *files, "--json").document
        assert result["source"]["checksum"] == result["destination"]["checksum"]
        found: str = result["source"]["checksum"]
        return found

    async def expire() -> None:
        async with open_store(files.source, ttl=3600) as store:
            await store.put(BOB, {"n": 2})

    asyncio.run(put(files.source, ADA, n=1))
    seen = [checksum()]
    asyncio.run(put(files.source, BOB, n=1))
    seen.append(checksum())
    asyncio.run(put(files.source, BOB, n=2))
    seen.append(checksum())
    asyncio.run(expire())
    seen.append(checksum())
    assert len(set(seen)) == 4


# Again.


def test_a_second_copy_catches_up(cli: Cli, ends: Ends) -> None:
    changed, often, deleted, vanished, reborn, new, still = (
        SessionKey(chat_id=number) for number in range(7)
    )
    expected = {changed: {"n": 2}, often: {"n": 29}, reborn: {"n": 39}}
    expected |= {new: {"n": 1}, still: {"n": 1}}

    async def change() -> None:
        async with open_store(ends.source) as store:
            await store.put(changed, {"n": 2})
            # Longer than the ring of any record remembers.
            for number in range(30):
                await store.put(often, {"n": number})
            await store.delete(deleted)
            await store.delete(reborn)
            for number in range(40):
                await store.put(reborn, {"n": number})
            await store.put(new, {"n": 1})
        await forget(ends.source, vanished)

    keys = (changed, often, deleted, vanished, reborn, still)
    asyncio.run(put(ends.source, *keys, n=1))
    assert cli("copy", *ends).code == 0
    asyncio.run(change())
    document = cli("copy", *ends, "--json").document
    assert [document[what] for what in ("copied", "replaced", "removed")] == [1, 3, 2]
    assert asyncio.run(sessions_in(ends.destination)) == expected
    assert document["source"]["checksum"] == document["destination"]["checksum"]


def test_what_vanished_and_comes_back_is_copied_again(cli: Cli, files: Ends) -> None:
    for number in range(3):
        asyncio.run(put(files.source, ADA, n=number))
        assert cli("copy", *files).code == 0
        assert asyncio.run(sessions_in(files.destination)) == {ADA: {"n": number}}
        asyncio.run(forget(files.source, ADA))
        assert cli("copy", *files).code == 0
        assert asyncio.run(sessions_in(files.destination)) == {}


def test_the_way_back(cli: Cli, ends: Ends) -> None:
    source, destination = ends
    asyncio.run(put(source, ADA, BOB, n=1))
    assert cli("copy", source, destination).code == 0
    asyncio.run(put(destination, ADA, EVE, n=2))
    assert cli("copy", destination, source).code == 0
    expected = {ADA: {"n": 2}, BOB: {"n": 1}, EVE: {"n": 2}}
    assert asyncio.run(sessions_in(source)) == expected


def test_a_copy_of_a_copy_follows_the_first(cli: Cli, files: Ends) -> None:
    first, second = files
    third = f"{second}3.db"
    asyncio.run(put(first, ADA, BOB, n=1))
    for pair in ((first, second), (second, third)):
        assert cli("copy", *pair).code == 0
    for number in range(20):
        asyncio.run(put(first, ADA, n=number))
    asyncio.run(forget(first, BOB))
    for pair in ((first, third), (first, second)):
        assert cli("copy", *pair).code == 0
        assert asyncio.run(sessions_in(pair[1])) == {ADA: {"n": 19}}


# Over what is there.


def test_sessions_of_the_destination_stay(cli: Cli, ends: Ends) -> None:
    both, only, later, gone = (SessionKey(chat_id=number) for number in range(4))
    asyncio.run(put(ends.source, both, later, gone, n=1))
    asyncio.run(put(ends.destination, both, only, n="own"))
    result = cli("copy", *ends, "--json")
    assert (result.code, result.document["own"], result.document["extra"]) == (3, 1, 1)
    assert result.err.startswith("botsessions: chat=0: what the destination has does n")
    assert result.err.count("\n") == 1

    async def use() -> None:
        await put(ends.destination, later, n="later")
        async with open_store(ends.destination) as store:
            await store.delete(gone)

    asyncio.run(use())
    assert cli("copy", *ends, "--json").document["ahead"] == 2
    for _ in range(20):
        asyncio.run(put(ends.source, later, gone, n="changed here, too"))
    result = cli("copy", *ends, "--json")
    assert (result.code, result.document["own"]) == (3, 3)
    expected = {both: {"n": "own"}, only: {"n": "own"}, later: {"n": "later"}}
    assert asyncio.run(sessions_in(ends.destination)) == expected


def test_two_sources_do_not_take_each_other_s_place(cli: Cli, files: Ends) -> None:
    one, two = files
    common = f"{one}.common.db"
    asyncio.run(put(one, ADA, BOB, n=1))
    asyncio.run(put(two, ADA, EVE, n=2))
    assert cli("copy", one, common).code == 0
    assert cli("copy", two, common).code == 3
    for source in (one, two):
        cli("copy", source, common)
        expected = {ADA: {"n": 1}, BOB: {"n": 1}, EVE: {"n": 2}}
        assert asyncio.run(sessions_in(common)) == expected


def test_a_new_file_under_the_old_name_removes_nothing(
    cli: Cli, files: Ends, tmp_path: Path
) -> None:
    asyncio.run(put(files.source, ADA, BOB, n=1))
    assert cli("copy", *files).code == 0
    for file in tmp_path.glob("one.db*"):
        file.unlink()
    asyncio.run(put(files.source, EVE, n=2))
    result = cli("copy", *files, "--json")
    assert (result.code, result.document["extra"]) == (0, 2)
    one, other = result.document["source"], result.document["destination"]
    assert (one["sessions"], other["sessions"]) == (1, 1)
    assert one["checksum"] == other["checksum"]
    expected = {ADA: {"n": 1}, BOB: {"n": 1}, EVE: {"n": 2}}
    assert asyncio.run(sessions_in(files.destination)) == expected


def test_one_of_two_damaged_copies_is_reported(cli: Cli, files: Ends) -> None:
    asyncio.run(put(files.source, ADA, n=1))
    assert cli("copy", *files).code == 0
    database = apsw.Connection(files.destination.removeprefix("sqlite:///"))
    database.execute("UPDATE botsessions SET b = x'00'")
    database.close()
    result = cli("copy", *files, "--json")
    assert (result.code, result.document["own"]) == (3, 1)
    document = result.document
    assert document["source"]["checksum"] != document["destination"]["checksum"]
    assert cli("put", "chat=1", '{"n": 2}', "--store", files.source).code == 0
    assert cli("copy", *files).code == 0
    assert asyncio.run(sessions_in(files.destination)) == {ADA: {"n": 2}}


def test_only_twenty_are_named(cli: Cli, files: Ends) -> None:
    keys = [SessionKey(chat_id=number) for number in range(30)]
    for url in files:
        asyncio.run(put(url, *keys, n=1))
    result = cli("copy", *files)
    assert result.code == 3
    assert result.err.count("\n") == 21
    assert "there are more such sessions" in result.err
    assert "the destination's own  30" in result.out


# A source that takes no writes.


def test_a_source_that_is_read_only_can_be_copied(
    cli: Cli, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = f"{postgres_server.dsn}?table=readonly_{next(_numbers)}"
    only = f"{url}&options=-c%20default_transaction_read_only%3Don"
    there = f"sqlite:///{tmp_path}/there.db"
    asyncio.run(put(url, ADA, BOB, n=1))
    result = cli("copy", only, there)
    assert result.code == 0
    assert "could not be given a name" in result.err
    asyncio.run(put(url, ADA, n=2))
    assert cli("copy", only, there).code == 0
    assert asyncio.run(sessions_in(there)) == {ADA: {"n": 2}, BOB: {"n": 1}}


# While the source is in use, and when it ends in the middle.

WRITER = """
import asyncio, random, sys
from pathlib import Path
from botsessions import SessionKey, open_store

async def use(url, stop):
    rng = random.Random(1)
    async with open_store(url, ttl=3600) as store:
        number = 0
        while not stop.exists():
            number += 1
            key = SessionKey(chat_id=rng.randrange(3_000))
            if rng.random() < 0.1:
                await store.delete(key)
            else:
                await store.update(key, lambda s: {**s, "n": number})
            if number % 200 == 0:
                Path("pace").write_text(str(number))

asyncio.run(use(sys.argv[1], Path("stop")))
"""


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


def start(where: Path, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )


def test_a_source_in_use_is_caught_up_with(
    cli: Cli, ends: Ends, tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    asyncio.run(put(ends.source, *(SessionKey(chat_id=n) for n in range(2_000)), n=0))
    writer = start(tmp_path, sys.executable, "-c", WRITER, ends.source)
    children.append(writer)
    until = time.monotonic() + PATIENCE
    while not (tmp_path / "pace").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    live = [cli("copy", *ends, "--json") for _ in range(2)]
    for result in live:
        assert result.code == 0
        if result.document["to_do"]:
            assert "the source is in use" in result.err
    assert live[0].document["passes"] >= 3
    assert live[1].document["replaced"] > 0
    (tmp_path / "stop").touch()
    assert writer.communicate(timeout=PATIENCE) == (b"", b"")
    last = cli("copy", *ends, "--json")
    assert (last.code, last.err) == (0, "")
    document = last.document
    assert document["to_do"] == document["own"] == document["ahead"] == 0
    assert document["source"]["checksum"] == document["destination"]["checksum"]
    there = asyncio.run(sessions_in(ends.destination))
    assert there == asyncio.run(sessions_in(ends.source))
    assert len(there) == document["destination"]["sessions"]


def test_a_destination_in_use_keeps_its_changes(
    cli: Cli, files: Ends, tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    keys = [SessionKey(chat_id=n) for n in range(3_000)]
    asyncio.run(put(files.source, *keys, of="source"))
    writer = start(tmp_path, sys.executable, "-c", WRITER, files.destination)
    children.append(writer)
    until = time.monotonic() + PATIENCE
    while not (tmp_path / "pace").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    for number in range(3):
        assert cli("copy", *files).code in {0, 3}
        asyncio.run(put(files.source, *keys[::3], of="source", n=number))
    (tmp_path / "stop").touch()
    assert writer.communicate(timeout=PATIENCE) == (b"", b"")
    before = asyncio.run(sessions_in(files.destination))
    changed = {key: session for key, session in before.items() if "n" in session}
    own = {key: s for key, s in changed.items() if s["n"] > 2}
    assert len(own) > 100
    assert cli("copy", *files).code == 3
    after = asyncio.run(sessions_in(files.destination))
    assert {key: after[key] for key in own} == own
    assert set(map(str, keys)) >= set(map(str, after))


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_a_copy_that_is_killed_goes_on(
    cli: Cli,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    rng: random.Random,
    children: list[subprocess.Popen[bytes]],
    kind: str,
) -> None:
    number = 6_000
    source = f"sqlite:///{tmp_path}/source.db?durability=normal"
    destination = place(kind, "destination", request, tmp_path)

    async def fill() -> None:
        async with open_store(source) as store:
            await asyncio.gather(
                *(store.put(SessionKey(chat_id=n), {"n": n}) for n in range(number))
            )

    asyncio.run(fill())
    seen = 0
    for _ in range(4):
        child = start(tmp_path, *COMMAND, "copy", source, destination)
        children.append(child)
        goal = seen + rng.randrange(1, 900)
        until = time.monotonic() + PATIENCE
        while len(asyncio.run(records(destination))) < goal and child.poll() is None:
            assert time.monotonic() < until
        child.send_signal(signal.SIGKILL)
        child.communicate()
        found = asyncio.run(records(destination))
        assert len(found) >= seen
        seen = len(found)
    assert seen > 0
    result = cli("copy", source, destination, "--json")
    assert (result.code, result.err) == (0, "")
    document = result.document
    assert document["copied"] == number - seen
    assert document["source"]["checksum"] == document["destination"]["checksum"]
    there = asyncio.run(records(destination))
    assert without_rings(there) == without_rings(asyncio.run(records(source)))


# The command line.


def test_a_terminal_shows_which_pass_it_is(cli: Cli, files: Ends) -> None:
    asyncio.run(put(files.source, *(SessionKey(chat_id=n) for n in range(9_000)), n=1))
    code, seen = on_a_terminal(Path.cwd(), "copy", *files)
    assert code == 0
    assert re.search(r"pass 1: [\d,]+ sessions", seen)
    assert "copied    9,000" in seen


def test_ctrl_c_stops_a_copy_that_goes_on_later(
    cli: Cli, tmp_path: Path, children: list[subprocess.Popen[bytes]], files: Ends
) -> None:
    asyncio.run(put(files.source, *(SessionKey(chat_id=n) for n in range(12_000)), n=1))
    child = start(tmp_path, *COMMAND, "copy", *files)
    children.append(child)
    until = time.monotonic() + PATIENCE
    while not asyncio.run(records(files.destination)):
        assert time.monotonic() < until
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=PATIENCE) == (b"", b"botsessions: interrupted\n")
    assert child.returncode == 130
    document = cli("copy", *files, "--json").document
    assert 0 < document["copied"] < document["source"]["sessions"] == 12_000


def test_a_copy_says_what_it_did(cli: Cli, tmp_path: Path) -> None:
    assert cli("put", "chat=1", "{}", "--store", "sqlite:///one.db").code == 0
    result = cli("copy", "sqlite:///one.db", "sqlite:///two.db?durability=normal")
    assert (result.code, result.err) == (0, "")
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0][0] == lines[1][0]
    assert [lines[0][1:], lines[1][1:]] == [
        ["1", "sqlite:///one.db"],
        ["1", "sqlite:///two.db"],
    ]
    assert lines[2:] == [
        ["copied", "1"],
        ["replaced", "0"],
        ["removed", "0"],
        ["passes", "2"],
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sqlite:///one.db"],
        ["sqlite:///one.db", "sqlite:///one.db"],
        ["sqlite:///one.db", "sqlite:///./one.db?durability=normal"],
        ["postgresql://a@host/x", "postgresql://b:hunter2@host/x"],
        ["postgresql://a:1,b:2/x", "postgresql://c@a:1,b:2/x"],
        ["memory://", "sqlite:///one.db"],
        ["sqlite:///one.db", "memory://"],
        ["sqlite:///one.db", "nonsense://x"],
        ["sqlite:///one.db", "sqlite:///two.db", "--namespace", "a/b"],
        ["sqlite:///one.db", "sqlite:///two.db", "--store", "sqlite:///three.db"],
    ],
)
def test_a_wrong_copy_is_refused(
    cli: Cli, arguments: list[str], tmp_path: Path
) -> None:
    result = cli("copy", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("botsessions: ")
    assert result.err.endswith("; see botsessions copy --help\n")
    assert "hunter2" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_there_makes_no_destination(
    cli: Cli, files: Ends, tmp_path: Path
) -> None:
    result = cli("copy", *files)
    assert (result.code, result.out) == (1, "")
    assert "there is no database" in result.err
    assert list(tmp_path.iterdir()) == []
