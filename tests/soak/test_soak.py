"""Soaks themselves: a second at each place, and what is told when they go amiss.

Hours of them are for the command (``make soak``), which is under test here as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from botsessions.conformance.histories.history import Outcome
from tests.conftest import missing
from tests.servers import proxy
from tests.servers.proxy import Proxy
from tests.soak.__main__ import main
from tests.soak.figures import Figures
from tests.soak.judging import Wrong
from tests.soak.places import PLACES, Place
from tests.soak.places.base import BehindProxy
from tests.soak.places.disk import FULL, SLOW
from tests.soak.places.sqlite import SQLite
from tests.soak.rounds import IN_VAIN, Plan, _Round, _Schedule, soak

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.soak.places import Bots
    from tests.soak.places.base import Fault

    Tell = Callable[[str], None]
    Command = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
# What takes a second or two.
QUICK = {
    "postgres": ["a bot is killed", "the server is killed", "cuts at random"],
    "redis": ["a bot is killed", "the server is killed", "connections are cut"],
    "sentinels": ["a bot is killed", "the master ends connections"],
    "cluster": ["a failover is asked for", "slots move"],
}


def need(name: str) -> None:
    if PLACES[name].lacks:
        missing(str(PLACES[name].lacks))


async def one_round(place: Place, plan: Plan) -> Figures:
    figures = Figures()
    await soak(place, plan, 0.1, figures, print)
    return figures


@pytest.mark.parametrize("name", [name for name in PLACES if name != "sqlite"])
async def test_some_seconds_of_faults_lose_and_double_nothing(
    name: str, tmp_path: Path
) -> None:
    need(name)
    figures = await one_round(
        PLACES[name](tmp_path),
        Plan(
            seed=1,
            seconds=0.5,
            calm=0.2,
            pauses=(0.1, 0.2),
            kinds=QUICK[name],
            timeout=1.0,
            bots=(False, True),
        ),
    )
    assert figures.findings == []
    assert figures.faults.total() >= 1
    assert figures.told(Outcome.DONE) > 100
    assert figures.histories > 50
    assert figures.exact > 20


class Unwilling(SQLite):
    """Does no harm that it is asked for, and complains."""

    async def _refuse(self, rng: random.Random, bots: Bots) -> None:
        raise AssertionError("nobody took over")

    faults: ClassVar[Mapping[str, Fault]] = {"a failover": _refuse}

    async def complaints(self) -> list[str]:
        return ["a deadlock"]


async def test_what_came_of_no_fault_and_what_a_place_complains_of_is_told(
    tmp_path: Path,
) -> None:
    plan = Plan(seed=1, seconds=0.3, calm=0.0, pauses=(0.05, 0.1), bots=(False,))
    figures = await one_round(Unwilling(tmp_path), plan)
    assert figures.faults[f"a failover{IN_VAIN}"] == figures.faults.total() > 1
    assert [(one.wrong, one.what) for one in figures.findings] == [
        (Wrong.ODD, "sqlite: a deadlock")
    ]


@pytest.mark.soak
@pytest.mark.parametrize("kind", [SLOW, FULL])
@pytest.mark.parametrize("name", ["postgres", "redis"])
async def test_a_slow_and_a_full_disk_are_noticed_and_lose_nothing(
    name: str, kind: str
) -> None:
    need(name)
    plan = Plan(seed=1, seconds=6.0, pauses=(0.1, 0.2), kinds=[kind])
    found = []
    for this in (replace(plan, kinds=["none"]), plan):
        with tempfile.TemporaryDirectory() as directory:
            found.append(await one_round(PLACES[name](Path(directory)), this))
    quiet, harmed = found
    assert quiet.findings == harmed.findings == []
    assert harmed.faults[kind] > 1
    if kind == FULL:
        assert quiet.told(Outcome.FAILED) < 0.1 * harmed.told(Outcome.FAILED)
    else:
        quick, late = (one.latencies.within(0.9) for one in found)
        assert quick < 0.5 * late


def test_a_fault_throws_dice_of_its_own() -> None:
    kinds = list("abcdef")
    sober, gambler = (_Schedule("7 redis", kinds) for _ in range(2))
    for _ in range(20):
        one, other = sober.dice(), gambler.dice()
        assert one.random() == other.random()
        assert sober.next(kinds) == gambler.next(kinds)
        for _ in range(100):
            other.random()
    assert _Schedule("8 redis", kinds).dice().random() != sober.dice().random()


async def test_a_fault_that_is_interrupted_is_over(tmp_path: Path) -> None:
    place = PLACES["redis"](tmp_path)
    assert isinstance(place, BehindProxy)
    place._between = Proxy(0)
    swallow = place.faults["the network swallows all"]
    fault = asyncio.ensure_future(swallow(place, random.Random(1), Nobody()))
    await asyncio.sleep(0)
    assert place.between.rule is proxy.swallow_all
    fault.cancel()
    await asyncio.wait([fault])
    assert place.between.rule is proxy.pass_all


class Nobody:
    """No bots at all."""

    async def kill_one(self, rng: random.Random) -> None: ...
    async def stop_one(self, rng: random.Random, seconds: float) -> None: ...
    def keys(self) -> list[str]:
        return []


class Sick:
    """A bot that has ended by itself, or says that it is not well."""

    name, threads = "bot1", False

    def __init__(self, status: int | None, complaints: str) -> None:
        self.status, self.complaints = status, complaints
        self.has_complained = "Traceback" in complaints

    def kill(self) -> None:
        self.status = -signal.SIGKILL


@pytest.mark.parametrize(
    ("bot", "told"),
    [
        (Sick(1, "no memory"), ["ended with 1: no memory"]),
        (Sick(None, "Traceback …"), ["ended with None: Traceback …"]),
        (Sick(None, ""), []),
    ],
)
async def test_a_bot_that_is_killed_had_not_ended_before(
    bot: Any, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(self: _Round, *, threads: bool) -> None:
        self._bots.append(bot)

    monkeypatch.setattr(_Round, "_start", start)
    schedule = _Schedule("1", [])
    this = _Round(SQLite(tmp_path), Plan(seed=1), 0, schedule)
    this._bots.append(bot)
    await this.kill_one(schedule.dice())
    assert [oddity.what for oddity in this._oddities] == told


# The command.


def test_some_seconds_by_the_command_end_in_a_page_and_in_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = partial(Plan, calm=0.1, pauses=(0.1, 0.2), bots=(True,))
    monkeypatch.setattr("tests.soak.__main__.Plan", hurried)
    report, tables = tmp_path / "soak.html", tmp_path / "soak.md"
    arguments = ["--place", "sqlite", "--minutes", "0.001", "--round", "0.3"]
    arguments += ["--seed", "7", "--faults", "a bot is killed"]
    files = ["--report", str(report), "--markdown", str(tables)]
    assert main([*arguments, *files]) == 0
    said = capsys.readouterr().out
    assert "SEED=7" in said
    assert "sqlite 0: " in said
    assert "done: nothing lost, nothing doubled" in said
    assert said.endswith(f"{report}\n")
    assert "nothing lost, nothing doubled" in report.read_text()
    assert "| a bot is killed |" in tables.read_text()


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return the command without rounds: what it comes to, says, and writes."""

    for place in PLACES.values():
        monkeypatch.setattr(place, "lacks", None)

    def run(
        play: Callable[[Place, Figures, Tell], None], *arguments: str
    ) -> tuple[int, str, str]:
        async def soak(
            place: Place, plan: Plan, seconds: float, figures: Figures, tell: Tell
        ) -> None:
            play(place, figures, tell)

        monkeypatch.setattr("tests.soak.__main__.soak", soak)
        report = tmp_path / "soak.html"
        status = main(["--report", str(report), *arguments])
        return status, capsys.readouterr().out, report.read_text()

    return run


def whole(place: Place, figures: Figures, tell: Tell) -> None:
    """Be a soak in which all there is was tried, and was fine."""
    figures.rounds, figures.histories = 1, 1
    figures.verbs["get", Outcome.DONE] = 1
    for kind in place.faults:
        figures.faults[kind], figures.silence[kind] = 1, 0.0
    tell("a round")


def test_the_command_is_content_if_all_was_tried(command: Command) -> None:
    status, said, page = command(whole)
    assert status == 0
    assert "NOT TRIED" not in said
    assert "nothing lost, nothing doubled" in said
    assert "nothing lost, nothing doubled" in page


def test_the_command_fails_if_something_was_not_tried(command: Command) -> None:
    def some(place: Place, figures: Figures, tell: Tell) -> None:
        whole(place, figures, tell)
        if place.name == "redis":
            del figures.faults["cuts at random"]
            figures.faults["the server is killed" + IN_VAIN] = figures.faults.pop(
                "the server is killed"
            )
            figures.silence["the server is killed" + IN_VAIN] = 0.0
        if place.name == "sqlite":
            figures.verbs.clear()
        if place.name == "cluster":
            figures.histories = 0

    status, said, page = command(some)
    assert status == 1
    never = "cuts at random, the server is killed"
    never = f"redis: never injected, or only in vain: {never}"
    for what in (never, "sqlite: nothing was ack", "cluster: nothing was judged"):
        assert f"NOT TRIED: {what}" in said
        assert what in page
    assert "nothing wrong so far, and not all was tried" in page


def test_what_breaks_a_place_off_ends_the_others_not(command: Command) -> None:
    played = []

    def broken(place: Place, figures: Figures, tell: Tell) -> None:
        played.append(place.name)
        whole(place, figures, tell)
        assert place.name != "sqlite", "its disk is gone"

    status, said, page = command(broken)
    assert played == list(PLACES)
    assert status == 1
    assert "WRONG: sqlite: met what no caller should meet" in said
    assert "something is wrong" in page
    assert "its disk is gone" in page


def test_what_was_found_before_it_was_interrupted_is_not_lost(command: Command) -> None:
    def interrupted(place: Place, figures: Figures, tell: Tell) -> None:
        whole(place, figures, tell)
        if place.name == "postgres":
            raise KeyboardInterrupt

    status, said, page = command(interrupted)
    assert status == 130
    assert "| operations | 1 | 1 |" in said
    for text in (said, page):
        assert "interrupted after 0.0 minutes" in text
        assert "redis: still to come" in text
        assert "nothing lost, nothing doubled" not in text


def test_the_page_is_there_from_the_beginning_and_says_what_is_to_come(
    command: Command, tmp_path: Path
) -> None:
    before = []

    def look(place: Place, figures: Figures, tell: Tell) -> None:
        before.append((tmp_path / "soak.html").read_text())
        whole(place, figures, tell)

    assert command(look)[0] == 0
    assert "sqlite: still to come" in before[0]
    assert "sqlite: still to come" not in before[1]
    for page in before:
        assert "cluster: still to come" in page
        assert "nothing lost, nothing doubled" not in page
    with pytest.raises(FileNotFoundError):
        command(look, "--report", str(tmp_path / "no" / "where.html"))
    assert len(before) == len(PLACES)


def test_a_place_that_lacks_its_servers_is_left_out_and_named(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = []

    def play(place: Place, figures: Figures, tell: Tell) -> None:
        played.append(place.name)
        whole(place, figures, tell)

    assert command(play)[0] == 0
    monkeypatch.setattr(PLACES["postgres"], "lacks", "PostgreSQL (apt-get …)")
    del played[:]
    status, said, page = command(play)
    assert status == 0
    assert "postgres" not in played
    assert len(played) == 4
    assert "LEFT OUT: postgres: PostgreSQL (apt-get …) is not installed" in said
    assert "postgres is left out" in page
    # Nor is it fine that none is left.
    assert command(play, "--place", "postgres")[0] == 1
    # One is left out, too, that knows none of the faults that are asked for.
    del played[:]
    assert command(play, "--faults", "slots move")[0] == 0
    assert played == ["cluster"]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("sqlite", signal.SIGTERM),
        ("postgres", signal.SIGINT),
        ("postgres", signal.SIGKILL),
        ("redis", signal.SIGTERM),
        ("sentinels", signal.SIGINT),
        ("sentinels", signal.SIGKILL),
        ("cluster", signal.SIGTERM),
    ],
)
def test_a_soak_that_is_ended_leaves_nobody_behind(
    name: str, how: signal.Signals
) -> None:
    """While it starts, at different moments, and in the middle of a round."""
    need(name)
    with tempfile.TemporaryDirectory(prefix="ended-") as own:
        directory = Path(own)
        directory.chmod(0o755)
        command = [sys.executable, "-m", "tests.soak", "--place", name]
        for seconds in (0.0, 0.5, 1.0, 5.0):
            with subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "TMPDIR": own},
            ) as soaking:
                assert soaking.stdout is not None
                assert soaking.stdout.readline().startswith("SEED=")
                time.sleep(seconds)
                soaking.send_signal(how)
                said, _ = soaking.communicate()
            if how is not signal.SIGKILL:
                assert soaking.returncode == 130, said
                assert "minutes: nothing wrong so far, and not all" in said
                assert "Traceback" not in said
                # With a file, tempfile tries the place; that may be interrupted, too.
                assert [one for one in directory.iterdir() if one.is_dir()] == []
            until = time.monotonic() + 5
            while left := those_in(own):
                assert time.monotonic() < until, left
                time.sleep(0.1)


def those_in(directory: str) -> list[str]:
    """Return the processes that work there, or have it in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                str((process / "cwd").readlink()).startswith(directory)
                or directory.encode() in (process / "environ").read_bytes()
            ):
                found.append((process / "cmdline").read_text())
    return found


def test_the_command_refuses_places_and_faults_that_there_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--place", "sqlite,mars"])
    assert "no such place: mars" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--place", "sqlite,redis", "--faults", "slots move"])
    assert "no such fault: slots move" in capsys.readouterr().err


# The judges are judged: the tasks of two processes get a backend that does wrong.


long = pytest.mark.soak


@pytest.mark.parametrize(
    ("backend", "found"),
    [
        ("all of it", {Wrong.LOST, Wrong.UNEXPLAINED, Wrong.DOUBLED, Wrong.LATE}),
        pytest.param("forgetful", {Wrong.LOST, Wrong.UNEXPLAINED}, marks=long),
        pytest.param("deaf", {Wrong.DOUBLED}, marks=long),
        pytest.param("late", {Wrong.LATE}, marks=long),
        pytest.param("honest", set(), marks=long),
    ],
)
async def test_a_wrong_backend_is_found_out(
    backend: str, found: set[Wrong], tmp_path: Path
) -> None:
    plan = Plan(
        seed=1,
        seconds=1.0,
        calm=0.0,
        pauses=(0.0, 0.0),
        kinds=["none"],
        bots=(False, False),
        wrong=backend,
    )
    figures = await one_round(SQLite(tmp_path), plan)
    assert found <= set(figures.wrong)
    assert bool(figures.findings) == bool(found)
