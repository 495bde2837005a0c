"""Replays that are killed at random moments lose nothing and repeat nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_replay import ids
from tests.cli.test_resume import expected, traces, updates
from tests.cli.tool import COMMAND, ENVIRONMENT, PATIENCE, message, write_lines

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Cli, Sessions

ONCE_OR_OFTEN = [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 20))]
REPLAY = ("replay", "file.jsonl", "--json", "--handler")


class Running:
    """A replay under way, and how far its handler has come."""

    def __init__(self, directory: Path, handler: str) -> None:
        self._pace = directory / "pace"
        self._pace.touch()
        self._started = self._pace.stat().st_size
        self._child = subprocess.Popen(
            [*COMMAND, *REPLAY, f"tests.cli.bots:{handler}"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT
            | {"PACE": str(self._pace), "BOTSESSIONS_STORE": "sqlite:///bot.db"},
        )

    def wait_for(self, calls: int) -> bool:
        """Wait for so many calls of the handler; False if it ends before."""
        until = time.monotonic() + PATIENCE
        while self._pace.stat().st_size - self._started < calls:
            assert time.monotonic() < until
            if self._child.poll() is not None:
                return False
            time.sleep(0.001)
        return True

    def kill(self) -> None:
        self._child.kill()
        self._child.communicate()

    def interrupt(self) -> None:
        self._child.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        out, err = self._child.communicate(timeout=PATIENCE)
        return self._child.returncode, out.decode(), err.decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(handler: str = "pace") -> Running:
        running.append(Running(tmp_path, handler))
        return running[-1]

    yield start
    for one in running:
        one.kill()


@pytest.mark.parametrize("repetition", ONCE_OR_OFTEN)
def test_a_killed_replay_loses_nothing_and_repeats_nothing(
    start: Callable[..., Running],
    cli: Cli,
    sessions: Sessions,
    tmp_path: Path,
    rng: random.Random,
    repetition: int,
) -> None:
    lines = range(6_000)
    write_lines(tmp_path / "file.jsonl", updates(lines))
    for _ in range(6):
        running = start()
        assert running.wait_for(rng.randrange(1, 700))
        time.sleep(rng.random() * 0.02)
        running.kill()
        assert cli("stats", "--json").document["unreadable"] == []
    code, out, err = start().end()
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["pass"] == 1
    assert summary["applied"] + summary["earlier"] == summary["lines"] == len(lines)
    assert ids(sessions) == expected(lines)
    assert traces(cli) == 0


@pytest.mark.parametrize("repetition", ONCE_OR_OFTEN)
def test_a_replay_killed_at_its_end_is_finished_by_the_next(
    start: Callable[..., Running],
    cli: Cli,
    sessions: Sessions,
    tmp_path: Path,
    rng: random.Random,
    repetition: int,
) -> None:
    lines = range(800)
    write_lines(tmp_path / "file.jsonl", [message(n, n) for n in lines])
    for number in (1, 2):
        running = start()
        assert running.wait_for(len(lines))
        time.sleep(rng.random() * 0.1)
        running.kill()
        code, out, err = start().end()
        assert (code, err) == (0, "")
        passes = json.loads(out)["pass"]
        assert passes >= number
        found = ids(sessions)
        assert found == {f"chat={n}/user={n}": [n] * passes for n in lines}
        assert traces(cli) == 0


def test_ctrl_c_stops_a_replay_that_goes_on_later(
    start: Callable[..., Running], sessions: Sessions, tmp_path: Path
) -> None:
    lines = range(3_000)
    write_lines(tmp_path / "file.jsonl", updates(lines))
    running = start("slow_pace")
    assert running.wait_for(700)
    running.interrupt()
    assert running.end() == (130, "", "botsessions: interrupted\n")
    code, out, err = start().end()
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["earlier"] >= 256
    assert summary["earlier"] + summary["applied"] == len(lines)
    assert ids(sessions) == expected(lines)


def test_a_second_replay_of_a_file_takes_over(
    start: Callable[..., Running], cli: Cli, sessions: Sessions, tmp_path: Path
) -> None:
    lines = range(5_000)
    write_lines(tmp_path / "file.jsonl", updates(lines))
    first = start("slow_pace")
    assert first.wait_for(300)
    second = start("slow_pace")
    code, out, err = first.end()
    assert (code, out) == (1, "")
    assert err == (
        f"botsessions: another replay of {tmp_path / 'file.jsonl'} has taken over; "
        "this one stops\n"
    )
    code, out, err = second.end()
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert (summary["pass"], summary["lines"]) == (1, len(lines))
    assert summary["applied"] + summary["earlier"] == len(lines)
    assert ids(sessions) == expected(lines)
    assert traces(cli) == 0
