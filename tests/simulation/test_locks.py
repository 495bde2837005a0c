"""Locks in many seeded runs, and broken on purpose; ``locks`` says what is played."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.hunt import hunt_by_locks
from tests.simulation.locks import MUTANTS, play
from tests.simulation.replay import command_of_seed, reproducible

if TYPE_CHECKING:
    from tests.simulation.mutants import Mutant

RUNS = 50


@pytest.mark.parametrize("seed", range(RUNS))
def test_one_holder_at_a_time_whatever_the_network_does(seed: int) -> None:
    with reproducible(command_of_seed, seed, "--locks"):
        play(seed)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_lock_that_is_broken_on_purpose_is_noticed(mutant: Mutant) -> None:
    assert hunt_by_locks(mutant, 200) is not None
