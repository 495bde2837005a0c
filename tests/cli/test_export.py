"""Sessions as JSON lines: what export writes, import takes back exactly."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import stat
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, SafeUUID

import pytest
from hypothesis import given

from botsessions import (
    Codec,
    Record,
    SessionKey,
    SessionStore,
    SQLiteBackend,
    Version,
    open_store,
)
from botsessions.cli import source
from botsessions.cli.jsonl import entry_of, line_of
from botsessions.cli.source import Line
from tests.cli.test_copy import (
    ADA,
    BOB,
    EVE,
    HOSTILE,
    place,
    records,
    sessions_in,
    start,
)
from tests.cli.tool import COMMAND, PATIENCE, write_lines
from tests.test_codec import ONE_OF_EACH, OWN, Form, Step, same
from tests.test_codec import sessions as any_session

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.cli.conftest import Cli, Sessions

OTHER = ("--store", "sqlite:///other.db")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


# There and back.


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request.param, "elsewhere", request, tmp_path)


def test_export_and_import_are_exact(
    cli: Cli, sessions: Sessions, elsewhere: str, tmp_path: Path
) -> None:
    sessions.put({key: {"n": n} for n, key in enumerate(HOSTILE)})
    sessions.put({ADA: ONE_OF_EACH, BOB: {"step": Form(Step.NAME)}, EVE: {}}, types=OWN)
    sessions.put({SessionKey(user_id=1): {"short": 1}}, ttl=3600.345)
    count = 4 + len(HOSTILE)
    exported = cli("export", "all.jsonl")
    assert exported == (0, f"exported {count} sessions to all.jsonl\n", "")
    result = cli("import", "all.jsonl", "--store", elsewhere, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.document["imported"] == result.document["lines"] == count

    async def check() -> None:
        before = await records("sqlite:///bot.db")
        after = await records(elsewhere)
        assert before.keys() == after.keys()
        for text, record in before.items():
            there = after[text]
            assert there.created_at == record.created_at
            assert there.expires_at == record.expires_at
        async with open_store(elsewhere, types=OWN) as store:
            assert same(await store.get(ADA), ONE_OF_EACH)
            assert await store.get(BOB) == {"step": Form(Step.NAME)}
            for number, key in enumerate(HOSTILE):
                assert await store.get(key) == {"n": number}
                await store.update(key, lambda s: {**s, "again": True})

    asyncio.run(check())
    ends = [line["expires_at"] for line in lines_of(tmp_path / "all.jsonl")]
    assert sum(end is not None for end in ends) == 1


@given(any_session)
def test_any_session_comes_back_from_its_line(session: dict[Any, Any]) -> None:
    codec = Codec()
    record = Record(Version(1, 2), codec.encode(session), b"", 5, 7)
    text, problem = line_of("chat=1", record)
    assert problem is None
    assert "\n" not in text
    entry = entry_of(Line(1, text.encode() + b"\n", 0))
    assert same(codec.decode(entry.value), session)
    assert (entry.key, entry.created_at, entry.expires_at) == ("chat=1", 5, 7)


@pytest.mark.parametrize(
    ("session", "field"),
    [
        ({"cart": (("rye", Decimal("5.90")),), 30: b"\0"}, "session"),
        ({"safe": UUID(int=1, is_safe=SafeUUID.unknown)}, "session"),
        ({"safe": UUID(int=1, is_safe=SafeUUID.safe)}, "sealed"),
        ({"zone": ONE_OF_EACH["zone"]}, "sealed"),
        ({"step": Step.NAME}, "sealed"),
        ({"text": "$repr"}, "session"),
        ({"deep": nested(90)}, "session"),
    ],
)
def test_a_session_is_readable_wherever_that_is_exact(
    session: dict[Any, Any], field: str
) -> None:
    value = Codec(OWN).encode(session)
    text, problem = line_of("chat=1", Record(Version(1, 2), value, b"", 5, None))
    assert problem is None
    assert (set(json.loads(text)) - {"key", "created_at", "expires_at"}) == {field}
    assert Codec(OWN).decode(entry_of(Line(1, text.encode(), 0)).value) == session


def test_a_namespace_is_exported_and_imported_alone(
    cli: Cli, sessions: Sessions
) -> None:
    sessions.put({ADA: {"n": 1}})
    sessions.put({BOB: {"n": 2}}, namespace="shop")
    exported = cli("export", "-", "--namespace", "shop").out.encode()
    assert cli("import", "-", "--namespace", "new", stdin=exported).code == 0
    listed = cli("list", "--json", "--namespace", "new").out
    assert json.loads(listed) == {"key": "chat=2", "session": {"n": 2}}
    assert sessions.read() == {"chat=1": {"n": 1}}


def test_dead_sessions_are_not_exported(cli: Cli, sessions: Sessions) -> None:
    async def an_hour_ago() -> None:
        backend = SQLiteBackend("bot.db", clock=lambda: time.time() - 3600)
        async with SessionStore(backend, ttl=60) as store:
            await store.put(ADA, {"n": 1})
            await store.put(BOB, {"n": 1})
            await store.delete(BOB)

    asyncio.run(an_hour_ago())
    sessions.put({EVE: {"n": 1}})
    result = cli("export", "-")
    assert [json.loads(line)["key"] for line in result.out.splitlines()] == ["chat=3"]
    assert result.err == "botsessions: exported 1 sessions\n"


def test_a_session_that_expired_since_is_not_imported(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    now = int(time.time() * 1000)
    entry = {"key": "chat=1", "session": {}, "expires_at": now - 1}
    write_lines(tmp_path / "old.jsonl", [entry, {**entry, "expires_at": now + 60_000}])
    result = cli("import", "old.jsonl", "--json")
    assert result.code == 0
    assert (result.document["expired"], result.document["imported"]) == (1, 1)
    assert sessions.read() == {"chat=1": {}}


# The file that export writes.


def test_an_export_replaces_a_file_as_a_whole(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    target.write_text("something long " * 100)
    link.symlink_to(target)
    sessions.put({ADA: {"n": 1}})
    assert cli("export", "link.jsonl", "--json").document == {
        "file": "link.jsonl",
        "sessions": 1,
        "unreadable": 0,
    }
    assert link.is_symlink()
    assert [line["key"] for line in lines_of(target)] == ["chat=1"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_an_export_that_fails_leaves_the_file_as_it_was(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    old = tmp_path / "old.jsonl"
    old.write_text("old")
    before = set(tmp_path.iterdir())
    assert cli("export", "old.jsonl", "--store", "sqlite:///typo.db").code == 1
    assert cli("export", "no/such/place.jsonl").code == 1
    many = {SessionKey(chat_id=n): {"text": "x" * 1000} for n in range(3_000)}
    sessions.put(many)
    with (tmp_path / "bot.db").open("r+b") as file:
        file.seek(-500_000, os.SEEK_END)
        file.write(bytes(100_000))
    result = cli("export", "old.jsonl")
    assert (result.code, result.out) == (1, "")
    assert old.read_text() == "old"
    left = {path.name for path in set(tmp_path.iterdir()) - before}
    assert left <= {"bot.db", "bot.db-wal", "bot.db-shm"}


def test_an_export_goes_through_a_pipe(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: ONE_OF_EACH})
    exported = cli("export", "-")
    assert exported.code == 0
    result = cli("import", "-", *OTHER, "--json", stdin=exported.out.encode())
    assert result.document["imported"] == 1
    assert same(asyncio.run(sessions_in("sqlite:///other.db")), {ADA: ONE_OF_EACH})


def test_a_damaged_session_is_exported_and_refused_by_import(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    sessions.put({ADA: {"n": 1}, BOB: {"n": 2}})
    sessions.spoil(ADA)
    result = cli("export", "all.jsonl", "--json")
    assert (result.code, result.document["unreadable"]) == (0, 1)
    assert "chat=1 is exported as it is, but import will refuse it" in result.err
    assert base64.b64decode(lines_of(tmp_path / "all.jsonl")[0]["sealed"]) == b"junk"
    result = cli("import", "all.jsonl", *OTHER)
    assert result.code == 3
    assert "line 1 malformed: the checksum does not match" in result.err
    assert asyncio.run(sessions_in("sqlite:///other.db")) == {BOB: {"n": 2}}


def test_a_line_too_long_for_import_is_told(
    cli: Cli, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botsessions.cli.jsonl.MAX_LINE", 1000)
    monkeypatch.setattr(source, "MAX_LINE", 1000)
    sessions.put({ADA: {"text": "x" * 2000}, BOB: {"n": 1}})
    result = cli("export", "all.jsonl")
    assert "chat=1 is exported as it is, but import will refuse it" in result.err
    assert cli("import", "all.jsonl", *OTHER).code == 3


# What import takes.


def test_importing_twice_changes_nothing(cli: Cli, sessions: Sessions) -> None:
    many = {"set": {f"text {n}" for n in range(50)}, "frozen": frozenset("abcdef")}
    sessions.put({ADA: ONE_OF_EACH, EVE: many})
    sessions.put({BOB: {"step": Step.NAME}}, types=OWN)
    assert cli("export", "all.jsonl").code == 0
    assert cli("import", "all.jsonl", *OTHER).code == 0
    before = asyncio.run(records("sqlite:///other.db"))
    for store in (OTHER, ()):
        result = cli("import", "all.jsonl", *store, "--json")
        assert (result.code, result.err) == (0, "")
        assert (result.document["imported"], result.document["present"]) == (0, 3)
    assert asyncio.run(records("sqlite:///other.db")) == before


def test_sets_are_the_same_in_another_process(
    sessions: Sessions, tmp_path: Path
) -> None:
    sessions.put({ADA: {"set": {f"text {n}" for n in range(50)}}})
    url = f"sqlite:///{tmp_path}/bot.db"
    for command in ("export", "import", "import"):  # each with hashes of its own
        child = start(tmp_path, *COMMAND, command, "all.jsonl", "--store", url)
        _, err = child.communicate(timeout=PATIENCE)
        assert (child.returncode, err) == (0, b"")


def test_what_is_there_stays(cli: Cli, sessions: Sessions, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    write_lines(file, [{"key": f"chat={n}", "session": {"n": n}} for n in range(1, 4)])
    sessions.put({ADA: {"mine": 1}, BOB: {"n": 2}})
    result = cli("import", "some.jsonl", "--json")
    assert result.code == 3
    assert result.err == (
        "botsessions: line 1 different: the store has another session chat=1, which "
        "stays\n"
    )
    counts = {"lines": 3, "imported": 1, "present": 1, "different": 1}
    assert (
        result.document
        == {"file": "some.jsonl", "expired": 0, "malformed": 0, "blank": 0} | counts
    )
    assert sessions.read() == {
        "chat=1": {"mine": 1},
        "chat=2": {"n": 2},
        "chat=3": {"n": 3},
    }


def test_a_deleted_session_can_be_imported(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: {"n": 1}})
    before = asyncio.run(records("sqlite:///bot.db"))["chat=1"]
    assert cli("export", "all.jsonl").code == 0
    assert cli("delete", "chat=1").code == 0
    assert cli("import", "all.jsonl").code == 0
    assert sessions.read() == {"chat=1": {"n": 1}}
    after = asyncio.run(records("sqlite:///bot.db"))["chat=1"]
    assert after.version.counter == before.version.counter + 2
    assert after.version.token != before.version.token
    assert after.created_at == before.created_at


def test_the_first_of_two_lines_with_one_key_counts(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    lines = [("chat=1", 1), ("chat=2", 1), ("chat=1", 2), ("chat=2", 1)]
    entries = [{"key": key, "session": {"n": n}} for key, n in lines]
    write_lines(tmp_path / "twice.jsonl", entries)
    result = cli("import", "twice.jsonl", "--json")
    assert result.code == 3
    counts = [result.document[name] for name in ("imported", "different", "present")]
    assert counts == [2, 1, 1]
    assert "line 3 different" in result.err
    assert sessions.read() == {"chat=1": {"n": 1}, "chat=2": {"n": 1}}


def test_import_takes_what_list_prints(cli: Cli, sessions: Sessions) -> None:
    sessions.put({ADA: {"a": (1, 2)}, BOB: {"n": 2}})
    listed = cli("list", "--json").out.encode()
    assert cli("import", "-", *OTHER, stdin=listed).code == 0
    expected = {ADA: {"a": (1, 2)}, BOB: {"n": 2}}
    assert asyncio.run(sessions_in("sqlite:///other.db")) == expected


SEALED = base64.b64encode(Codec().encode({"n": 1})).decode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "it is no JSON"),
        ("[1]", "an exported session is a JSON object"),
        ("{}", "an exported session is a JSON object"),
        ('{"key": "chat=1"}', "an exported session is a JSON object"),
        ('{"key": "chat=1", "created_at": 1}', "it takes either session or sealed"),
        ('{"key": "chat=1", "session": {}, "more": 1}', "an exported session is a JS"),
        ('{"key": "chat=1", "error": "unreadable"}', "an exported session is a JSON"),
        (f'{{"key": "chat=1", "session": {{}}, "sealed": "{SEALED}"}}', "it takes eit"),
        ('{"key": "chat=01", "session": {}}', "is not how a key is written"),
        ('{"key": "nonsense", "session": {}}', "is not a part of a key"),
        ('{"key": 5, "session": {}}', "A key is parsed from a str"),
        ('{"key": {"$tuple": []}, "session": {}}', "A key is parsed from a str"),
        ('{"key": "chat=1", "session": []}', "a session is a JSON object"),
        ('{"key": "chat=1", "session": {"$tuple": []}}', "a session is a JSON object"),
        ('{"key": "chat=1", "session": {"a": {"$no": 1}}}', "stands for no type"),
        ('{"key": "chat=1", "session": {"a": "\\ud800"}}', "lone surrogate"),
        ('{"key": "chat=1", "sealed": 5}', "sealed is a text in base64"),
        ('{"key": "chat=1", "sealed": "%"}', "base64"),
        ('{"key": "chat=1", "sealed": ""}', "the checksum does not match"),
        (f'{{"key": "chat=1", "sealed": "{SEALED[:-4]}"}}', "the checksum does not"),
        ('{"key": "chat=1", "session": {}, "expires_at": 1.5}', "expires_at is in mi"),
        ('{"key": "chat=1", "session": {}, "created_at": true}', "created_at is in m"),
        ('{"key": "chat=1", "session": {}, "created_at": -1}', "created_at is in mil"),
        (f'{{"key": "chat=1", "session": {{}}, "expires_at": {2**63}}}', "expires_at"),
        ('{"key": "chat=1", "session": ' + "[" * 20_000, "nested too deeply"),
    ],
)
def test_a_malformed_line_is_told_and_the_others_are_taken(
    cli: Cli, sessions: Sessions, tmp_path: Path, line: str, reason: str
) -> None:
    good = '{{"key": "chat={}", "session": {{"n": 1}}}}'
    text = "\n".join([good.format(7), line, "", good.format(8)])
    (tmp_path / "some.jsonl").write_text(text + "\n")
    result = cli("import", "some.jsonl", "--json")
    assert result.code == 3
    assert result.err.startswith("botsessions: line 2 malformed: ")
    assert reason in result.err
    assert result.err.count("\n") == 1
    counts = [result.document[name] for name in ("imported", "malformed", "blank")]
    assert counts == [2, 1, 1]
    assert sessions.read() == {"chat=7": {"n": 1}, "chat=8": {"n": 1}}


def test_a_wrong_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "wrong.jsonl").write_text('{"update_id": 1}\n\n')
    result = cli("import", "wrong.jsonl")
    assert (result.code, result.out) == (1, "")
    assert "nothing in wrong.jsonl is an exported session" in result.err
    (tmp_path / "empty.jsonl").touch()
    assert cli("import", "empty.jsonl", "--json").document["lines"] == 0
    assert cli("import", "nowhere.jsonl").code == 1


def test_import_makes_the_file_and_export_does_not(cli: Cli, tmp_path: Path) -> None:
    result = cli("export", "-", "--store", "sqlite:///typo.db")
    assert (result.code, result.out) == (1, "")
    assert "there is no database" in result.err
    assert list(tmp_path.iterdir()) == []
    assert cli("import", "-", *OTHER).code == 0
    assert (tmp_path / "other.db").is_file()


def test_an_import_that_is_killed_goes_on(
    cli: Cli, tmp_path: Path, rng: random.Random
) -> None:
    number = 4_000
    entries = ({"key": f"chat={n}", "session": {"n": n}} for n in range(number))
    write_lines(tmp_path / "many.jsonl", entries)
    url = f"sqlite:///{tmp_path}/bot.db"
    seen = 0
    for _ in range(3):
        child = start(tmp_path, *COMMAND, "import", "many.jsonl", "--store", url)
        until = time.monotonic() + PATIENCE
        goal = seen + rng.randrange(1, 900)
        while len(asyncio.run(records(url))) < goal and child.poll() is None:
            assert time.monotonic() < until
        child.send_signal(signal.SIGKILL)
        child.communicate()
        seen = len(asyncio.run(records(url)))
    result = cli("import", "many.jsonl", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.document["imported"] == number - seen
    assert result.document["present"] == seen
    found = asyncio.run(records(url))
    assert len(found) == number
    assert all(record.version.counter == 1 for record in found.values())
