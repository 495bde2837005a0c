"""Processes that do not outlive their test, random numbers that can be had again."""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.sqlite.processes import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Start = Callable[..., Process]


@pytest.fixture(autouse=True)
def _bound(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that hangs, wherever it hangs."""
    seconds = 3600 if request.node.get_closest_marker("soak") else 120

    def fail(*_: object) -> None:
        pytest.fail(f"not over within {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Return what starts a process; all are killed when the test is over."""
    with ExitStack() as stack:

        def start(under: Sequence[str] = ()) -> Process:
            return stack.enter_context(Process(under))

        yield start


@pytest.fixture
def our_threads() -> Callable[[], list[str]]:
    """Return what names the threads that this package has started in this test."""
    before = set(threading.enumerate())

    def names() -> list[str]:
        new = set(threading.enumerate()) - before
        return [t.name for t in new if t.name.startswith("botsessions")]

    return names


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return where a database may be made."""
    return str(tmp_path / "sessions.db")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Return random numbers; the report of a failure says how to get the same."""
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    request.node.add_report_section("setup", "seed", f"run it again with SEED={seed}")
    return random.Random(seed)
