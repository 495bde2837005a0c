"""Replay: which line goes where, exactly once, whatever the file and the handler."""

from __future__ import annotations

import enum
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from botsessions import SessionKey
from tests.cli.tool import SHARED, message, write_lines

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli, Sessions
    from tests.cli.tool import Result

OBEY = ("--handler", "tests.cli.bots:obey")
RECORD = ("--handler", "tests.cli.bots:record")
OUTCOMES = ("applied", "earlier", "no_key", "malformed", "failed", "blank")


class Mood(enum.Enum):
    """A class of an application."""

    GOOD = 1


def counts(result: Result) -> dict[str, int]:
    """Return the outcomes that occurred; they must add up to the lines."""
    document = result.document
    assert sum(document[name] for name in OUTCOMES) == document["lines"]
    return {name: document[name] for name in OUTCOMES if document[name]}


def ids(sessions: Sessions) -> dict[str, list[int]]:
    return {key: session["ids"] for key, session in sessions.read().items()}


# Keys


SERVICE = {"message_id": 1, "date": 1, "chat": {"id": -5, "type": "group"}}
PERSON = {"id": 7, "is_bot": False, "first_name": "Ada"}


@pytest.mark.parametrize(
    ("event", "key"),
    [
        ({"message": {**SERVICE, "from": PERSON}}, "chat=-5/user=7"),
        ({"message": SERVICE}, "chat=-5"),
        ({"channel_post": SERVICE}, "chat=-5"),
        (
            {"message": {**SERVICE, "from": {**PERSON, "id": 1087968824}}},
            "chat=-5",
        ),
        ({"inline_query": {"id": "1", "from": PERSON, "query": "a"}}, "user=7"),
        (
            {"callback_query": {"id": "1", "from": PERSON, "data": "a"}},
            "user=7",
        ),
        ({"business_connection": {"id": "b", "user": PERSON}}, "user=7/business=b"),
        ({"poll": {"id": "1", "question": "?", "options": []}}, None),
        ({"poll_answer": {"user": {**PERSON, "id": 136817688}}}, None),
        ({}, None),
    ],
)
def test_the_key_is_of_chat_and_user_or_of_what_there_is(
    cli: Cli, sessions: Sessions, event: dict[str, Any], key: str | None
) -> None:
    document = {"update_id": 1, **event}
    for line in (document, {"update": document, "source": "test"}):
        result = cli("replay", "-", "--json", stdin=json.dumps(line).encode())
        assert counts(result) == {"no_key" if key is None else "applied": 1}
    assert sessions.read() == ({} if key is None else {key: {"count": 2}})


def test_the_shared_corpus_adds_up(cli: Cli, sessions: Sessions) -> None:
    path = SHARED / "corpus.jsonl"
    if not path.exists():
        pytest.skip("../shared is not here")
    result = cli("replay", str(path), "--json")
    assert result.code == 0
    assert result.document["lines"] == 559
    assert counts(result).keys() == {"applied", "no_key"}
    stored = sessions.read()
    assert len(stored) == result.document["sessions"]
    total = sum(session["count"] for session in stored.values())
    assert total == result.document["applied"]


# Sources


DOCUMENTS = [message(number, number % 3) for number in range(10)]
TEXTS = {
    "lines": "".join(json.dumps(document) + "\n" for document in DOCUMENTS),
    "wrapped": "".join(json.dumps({"update": x}) + "\n" for x in DOCUMENTS),
    "crlf": "".join(json.dumps(document) + "\r\n" for document in DOCUMENTS),
    "open end": "\n".join(json.dumps(document) for document in DOCUMENTS),
    "byte order mark": "\ufeff" + "\n".join(map(json.dumps, DOCUMENTS)),
    "array": json.dumps(DOCUMENTS),
    "indented array": json.dumps(DOCUMENTS, indent=2),
    "answer": json.dumps({"ok": True, "result": DOCUMENTS}),
    "indented answer": json.dumps({"ok": True, "result": DOCUMENTS}, indent=2),
    "answer with a mark": "\ufeff" + json.dumps({"ok": True, "result": DOCUMENTS}),
    "sorted answer": json.dumps({"result": DOCUMENTS, "ok": True}),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["file.json", "-"])
def test_each_form_of_recording_is_read(
    cli: Cli, sessions: Sessions, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / "file.json").write_bytes(text.encode())
    result = cli("replay", name, *RECORD, "--json", stdin=text.encode())
    assert result.code == 0
    assert counts(result) == {"applied": 10}
    assert ids(sessions) == {
        "chat=0/user=0": [0, 3, 6, 9],
        "chat=1/user=1": [1, 4, 7],
        "chat=2/user=2": [2, 5, 8],
    }


def test_one_indented_update_is_an_update(cli: Cli) -> None:
    text = json.dumps(message(1, 2), indent=2).encode()
    assert counts(cli("replay", "-", "--json", stdin=text)) == {"applied": 1}


@pytest.mark.parametrize("text", [b"", b"[]", b'{"ok": true, "result": []}'])
def test_nothing_is_no_error(cli: Cli, text: bytes) -> None:
    result = cli("replay", "-", "--json", stdin=text)
    assert (result.code, result.document["lines"]) == (0, 0)


@pytest.mark.parametrize(
    "text",
    [
        b"[1, 2",
        b"[" * 20_000,
        b'[{"a": NaN}]',
        b'{"ok": true, "result": [',
        b'{"ok": true, "result": 5}',
        b'{"ok": false, "error_code": 401, "description": "Unauthorized"}',
        b"[]\n[]",
    ],
)
def test_a_broken_document_is_one_error(cli: Cli, text: bytes) -> None:
    result = cli("replay", "-", "--json", stdin=text)
    assert (result.code, result.out) == (1, "")
    note, error = result.err.splitlines()
    assert "cannot be resumed" in note
    assert error.startswith("botsessions: it ")


@pytest.mark.parametrize("name", ["file.jsonl", "-"])
@pytest.mark.parametrize("lines", [1, 300])
def test_a_file_without_an_update_is_a_wrong_one(
    cli: Cli, sessions: Sessions, tmp_path: Path, name: str, lines: int
) -> None:
    text = b"\nnonsense" * lines
    (tmp_path / "file.jsonl").write_bytes(text)
    result = cli("replay", name, stdin=text)
    assert (result.code, result.out) == (1, "")
    assert "botsessions: line 2 malformed: it is no JSON: " in result.err
    last = result.err.splitlines()[-1]
    assert last == f"botsessions: nothing in {name} is an update"
    assert sessions.keys() == []


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_no_wrong_one(cli: Cli, tmp_path: Path, text: str) -> None:
    (tmp_path / "file.jsonl").write_text(text)
    assert cli("replay", "file.jsonl").code == 0


def test_updates_may_begin_late(cli: Cli, sessions: Sessions, tmp_path: Path) -> None:
    good = [json.dumps(message(number, 1)) for number in range(300)]
    (tmp_path / "file.jsonl").write_text("\n".join(["nonsense"] * 600 + good) + "\n")
    for number in (1, 2):
        result = cli("replay", "file.jsonl", *RECORD, "--json")
        assert counts(result) == {"malformed": 600, "applied": 300}
        assert result.document["pass"] == number
        assert ids(sessions) == {"chat=1/user=1": [*range(300)] * number}


def test_a_malformed_line_has_one_number(cli: Cli) -> None:
    text = f'{json.dumps(message(1, 1))}\n{{"a":\n'.encode()
    problem = cli("replay", "-", stdin=text).err.splitlines()[1]
    assert problem == (
        "botsessions: line 2 malformed: it is no JSON: Expecting value (column 6)"
    )


HOSTILE = [
    b"nonsense",
    b"null",
    b"5",
    b'"text"',
    json.dumps(json.dumps(message(1, 2))).encode(),
    b"[1]",
    b"{}",
    b'{"update": {}}',
    b'{"update": 5}',
    b'{"message": 5}',
    b"\xff\xfe",
    b"\x00",
    b'{"update_id": 1, "message": {"chat": {"id": "1"}}}',
    b'{"update_id": 1, "message": {"chat": {"id": ' + b"9" * 5_000 + b"}}}",
    b'{"update_id": 1, "message": {"chat": {"id": 1e3}}}',
    b'{"update_id": 1, "update_id": 2}',
    b'{"a": ' * 20_000,
    b"[" * 20_000,
    json.dumps(message(1, 2)).encode()[:-5],
    json.dumps(message(1, 2)).encode() + b"}",
    json.dumps({"ok": True, "result": DOCUMENTS}).encode(),
]


def test_hostile_lines_are_malformed_and_the_others_are_not(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    good = [json.dumps(message(number, 1)).encode() for number in range(len(HOSTILE))]
    lines = [line for pair in zip(good, HOSTILE, strict=True) for line in pair]
    (tmp_path / "file.jsonl").write_bytes(b"\n".join(lines) + b"\n \n\t\n")
    result = cli("replay", "file.jsonl", *RECORD, "--json")
    assert result.code == 0
    assert counts(result) == {
        "applied": len(good),
        "malformed": len(HOSTILE),
        "blank": 2,
    }
    assert ids(sessions) == {"chat=1/user=1": list(range(len(good)))}
    problems = result.err.splitlines()
    assert [line.split(":")[1] for line in problems[:20]] == [
        f" line {2 * number} malformed" for number in range(1, 21)
    ]
    assert problems[20:] == ["botsessions: there are more such lines; they are counted"]
    assert len(result.err) < 8_000


def malformed() -> list[bytes]:
    path = SHARED / "malformed.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [json.loads(line)["text"].encode(errors="surrogatepass") for line in lines]


@pytest.mark.parametrize("text", malformed())
def test_a_malformed_body_of_the_shared_ones_ends_well(cli: Cli, text: bytes) -> None:
    first = cli("replay", "-", "--json", stdin=text)
    if first.code == 0:
        counts(first)
    else:
        assert (first.code, first.out) == (1, "")
    line = json.dumps(message(1, 2)).encode() + b"\n" + text + b"\n"
    result = cli("replay", "-", "--json", stdin=line)
    assert result.code == 0
    assert counts(result)["applied"] >= 1
    assert result.document["lines"] == len(line.splitlines(keepends=True))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("length", [999, 1_000, 1_001, 1_999, 2_000, 2_001, 9_999])
def test_a_line_that_is_too_long_is_cut_and_still_one_line(
    cli: Cli,
    sessions: Sessions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    length: int,
    first: int,
) -> None:
    monkeypatch.setattr("botsessions.cli.source.MAX_LINE", 1_000)
    good = json.dumps(message(1, 1))
    lines = [*[good] * first, '{"a": "' + "x" * (length - 9) + '"}', good]
    (tmp_path / "file.jsonl").write_text("\n".join(lines) + "\n")
    for pass_number in (1, 2):
        result = cli("replay", "file.jsonl", *RECORD, "--json")
        assert counts(result) == {"applied": first + 1, "malformed": 1}
        assert result.document["pass"] == pass_number
    assert ids(sessions) == {"chat=1/user=1": [1] * 2 * (first + 1)}


@pytest.mark.parametrize("indent", [None, 0, 70])
def test_a_document_may_be_longer_than_a_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    monkeypatch.setattr("botsessions.cli.source.MAX_LINE", 100)
    for document in (DOCUMENTS, {"ok": True, "result": DOCUMENTS}):
        text = json.dumps(document, indent=indent).encode()
        assert counts(cli("replay", "-", "--json", stdin=text)) == {"applied": 10}


# Handlers


BAD = [
    "raise",
    "change and raise",
    "leave",
    "return nothing",
    "return a coroutine",
    "return an object",
    "return too much",
    "return a marker",
]


@pytest.mark.parametrize("told", BAD)
@pytest.mark.parametrize("name", ["file.jsonl", "-"])
def test_what_fails_writes_nothing_and_stops_nothing(
    cli: Cli, sessions: Sessions, tmp_path: Path, told: str, name: str
) -> None:
    told_in_order = ["record", told, "record", "change and return", told, told]
    documents = [message(n, 1, text) for n, text in enumerate(told_in_order, 1)]
    documents += [message(7, 2, told), message(8, 3, "record")]
    path = write_lines(tmp_path / "file.jsonl", documents)
    result = cli("replay", name, *OBEY, "--json", stdin=path.read_bytes())
    assert result.code == 3
    assert counts(result) == {"applied": 4, "failed": 4}
    problems = [line for line in result.err.splitlines() if " failed: " in line]
    assert [int(line.split()[2]) for line in problems] == [2, 5, 6, 7]
    assert ids(sessions) == {"chat=1/user=1": [1, 3, 4], "chat=3/user=3": [8]}


@pytest.mark.parametrize(
    ("texts", "note"),
    [
        (["raise", "record"], "1 line failed"),
        (["raise", "record", "leave"], "2 lines failed"),
    ],
)
def test_failed_lines_have_an_exit_code_and_a_note_of_their_own(
    cli: Cli, sessions: Sessions, tmp_path: Path, texts: list[str], note: str
) -> None:
    documents = [message(number, 1, text) for number, text in enumerate(texts)]
    write_lines(tmp_path / "file.jsonl", documents)
    for number in (1, 2):
        result = cli("replay", "file.jsonl", *OBEY)
        assert result.code == 3
        assert result.err.splitlines()[-1] == (
            f"botsessions: {note}, the other updates are applied; "
            "running this again applies the whole file once more"
        )
        assert ids(sessions) == {"chat=1/user=1": [1] * number}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("raise", r"LookupError: as told to do \(bots\.py, line \d+\)"),
        ("leave", r"SystemExit \(bots\.py, line \d+\)"),
        ("fail in a library", r"JSONDecodeError: .* \(bots\.py, line \d+\)"),
        ("nonsense", r"KeyError: 'nonsense' \(bots\.py, line \d+\)"),
        ("return nothing", r"InvalidSessionError: .*[^)]"),
    ],
)
def test_a_failed_line_says_where_the_handler_failed(
    cli: Cli, told: str, reason: str
) -> None:
    text = json.dumps(message(1, 1, told)).encode()
    problem = cli("replay", "-", *OBEY, stdin=text).err.splitlines()[1]
    assert re.fullmatch(f"botsessions: line 1 failed: {reason}", problem)


def test_the_place_of_a_failure_is_the_users_own(cli: Cli, tmp_path: Path) -> None:
    library = tmp_path / "site-packages"
    library.mkdir()
    (library / "some_library.py").write_text("def fail(*_):\n    raise KeyError\n")
    (tmp_path / "some_bot.py").write_text(
        "import sys\n"
        "sys.path.append('site-packages')\n"
        "import some_library\n"
        "def handle(session, update):\n"
        "    some_library.fail()\n"
    )
    text = json.dumps(message(1, 1)).encode()
    mine = cli("replay", "-", "--handler", "some_bot:handle", stdin=text)
    assert "line 1 failed: KeyError (some_bot.py, line 5)\n" in mine.err
    installed = cli("replay", "-", "--handler", "some_library:fail", stdin=text)
    assert "line 1 failed: KeyError (some_library.py, line 2)\n" in installed.err


def test_a_handler_that_fails_while_it_is_imported_says_where(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "early_bot.py").write_text("x = {}\n\nx['y']\n")
    result = cli("replay", "-", "--handler", "early_bot:handle")
    assert result.code == 2
    assert "early_bot:handle: KeyError: 'y' (early_bot.py, line 3); see" in result.err


def test_a_session_of_unknown_classes_is_not_to_be_replaced(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    sessions.put({SessionKey(chat_id=1, user_id=1): {"mood": Mood.GOOD}}, types=[Mood])
    write_lines(tmp_path / "file.jsonl", [message(1, 1)])
    result = cli("replay", "file.jsonl")
    assert result.code == 3
    assert result.err.splitlines()[0] == (
        "botsessions: line 1 failed: the session chat=1/user=1 cannot be read: "
        "it holds a 'Mood', and the command line does not know the classes of the "
        "application; nothing is wrong with the session, leave it to the bot"
    )


def test_a_session_that_cannot_be_read_fails_its_lines_alone(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    broken, sound = (SessionKey(chat_id=n, user_id=n) for n in (1, 2))
    sessions.put({broken: {"n": 1}, sound: {"n": 1}})
    sessions.spoil(broken)
    write_lines(tmp_path / "file.jsonl", [message(n, n % 2 + 1) for n in range(10)])
    result = cli("replay", "file.jsonl", "--json")
    assert result.code == 3
    assert counts(result) == {"applied": 5, "failed": 5}
    assert "checksum" in result.err
    assert cli("show", str(sound), "--json").document == {"n": 1, "count": 5}


def test_what_comes_to_nothing_is_not_kept(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    sessions.put({SessionKey(chat_id=2, user_id=2): {"n": 1}})
    texts = [message(1, 1, "clear"), message(2, 2, "clear")]
    write_lines(tmp_path / "file.jsonl", texts)
    assert counts(cli("replay", "file.jsonl", *OBEY, "--json")) == {"applied": 2}
    assert sessions.read() == {}


def test_a_handler_of_the_current_directory_is_found(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    (tmp_path / "bot_of_here.py").write_text(
        "class Bot:\n"
        "    @staticmethod\n"
        "    def handle(session, update):\n"
        "        return {'here': True}\n"
    )
    write_lines(tmp_path / "file.jsonl", [message(1, 1)])
    result = cli("replay", "file.jsonl", "--handler", "bot_of_here:Bot.handle")
    assert result.code == 0
    assert sessions.read() == {"chat=1/user=1": {"here": True}}


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemError('no')",
        "def handle(:",
        "raise SystemExit",
        "import sys; sys.exit(0)",
    ],
)
def test_a_handler_that_cannot_be_imported_is_one_line(
    cli: Cli, tmp_path: Path, source: str
) -> None:
    (tmp_path / "broken_bot.py").write_text(source)
    result = cli("replay", "-", "--handler", "broken_bot:handle")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("botsessions: Invalid value for '--handler': broken_b")
    assert result.err.count("\n") == 1


def test_the_summary_is_a_table(cli: Cli, tmp_path: Path) -> None:
    write_lines(tmp_path / "file.jsonl", [message(n, 1) for n in range(1_234)])
    rows = [
        line.rsplit(None, 1) for line in cli("replay", "file.jsonl").out.splitlines()
    ]
    table = {name.strip(): number for name, number in rows}
    assert float(table.pop("updates per second").replace(",", "")) > 0
    assert table == {
        "lines": "1,234",
        "applied": "1,234",
        "done by an earlier run": "0",
        "without chat and user": "0",
        "malformed": "0",
        "failed": "0",
        "blank": "0",
        "sessions": "1",
        "pass": "1",
    }
