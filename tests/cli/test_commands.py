"""What each command does, prints and returns; replay has a module of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import json
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

import botsessions
from botsessions import (
    Codec,
    CorruptRecordError,
    MemoryBackend,
    SessionKey,
    SessionStore,
    SQLiteBackend,
)
from botsessions.cli import main
from botsessions.cli.sessions import page, statistics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cli.conftest import Cli, Sessions

ADA = SessionKey(chat_id=1, user_id=1)
EXACT = {
    "cart": (("rye", Decimal("5.90")),),
    "seen": dt.datetime(2026, 5, 4, tzinfo=dt.UTC),
    "tags": {"a"},
    30: b"\0",
}


class Colour(enum.Enum):
    """A class of an application."""

    RED = 1


def lines(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def is_one_line(text: str) -> bool:
    return text.startswith("botsessions: ") and text.count("\n") == 1


# list


KEYS = [
    SessionKey(chat_id=-100, user_id=42, topic_id=7),
    SessionKey(chat_id=-100, user_id=42),
    SessionKey(chat_id=-100),
    SessionKey(chat_id="30"),
    SessionKey(chat_id=30),
    SessionKey(user_id=42, bot_id=9, name="cart"),
    SessionKey(user_id="a/b"),
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], KEYS),
        (["--chat", "-100"], KEYS[:3]),
        (["--chat", "30"], [KEYS[4]]),
        (["--chat", "s:30"], [KEYS[3]]),
        (["--user", "42"], [KEYS[0], KEYS[1], KEYS[5]]),
        (["--user", "s:a%2Fb"], [KEYS[6]]),
        (["--chat", "-100", "--user", "42", "--topic", "7"], [KEYS[0]]),
        (["--name", "cart"], [KEYS[5]]),
        (["--bot", "9"], [KEYS[5]]),
        (["--bot", "10"], []),
    ],
)
def test_list_is_filtered_by_parts_of_the_key(
    cli: Cli, sessions: Sessions, options: list[str], expected: list[SessionKey]
) -> None:
    sessions.put({key: {"n": 1} for key in KEYS})
    result = cli("list", "--json", *options)
    assert result.code == 0
    assert lines(result.out) == [
        {"key": key, "session": {"n": 1}} for key in sorted(map(str, expected))
    ]
    assert result.err == ("" if expected else "botsessions: no such sessions\n")


def test_list_shows_keys_and_the_beginning_of_sessions(
    cli: Cli, sessions: Sessions
) -> None:
    sessions.put({ADA: EXACT, SessionKey(chat_id=2): {"text": "x" * 500}})
    header, ada, other = cli("list").out.splitlines()
    assert header.split() == ["key", "session"]
    assert ada.startswith("chat=1/user=1  {'cart': (('rye', Decimal('5.90')),), 'seen'")
    assert other.startswith("chat=2         {'text': 'xxx")
    assert other.endswith("x…")


def test_list_is_walked_page_by_page(cli: Cli, sessions: Sessions) -> None:
    keys = sorted(str(SessionKey(chat_id=number)) for number in range(23))
    sessions.put({SessionKey.parse(key): {"n": 1} for key in keys})
    found: list[str] = []
    after: list[str] = []
    while True:
        result = cli("list", "--json", "--limit", "5", *after)
        page = [entry["key"] for entry in lines(result.out)]
        found += page
        if not result.err:
            break
        how = "go on with" if after else "add"
        assert result.err == f"botsessions: there are more: {how} --after {page[-1]}\n"
        assert len(page) == 5
        after = ["--after", page[-1]]
    assert found == keys
    assert cli("list", "--json", "--limit", "23").err == ""


def test_list_has_fifty_unless_told(cli: Cli, sessions: Sessions) -> None:
    sessions.put({SessionKey(chat_id=number): {"n": 1} for number in range(51)})
    assert len(lines(cli("list", "--json").out)) == 50


@pytest.mark.parametrize("spoiled", [[0], [2], [4], [0, 1], [0, 1, 2, 3, 4]])
def test_list_and_stats_go_on_behind_unreadable_sessions(
    cli: Cli, sessions: Sessions, spoiled: list[int]
) -> None:
    keys = [SessionKey(chat_id=number) for number in range(5)]
    sessions.put({key: {"n": 1} for key in keys})
    sessions.spoil(*(keys[number] for number in spoiled))

    entries = lines(cli("list", "--json").out)
    assert [entry["key"] for entry in entries] == [str(key) for key in keys]
    for number, entry in enumerate(entries):
        if number in spoiled:
            assert "checksum" in entry["error"]
            assert "session" not in entry
        else:
            assert entry["session"] == {"n": 1}
    table = cli("list").out.splitlines()[1:]
    assert [number for number in range(5) if "UNREADABLE" in table[number]] == spoiled
    document = cli("stats", "--json").document
    assert document["sessions"] == 5
    assert document["unreadable"] == [str(keys[number]) for number in spoiled]


@pytest.mark.parametrize("number", [1, 199, 200, 201, 400, 450])
def test_a_walk_reads_batches_and_leaves_nothing_out(
    cli: Cli, sessions: Sessions, number: int
) -> None:
    keys = sorted((SessionKey(chat_id=n) for n in range(number)), key=str)
    sessions.put({key: {} if key.chat_id == 7 else {"n": 1} for key in keys})
    sessions.spoil(*keys[::3])
    assert cli("stats", "--json").document["unreadable"] == list(map(str, keys[::3]))
    for after in (None, keys[number // 2]):
        options = [] if after is None else ["--after", str(after)]
        result = cli("list", "--json", "--limit", "1000", *options)
        expected = keys if after is None else keys[number // 2 + 1 :]
        assert [entry["key"] for entry in lines(result.out)] == list(map(str, expected))


async def test_unreadable_sessions_do_not_begin_the_listing_again() -> None:
    class Damaged:
        """A store of 1,000 sessions; it counts how often it was listed."""

        listings = 0

        async def keys(self, **_: Any) -> AsyncIterator[SessionKey]:
            self.listings += 1
            for number in range(1_000):
                yield SessionKey(chat_id=number)

        async def get(self, key: SessionKey) -> dict[Any, Any]:
            raise CorruptRecordError(str(key))

    store: Any = Damaged()
    assert len((await statistics(store)).unreadable) == 1_000
    assert store.listings == 1


async def test_a_session_that_vanishes_while_it_is_listed_is_left_out() -> None:
    gone, empty, left = (SessionKey(chat_id=number) for number in range(3))

    class Vanishing(SessionStore):
        async def get(self, key: SessionKey) -> dict[Any, Any]:
            await self.delete(gone)
            return await super().get(key)

    async with Vanishing(MemoryBackend()) as store:
        for key, session in ((gone, {"n": 1}), (empty, {}), (left, {"n": 1})):
            await store.put(key, session)
        assert await page(store, 50, None) == ([(empty, {}), (left, {"n": 1})], False)


# show


def test_show_prints_exact_types(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: EXACT})
    result = cli("show", str(ADA))
    names = {"datetime": dt, "Decimal": Decimal}
    assert eval(result.out, names) == EXACT  # noqa: S307 - it is Python
    assert (result.code, result.err) == (0, "")


def test_show_prints_json_that_put_takes(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: EXACT})
    shown = cli("show", str(ADA), "--json")
    assert shown.document["$dict"][0] == [
        "cart",
        {"$tuple": [{"$tuple": ["rye", {"$decimal": "5.90"}]}]},
    ]
    assert cli("put", "chat=2", "-", stdin=shown.out.encode()).code == 0
    assert sessions.read() == {"chat=1/user=1": EXACT, "chat=2": EXACT}


@pytest.mark.parametrize("session", [{}, None])
def test_show_of_nothing_fails(
    cli: Cli, sessions: Sessions, session: dict[Any, Any] | None
) -> None:
    sessions.put({} if session is None else {ADA: session})
    result = cli("show", str(ADA))
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "botsessions: there is no session chat=1/user=1, or it is empty or expired\n"
    )


def test_show_of_an_unreadable_session_fails(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: EXACT})
    sessions.spoil(ADA)
    result = cli("show", str(ADA))
    assert (result.code, result.out) == (1, "")
    assert is_one_line(result.err)
    assert "chat=1/user=1" in result.err


@pytest.mark.parametrize(
    "session",
    [
        {"big": 10**5000, "list": [-(10**5000)]},
        {"text": "\x1b[31mred\x07\nnext"},
        {"emoji": ":smile: [bold]not bold[/bold] [/]"},
        {"deep": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]},
    ],
)
def test_whatever_is_stored_can_be_shown(
    cli: Cli, sessions: Sessions, session: dict[str, Any]
) -> None:
    sessions.put({ADA: session})
    shown, listed = cli("show", str(ADA)), cli("list")
    assert shown.code == listed.code == 0
    assert eval(shown.out) == session  # noqa: S307 - it is Python
    assert "\x1b" not in shown.out + listed.out
    assert len(listed.out.splitlines()) == 2
    assert cli("put", "chat=9", cli("show", str(ADA), "--json").out).code == 0
    assert sessions.read()["chat=9"] == session


@pytest.mark.parametrize("command", [["show", str(ADA)], ["list"], ["list", "--json"]])
def test_a_session_of_unknown_classes_is_not_to_be_replaced(
    cli: Cli, sessions: Sessions, command: list[str]
) -> None:
    sessions.put({ADA: {"colour": Colour.RED}}, types=[Colour])
    result = cli(*command)
    assert (
        "it holds a 'Colour', and the command line does not know the classes of the "
        "application; nothing is wrong with the session, leave it to the bot"
    ) in result.out + result.err
    for advice in ("register", "put", "delete", "open_store"):
        assert advice not in result.out + result.err


# put and delete


def test_put_replaces_the_whole_session(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: EXACT})
    result = cli("put", str(ADA), '{"step": "name", "n": [1, 2.5, null]}')
    assert result == (0, "stored chat=1/user=1\n", "")
    assert sessions.read() == {str(ADA): {"step": "name", "n": [1, 2.5, None]}}
    assert cli("put", str(ADA), "{}", "--json").document == {"stored": str(ADA)}


def test_put_replaces_an_unreadable_session(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: EXACT})
    sessions.spoil(ADA)
    assert cli("put", str(ADA), '{"n": 1}').code == 0
    assert sessions.read() == {str(ADA): {"n": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        '{"a": 1e999}',
        "[1]",
        "null",
        '"text"',
        '{"a": 1,}',
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"$tuple": []}',
        '{"a": "\\ud800"}',
        '{"a": {"$date": "tomorrow"}}',
        '{"a": ' + "9" * 5_000 + "}",
        '{"a": ' + "[" * 20_000 + "]" * 20_000 + "}",
        '{"a": ' + "[" * 800 + "]" * 800 + "}",
        '{"a": "' + "x" * (1024 * 1024) + '"}',
    ],
)
def test_put_refuses_what_is_no_session(
    cli: Cli, sessions: Sessions, text: str
) -> None:
    sessions.put({ADA: {"n": 1}})
    result = cli("put", str(ADA), "-", stdin=text.encode())
    assert (result.code, result.out) == (1, "")
    assert is_one_line(result.err)
    assert len(result.err) < 1_000
    assert sessions.read() == {str(ADA): {"n": 1}}


def test_put_says_that_a_text_is_no_json(cli: Cli) -> None:
    assert cli("put", "chat=1", "nope") == (
        1,
        "",
        "botsessions: it is no JSON: Expecting value (column 1)\n",
    )


def test_put_refuses_bytes_that_are_no_utf_8(cli: Cli) -> None:
    result = cli("put", "chat=1", "-", stdin=b'{"a": "\xff"}')
    assert result.code == 1
    assert is_one_line(result.err)
    assert cli("put", "chat=1", '{"a": "\udcff"}').code == 1  # as argv has them


def test_delete_may_be_repeated(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: EXACT, SessionKey(chat_id=2): {"n": 1}})
    for _ in range(2):
        assert cli("delete", str(ADA)) == (0, "deleted chat=1/user=1\n", "")
    assert sessions.read() == {"chat=2": {"n": 1}}
    assert cli("delete", "chat=2", "--json").document == {"deleted": "chat=2"}
    assert sessions.read() == {}


# stats, delete-expired, version


def test_stats_counts_by_kind_of_key(cli: Cli, sessions: Sessions) -> None:
    stored: dict[SessionKey, dict[Any, Any]] = {
        SessionKey(chat_id=1): {"n": 1},
        SessionKey(chat_id=2): {"n": 1},
        SessionKey(chat_id=2, user_id=3): {"text": "x" * 1000},
        SessionKey(chat_id=2, user_id=3, topic_id=4): EXACT,
        SessionKey(chat_id=2, guest=True, business_connection_id="b"): {},
        SessionKey(user_id=5): {},
        SessionKey(user_id=6): {},
    }
    sessions.put(stored)
    sizes = {str(key): len(Codec().encode(value)) for key, value in stored.items()}
    biggest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:5]
    document = cli("stats", "--json").document
    found = [(entry["key"], entry["bytes"]) for entry in document.pop("biggest")]
    assert found == biggest
    assert document == {
        "store": "sqlite:///bot.db",
        "namespace": "sessions",
        "sessions": 7,
        "bytes": sum(sizes.values()),
        "kinds": {
            "chat": 2,
            "user": 2,
            "chat+user": 1,
            "chat+user+topic": 1,
            "chat+business+guest": 1,
        },
        "unreadable": [],
    }
    table = [line.split() for line in cli("stats").out.splitlines()]
    assert table[0] == ["sqlite:///bot.db,", "namespace", "sessions"]
    assert ["sessions", "7"] in table
    assert ["chat+user+topic", "1"] in table
    assert ["bytes,", "encoded", f"{sum(sizes.values()):,}"] in table
    assert ["chat=2/user=3", f"{sizes['chat=2/user=3']:,}"] in table


def test_stats_of_nothing(cli: Cli, sessions: Sessions) -> None:
    sessions.put({})
    document = cli("stats", "--json").document
    assert (document["sessions"], document["bytes"], document["biggest"]) == (0, 0, [])


def test_delete_expired_says_how_many(cli: Cli, sessions: Sessions) -> None:
    async def an_hour_ago() -> None:
        backend = SQLiteBackend("bot.db", clock=lambda: time.time() - 3600)
        async with SessionStore(backend, ttl=60) as store:
            for number in range(3):
                await store.put(SessionKey(chat_id=number), {"n": 1})
            await store.delete(SessionKey(chat_id=0))

    asyncio.run(an_hour_ago())
    sessions.put({SessionKey(chat_id=3): {"n": 1}})
    assert cli("delete-expired", "--json").document == {"removed": 3}
    assert cli("delete-expired") == (0, "removed 0 expired or deleted sessions\n", "")
    assert sessions.read() == {"chat=3": {"n": 1}}


def test_version(cli: Cli) -> None:
    assert cli("version") == (0, f"botsessions {botsessions.__version__}\n", "")
    assert cli("version", "--json").document == {"version": botsessions.__version__}


def test_a_namespace_sets_sessions_apart(cli: Cli, sessions: Sessions) -> None:
    assert cli("put", "chat=1", '{"n": 1}', "--namespace", "other").code == 0
    assert sessions.read() == {}
    for command in (["show", "chat=1"], ["list"], ["stats"]):
        found = cli(*command, "--namespace", "other", "--json").out
        assert '"n": 1' in found or '"namespace": "other", "sessions": 1' in found


# A file that is not there


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["show", "chat=1"],
        ["stats"],
        ["delete", "chat=1"],
        ["delete-expired"],
    ],
)
def test_a_command_that_only_looks_makes_no_file(
    cli: Cli, tmp_path: Path, command: list[str]
) -> None:
    for url in ("sqlite:///typo.db", "sqlite:///typo.db?durability=normal"):
        result = cli(*command, "--store", url)
        assert (result.code, result.out) == (1, "")
        assert is_one_line(result.err)
        assert f"there is no database {tmp_path / 'typo.db'}" in result.err
    assert list(tmp_path.iterdir()) == []


def test_put_and_replay_make_the_file(cli: Cli, tmp_path: Path) -> None:
    assert cli("put", "chat=1", "{}", "--store", "sqlite:///put.db").code == 0
    assert cli("replay", "-", "--store", "sqlite:///replay.db").code == 0
    assert {"put.db", "replay.db"} <= {path.name for path in tmp_path.iterdir()}


# The command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["show"],
        ["show", "nonsense"],
        ["show", "chat=1", "chat=2"],
        ["show", "chat=01"],
        ["show", "chat=1", "--nonsense"],
        ["list", "--chat", "x"],
        ["list", "--chat", "1/user=2"],
        ["list", "--user", ""],
        ["list", "--topic", "x"],
        ["list", "--topic", "9" * 30],
        ["list", "--name", ""],
        ["list", "--limit", "0"],
        ["list", "--after", "nonsense"],
        ["list", "--namespace", "a/b"],
        ["list", "--store", "nonsense"],
        ["list", "--store", "nonsense://x"],
        ["list", "--store", "sqlite://"],
        ["list", "--store", "sqlite:///x.db?nonsense=1"],
        ["put", "chat=1"],
        ["replay"],
        ["replay", "-", "--handler", "nonsense"],
        ["replay", "-", "--handler", "nonsense:handle"],
        ["replay", "-", "--handler", "json:nonsense"],
        ["replay", "-", "--handler", "json:__doc__"],
        ["replay", "-", "--handler", "asyncio:sleep"],
    ],
)
def test_a_wrong_command_line_is_two(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert is_one_line(result.err)


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ([], "botsessions"),
        (["nonsense"], "botsessions"),
        (["--nonsense"], "botsessions"),
        (["show"], "botsessions show"),
        (["list", "--limit", "0"], "botsessions list"),
        (["list", "--store", "nonsense"], "botsessions list"),
        (["stats", "--namespace", "a/b"], "botsessions stats"),
        (["replay", "-", "--handler", "nonsense"], "botsessions replay"),
    ],
)
def test_a_wrong_command_line_names_the_help_to_read(
    cli: Cli, arguments: list[str], place: str
) -> None:
    assert cli(*arguments).err.endswith(f"; see {place} --help\n")


@pytest.mark.parametrize("command", ["list", "stats", "put", "replay"])
def test_a_wrong_option_is_named(cli: Cli, command: str) -> None:
    arguments = {"put": ["chat=1", "{}"], "replay": ["-"]}.get(command, [])
    for option, value in (("--namespace", "a/b"), ("--store", "nonsense://x")):
        result = cli(command, *arguments, option, value)
        assert result.code == 2
        assert f"Invalid value for '{option}'" in result.err


def test_a_store_must_be_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOTSESSIONS_STORE")
    result = cli("list")
    assert result.code == 2
    assert "--store" in result.err
    assert "BOTSESSIONS_STORE" in result.err
    assert cli("list", "--store", "memory://").code == 0
    assert cli("version").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--store", "sqlite:///no/such/directory/bot.db"],
        ["list", "--store", "sqlite:///text.db"],
        ["replay", "nowhere.jsonl"],
        ["replay", "."],
    ],
)
def test_a_failure_is_one(cli: Cli, arguments: list[str], sessions: Sessions) -> None:
    with open("text.db", "w") as file:  # noqa: PTH123 - here
        file.write("no database " * 1000)
    result = cli(*arguments)
    assert (result.code, result.out) == (1, "")
    assert is_one_line(result.err)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://ada:hunter2@host/db",
        "sqlite://ada:hunter2@host/bot.db",
        "sqlite:///no/such/place.db?password=hunter2",
        "sqlite://ada:hunter2@[::1/bot.db",
        "sqlite://ada:hunter2@ho\u2100st/bot.db",
        "memory://ada:hunter2@host",
    ],
)
@pytest.mark.parametrize("command", ["list", "stats"])
def test_a_password_is_never_printed(cli: Cli, command: str, url: str) -> None:
    result = cli(command, "--store", url)
    assert result.code in {1, 2}
    assert is_one_line(result.err)
    assert "hunter2" not in result.out + result.err


def test_stats_shows_the_store_without_its_secrets(
    cli: Cli, sessions: Sessions
) -> None:
    sessions.put({})
    url = "sqlite:///bot.db?durability=normal"
    assert cli("stats", "--store", url, "--json").document["store"] == (
        "sqlite:///bot.db"
    )


def test_help_needs_no_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "delete-expired" in capsys.readouterr().out
    for option in ("--help", "-h"):
        assert main(["show", option]) == 0
        assert "BOTSESSIONS_STORE" in capsys.readouterr().out
    assert main(["-h"]) == 0
