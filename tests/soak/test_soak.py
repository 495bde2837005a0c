"""Soaks themselves: some seconds at each place, and hours if they are asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from botsessions.conformance.histories.history import Outcome
from tests.conftest import need_postgres, need_redis
from tests.soak.__main__ import main
from tests.soak.judging import Wrong
from tests.soak.places import PLACES
from tests.soak.places.sqlite import SQLite
from tests.soak.rounds import Plan, soak

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.soak.figures import Figures
    from tests.soak.places import Bots
    from tests.soak.places.base import Fault

NEEDS = {"postgres": need_postgres}
# What takes a second or two.
QUICK = {
    "postgres": ["a bot is killed", "the server is killed", "cuts at random"],
    "redis": ["a bot is killed", "the server is killed", "connections are cut"],
    "sentinels": ["a bot is killed", "the master ends connections"],
    "cluster": ["a failover is asked for", "slots move"],
}


def need(name: str) -> None:
    NEEDS.get(name, need_redis)()


async def soaked(name: str, directory: Path, plan: Plan, seconds: float) -> Figures:
    return await soak(PLACES[name](directory), plan, seconds, print)


@pytest.mark.parametrize("name", [name for name in PLACES if name != "sqlite"])
async def test_some_seconds_of_faults_lose_and_double_nothing(
    name: str, tmp_path: Path
) -> None:
    need(name)
    plan = Plan(
        seed=1, seconds=1.0, calm=0.3, pauses=(0.1, 0.3), kinds=QUICK[name], timeout=1.0
    )
    figures = await soaked(name, tmp_path, plan, seconds=0.1)
    assert figures.findings == []
    assert figures.faults.total() >= 1
    assert figures.told(Outcome.DONE) > 100
    assert figures.histories > 50
    assert figures.exact > 20


class Unwilling(SQLite):
    """Does no harm that it is asked for."""

    def faults(self) -> dict[str, Fault]:
        return {"a failover": self._refuse}

    async def _refuse(self, rng: random.Random, bots: Bots) -> None:
        raise AssertionError("nobody took over")


@pytest.mark.soak
async def test_a_fault_of_which_nothing_comes_is_counted_and_ends_nothing(
    tmp_path: Path,
) -> None:
    plan = Plan(seed=1, seconds=1.0, calm=0.0, pauses=(0.3, 0.4))
    figures = await soak(Unwilling(tmp_path), plan, 0.1, print)
    assert figures.findings == []
    assert figures.faults["a failover (in vain)"] == figures.faults.total() > 1


def test_some_seconds_by_the_command_end_in_a_page_and_in_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, tables = tmp_path / "soak.html", tmp_path / "soak.md"
    arguments = ["--place", "sqlite", "--minutes", "0.001", "--round", "0.5"]
    arguments += ["--seed", "7", "--faults", "a bot is killed,the sky falls"]
    files = ["--report", str(report), "--markdown", str(tables)]
    assert main([*arguments, *files]) == 0
    said = capsys.readouterr().out
    assert "SEED=7" in said
    assert "NEVER INJECTED: the sky falls" in said
    assert "nothing lost, nothing doubled" in report.read_text()
    assert "| a bot is killed |" in tables.read_text()


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
    plan = Plan(seed=1, seconds=1.0, calm=0.0, kinds=["none"], wrong=backend)
    figures = await soaked("sqlite", tmp_path, plan, seconds=0.1)
    assert found <= set(figures.wrong)
    assert bool(figures.findings) == bool(found)


def test_the_command_refuses_places_that_there_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--place", "sqlite,mars"])
    assert "no such place: mars" in capsys.readouterr().err


@pytest.mark.soak
def test_every_place_for_a_long_time(tmp_path: Path) -> None:
    """MINUTES for all of them together; REPORT is the page to write."""
    need_postgres()
    need_redis()
    minutes = os.environ.get("MINUTES", "60")
    arguments = ["--minutes", minutes, "--seed", os.environ.get("SEED", "0")]
    report = os.environ.get("REPORT", str(tmp_path / "soak.html"))
    assert main([*arguments, "--report", report]) == 0, report
