"""The command line as a process: pipes, closed streams, terminals, signals."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.tool import (
    COMMAND,
    ENVIRONMENT,
    PATIENCE,
    message,
    process,
    write_lines,
)

if TYPE_CHECKING:
    from pathlib import Path

STORE = {"BOTSESSIONS_STORE": "sqlite:///bot.db"}
ESCAPE = "\x1b"


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a recording, and a store that has seen it."""
    made = tmp_path_factory.mktemp("replayed")
    write_lines(made / "file.jsonl", [message(n, n % 500) for n in range(2_000)])
    result = process("replay", "file.jsonl", cwd=made, environment=STORE)
    assert (result.code, result.err) == (0, "")
    return made


@pytest.fixture
def bot(replayed: Path, tmp_path: Path) -> Path:
    """Return a copy of it, for one test alone."""
    return shutil.copytree(replayed, tmp_path, dirs_exist_ok=True)


def shell(
    script: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``$cli`` is the command."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=cwd,
        env=ENVIRONMENT | STORE | {"cli": " ".join(COMMAND)} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def on_a_terminal(cwd: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command with all its streams on a terminal; return what was seen there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT | STORE | {"TERM": "xterm", "COLUMNS": "80"} | environment,
    ) as child:
        os.close(theirs)
        seen = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # so ends a terminal
                break
            seen += more
        os.close(ours)
        return child.wait(PATIENCE), seen.decode()


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["list", "--json"],
        ["show", "chat=1/user=1"],
        ["stats"],
        ["delete", "chat=1/user=1"],
        ["delete-expired"],
        ["replay", "file.jsonl"],
        ["version"],
    ],
)
def test_in_a_pipe_there_is_text_and_nothing_else(
    bot: Path, command: list[str]
) -> None:
    result = process(*command, cwd=bot, environment=STORE)
    assert result.code == 0
    assert ESCAPE not in result.out + result.err
    assert result.out.endswith("\n")
    assert all(line == line.rstrip() for line in result.out.splitlines())


def test_in_a_pipe_nothing_is_cut(tmp_path: Path) -> None:
    key = f"chat=s:{'x' * 200}/name={'y' * 200}"
    assert process("put", key, '{"n": 1}', cwd=tmp_path, environment=STORE).code == 0
    result = process("list", cwd=tmp_path, environment=STORE | {"COLUMNS": "40"})
    assert result.out.splitlines()[1] == f"{key}  {{'n': 1}}"


def test_a_terminal_has_colours_and_lines_that_fit(bot: Path) -> None:
    code, seen = on_a_terminal(bot, "list", "--limit", "3")
    assert code == 0
    assert ESCAPE in seen
    lines = seen.splitlines()
    assert "chat=0/user=0" in lines[1]
    code, seen = on_a_terminal(bot, "list", "--limit", "3", NO_COLOR="1")
    assert code == 0
    assert f"{ESCAPE}[3" not in seen


def test_a_terminal_shows_long_keys_in_full(tmp_path: Path) -> None:
    key = f"chat=s:{'x' * 100}"
    session = '{"text": "' + "y" * 500 + '"}'
    assert process("put", key, session, cwd=tmp_path, environment=STORE).code == 0
    _, seen = on_a_terminal(tmp_path, "list", NO_COLOR="1")
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in seen.splitlines()]
    assert max(len(line) for line in lines) <= 80
    assert seen.count("x") == 100


def test_a_terminal_sees_the_replay_advance(bot: Path) -> None:
    code, seen = on_a_terminal(bot, "replay", "file.jsonl")
    assert code == 0
    assert "100%" in seen
    assert "updates per second" in seen


def test_a_terminal_sees_problems_beside_the_bar(bot: Path) -> None:
    write_lines(bot / "bad.jsonl", [None, message(1, 1)])
    code, seen = on_a_terminal(bot, "replay", "bad.jsonl")
    assert code == 0
    assert "botsessions: line 1 malformed: " in seen


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        ("list --json --limit 500", ""),
        ("list --json --limit 500", "1"),
        ("list", "1"),
        ("stats", ""),
        ("--help", "1"),
        ("list --help", ""),
    ],
)
def test_a_reader_that_leaves_early_is_no_failure(
    bot: Path, command: str, unbuffered: str
) -> None:
    done = shell(f"$cli {command} | head -n 1", bot, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    for reader in ("true", "sleep 0.001", "exec 0<&-; sleep 1"):
        done = shell(f"$cli {command} | ({reader})", bot, PYTHONUNBUFFERED=unbuffered)
        assert done.returncode == 0
        assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_line(bot: Path) -> None:
    done = shell("$cli list --limit 500 > /dev/full", bot)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("No space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("list >&-", 0),
        ("list 2>&-", 0),
        ("list >&- 2>&- <&-", 0),
        ("show chat=99999 2>&-", 1),
        ("put chat=1 - <&-", 1),
        ("replay - <&-", 1),
        ("replay file.jsonl <&-", 0),
        ("replay file.jsonl >&- 2>&- <&-", 0),
    ],
)
def test_closed_streams_are_no_surprise(bot: Path, command: str, code: int) -> None:
    done = shell(f"$cli {command}", bot)
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr
    assert "closed" in done.stderr or code == 0 or "2>&-" in command


def test_text_that_the_output_cannot_encode_is_escaped(tmp_path: Path) -> None:
    ascii_only = STORE | {"PYTHONIOENCODING": "ascii"}
    text = '{"name": "文子"}'
    assert (
        process("put", "chat=1", text, cwd=tmp_path, environment=ascii_only).code == 0
    )
    for command in (["show", "chat=1"], ["show", "chat=1", "--json"], ["list"]):
        result = process(*command, cwd=tmp_path, environment=ascii_only)
        assert result.code == 0
        assert "\\u6587" in result.out


def test_a_pipe_can_be_replayed_by_name(bot: Path) -> None:
    done = shell("$cli replay <(head -n 7 file.jsonl) --json", bot)
    assert done.returncode == 0
    assert '"lines": 7, "applied": 7' in done.stdout
    assert "cannot be resumed" in done.stderr


@pytest.mark.parametrize("arguments", [["replay", "-"], ["put", "chat=1", "-"]])
def test_ctrl_c_ends_a_command_that_waits_for_its_input(
    tmp_path: Path, arguments: list[str]
) -> None:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | STORE,
    ) as child:
        # Until it waits in its read.
        while "pipe_" not in _where(child.pid):
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        assert child.wait(PATIENCE) == 130
        assert child.stderr.read().endswith(b"botsessions: interrupted\n")


def _where(pid: int) -> str:
    with open(f"/proc/{pid}/wchan") as file:  # noqa: PTH123 - one word
        return file.read()


def test_only_conform_loads_the_conformance_kit(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from botsessions.cli import main\n"
        "assert main(['stats', '--store', 'sqlite:///new.db']) == 1\n"
        "print(any(name.startswith('botsessions.conformance') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_the_command_says_what_to_install(
    tmp_path: Path, missing: str
) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from botsessions.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"botsessions: the command line needs {missing}; "
        "install it with: pip install 'botsessions[cli]'\n"
    )
