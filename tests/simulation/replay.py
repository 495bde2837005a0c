"""The command that plays again what has failed: what a failure says of itself.

A failing test adds it to its failure (``reproducible``), so that nothing has to be
looked up: one line to copy, from any run, that shows the same failure event by event,
run at the root with the Python that found it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = Path(__file__).parents[2]
# Set, a cancellation test interrupts at this step only, and shows all that happens.
STEP = "SIMULATION_STEP"


@contextlib.contextmanager
def reproducible(make: Callable[..., str], *what: Any) -> Iterator[None]:
    """Add a command, made of this, to whatever fails in here."""
    try:
        yield
    except Exception as failure:
        failure.add_note(f"to see it happen: {make(*what)}")
        raise


def command(module: str, *words: str) -> str:
    """Return the command that runs a module with the Python that runs this."""
    python = Path(sys.executable)
    if python.is_relative_to(_ROOT):
        python = python.relative_to(_ROOT)
    return shlex.join([str(python), "-m", module, *words])


def command_of_seed(seed: int, *options: str) -> str:
    """Return the command that plays a seed again."""
    return command("tests.simulation", *options, str(seed))


def command_of_step(step: int) -> str:
    """Return the command that plays the test that runs now, interrupted at one step."""
    test, _, _ = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")
    return f"{STEP}={step} {command('pytest', '-n', '0', test)}"


def only_step() -> int | None:
    """Return the step that was asked for, if any."""
    step = os.environ.get(STEP)
    return None if step is None else int(step)


def show(time: float, who: str, *what: object) -> None:
    """Print one event."""
    words = ["-" if word is None else getattr(word, "value", word) for word in what]
    print(f"{time:10.4f}  {who:<11}", *words)  # noqa: T201 - what it is for
