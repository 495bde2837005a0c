"""What aiogram, python-telegram-bot and telebot wrote, their adapters here find."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import redis as driver
import telebot.asyncio_storage
import telebot.storage
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import DefaultKeyBuilder, StorageKey
from aiogram.fsm.storage.redis import RedisStorage
from telebot import states as telebot_states
from telegram import Update
from telegram.ext import (
    Application,
    CommandHandler,
    ConversationHandler,
    MessageHandler,
    PersistenceInput,
    PicklePersistence,
    filters,
)
from telegram.request import BaseRequest

from botsessions import SessionKey, open_store
from botsessions.adapters.aiogram import SessionStorage
from botsessions.adapters.telebot import AsyncSessionStateStorage
from botsessions.adapters.telegram import SessionPersistence
from botsessions.cli.imports.aiogram import Layout
from botsessions.cli.imports.layouts import (
    BOT,
    BUSINESS,
    CHAT,
    NAME,
    TOPIC,
    USER,
    is_separator,
    readings,
)
from botsessions.cli.imports.redis import check_url, ends_in
from tests.cli.test_commands import is_one_line
from tests.cli.test_process import on_a_terminal
from tests.cli.tool import ENVIRONMENT, PATIENCE, ROOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.cli.conftest import Cli, Sessions
    from tests.servers.postgres import PostgresServer
    from tests.servers.redis import RedisServer

PAGE = (ROOT / "docs" / "import.md").read_text()
LOCAL = "redis://localhost:6379/0"
BOT_ID = 77
DRY = "this was a dry run, nothing is written; to do it add --write"
NO_DRIVER = (
    "to read from Redis takes redis; install it with: pip install 'botsessions[redis]'"
)
_databases = count()


@pytest.fixture
def theirs(redis_server: RedisServer) -> str:
    """Return the URL of an empty database, in which another library keeps its own."""
    url = f"{redis_server.url}/{1 + next(_databases) % 15}"
    with driver.Redis.from_url(url) as client:
        client.flushdb()
    return url


def everything(path: Path) -> dict[str, Any]:
    """Return all sessions of a SQLite store."""

    async def read() -> dict[str, Any]:
        async with open_store(f"sqlite:///{path}") as store:
            return {str(key): session async for key, session in store.items()}

    return asyncio.run(read())


def with_store(path: Path, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with open_store(f"sqlite:///{path}") as store:
            return await work(store)

    return asyncio.run(run())


# aiogram


class Form(StatesGroup):
    name = State()


DATA = {"n": 1, "cart": [{"id": 5, "price": 1.5}, None, True, "ä😀"], "30": {}}
PLAIN = {
    StorageKey(bot_id=BOT_ID, chat_id=1, user_id=1): (Form.name, DATA),
    StorageKey(bot_id=BOT_ID, chat_id=-1001234567890, user_id=2): ("X:y", {}),
    StorageKey(bot_id=BOT_ID, chat_id=2**52, user_id=2**52): (None, {"only": "data"}),
}
TOPICS = {
    StorageKey(bot_id=BOT_ID, chat_id=-100, user_id=2, thread_id=5): (Form.name, DATA),
    StorageKey(bot_id=BOT_ID, chat_id=-100, user_id=2, thread_id=6): ("X:y", {"n": 2}),
}
BOTS = {
    StorageKey(bot_id=BOT_ID, chat_id=1, user_id=1): ("A", {"n": 1}),
    StorageKey(bot_id=BOT_ID + 1, chat_id=1, user_id=1): ("B", {"n": 2}),
}
DESTINIES = {
    StorageKey(bot_id=BOT_ID, chat_id=1, user_id=1): ("A", {"n": 1}),
    StorageKey(bot_id=BOT_ID, chat_id=1, user_id=1, destiny="aiogd:context:Ab1:x"): (
        None,
        {"n": 2},
    ),
    StorageKey(bot_id=BOT_ID, chat_id=1, user_id=1, destiny="scenes_history"): (
        None,
        {"history": [1]},
    ),
}
BUSINESSES = {
    StorageKey(bot_id=BOT_ID, chat_id=1, user_id=1): ("A", {"n": 1}),
    StorageKey(bot_id=BOT_ID, chat_id=1, user_id=1, business_connection_id="Ab_c-9"): (
        "B",
        {"n": 2},
    ),
}
THIS_BOT = ["--bot", str(BOT_ID)]
# What is kept → how the key builder was told, and the command.
SETTINGS: dict[str, tuple[dict[Any, Any], dict[str, Any], list[str]]] = {
    "the default": (PLAIN, {}, THIS_BOT),
    "a prefix": (
        PLAIN,
        {"prefix": "my*[bot]", "separator": "|"},
        [*THIS_BOT, "--prefix", "my*[bot]", "--separator", "|"],
    ),
    "topics": ({**PLAIN, **TOPICS}, {}, [*THIS_BOT, "--with-thread-id"]),
    "bots": (BOTS, {"with_bot_id": True}, ["--with-bot-id"]),
    "destinies": (DESTINIES, {"with_destiny": True}, [*THIS_BOT, "--with-destiny"]),
    "businesses": (
        BUSINESSES,
        {"with_business_connection_id": True},
        [*THIS_BOT, "--with-business-connection-id"],
    ),
    "all of it": (
        {**PLAIN, **BOTS, **DESTINIES, **BUSINESSES, **TOPICS},
        {
            "with_bot_id": True,
            "with_destiny": True,
            "with_business_connection_id": True,
        },
        [
            "--with-bot-id",
            "--with-destiny",
            "--with-business-connection-id",
            "--with-thread-id",
        ],
    ),
}


def write_aiogram(
    url: str, kept: dict[StorageKey, Any], ttl: int | None = None, **builder: Any
) -> None:
    """Keep states and data as a bot with aiogram does."""

    async def write() -> None:
        keys = DefaultKeyBuilder(**builder)
        storage = RedisStorage.from_url(url, key_builder=keys, state_ttl=ttl)
        for key, (state, data) in kept.items():
            await storage.set_state(key, state)
            await storage.set_data(key, data)
        async with storage.create_isolation().lock(next(iter(kept))):
            pass
        await storage.close()

    asyncio.run(write())


def command_of(url: str, *options: str) -> tuple[str, ...]:
    return ("import-from", "aiogram-redis", url, *options)


@pytest.mark.parametrize("setting", SETTINGS)
def test_aiogram_finds_what_it_kept_in_redis(
    cli: Cli, tmp_path: Path, theirs: str, setting: str
) -> None:
    kept, builder, options = SETTINGS[setting]
    write_aiogram(theirs, kept, **builder)
    result = cli(*command_of(theirs, *options, "--write", "--json"))
    assert (result.code, result.err) == (0, "")
    assert result.document == {
        "source": theirs,
        "written": True,
        "found": len(kept),
        "imported": len(kept),
        "present": 0,
        "different": 0,
        "expired": 0,
        "left": 0,
        "refused": {},
        "problems": [],
        "changes": [],
    }

    async def look(store: Any) -> None:
        storage = SessionStorage(store)
        for key, (state, data) in kept.items():
            name = state.state if isinstance(state, State) else state
            assert await storage.get_state(key) == name
            assert await storage.get_data(key) == data
        assert len([key async for key in store.keys()]) == len(kept)

    with_store(tmp_path / "bot.db", look)


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_into_any_store(
    cli: Cli, request: pytest.FixtureRequest, theirs: str, kind: str
) -> None:
    """Also into the Redis database that it comes from."""
    write_aiogram(theirs, PLAIN)
    url = theirs
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = f"{server.dsn}?table=imported"
    command = [*command_of(theirs, *THIS_BOT), "--store", url, "--json"]
    for mode, outcome in (
        ([], "imported"),
        ([], "imported"),
        (["--write"], "imported"),
        ([], "present"),
        (["--write"], "present"),
    ):
        result = cli(*command, *mode)
        assert (result.code, result.document[outcome]) == (0, 3)
    listed = cli("list", "--store", url, "--json").out.splitlines()
    assert len(listed) == 3


def test_redis_is_not_changed_and_a_dry_run_comes_first(
    cli: Cli, tmp_path: Path, theirs: str
) -> None:
    write_aiogram(theirs, PLAIN)
    with driver.Redis.from_url(theirs) as client:
        client.set("fsm:1:1:lock", "of a RedisEventIsolation, while a handler runs")
        before = {key: client.dump(key) for key in client.scan_iter()}
        result = cli(*command_of(theirs, *THIS_BOT))
        assert (result.code, result.err) == (
            0,
            f"botsessions: {DRY}\n",
        )
        assert re.search(r"^  to import +3$", result.out, re.MULTILINE)
        assert "fsm:1:1 is chat=1/user=1/bot=77/name=aiogram\n" in result.out
        assert list(tmp_path.iterdir()) == []
        assert cli(*command_of(theirs, *THIS_BOT, "--write")).code == 0
        assert {key: client.dump(key) for key in client.scan_iter()} == before


def test_twice_is_once_and_what_is_there_stays(
    cli: Cli, tmp_path: Path, sessions: Sessions, theirs: str
) -> None:
    write_aiogram(theirs, PLAIN)
    ours = SessionKey(chat_id=1, user_id=1, bot_id=BOT_ID, name="aiogram")
    sessions.put({ours: {"state": "Newer"}})
    for mode in ([], ["--write"], ["--write"], []):
        before = everything(tmp_path / "bot.db")
        result = cli(*command_of(theirs, *THIS_BOT, "--json", *mode))
        assert result.code == 3
        assert f"fsm:1:1: the store has another {ours}, which stays" in result.err
        summary = result.document
        assert summary["different"] == 1
        assert summary["imported"] + summary["present"] == 2
        after = everything(tmp_path / "bot.db")
        assert len(after) == 3 if mode else after == before
    assert summary["present"] == 2
    assert everything(tmp_path / "bot.db")[str(ours)] == {"state": "Newer"}


def test_sessions_end_when_they_would_have_ended(
    cli: Cli, tmp_path: Path, theirs: str
) -> None:
    write_aiogram(theirs, {key: ("A", {}) for key in PLAIN}, ttl=1000)
    with driver.Redis.from_url(theirs) as client:
        client.set("fsm:1:1:data", '{"n": 1}', ex=2000)  # later than the state
        client.set("fsm:4503599627370496:4503599627370496:data", '{"n": 1}')
    assert cli(*command_of(theirs, *THIS_BOT, "--write")).code == 0
    lines = cli("export", "-").out.splitlines()
    ends = {}
    for line in map(json.loads, lines):
        end = line["expires_at"]
        ends[line["key"].partition("/")[0]] = end and end - line["created_at"]
    assert ends.pop("chat=4503599627370496") is None
    assert ends.pop("chat=1") == pytest.approx(2_000_000, abs=5000)
    assert ends.pop("chat=-1001234567890") == pytest.approx(1_000_000, abs=5000)


def test_ends_of_two_keys() -> None:
    assert ends_in(-2, -2) is None
    assert ends_in(-1, 5) is ends_in(5, -1) is ends_in(-1, -2) is None
    assert ends_in(-2, 5) == ends_in(5, -2) == ends_in(3, 5) == 5


def test_what_aiogram_cannot_have_written_is_named_and_left_out(
    cli: Cli, tmp_path: Path, theirs: str
) -> None:
    write_aiogram(theirs, {**PLAIN, **TOPICS})
    with driver.Redis.from_url(theirs) as client:
        for key, value in {
            "fsm:5:5:data": "{",
            "fsm:6:6:data": "[1]",
            "fsm:7:7:data": "[" * 100_000,
            "fsm:8:8:state": b"\xff",
            "fsm:9:9:other": "x",
            "fsm:x:9:state": "x",
            "fsm:0:9:state": "x",
            "fsm:01:9:state": "x",
            f"fsm:{10**30}:9:state": "x",
            f"fsm:{2**63}:9:state": "x",
            f"fsm:{BOT_ID}:9:state": "x",
            "fsm:10:10:data": '{"ok": 1, "bad": {"a": "\\ud800"}}',
            b"fsm:\xff:1:data": "{}",
            "fsmother": "x",
        }.items():
            client.set(key, value)
        client.hset("fsm:11:11:data", "a", "b")
    result = cli(*command_of(theirs, *THIS_BOT, "--json", "--write"))
    assert result.code == 3
    for said in (
        "fsm:5:5: its data are no JSON: ",
        "fsm:6:6: its data are no JSON object, but list",
        "fsm:7:7: its data are ",
        "fsm:8:8: it is no text in UTF-8",
        "fsm:9:9:other: it ends in neither state nor data",
        "fsm:x:9: its key cannot be read so; see the --with options",
        "fsm:0:9: ",
        "fsm:01:9: ",
        f"fsm:{10**30}:9: ",
        f"fsm:{2**63}:9: it has no key here: chat_id must be",
        f"fsm:{BOT_ID}:9: it begins with the bot's id: add --with-bot-id",
        "fsm:10:10['data']['bad']['a'] has a lone surrogate",
        "fsm:11:11: it cannot be read: WRONGTYPE",
        "fsm:\\xff:1: it is no text in UTF-8",
        "fsm:-100:5:2: its key cannot be read so",
    ):
        assert f"botsessions: {said}" in result.err
    assert result.document["left"] == 16
    assert result.document["imported"] == 3
    assert result.document["refused"] == {"lone surrogate": 1}
    assert "fsmother" not in result.err
    assert "dry run" not in result.err
    assert len(everything(tmp_path / "bot.db")) == 3
    # Without what is refused, if that is wanted; what is there already is no matter.
    result = cli(*command_of(theirs, *THIS_BOT, "--json", "--write", "--partial"))
    assert result.document["imported"] == len(result.document["changes"]) == 1
    assert everything(tmp_path / "bot.db")[
        f"chat=10/user=10/bot={BOT_ID}/name=aiogram"
    ] == {"data": {"ok": 1, "bad": {}}}


def test_many_problems_are_counted(cli: Cli, theirs: str) -> None:
    write_aiogram(theirs, PLAIN)
    with driver.Redis.from_url(theirs) as client:
        client.mset({f"fsm:{number}:1:data": "{" for number in range(5, 605)})
    result = cli(*command_of(theirs, *THIS_BOT, "--json"))
    assert result.code == 3
    assert result.document["left"] == 600
    assert result.err.count("its data are no JSON") == 20
    assert "there is more that cannot be carried over; --json lists all" in result.err
    problems = result.document["problems"]
    assert len(problems) == 600
    assert problems[-1].startswith("fsm:9:1: its data are no JSON")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "whose sessions are these? Give --bot ID, or --with-bot-id"),
        ([*THIS_BOT, "--with-bot-id"], "whose sessions are these?"),
        (["--bot", "0"], "--bot"),
        ([*THIS_BOT, "--separator", ""], "no letter, no digit and no minus"),
        ([*THIS_BOT, "--separator", "-"], "no letter, no digit and no minus"),
    ],
)
def test_a_wrong_command_line(cli: Cli, options: list[str], said: str) -> None:
    result = cli(*command_of("redis://nowhere", *options))
    assert (result.code, result.out) == (2, "")
    assert is_one_line(result.err)
    assert said in result.err
    assert result.err.endswith("see botsessions import-from aiogram-redis --help\n")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///bot.db", "write redis://host:6379/0"),
        ("redis://ada:hunter2@host/zero", "write redis://host:6379/0"),
        ("redis://ada:hunter2@[host", "this URL cannot be read"),
        ("redis+cluster://host", "write redis://host:6379/0"),
    ],
)
def test_what_is_no_url_of_redis(cli: Cli, url: str, said: str) -> None:
    for kind in ("aiogram-redis", "telebot-redis"):
        result = cli("import-from", kind, url, *THIS_BOT)
        assert result.code == 2
        assert is_one_line(result.err)
        assert said in result.err
        assert "hunter2" not in result.err


def test_urls_of_redis() -> None:
    for url in ("redis://h", "redis://:p@h:1/", "rediss://h/15", "unix:///r.sock?db=3"):
        check_url(url)


def test_redis_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    url = "redis://ada:hunter2@127.0.0.1:1/0"
    result = cli(*command_of(url, *THIS_BOT, "--write"))
    assert result.code == 1
    assert is_one_line(result.err)
    assert "the Redis to import from: " in result.err
    assert "hunter2" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_such_keys_is_a_wrong_one(
    cli: Cli, tmp_path: Path, theirs: str
) -> None:
    result = cli(*command_of(theirs, *THIS_BOT, "--write"))
    assert result.code == 1
    assert result.err == (
        f"botsessions: {theirs}: no key begins with fsm; see --prefix, and the "
        "database in the URL\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_without_the_driver_it_says_what_to_install(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    result = cli(*command_of("redis://host", *THIS_BOT))
    assert (result.code, result.err) == (
        1,
        f"botsessions: {NO_DRIVER}\n",
    )


# Keys that can be read in two ways


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("2:3", [CHAT, USER], ["chat 2, user 3"]),
        ("-2:3", [CHAT, TOPIC, USER], ["chat -2, user 3"]),
        ("-2:5:3", [CHAT, TOPIC, USER], ["chat -2, topic 5, user 3"]),
        ("2:-5:3", [CHAT, TOPIC, USER], []),
        ("2:3:4", [CHAT, USER], []),
        ("2:3", [BOT, CHAT, USER], []),
        ("1:2:3", [BOT, CHAT, USER], ["bot 1, chat 2, user 3"]),
        ("-1:2:3", [BOT, CHAT, USER], []),
        ("7:2:3", [BUSINESS, CHAT, TOPIC, USER], ["chat 7, topic 2, user 3"]),
        ("7:2:3", [BUSINESS, CHAT, USER], []),
        ("-7:2:3", [BUSINESS, CHAT, USER], []),
        ("a.b:2:3", [BUSINESS, CHAT, USER], []),
        (
            "7:2:3",
            [BOT._replace(optional=True), TOPIC, CHAT, USER],
            ["bot 7, chat 2, user 3", "topic 7, chat 2, user 3"],
        ),
        ("-9x:2:3", [BUSINESS, CHAT, TOPIC, USER], ["business -9x, chat 2, user 3"]),
        (":2:3", [BUSINESS, CHAT, USER], []),
        ("2:3:default", [CHAT, USER, NAME], ["chat 2, user 3, name default"]),
        ("2:3:a:5:b", [CHAT, USER, NAME], ["chat 2, user 3, name a:5:b"]),
        ("2:3", [CHAT, TOPIC, USER, NAME], []),
        ("2:3:4", [CHAT, USER, NAME], []),
        ("2:3:", [CHAT, USER, NAME], []),
        ("", [CHAT, USER], []),
        ("2:٣", [CHAT, USER], []),
    ],
)
def test_a_key_is_read_in_every_way(
    text: str, fields: list[Any], expected: list[str]
) -> None:
    found = [
        ", ".join(f"{part.partition('_')[0]} {value}" for part, value in one.items())
        for one in readings(text, ":", fields)
    ]
    assert sorted(found) == expected


def test_two_sessions_that_aiogram_itself_takes_for_one_are_one() -> None:
    """PEERS: business 7, chat 2, user 3 has the key of chat 7, topic 2, user 3."""
    keys = DefaultKeyBuilder(with_business_connection_id=True)
    business = StorageKey(1, 2, 3, business_connection_id="7")
    topic = StorageKey(1, 7, 3, thread_id=2)
    assert keys.build(business) == keys.build(topic)
    layout = Layout(bot_id=1, with_business_connection_id=True, with_thread_id=True)
    # No business connection of Telegram's is a number.
    assert str(layout.key(keys.build(business))) == (
        "chat=7/user=3/topic=2/bot=1/name=aiogram"
    )


def test_separators() -> None:
    assert all(map(is_separator, (":", "|", "__", " ", "::")))
    assert not any(map(is_separator, ("", "-", "a", "7", ":a")))


# telebot


class Steps(telebot_states.StatesGroup):
    name = telebot_states.State()


IDS = {
    "plain": {"chat_id": 1, "user_id": 1, "bot_id": BOT_ID},
    "group": {"chat_id": -100123, "user_id": 2, "bot_id": BOT_ID},
    "of another bot": {"chat_id": 1, "user_id": 1, "bot_id": BOT_ID + 1},
}
TOPIC_IDS = {"topic": {**IDS["group"], "message_thread_id": 5}}
BUSINESS_IDS = {"business": {**IDS["plain"], "business_connection_id": "Ab_c"}}


async def _maybe(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def write_telebot(storage: Any, ids: dict[str, dict[str, Any]]) -> None:
    """Keep states and data as a bot with telebot does."""

    async def write() -> None:
        for name, where in ids.items():
            state = Steps.name if name == "plain" else "text"
            await _maybe(storage.set_state(state=state, **where))
            data = {**DATA, "name": name}
            for key, value in data.items():
                await _maybe(storage.set_data(key=key, value=value, **where))
        bare = {"chat_id": 9, "user_id": 9, "bot_id": BOT_ID}
        await _maybe(storage.set_state(state="bare", **bare))
        if hasattr(storage, "redis") and isinstance(
            storage, telebot.asyncio_storage.StateRedisStorage
        ):
            await storage.redis.aclose()

    asyncio.run(write())


def check_telebot(path: Path, ids: dict[str, dict[str, Any]]) -> None:
    async def look(store: Any) -> None:
        storage = AsyncSessionStateStorage(store)
        for name, where in ids.items():
            state = "Steps:name" if name == "plain" else "text"
            assert await storage.get_state(**where) == state
            assert await storage.get_data(**where) == {**DATA, "name": name}
            assert await storage.set_data(key="more", value=1, **where)
        assert await storage.get_state(9, 9, bot_id=BOT_ID) == "bare"
        assert await storage.get_data(9, 9, bot_id=BOT_ID) == {}
        assert len([key async for key in store.keys()]) == len(ids) + 1

    with_store(path, look)


TELEBOT_SETTINGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the default": (IDS, []),
    "businesses": (IDS | BUSINESS_IDS, ["--with-business-connection-id"]),
}


@pytest.mark.parametrize("tree", [telebot.storage, telebot.asyncio_storage])
@pytest.mark.parametrize("setting", ["the default", "businesses"])
def test_telebot_finds_what_it_kept_in_redis(
    cli: Cli, tmp_path: Path, theirs: str, tree: Any, setting: str
) -> None:
    ids, options = TELEBOT_SETTINGS[setting]
    write_telebot(tree.StateRedisStorage(redis_url=theirs), ids)
    result = cli("import-from", "telebot-redis", theirs, *options, "--write", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.document["imported"] == len(ids) + 1
    check_telebot(tmp_path / "bot.db", ids)


@pytest.mark.parametrize("setting", ["the default", "businesses"])
def test_telebot_finds_what_it_kept_in_a_pickle(
    cli: Cli, tmp_path: Path, setting: str
) -> None:
    """Among it State objects, as TeleBot.set_state hands them to its storage."""
    ids, options = TELEBOT_SETTINGS[setting]
    write_telebot(telebot.storage.StatePickleStorage("./states/states.pkl"), ids)
    command = ["import-from", "telebot-pickle", "states/states.pkl", *options]
    assert cli(*command).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["states"]
    result = cli(*command, "--write", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.document["imported"] == len(ids) + 1
    check_telebot(tmp_path / "bot.db", ids)
    assert cli(*command, "--write", "--json").document["different"] == len(ids)


def test_telebot_with_topics_needs_to_know_the_bot(
    cli: Cli, tmp_path: Path, theirs: str
) -> None:
    """``telebot:<bot>:<chat>:<user>`` could be a topic, a chat and a user."""
    ids = {name: {**where, "bot_id": BOT_ID} for name, where in IDS.items()}
    del ids["of another bot"]
    ids |= TOPIC_IDS
    write_telebot(telebot.storage.StateRedisStorage(redis_url=theirs), ids)
    command = ["import-from", "telebot-redis", theirs, "--with-thread-id", "--json"]
    result = cli(*command)
    assert result.code == 3
    assert result.document["left"] == 3
    assert (
        "telebot:77:1:1: its key can be read as bot=77 chat=1 user=1, and as topic=77 "
        "chat=1 user=1; see --bot and the --with options"
    ) in result.err
    result = cli(*command, *THIS_BOT, "--write")
    assert (result.code, result.err) == (0, "")
    check_telebot(tmp_path / "bot.db", ids)


# As telebot 4.22 wrote it, and as its own migrate_format still reads it.
OLD: dict[int, dict[int, Any]] = {
    1: {1: {"state": "one", "data": {"n": 1}}},
    -100: {
        2: {"state": "two", "data": {"n": 2}},
        3: {"state": None, "data": {}},
    },
}


def check_old(path: Path) -> None:
    async def look(store: Any) -> None:
        storage = AsyncSessionStateStorage(store)
        for chat, users in OLD.items():
            for user, record in users.items():
                where: Any = {"chat_id": chat, "user_id": user, "bot_id": BOT_ID}
                assert await storage.get_state(**where) == record["state"]
                assert await storage.get_data(**where) == record["data"]

    with_store(path, look)


def test_a_pickle_of_an_older_telebot(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "states.pkl").write_bytes(pickle.dumps(OLD))
    command = ["import-from", "telebot-pickle", "states.pkl", "--json"]
    result = cli(*command)
    assert result.code == 3
    assert result.document["left"] == 3
    assert "-100 2: its key does not say of which bot it is: add --bot" in result.err
    assert cli(*command, *THIS_BOT, "--write").document["imported"] == 3
    check_old(tmp_path / "bot.db")


def test_redis_of_an_older_telebot(cli: Cli, tmp_path: Path, theirs: str) -> None:
    with driver.Redis.from_url(theirs) as client:
        for chat, users in OLD.items():
            client.set(f"telebot_{chat}", json.dumps(users))
        client.set("telebot_", "of somebody else")
        client.set("telebots", "of somebody else")
        client.set("telebot_5", "{")
    command = ["import-from", "telebot-redis", theirs, "--json"]
    result = cli(*command, *THIS_BOT, "--write")
    assert result.code == 3
    assert (result.document["imported"], result.document["left"]) == (3, 1)
    assert "telebot_5: its data are no JSON" in result.err
    check_old(tmp_path / "bot.db")


def test_the_real_telebot_takes_the_old_format_for_the_same(
    cli: Cli, tmp_path: Path, theirs: str
) -> None:
    """Its own migration takes one user of each chat; that one is the same."""
    old = {chat: dict([next(iter(users.items()))]) for chat, users in OLD.items()}
    with driver.Redis.from_url(theirs) as client:
        for chat, users in old.items():
            client.set(f"telebot_{chat}", json.dumps(users))
    command = ["import-from", "telebot-redis", theirs, *THIS_BOT, "--json", "--write"]
    assert cli(*command).document["imported"] == 2
    storage = telebot.storage.StateRedisStorage(redis_url=theirs)
    storage.migrate_format(BOT_ID)
    assert cli(*command).document["present"] == 2


def test_what_telebot_cannot_have_written_is_named_and_left_out(
    cli: Cli, tmp_path: Path
) -> None:
    good = {"state": "s", "data": {}}
    content = {
        "telebot:77:1:1": good,
        "telebot:77:x:1": good,
        "other:77:1:1": good,
        "telebot:1:1": good,
        "telebot:77:1:2": {"state": "s", "more": 1},
        "telebot:77:1:3": {"data": {}},
        "telebot:77:1:4": {"state": "s", "data": 5},
        "telebot:77:1:5": 5,
        "telebot:77:1:6": {
            "state": Steps.name,
            "data": {"at": ValueError("x"), "n": 1},
        },
        "telebot:77:1:7": {"state": Steps, "data": {}},
        5: 5,
        (1, 2): good,
        10**5000: {1: good},
    }
    (tmp_path / "states.pkl").write_bytes(pickle.dumps(content))
    command = ["import-from", "telebot-pickle", "states.pkl", "--json", "--write"]
    result = cli(*command)
    assert result.code == 3
    assert result.document["imported"] == 1
    assert result.document["left"] == 12
    no_session = "it is no session of telebot"
    for said in (
        "telebot:77:x:1: its key cannot be read so; see --bot",
        "other:77:1:1: it does not begin with telebot:; see --prefix",
        "telebot:1:1: its key does not say of which bot it is: add --bot",
        *(f"telebot:77:1:{number}: {no_session}" for number in range(2, 6)),
        "telebot:77:1:6['data']['at'] is builtins.ValueError, which is no plain data",
        f"telebot:77:1:7['state'] is {__name__}.Steps, which is no plain data",
        f"5: {no_session}",
        f"(1, 2): {no_session}",
        "<int> 1: its key does not say of which bot it is: add --bot",
    ):
        assert f"botsessions: {said}" in result.err
    assert cli(*command, "--partial").document["imported"] == 2
    assert everything(tmp_path / "bot.db")["chat=1/user=6/bot=77/name=telebot"] == {
        "state": "Steps:name",
        "data": {"n": 1},
    }


@pytest.mark.parametrize("mode", [[], ["--write"]])
def test_two_places_of_one_session(cli: Cli, tmp_path: Path, mode: list[str]) -> None:
    """A bot whose telebot was updated may have left both forms."""
    one, two = ({"state": "s", "data": {"n": number}} for number in (1, 2))
    content = {
        "telebot:77:1:1": one,
        "telebot:77:2:2": one,
        1: {1: one},
        2: {2: two},
        3: {3: two},
    }
    (tmp_path / "states.pkl").write_bytes(pickle.dumps(content))
    command = ["import-from", "telebot-pickle", "states.pkl", *THIS_BOT, "--json"]
    result = cli(*command, *mode)
    assert result.code == 3
    assert "2 2: telebot:77:2:2 is the same session, with other data" in result.err
    summary = result.document
    assert (summary["imported"], summary["present"], summary["left"]) == (3, 1, 1)
    if mode:
        assert everything(tmp_path / "bot.db") == {
            "chat=1/user=1/bot=77/name=telebot": one,
            "chat=2/user=2/bot=77/name=telebot": one,
            "chat=3/user=3/bot=77/name=telebot": two,
        }


# python-telegram-bot


class Offline(BaseRequest):
    """Answers as the Bot API would, without a network."""

    @property
    def read_timeout(self) -> float:
        return 1.0

    async def initialize(self) -> None:
        """Connect to nothing."""

    async def shutdown(self) -> None:
        """Disconnect from nothing."""

    async def do_request(self, url: str, *args: Any, **named: Any) -> tuple[int, bytes]:
        method = url.rpartition("/")[2]
        me = {"id": BOT_ID, "is_bot": True, "first_name": "B", "username": "b"}
        if method == "getMe":
            result: Any = me
        else:
            result = True
        return 200, json.dumps({"ok": True, "result": result}).encode()


def message_of(user: int, text: str) -> dict[str, Any]:
    message: dict[str, Any] = {
        "message_id": 1,
        "date": 1777874400,
        "chat": {"id": user, "type": "private", "first_name": "Ada"},
        "from": {"id": user, "is_bot": False, "first_name": "Ada"},
        "text": text,
    }
    if text.startswith("/"):
        message["entities"] = [
            {"type": "bot_command", "offset": 0, "length": len(text)}
        ]
    return message


_updates = count(1)
STARTED = datetime(2026, 5, 4, 6, tzinfo=UTC)


class Bot:
    """A bot with a conversation and buttons; ``log`` is what its handlers were told."""

    def __init__(self, persistence: Any) -> None:
        self.log: list[Any] = []
        conversation: ConversationHandler[Any] = ConversationHandler(
            [CommandHandler("start", self.start)],
            {5: [MessageHandler(filters.TEXT & ~filters.COMMAND, self.name)]},
            [],
            name="sign up@1",
            persistent=True,
        )
        self.application: Application[Any, Any, Any, Any, Any, Any] = (
            Application.builder()
            .token(f"{BOT_ID}:a")
            .request(Offline())
            .get_updates_request(Offline())
            .updater(None)
            .job_queue(None)
            .persistence(persistence)
            .build()
        )
        self.application.add_handler(conversation)

    async def start(self, update: Update, context: Any) -> int:
        context.user_data.update(name="Ada", price=Decimal("2.50"), at=STARTED)
        context.chat_data["pair"] = (1, {2})
        context.bot_data.setdefault("seen", set()).add(update.effective_user.id)  # type: ignore[union-attr]
        return 5

    async def name(self, update: Update, context: Any) -> int:
        self.log.append(("name", context.user_data["name"], context.bot_data["seen"]))
        return ConversationHandler.END

    async def say(self, user: int, text: str) -> None:
        document = {"update_id": next(_updates), "message": message_of(user, text)}
        bot = self.application.bot
        await self.application.process_update(Update.de_json(document, bot))


# Of the application itself only with an extra of the framework.
CALLBACK_DATA: Any = (
    [("k1", 1.5, {"b1": ("buy", 5), "b2": None}), ("k2", 2.5, {})],
    {"q1": "k1", "q2": "k1", "q3": "gone"},
)


def write_ptb(path: Path, **options: Any) -> None:
    """Keep what a real application keeps."""

    async def run() -> None:
        persistence: Any = PicklePersistence(path, **options)
        bot = Bot(persistence)
        async with bot.application:
            for user in (7, 8, 9):
                await bot.say(user, "/start")
            await bot.say(9, "Eve")  # whose conversation ends
            if persistence.store_data.callback_data:
                await persistence.update_callback_data(CALLBACK_DATA)

    asyncio.run(run())


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("single_file", [True, False])
def test_python_telegram_bot_goes_on_where_it_was(
    cli: Cli,
    tmp_path: Path,
    single_file: bool,  # noqa: FBT001
    preload: bool,  # noqa: FBT001
) -> None:
    write_ptb(tmp_path / "data", single_file=single_file)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    command = ["import-from", "ptb-pickle", "data", "--json"]
    dry = cli(*command)
    assert (dry.code, dry.document["written"]) == (0, False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    result = cli(*command, "--write")
    assert (result.code, result.err) == (0, "")
    # Three users, three chats, three keyboards, the bot, two conversations.
    assert result.document == {**dry.document, "written": True}
    assert result.document["imported"] == result.document["found"] == 12
    again = cli(*command, "--write")
    assert (again.code, again.document["present"]) == (0, 12)

    async def go_on(store: Any) -> None:
        bot = Bot(SessionPersistence(store, preload=preload))
        async with bot.application:
            await bot.say(7, "Ada")
            await bot.say(9, "nothing is asked")
            assert bot.application.bot_data == {"seen": {7, 8, 9}}
            if preload:
                user = {"name": "Ada", "price": Decimal("2.50"), "at": STARTED}
                assert bot.application.user_data == {7: user, 8: user, 9: user}
                chat = {"pair": (1, {2})}
                assert bot.application.chat_data == {7: chat, 8: chat, 9: chat}
        assert bot.log == [("name", "Ada", {7, 8, 9})]
        assert await SessionPersistence(store).get_callback_data() == CALLBACK_DATA

    with_store(tmp_path / "bot.db", go_on)


class Profile:
    """A class of a bot."""


def persist(path: Path, work: Callable[[Any], Awaitable[None]]) -> None:
    """Write a file by PicklePersistence itself, within an application."""
    content: list[bytes] = []

    async def run() -> None:
        persistence: Any = PicklePersistence(path)
        bot = Bot(persistence)
        async with bot.application:
            await work(persistence)
            await persistence.flush()
            # Not what the application would write at its end.
            content.append(path.read_bytes())  # noqa: ASYNC240 - nobody waits

    asyncio.run(run())
    path.write_bytes(content[0])


def test_what_no_store_keeps_is_named_and_left_out(cli: Cli, tmp_path: Path) -> None:
    async def work(persistence: Any) -> None:
        message = Update.de_json(
            {"update_id": 1, "message": message_of(7, "x")}, persistence.bot
        ).message
        await persistence.update_user_data(7, {"last": message, "n": 1})
        await persistence.update_user_data(8, {"me": persistence.bot, "n": [1]})
        await persistence.update_user_data(9, Profile())
        await persistence.update_user_data(10, {})
        await persistence.update_user_data("11", {"n": 1})
        await persistence.update_chat_data(-100, {"profile": [Profile()], "n": {1: 2}})
        await persistence.update_bot_data(defaultdict(list, {"a": [1]}))
        await persistence.update_conversation("c", (1, 1), Form)
        await persistence.update_conversation("c", (2, "inline"), 1)
        await persistence.update_conversation("c", (3, 3), None)
        await persistence.update_conversation("c", (4, 4), -1)
        await persistence.update_conversation("c", 5, 1)
        await persistence.update_conversation("c", (10**5000, 1), 1)
        await persistence.update_conversation("c" * 300, (6, 6), 1)
        await persistence.update_conversation("\ud800", (7, 7), 1)
        await persistence.update_callback_data(
            (
                [("k1", 1.5, {"b1": 1, "b2": Profile()}), ("k2",)],
                {"q1": "k1", "q2": "k9"},
            )
        )

    persist(tmp_path / "data", work)
    command = ["import-from", "ptb-pickle", "data", "--json", "--write"]
    result = cli(*command)
    assert result.code == 3
    profile = f"{__name__}.Profile, which is no plain data"
    for said in (
        "user_data[7]['last'] is telegram._message.Message, which is no plain data",
        "user_data[8]['me'] is persistent id \"a known bot replaced by PTB's",
        f"user_data[9] is {profile}",
        "user_data['11']: a user is an int",
        f"chat_data[-100]['profile'][0] is {profile}",
        f"conversations['c'][(1, 1)]['state'] is {__name__}.Form",
        "conversations['c'][5]: a conversation has a tuple of ids",
        "conversations['c'][<tuple>]: a conversation has a tuple of ids",
        "conversations['ccccccccc",
        "conversations['\\ud800'][(7, 7)]: 'utf-8' codec can't encode character",
        f"callback_data['k1']['buttons']['b2'] is {profile}",
        "callback_data: a keyboard is its id, when it was used, and buttons",
        "bot_data was a defaultdict, and is a dict now",
    ):
        assert f"botsessions: {said}" in result.err
    assert everything(tmp_path / "bot.db") == {
        "name=telegram.bot": {"a": [1]},
        "name=telegram.conversation.c@2@sinline": {"key": (2, "inline"), "state": 1},
        "name=telegram.keyboard@k9": {
            "keyboard": "k9",
            "used": None,
            "queries": ["q2"],
            "buttons": None,
        },
    }
    assert result.document["refused"] == {
        f"{__name__}.Profile": 3,
        "telegram._message.Message": 1,
        'persistent id "a known bot replaced by PTB\'s PicklePersistence"': 1,
        f"{__name__}.Form": 1,
    }
    assert len(result.document["changes"]) == 1
    result = cli(*command, "--partial")
    assert (result.code, result.document["imported"]) == (3, 4)
    found = everything(tmp_path / "bot.db")
    assert found["user=7/name=telegram.user"] == {"n": 1}
    assert found["user=8/name=telegram.user"] == {"n": [1]}
    assert found["chat=-100/name=telegram.chat"] == {"n": {1: 2}}
    assert found["name=telegram.keyboard@k1"]["buttons"] == {"b1": 1}
    # Half of a conversation would be none.
    assert len(found) == 7


def test_a_session_that_is_large_is_named(cli: Cli, tmp_path: Path) -> None:
    content = {
        "user_data": {1: {"a": "x" * 1_100_000}, 2: {"a": "x" * 17_000_000}},
        "chat_data": {},
        "conversations": {},
    }
    (tmp_path / "data").write_bytes(pickle.dumps(content))
    result = cli("import-from", "ptb-pickle", "data", "--json", "--write")
    assert result.code == 3
    assert "user_data[1] has 1,100,0" in result.err
    assert "max_session_bytes" in result.err
    assert "user_data[2] is larger than 16,777,216 bytes" in result.err
    assert result.document["refused"] == {"too large": 1}
    assert result.document["imported"] == 1


def test_a_bot_that_keeps_only_some_things(cli: Cli, tmp_path: Path) -> None:
    only = PersistenceInput(bot_data=False, chat_data=False, callback_data=False)
    write_ptb(tmp_path / "data", store_data=only)
    result = cli("import-from", "ptb-pickle", "data", "--json")
    assert (result.code, result.document["found"]) == (0, 5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "data has 0 bytes: it was cut off while it was written"),
        (b"{}", "data: it is no whole pickle of Python 3"),
        (pickle.dumps({"user_data": {}})[:-5], "data: it is no whole pickle"),
        (
            pickle.dumps([1]),
            "data is not what a PicklePersistence writes: it holds list",
        ),
        (pickle.dumps({}), "data is not what a PicklePersistence writes"),
        (pickle.dumps({"other": 1}), "data is not what a PicklePersistence writes"),
        (
            b"cos\nsystem\n(Vtouch executed\ntR.",
            "it holds os.system, which is no plain",
        ),
        (b"cos\nsystem\n.", "it holds os.system, which is no plain data"),
    ],
)
def test_a_wrong_file_writes_nothing(
    cli: Cli, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "data").write_bytes(content)
    result = cli("import-from", "ptb-pickle", "data", "--write")
    assert (result.code, result.out) == (1, "")
    assert is_one_line(result.err)
    assert said in result.err
    result = cli("import-from", "telebot-pickle", "data", "--write")
    if content not in {pickle.dumps({}), pickle.dumps({"other": 1})}:
        assert result.code == 1
        assert is_one_line(result.err)
    assert not (tmp_path / "executed").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "bot.db"}


def test_a_call_that_no_value_needs_is_named(cli: Cli, tmp_path: Path) -> None:
    good = pickle.dumps({"telebot:77:1:1": {"state": "s", "data": {}}}, protocol=0)
    (tmp_path / "data").write_bytes(b"cos\nsystem\n(Vtouch executed\ntR0" + good)
    result = cli("import-from", "telebot-pickle", "data", "--json", "--write")
    assert (result.code, result.document["imported"]) == (3, 1)
    assert "data: wants to call os.system 1 times" in result.err
    assert not (tmp_path / "executed").exists()


def test_files_that_are_not_there(cli: Cli, tmp_path: Path) -> None:
    for kind in ("ptb-pickle", "telebot-pickle"):
        for name, reason in (("data", "No such file"), (".", "Is a directory")):
            result = cli("import-from", kind, name)
            assert result.code == 1
            assert is_one_line(result.err)
            assert reason in result.err
    (tmp_path / "data").touch()
    (tmp_path / "data_user_data").touch()
    result = cli("import-from", "ptb-pickle", "data")
    assert result.code == 1
    assert "both data and data_user_data are there" in result.err


# The page


def test_the_commands_of_the_page_run(cli: Cli, tmp_path: Path, theirs: str) -> None:
    write_ptb(tmp_path / "bot.pickle")
    write_telebot(telebot.storage.StatePickleStorage(), IDS)
    builder = {"with_bot_id": True, "with_destiny": True}
    write_aiogram(theirs, BOTS, **builder)
    shown = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if line.startswith("botsessions ")
    ]
    assert len(shown) == 4
    for line in shown:
        command = line.replace(LOCAL, theirs).split()[1:]
        result = cli(*command, "--json")
        assert result.code == 0, line
        assert result.document["found"] == result.document["imported"] > 0


def test_the_report_of_the_page_is_what_is_printed(cli: Cli, theirs: str) -> None:
    write_aiogram(theirs, PLAIN)
    [(command, report)] = re.findall(
        r"^```console\n\$ botsessions (.*?)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
    )
    result = cli(*command.replace(LOCAL, theirs).split())
    assert result.out + result.err == report


# In a process of its own


def test_no_framework_is_loaded(tmp_path: Path) -> None:
    """Where the sessions go, the library they come from need not be installed."""
    write_ptb(tmp_path / "data")
    program = (
        "import sys\n"
        "for name in ('telegram', 'aiogram', 'telebot', 'redis'):\n"
        "    sys.modules[name] = None\n"
        "from botsessions.cli import main\n"
        "sys.exit(main(['import-from', 'ptb-pickle', 'data', '--write', '--json']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=ENVIRONMENT | {"BOTSESSIONS_STORE": "sqlite:///bot.db"},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["imported"] == 12


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    users = {number: {"n": number} for number in range(20_000)}
    content = {"user_data": users, "chat_data": {}, "conversations": {}}
    (tmp_path / "data").write_bytes(pickle.dumps(content))
    code, seen = on_a_terminal(tmp_path, "import-from", "ptb-pickle", "data", "--write")
    assert code == 0
    assert re.search(r"read \d+%", seen)
    assert re.search(r"import .*\d+%", seen)
    assert re.search(r"imported +20,000", seen)
