"""The kit as its users meet it: function, report, plugin, command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from botsessions.conformance import CHECKS, Check, Result, Status, check_backend
from tests.cli.tool import ROOT
from tests.conformance.plain import Disk, PlainBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NAMES = [check.name for check in CHECKS]
PAGE = (ROOT / "docs" / "conformance.md").read_text()


class Unconditional(bs.MemoryBackend):
    """Takes whatever is written, whatever is there."""

    async def commit(self, writes: Sequence[bs.Write]) -> list[bool]:
        found = (await self.load([write.key for write in writes])).records
        there = [r.version if isinstance(r, bs.Record) else None for r in found]
        pairs = zip(writes, there, strict=True)
        return await super().commit([w._replace(expected=v) for w, v in pairs])


def test_each_check_has_a_name_and_a_demand_and_is_on_the_page() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 56
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(check.group, check.name, check.demand) for check in CHECKS]


def test_a_right_backend_passes_and_lacks_only_what_it_cannot_do() -> None:
    told: list[Result] = []
    report = check_backend(bs.MemoryBackend, on_result=told.append)
    assert report.passed
    assert [result.name for result in report.results] == NAMES
    assert tuple(told) == report.results
    lacking = {r.name for r in report.results if r.status is Status.NOT_SUPPORTED}
    assert lacking == {
        "threads_lose_nothing",
        "processes_lose_nothing",
        "a_kill_at_any_await_leaves_it_usable",
        "a_kill_loses_nothing_acknowledged",
        "loading_now_is_loading",
    }


class TwoMethods:
    """What has no ability but those that the contract asks of all."""

    concurrent_batches = 1

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._memory = bs.MemoryBackend(clock=clock)

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        return await self._memory.load(keys)

    async def commit(self, writes: Sequence[bs.Write]) -> Sequence[bool]:
        return await self._memory.commit(writes)


def test_a_backend_that_can_do_no_more_than_it_must_passes() -> None:
    report = check_backend(TwoMethods)
    assert report.passed, str(report)
    assert report.counts()[Status.NOT_SUPPORTED] == 15


def test_a_file_is_shared_with_processes(tmp_path: Path) -> None:
    names = ["processes_lose_nothing", "a_kill_loses_nothing_acknowledged"]
    report = check_backend(partial(bs.SQLiteBackend, tmp_path / "db"), only=names)
    assert report.counts()[Status.PASSED] == 2, str(report)


def test_a_wrong_backend_is_told_what_is_wrong_and_how_it_shows() -> None:
    name = "each_write_compares_the_token"
    report = check_backend(Unconditional, only=[name])
    [result] = report.failed
    assert result.name == name
    assert "and landed" in result.message
    assert any("commit" in step for step in result.steps)
    text = str(report)
    assert "✗ each write compares the token" in text
    assert result.message in text
    assert result.steps[-1] in text


def test_a_check_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is no check flies"):
        check_backend(bs.MemoryBackend, only=["flies"])


def test_a_name_may_be_written_as_words_and_is_guessed_at() -> None:
    [result] = check_backend(bs.MemoryBackend, only=["an empty batch is fine"]).results
    assert result.name == "an_empty_batch_is_fine"
    assert result.title == "an empty batch is fine"
    with pytest.raises(ValueError, match="did you mean an_empty_batch_is_fine"):
        check_backend(bs.MemoryBackend, only=["an_emty_batch_is_fine"])


def test_no_checks_prove_nothing() -> None:
    with pytest.raises(ValueError, match="only is empty"):
        check_backend(bs.MemoryBackend, only=[])
    with pytest.raises(TypeError, match="write only="):
        check_backend(bs.MemoryBackend, only="an_empty_batch_is_fine")


async def coroutine() -> bs.Backend:
    """Make what must be awaited."""
    return bs.MemoryBackend()


def half_a_backend() -> Any:
    """Make something that cannot commit, and has no number of batches."""
    names = ("open", "aclose", "load")
    methods = {name: getattr(bs.MemoryBackend, name) for name in names}
    return type("Half", (), methods)()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (3, "make is 3: it must be a function"),
        (bs.MemoryBackend(), "make is <botsessions.*it must be a function"),
        (lambda: None, "returned None, and no backend"),
        (coroutine, "returned an awaitable: it must be a plain function"),
        (half_a_backend, "returned Half, which has no concurrent_batches, commit"),
        (lambda: bs.MemoryBackend, "returned the class MemoryBackend: it must call it"),
    ],
    ids=["number", "backend", "None", "coroutine", "half", "class"],
)
def test_what_makes_no_backend_is_told_so(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_backend(make)
    [first, *_] = CHECKS
    result = first.run(make)
    assert result.status is Status.FAILED
    assert re.search(message, result.message)


def test_a_make_that_returns_one_backend_is_told_so() -> None:
    backend = bs.MemoryBackend()
    with pytest.raises(TypeError, match="returned the same backend twice"):
        check_backend(lambda: backend)


@pytest.mark.parametrize(
    ("method", "check"),
    [
        ("open", "an_empty_batch_is_fine"),
        ("aclose", "an_empty_batch_is_fine"),
        ("load", "an_empty_batch_is_fine"),
        ("commit", "an_empty_batch_is_fine"),
        ("list_pages", "listing_is_whole_and_in_order"),
    ],
)
def test_a_method_that_is_not_async_is_named(method: str, check: str) -> None:
    def blocking(*_: object) -> int:
        return 5

    kind = type("Blocking", (PlainBackend,), {method: blocking})
    [check_of_it] = [c for c in CHECKS if c.name == check]
    result = check_of_it.run(lambda: kind(Disk()))
    assert result.status is Status.FAILED
    assert f"{method}() returned 5, which " in result.message


class HasSetClock(bs.MemoryBackend):
    """A backend whose clock its own tests can set; the kit is given its class."""

    def __init__(self) -> None:
        super().__init__()

    def set_clock(self, seconds: float) -> None:
        raise AssertionError(seconds)


def test_a_method_of_the_backends_is_not_one_of_make() -> None:
    report = check_backend(
        HasSetClock, only=["an_empty_batch_is_fine", "a_clock_set_back_loses_nothing"]
    )
    passed, lacking = report.results
    assert passed.status is Status.PASSED, str(passed)
    assert lacking.status is Status.NOT_SUPPORTED
    assert "no set_clock(seconds) of its own" in lacking.message


def test_a_clock_that_must_be_awaited_is_an_error() -> None:
    class Make:
        def __call__(self) -> bs.Backend:
            return bs.MemoryBackend()

        async def set_clock(self, seconds: float) -> None:
            raise AssertionError(seconds)

    with pytest.raises(TypeError, match="it is not awaited"):
        check_backend(Make())


def test_steps_that_are_left_out_are_counted() -> None:
    async def many(subject: Any) -> None:
        watched = await subject.open()
        for _ in range(20):
            await watched.load("key")
        raise AssertionError

    result = Check("many", "none", "Many steps.", many).run(TwoMethods)
    assert result.steps[0] == "… 16 steps before these"
    assert len(result.steps) == 25


def test_a_backend_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    make = partial(bs.SQLiteBackend, tmp_path / "no" / "such" / "folder.db")
    with pytest.raises(bs.BackendUnavailableError, match="does not exist"):
        check_backend(make)


def test_what_cannot_be_sent_to_a_process_is_not_supported(tmp_path: Path) -> None:
    path = tmp_path / "db"
    make = lambda: bs.SQLiteBackend(path)  # noqa: E731 - pickle cannot send it
    [result] = check_backend(make, only=["processes_lose_nothing"]).results
    assert result.status is Status.NOT_SUPPORTED
    assert "cannot be sent" in result.message


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_under_pytest_each_check_is_a_case(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import botsessions as bs\n"
        "from tests.conformance.test_kit import Unconditional\n"
        "def test_mine(conformance_check):\n"
        "    conformance_check(Unconditional)\n"
    )
    result = run(
        "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_mine.py",
        f"--override-ini=pythonpath={ROOT}", "-rfs", cwd=tmp_path,
    )  # fmt: skip
    assert "FAILED test_mine.py::test_mine[each_write_compares_the_token]" in (
        result.stdout
    )
    assert "it expected" in result.stdout
    assert "it has no load_now" in result.stdout
    counts = re.findall(r"(\d+) (failed|passed|skipped)", result.stdout)
    assert sum(int(count) for count, _ in counts) == len(NAMES)


class Misspelt(bs.MemoryBackend):
    """Asks a dict for what it does not have."""

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        there: dict[str, bs.Loaded] = {}
        return there["column"]


def test_under_pytest_the_line_that_raised_is_shown(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from tests.conformance.test_kit import Misspelt\n"
        "def test_mine(conformance_check):\n"
        "    conformance_check(Misspelt)\n"
    )
    result = run(
        "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_mine.py",
        f"--override-ini=pythonpath={ROOT}", "-k", "a_missing_key_has", cwd=tmp_path,
    )  # fmt: skip
    assert "it raised KeyError: 'column' (test_kit.py, line" in result.stdout
    assert 'return there["column"]' in result.stdout


def test_the_command_prints_a_table_and_fails_when_a_check_does(tmp_path: Path) -> None:
    factory = "tests.conformance.test_kit:Unconditional"
    chosen = [
        "--only",
        "each_write_compares_the_token",
        "--only",
        "an_empty_batch_is_fine",
    ]
    result = run("botsessions.cli", "conform", factory, *chosen, cwd=ROOT)
    assert result.returncode == 1
    assert re.search(r"each write compares the token +failed +it exp", result.stdout)
    assert "1 passed, 0 not supported, 1 failed" in result.stdout
    as_json = run("botsessions.cli", "conform", factory, *chosen, "--json", cwd=ROOT)
    results = json.loads(as_json.stdout)
    assert all("error" not in result for result in results)
    assert {r["name"]: r["status"] for r in results} == {
        "an_empty_batch_is_fine": "passed",
        "each_write_compares_the_token": "failed",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing:here"], "No module named 'nothing'"),
        (["json"], "module:function"),
        (["my/backend.py:make"], "name the module, not its file: my.backend:make"),
        (["json:JSONDecodeError"], "no backend was made: TypeError"),
        (["json:__name__"], "no function and no class"),
        (
            ["botsessions:MemoryBackend", "--only", "an_emty_batch"],
            "did you mean an_em",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], message: str) -> None:
    result = run("botsessions.cli", "conform", *arguments, cwd=ROOT)
    assert result.returncode in {1, 2}
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
