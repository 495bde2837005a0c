"""A replay that was stopped goes on: each line once, in order, and without a trace."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from botsessions import SessionKey, open_store
from botsessions.cli.journal import Journal
from botsessions.cli.replay import Replay
from botsessions.cli.source import Source
from tests.cli.bots import Interrupted, record
from tests.cli.test_replay import OBEY, RECORD, counts, ids
from tests.cli.tool import message, write_lines

if TYPE_CHECKING:
    from pathlib import Path

    from botsessions.store import UpdateFunction
    from tests.cli.conftest import Cli, Sessions

USERS = 7
LINES = 1_000
INTERRUPTED = ("--handler", "tests.cli.bots:Interrupted.record")
ALL = range(LINES)


def updates(numbers: range) -> list[dict[str, Any]]:
    return [message(number, number % USERS) for number in numbers]


def expected(*replayed: range) -> dict[str, list[int]]:
    """Return what sessions hold after these updates, each in the order of the file."""
    found: dict[str, list[int]] = {}
    for numbers in replayed:
        for number in numbers:
            user = number % USERS
            found.setdefault(f"chat={user}/user={user}", []).append(number)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "file.jsonl", updates(ALL))


@pytest.fixture
def interrupt(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what replays a file and is interrupted at some call of the handler."""

    def interrupt(file: Path, call: int) -> None:
        monkeypatch.setattr(Interrupted, "left", call)
        result = cli("replay", file.name, *INTERRUPTED)
        assert result == (130, "", "botsessions: interrupted\n")

    return interrupt


def traces(cli: Cli) -> int:
    """Count the markers that are left in sessions."""
    return cli("list", "--json", "--limit", "1000").out.count("botsessions.replay")


def test_a_complete_file_begins_a_new_pass(
    cli: Cli, sessions: Sessions, file: Path
) -> None:
    for number in (1, 2, 3):
        result = cli("replay", file.name, *RECORD, "--json")
        assert counts(result) == {"applied": LINES}
        assert result.document["pass"] == number
        assert ids(sessions) == expected(*[ALL] * number)
        assert traces(cli) == 0


@pytest.mark.parametrize("call", [1, 2, 255, 256, 257, 258, 511, 512, 600, 999, 1000])
@pytest.mark.parametrize("earlier_passes", [0, 1])
def test_an_interrupted_replay_goes_on(
    cli: Cli,
    sessions: Sessions,
    file: Path,
    interrupt: Any,
    call: int,
    earlier_passes: int,
) -> None:
    for _ in range(earlier_passes):
        assert cli("replay", file.name, *RECORD).code == 0
    interrupt(file, call)
    result = cli("replay", file.name, *RECORD, "--json")
    assert result.code == 0
    assert counts(result).keys() <= {"applied", "earlier"}
    assert result.document["pass"] == earlier_passes + 1
    assert ids(sessions) == expected(*[ALL] * (earlier_passes + 1))
    assert traces(cli) == 0
    again = cli("replay", file.name, *RECORD, "--json")
    assert counts(again) == {"applied": LINES}
    assert again.document["pass"] == earlier_passes + 2


def test_a_replay_may_be_interrupted_again_and_again(
    cli: Cli, sessions: Sessions, file: Path, interrupt: Any
) -> None:
    for call in (1, 200, 1, 200, 7, 150):
        interrupt(file, call)
    assert cli("replay", file.name, *RECORD).code == 0
    assert ids(sessions) == expected(ALL)


def test_what_is_left_is_little(
    cli: Cli, sessions: Sessions, file: Path, interrupt: Any
) -> None:
    interrupt(file, 900)
    left = counts(cli("replay", file.name, *RECORD, "--json"))
    assert left["earlier"] >= 768  # three whole waves


def test_an_interruption_while_traces_are_removed(
    cli: Cli, sessions: Sessions, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmark = Journal.unmark
    left = 3

    def interrupted(self: Journal, session: dict[Any, Any]) -> dict[Any, Any]:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return unmark(self, session)

    monkeypatch.setattr(Journal, "unmark", interrupted)
    assert cli("replay", file.name, *RECORD).code == 130
    monkeypatch.undo()
    assert ids(sessions) == expected(ALL)
    again = cli("replay", str(file), *RECORD, "--json", "--store", store(file))
    assert counts(again) == {"earlier": LINES}
    assert ids(sessions) == expected(ALL)


def store(file: Path) -> str:
    return f"sqlite:///{file.parent / 'bot.db'}"


def test_a_file_that_has_grown_goes_on_behind_its_old_end(
    cli: Cli, sessions: Sessions, file: Path, interrupt: Any
) -> None:
    assert cli("replay", file.name, *RECORD).code == 0
    more = range(LINES, LINES + 500)
    with file.open("a") as end:
        end.writelines(json.dumps(update) + "\n" for update in updates(more))
    interrupt(file, 300)
    result = cli("replay", file.name, *RECORD, "--json")
    assert result.document["pass"] == 1
    assert counts(result)["earlier"] >= LINES
    assert ids(sessions) == expected(ALL, more)
    assert traces(cli) == 0


def test_a_line_that_is_still_being_written_is_left_for_the_next_run(
    cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    text = "".join(json.dumps(update) + "\n" for update in updates(range(10)))
    for end in range(len(text) - 200, len(text) + 1, 7):
        (tmp_path / "file.jsonl").write_text(text[:end])
        assert cli("replay", "file.jsonl", *RECORD).code == 0
    (tmp_path / "file.jsonl").write_text(text)
    assert cli("replay", "file.jsonl", *RECORD, "--json").document["pass"] == 1
    assert ids(sessions) == expected(range(10))


@pytest.mark.parametrize("end", ["", "\r", "\n", "\r\n"])
def test_a_last_line_may_get_its_newline_later(
    cli: Cli, sessions: Sessions, tmp_path: Path, end: str
) -> None:
    lines = [json.dumps(update) for update in updates(range(20))]
    (tmp_path / "file.jsonl").write_text("\n".join(lines[:10]) + end, newline="")
    assert cli("replay", "file.jsonl", *RECORD).code == 0
    (tmp_path / "file.jsonl").write_text("\n".join(lines) + "\n")
    assert cli("replay", "file.jsonl", *RECORD, "--json").document["pass"] == 1
    assert ids(sessions) == expected(range(20))


def test_a_file_may_grow_while_its_replay_is_interrupted(
    cli: Cli, sessions: Sessions, file: Path, interrupt: Any
) -> None:
    text = "".join(json.dumps(update) + "\n" for update in updates(range(20)))
    for call, end in ((5, len(text) - 9), (1, len(text) - 1)):
        file.write_text(text[:end])
        interrupt(file, call)
    file.write_text(text)
    assert cli("replay", file.name, *RECORD, "--json").document["pass"] == 1
    assert ids(sessions) == expected(range(20))


def test_a_cut_off_file_that_does_not_grow_begins_a_new_pass(
    cli: Cli, tmp_path: Path
) -> None:
    text = json.dumps(message(1, 1)) + "\n" + json.dumps(message(2, 1))[:-9]
    (tmp_path / "file.jsonl").write_text(text)
    for number in (1, 2):
        result = cli("replay", "file.jsonl", "--json")
        assert counts(result) == {"applied": 1, "malformed": 1}
        assert result.document["pass"] == number


@pytest.mark.parametrize("change", ["other lines", "fewer lines", "one other line"])
@pytest.mark.parametrize("at", [None, 10, 700])
def test_a_file_that_has_changed_is_another_one(
    cli: Cli,
    sessions: Sessions,
    file: Path,
    interrupt: Any,
    change: str,
    at: int | None,
) -> None:
    if at is None:
        assert cli("replay", file.name, *RECORD).code == 0
    else:
        interrupt(file, at)
    before = ids(sessions)
    replaced = {
        "other lines": updates(range(5_000, 7_000)),
        "fewer lines": updates(range(100)),
        "one other line": [*updates(ALL)[:100], message(5_000, 0), *updates(ALL)[101:]],
    }[change]
    write_lines(file, replaced)
    result = cli("replay", file.name, *RECORD, "--json")
    assert counts(result) == {"applied": len(replaced)}
    assert result.document["pass"] == 2
    after = ids(sessions)
    added = [
        number for key in after for number in after[key][len(before.get(key, [])) :]
    ]
    assert sorted(added) == sorted(update["update_id"] for update in replaced)
    assert traces(cli) == 0


def test_a_wrong_file_in_its_place_changes_nothing(
    cli: Cli, sessions: Sessions, file: Path, interrupt: Any
) -> None:
    right = file.read_bytes()
    interrupt(file, 600)
    file.write_text("nonsense\n")
    assert cli("replay", file.name, *RECORD).code == 1
    file.write_bytes(right)
    result = cli("replay", file.name, *RECORD, "--json")
    assert result.document["pass"] == 1
    assert counts(result)["earlier"] >= 512
    assert ids(sessions) == expected(ALL)


def test_an_array_goes_on_like_lines(
    cli: Cli, sessions: Sessions, file: Path, interrupt: Any
) -> None:
    file.write_text(json.dumps(updates(ALL), indent=1))
    interrupt(file, 600)
    longer = range(LINES + 10)
    file.write_text(json.dumps({"ok": True, "result": updates(longer)}))
    result = cli("replay", file.name, *RECORD, "--json")
    assert counts(result)["earlier"] >= 512
    assert result.document["pass"] == 1
    assert ids(sessions) == expected(longer)


def test_replays_of_other_files_do_not_mix(
    cli: Cli, sessions: Sessions, file: Path, interrupt: Any
) -> None:
    other = write_lines(file.with_name("other.jsonl"), updates(range(2_000, 3_000)))
    interrupt(file, 300)
    interrupt(other, 700)
    assert cli("replay", file.name, *RECORD).code == 0
    assert cli("replay", other.name, *RECORD).code == 0
    found = {key: sorted(numbers) for key, numbers in ids(sessions).items()}
    assert found == expected(ALL, range(2_000, 3_000))
    assert traces(cli) == 0


def test_a_file_is_known_by_its_place(
    cli: Cli, sessions: Sessions, file: Path, tmp_path: Path, interrupt: Any
) -> None:
    (tmp_path / "link.jsonl").symlink_to(file)
    interrupt(file, 700)
    by_link = cli("replay", "link.jsonl", *RECORD, "--json")
    assert counts(by_link)["earlier"] >= 512
    copied = shutil.copy(str(file), str(tmp_path / "copy.jsonl"))
    assert counts(cli("replay", copied, *RECORD, "--json")) == {"applied": LINES}


def test_handlers_see_no_trace(
    cli: Cli, sessions: Sessions, file: Path, interrupt: Any
) -> None:
    interrupt(file, 300)
    write_lines(
        file.with_name("keys.jsonl"), [message(1, n, "show keys") for n in (1, 1, 2)]
    )
    assert traces(cli) == USERS
    assert cli("replay", "keys.jsonl", *OBEY).code == 0
    assert cli("replay", "-", *OBEY, stdin=file.with_name("keys.jsonl").read_bytes())
    assert traces(cli) == USERS
    assert cli("replay", file.name, *RECORD).code == 0
    keys = [["ids"], ["ids", "keys"]]
    found = sessions.read()
    assert found["chat=1/user=1"]["keys"] == [keys[0], *[keys[1]] * 3]
    assert found["chat=2/user=2"]["keys"] == keys
    assert ids(sessions) == expected(ALL)


def test_standard_input_leaves_no_trace(
    cli: Cli, sessions: Sessions, file: Path
) -> None:
    for number in (1, 2):
        result = cli("replay", "-", *RECORD, "--json", stdin=file.read_bytes())
        assert counts(result) == {"applied": LINES}
        assert result.document["pass"] is None
        assert result.err == (
            "botsessions: - cannot be read again, so this replay cannot be resumed\n"
        )
        assert ids(sessions) == expected(*[ALL] * number)
    assert cli("stats", "--json").document["kinds"] == {"chat+user": USERS}


async def test_of_two_runs_that_begin_at_once_one_begins_anew(file: Path) -> None:
    class Overtaken:
        """A store in which another run does all its work before the first update."""

        async def get(self, key: SessionKey) -> dict[Any, Any]:
            before = await store.get(key)
            if not before:
                await replay(store)
            return before

        async def update(self, key: SessionKey, function: UpdateFunction) -> Any:
            return await store.update(key, function)

    async def replay(store: Any) -> int | None:
        run = Replay(store, Source(str(file)), record, on_problem=print, on_wave=print)
        return (await run.run()).pass_number

    async with open_store("memory://") as store:
        assert await replay(Overtaken()) == 2
        key = SessionKey(chat_id=0, user_id=0)
        assert (await store.get(key))["ids"] == 2 * expected(ALL)[str(key)]


def test_a_standing_that_is_none_is_one_error(
    cli: Cli, sessions: Sessions, file: Path
) -> None:
    assert cli("replay", file.name).code == 0
    listed = cli("list", "--json", "--limit", "1000").out.splitlines()
    key = next(json.loads(line)["key"] for line in listed if '"name=replay.' in line)
    sessions.put({SessionKey.parse(key): {"nonsense": 1}})
    result = cli("replay", file.name)
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1
