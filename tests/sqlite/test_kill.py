"""SIGKILL, at any moment: nothing acknowledged is lost, nothing is applied twice.

A kill cannot show whether the disk has the data, since the kernel keeps what was
written; ``test_durability.py`` looks after that.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sqlite import history

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.sqlite.processes import Process

in_rounds = pytest.mark.parametrize(
    "rounds", [10, pytest.param(100, marks=pytest.mark.soak)]
)


def keys_of(number: int, count: int = 5) -> list[str]:
    return [f"chat={number}/user={user}" for user in range(count)]


@in_rounds
def test_a_kill_loses_nothing_acknowledged_and_applies_nothing_twice(
    start: Callable[[], Process], path: str, rng: random.Random, rounds: int
) -> None:
    acknowledged = 0
    for number in range(rounds):
        process = start()
        # A process kill loses nothing at either durability.
        process.call("open", path, rng.choice(["full", "normal"]))
        seed = rng.getrandbits(32)
        if number % 2:
            keys = keys_of(number)
            process.tell("hammer", "bot", keys, callers=16, seed=seed)
            time.sleep(rng.uniform(0, 0.4))
            process.kill()
        else:
            # The worst moment for whoever acknowledges a little too early: many keys
            # take their time to be written.
            keys = keys_of(number, count=200)
            at = rng.randint(1, 500)
            process.tell("hammer", "bot", keys, callers=200, seed=seed, dies_after=at)
            assert process.end() == -signal.SIGKILL
        history.check_file(path)
        found = history.sessions(path)
        history.check({key: found[key] for key in keys if key in found}, [process])
        assert process.refused == process.doubtful == []
        acknowledged += len(process.acknowledged)
    assert acknowledged > 50 * rounds, "it was always killed before it had begun"


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_kills_of_some_of_several_writers_leave_the_others_unharmed(
    start: Callable[[], Process], path: str, rng: random.Random, rounds: int
) -> None:
    for number in range(rounds):
        keys = keys_of(number)
        processes = [start() for _ in range(3)]
        for each, process in enumerate(processes):
            process.call("open", path)
            seed = rng.getrandbits(32)
            process.tell("hammer", f"bot{each}", keys, callers=8, seed=seed)
        victim, *others = rng.sample(processes, 3)
        time.sleep(rng.uniform(0.1, 0.3))
        victim.kill()
        for process in others:
            process.hear(10)
            process.kill()
        history.check_file(path)
        found = history.sessions(path)
        history.check({key: found[key] for key in keys if key in found}, processes)


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_a_kill_in_the_middle_of_a_checkpoint_loses_nothing(
    start: Callable[[], Process], path: str, rng: random.Random, rounds: int
) -> None:
    for number in range(rounds):
        writer, mover, keys = start(), start(), keys_of(number)
        writer.call("open", path)
        writer.tell("hammer", "bot", keys, callers=8, seed=rng.getrandbits(32))
        mover.tell("checkpoint", path)
        mover.hear(1)
        time.sleep(rng.uniform(0, 0.2))
        # With one of them gone the other goes on, or both go at once.
        mover.kill()
        if number % 2:
            writer.hear(10)
        writer.kill()
        history.check_file(path)
        found = history.sessions(path)
        history.check({key: found[key] for key in keys if key in found}, [writer])
        assert writer.refused == writer.doubtful == []


@in_rounds
def test_a_kill_while_the_file_is_made_leaves_one_that_opens(
    start: Callable[[], Process], tmp_path: Path, rng: random.Random, rounds: int
) -> None:
    for number in range(rounds):
        path = str(tmp_path / f"{number}.db")
        process = start()
        process.tell("open", path)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        assert history.sessions(path) == {}
        history.check_file(path)


def test_what_a_killed_process_left_in_the_log_is_there_after_it(
    start: Callable[[], Process], path: str
) -> None:
    process = start()
    process.call("open", path)
    for _ in range(20):
        process.call("add", "chat=1")
    process.kill()
    # Its updates are nowhere else yet.
    assert Path(f"{path}-wal").stat().st_size > Path(path).stat().st_size
    assert history.sessions(path) == {"chat=1": {"n": 20}}
    # Whoever closes the file last leaves nothing beside it.
    assert not Path(f"{path}-wal").exists()


def test_a_process_frozen_for_longer_than_its_deadlines_does_no_harm(
    start: Callable[[], Process], path: str, rng: random.Random
) -> None:
    frozen, other = start(), start()
    for name, process, timeout in (("frozen", frozen, 0.4), ("other", other, 10.0)):
        process.call("open", path, timeout=timeout)
        seed = rng.getrandbits(32)
        process.tell("hammer", name, keys_of(0), callers=8, seed=seed)
    # Past the time for a commit, with some left to find out, and past all time.
    for seconds in (0.28, 0.5) * 3:
        time.sleep(rng.uniform(0.05, 0.15))
        frozen.send(signal.SIGSTOP)
        time.sleep(seconds)
        frozen.send(signal.SIGCONT)
    time.sleep(0.1)
    for process in (frozen, other):
        process.kill()
    history.check(history.sessions(path), [frozen, other])
    # One that is frozen in the middle of a commit keeps the others waiting, no more.
    assert other.refused == other.doubtful == []
    assert frozen.refused + frozen.doubtful, "no deadline passed"
