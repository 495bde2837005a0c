"""The soak of the simulation: what it plays, what it tells, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulation import report, soak
from tests.simulation.plans import PLANS, plan_named
from tests.simulation.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MUTANT = "unknown taken for success"


@contextlib.contextmanager
def soaking(*options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command as a shell does, in a group of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.simulation", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_what_fails_is_told_with_its_command_and_the_others_go_on() -> None:
    with soaking("--minutes=0.01", "--seed=78", "--mutant", MUTANT) as process:
        told, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    first, *lines = told.splitlines()
    assert first.startswith("from seed 78 on; the same again: ")
    assert first.endswith(" -m tests.simulation --minutes=0.01 --seed=78")
    commands = [line for line in lines if line.startswith("to see it happen: ")]
    # Each is told as it comes, and at the end.
    assert len(commands) > len(set(commands)) > 1
    assert lines[-1].endswith(f" {len(set(commands))} failures")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_is_told_what_there_is(number: signal.Signals) -> None:
    with soaking("--minutes=60") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("from seed ")
        time.sleep(2)
        if number is signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.terminate()
        told = process.stdout.read()
        process.wait(60)
    assert process.returncode == 130
    assert "Traceback" not in told
    *_, line, interrupted = told.splitlines()
    assert line.endswith(" 0 failures")
    assert interrupted.startswith("INTERRUPTED after 0.")


def test_a_slice_has_each_plan_and_all_kinds_of_locks() -> None:
    played = soak.play_slice(10**6 + 1, 7).played
    assert set(played) == {soak.LOCKS, *(plan.name for plan in PLANS)}
    # Whether clocks go alike is up to the seed: modulo 3.
    assert played[soak.LOCKS].runs == 3


def die(*_: object) -> None:
    os._exit(1)


def test_one_that_is_killed_is_no_reason_to_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    soaked = soak.Soaked()
    monkeypatch.setattr(soak, "play_slice", die)
    soak.soak(1, 0, told.append, soaked=soaked, processors=1)
    assert soaked.failures == told == ["a process that played was killed, or died"]


def test_a_plan_falls_short_of_what_never_happened_and_of_what_is_known() -> None:
    plan = plan_named("silence")
    runs = report.ENOUGH_RUNS
    played = Report(runs)
    played.outcomes.update(done=80, unknown=20)
    played.happened.update(plan.kinds())
    assert report.shortcomings(plan, played) == [
        "plan 'silence': 20 of 100 calls are of unknown outcome"
    ]
    del played.outcomes["unknown"], played.happened["loads: no answer"]
    soaked = soak.Soaked({plan.name: played})
    soaked.judge()
    assert soaked.failures == ["plan 'silence': never happened: loads: no answer"]
    assert report.shortcomings(plan, Report(runs - 1)) == []
