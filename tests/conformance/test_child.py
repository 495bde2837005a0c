"""The other processes of the kit: what goes wrong in them is told, and none stays."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import types
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import botsessions as bs
from botsessions.conformance import (
    Outcome,
    Status,
    Verb,
    check_backend,
    child,
    subject,
)
from tests.cli.tool import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from botsessions.conformance import Result

PROCESSES = "processes_lose_nothing"
KILL = "a_kill_loses_nothing_acknowledged"


class Elsewhere(bs.SQLiteBackend):
    """A backend that knows whether it is in another process than the test."""

    def __init__(self, path: Path, parent: int) -> None:
        super().__init__(path)
        self.is_elsewhere = os.getpid() != parent
        self.path = path


class Prints(Elsewhere):
    """Says much on standard output."""

    async def open(self) -> None:
        print("opening", flush=True)  # noqa: T201 - as users do
        await super().open()

    async def commit(self, writes: Sequence[bs.Write]) -> list[bool]:
        os.write(1, b"committing\n")
        return await super().commit(writes)


class Dies(Elsewhere):
    """Raises in its first commit."""

    async def commit(self, writes: Sequence[bs.Write]) -> list[bool]:
        if self.is_elsewhere:
            raise RuntimeError("not here")
        return await super().commit(writes)


class Falls(Elsewhere):
    """Ends its process in its first commit, as a crash of a driver does."""

    async def commit(self, writes: Sequence[bs.Write]) -> list[bool]:
        if self.is_elsewhere:
            os._exit(7)
        return await super().commit(writes)


class Alone(Elsewhere):
    """Cannot be made while another process has it."""

    def __init__(self, path: Path, parent: int) -> None:
        super().__init__(path, parent)
        if self.is_elsewhere:
            raise RuntimeError("another process has it")


class Slow(Elsewhere):
    """Takes its time for what it acknowledges."""

    async def commit(self, writes: Sequence[bs.Write]) -> list[bool]:
        await asyncio.sleep(0.5)
        return await super().commit(writes)


class LandsNever(Elsewhere):
    """Always says that somebody was faster."""

    async def commit(self, writes: Sequence[bs.Write]) -> list[bool]:
        if self.is_elsewhere:
            return [False for _ in writes]
        return await super().commit(writes)


class Noted(Elsewhere):
    """Notes its process, and is never open there."""

    async def open(self) -> None:
        if self.is_elsewhere:
            with self.path.with_suffix(".pids").open("a") as file:
                file.write(f"{os.getpid()}\n")
            await asyncio.sleep(1000)
        await super().open()


def result_of(kind: type[Elsewhere], check: str, folder: Path) -> Result:
    """Return what a check says of a backend in a file."""
    make = partial(kind, folder / "db", os.getpid())
    [result] = check_backend(make, only=[check]).results
    return result


@pytest.mark.parametrize("check", [PROCESSES, KILL])
def test_a_backend_may_print(check: str, tmp_path: Path) -> None:
    result = result_of(Prints, check, tmp_path)
    assert result.status is Status.PASSED, str(result)


@pytest.mark.parametrize("check", [PROCESSES, KILL])
def test_a_process_that_ends_by_itself_is_told_with_its_error(
    check: str, tmp_path: Path
) -> None:
    result = result_of(Dies, check, tmp_path)
    assert result.status is Status.FAILED
    assert result.message.startswith(
        "a process ended by itself: RuntimeError: not here (test_child.py, line "
    )


@pytest.mark.parametrize("check", [PROCESSES, KILL])
def test_a_process_that_crashes_is_told_with_its_exit_code(
    check: str, tmp_path: Path
) -> None:
    result = result_of(Falls, check, tmp_path)
    assert result.status is Status.FAILED
    assert result.message == "a process ended by itself: exit code 7"


def test_what_another_process_cannot_make_is_wrong(tmp_path: Path) -> None:
    result = result_of(Alone, PROCESSES, tmp_path)
    assert result.status is Status.FAILED
    assert result.message.startswith(
        "another process cannot open it: RuntimeError: another process has it "
    )


def test_what_another_process_cannot_import_is_not_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("only_here")
    make = type("Make", (bs.SQLiteBackend,), {"__module__": "only_here"})
    vars(module)["Make"] = make
    monkeypatch.setitem(sys.modules, "only_here", module)
    [result] = check_backend(partial(make, tmp_path / "db"), only=[PROCESSES]).results
    assert result.status is Status.NOT_SUPPORTED
    assert "put it into a module" in result.message
    assert "No module named 'only_here'" in result.message


def test_a_kill_waits_for_what_was_acknowledged(tmp_path: Path) -> None:
    make = partial(Slow, tmp_path / "db", os.getpid())
    calls = asyncio.run(child.hammer(make, ["a", "b"], 0, 0.0))
    done = [call.verb for call in calls if call.outcome is Outcome.DONE]
    assert Verb.UPDATE in done


def test_a_process_for_which_nothing_lands_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_PATIENCE", 1.0)
    result = result_of(LandsNever, KILL, tmp_path)
    assert result.message == "no answer for 1 s: a process appends, and nothing lands"


def test_a_process_is_gone_when_its_check_is(tmp_path: Path) -> None:
    make = partial(Noted, tmp_path / "db", os.getpid())

    async def give_up() -> None:
        work = asyncio.create_task(child.hammer(make, ["a"], 0, 0.1))
        await asyncio.to_thread(eventually, lambda: has_pids(tmp_path))
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(give_up())
    [pid] = pids(tmp_path)
    assert not is_there(pid)


def test_a_process_is_gone_when_the_one_that_started_it_is(tmp_path: Path) -> None:
    program = (
        "import asyncio, os\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from botsessions.conformance import child\n"
        "from tests.conformance.test_child import Noted\n"
        "make = partial(Noted, Path('db').resolve(), os.getpid())\n"
        "asyncio.run(child.hammer(make, ['a'], 0, 100.0))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=ENVIRONMENT
    ) as parent:
        eventually(lambda: has_pids(tmp_path))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    [pid] = pids(tmp_path)
    try:
        eventually(lambda: not is_there(pid))
    finally:
        if is_there(pid):
            os.kill(pid, signal.SIGKILL)


def has_pids(folder: Path) -> bool:
    """Tell whether a process has been there."""
    return (folder / "db.pids").exists() and bool(pids(folder))


def pids(folder: Path) -> list[int]:
    """Return which processes have been there."""
    return [int(line) for line in (folder / "db.pids").read_text().splitlines()]


def is_there(pid: int) -> bool:
    """Tell whether a process runs (one that is dead and not waited for does not)."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never was so")
