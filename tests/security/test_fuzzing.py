"""Hostile input of every kind ends in the errors that are documented, and in time."""

from __future__ import annotations

import itertools
import os
import time

import pytest

from tests.security import addresses, commands, inputs, records
from tests.security.fuzzing import Target, play

TARGETS = [
    *records.TARGETS,
    *inputs.TARGETS,
    *addresses.TARGETS,
    *commands.TARGETS,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_hostile_input_ends_as_documented(target: Target) -> None:
    ends = play(target)
    assert target.ends <= ends.keys(), ends


def test_each_command_and_option_is_fed() -> None:
    assert not commands.missing()


@pytest.mark.soak
def test_hostile_input_ends_as_documented_for_minutes() -> None:
    """For a third of MINUTES, which is how long the longest of all go on."""
    end = time.monotonic() + 60 * float(os.environ.get("MINUTES", "15")) / 3
    for target in itertools.cycle(TARGETS):
        if time.monotonic() > end:
            return
        play(target)
