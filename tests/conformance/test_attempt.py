"""Checks end, and say what happened, whatever a backend does to the kit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import botsessions as bs
from botsessions.conformance import CHECKS, Result, Status, check_backend
from botsessions.conformance import attempt as attempts
from botsessions.conformance import run as runs
from tests.cli.tool import COMMAND, ENVIRONMENT, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME = "tests.conformance.test_attempt"
# The first that asks the backend for something, and one that comes after it.
CHECK, NEXT = [check for check in CHECKS if "record" in check.name][:2]
RELEASED = threading.Event()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give up soon; at the end, let go what hangs."""
    monkeypatch.setattr(runs, "_LIMIT", 0.2)
    monkeypatch.setattr(attempts, "_GRACE", 0.3)
    RELEASED.clear()
    yield
    RELEASED.set()


def begun() -> None:
    """Tell whoever started this process that a check has begun."""
    if path := os.environ.get("BEGUN"):
        Path(path).touch()


class Waits(bs.MemoryBackend):
    """Never answers, and can be cancelled."""

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        begun()
        await asyncio.sleep(1000)  # where it waits
        raise AssertionError(keys)


class ClosesSlowly(Waits):
    """Takes half a second to be closed, and tells of it."""

    async def aclose(self) -> None:
        await asyncio.sleep(0.5)
        await super().aclose()
        if path := os.environ.get("BEGUN"):
            Path(path).with_suffix(".closed").touch()


class HidesThat(bs.MemoryBackend):
    """Never answers; cancelled, it says that the server is away."""

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            raise bs.BackendError(f"no answer for {keys}") from None
        raise AssertionError


class ClosesNever(Waits):
    """Cannot be closed either."""

    async def aclose(self) -> None:
        for _ in range(10_000):
            if RELEASED.is_set():
                return
            await asyncio.sleep(0.01)  # the line


class WaitsInAThread(bs.MemoryBackend):
    """Has a thread that nobody can cancel."""

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        begun()
        await asyncio.to_thread(self.wait)
        raise AssertionError(keys)

    def wait(self) -> None:
        RELEASED.wait(PATIENCE)  # the line


class Blocks(bs.MemoryBackend):
    """Blocks the event loop."""

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        RELEASED.wait(PATIENCE)  # the line
        raise AssertionError(keys)


class OpensNever(bs.MemoryBackend):
    """Is never open."""

    async def open(self) -> None:
        await asyncio.sleep(1000)


class Raises(bs.MemoryBackend):
    """Raises in each load."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        await asyncio.sleep(0)
        raise self.error


def line_of(text: str) -> int:
    """Return the number of the first line of this file with a text."""
    with open(__file__) as file:  # noqa: PTH123 - one line of it
        return next(n for n, line in enumerate(file, 1) if text in line)


def test_what_waits_for_ever_is_given_up_and_its_line_told(short: None) -> None:
    result = CHECK.run(Waits)
    assert result.status is Status.FAILED
    where = f"(test_attempt.py, line {line_of('# where it waits')})"
    assert result.message == (
        f"it was not over after 0.2 s: something waits for ever, or is slow {where}"
    )


def test_what_it_says_when_it_is_given_up_is_not_the_story(short: None) -> None:
    assert "something waits for ever" in CHECK.run(HidesThat).message


@pytest.mark.parametrize("kind", [ClosesNever, WaitsInAThread, Blocks])
def test_what_cannot_be_stopped_is_left_behind_and_its_line_told(
    kind: type[bs.MemoryBackend], short: None
) -> None:
    began = time.monotonic()
    result = CHECK.run(kind)
    assert time.monotonic() - began < 5
    assert result.status is Status.FAILED
    assert "cannot be stopped: something hangs (test_attempt.py, line" in result.message
    assert any(step.endswith("# the line") for step in result.steps)


def test_nothing_is_asked_after_what_was_left_behind(short: None) -> None:
    report = check_backend(Blocks, only=[CHECK.name, NEXT.name])
    [result] = report.results
    assert result.name == CHECK.name
    assert not report.passed


def test_an_open_that_hangs_is_an_error(short: None) -> None:
    with pytest.raises(TimeoutError, match="waits for ever"):
        check_backend(OpensNever)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("column"), "it raised KeyError: 'column' (test_attempt.py, line "),
        (TimeoutError("busy"), "it raised TimeoutError: busy (test_attempt.py, line "),
        (
            asyncio.CancelledError(),
            "it raised CancelledError (test_attempt.py, line ",
        ),
        (
            ExceptionGroup("of a task group", [ExceptionGroup("", [OSError("no")])]),
            "it raised OSError: no",
        ),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_a_backend_raises_is_told_and_kept(
    error: BaseException, message: str
) -> None:
    result = CHECK.run(partial(Raises, error))
    assert result.status is Status.FAILED
    assert result.message.startswith(message)
    inner = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    inner = inner.exceptions[0] if isinstance(inner, ExceptionGroup) else inner
    assert result.error is inner


def test_a_cancellation_that_nobody_asked_for_is_called_that() -> None:
    result = CHECK.run(partial(Raises, asyncio.CancelledError()))
    assert result.message.endswith("nobody had cancelled it")


def test_a_test_that_make_skips_is_skipped() -> None:
    def make() -> bs.Backend:
        pytest.skip("no server here")

    with pytest.raises(pytest.skip.Exception, match="no server here"):
        CHECK.run(make)


def test_it_works_below_a_running_event_loop() -> None:
    async def as_a_test() -> Result:
        return CHECK.run(bs.MemoryBackend)

    assert asyncio.run(as_a_test()).status is Status.PASSED


_ONE = ("--only", CHECK.name)


@pytest.mark.parametrize("kind", [Waits, ClosesSlowly, WaitsInAThread])
def test_ctrl_c_ends_the_command_soon(kind: type, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "conform", f"{NAME}:{kind.__name__}", *_ONE],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"BEGUN": str(tmp_path / "begun")},
    ) as process:
        assert process.stderr is not None
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        # What the attempt to open it has left.
        (tmp_path / "begun.closed").unlink(missing_ok=True)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 130  # far from a minute
        finally:
            process.kill()
        assert process.stderr.read() == b"botsessions: interrupted\n"
    closed = (tmp_path / "begun.closed").exists()
    assert closed == (kind is ClosesSlowly), "Ctrl-C leaves no time for closing"


def test_the_command_leaves_what_hangs_behind(tmp_path: Path) -> None:
    program = (
        "import botsessions.conformance.run as runs, sys\n"
        "import botsessions.conformance.attempt as attempts\n"
        "from botsessions.cli import main\n"
        "runs._LIMIT, attempts._GRACE = 0.2, 0.3\n"
        f"sys.exit(main(['conform', '{NAME}:WaitsInAThread', *{_ONE}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "something hangs (test_attempt.py" in done.stdout
    assert done.stdout.endswith("0 passed, 0 not supported, 1 failed\n")
