"""Cancellation at every await: whoever is cancelled, nobody else notices.

Each scenario is played again and again, with an interruption one step of the event loop
later each time, until it comes too late to interrupt anything. Each time all callers
must be answered, the answers be right, and key, slots and store work as before. A
failure names the command that plays its one step again, event by event.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from typing import TYPE_CHECKING

import pytest

from botsessions.conformance.histories.history import Call, Outcome, Verb, Violation
from botsessions.errors import BackendUnavailableError
from tests.simulation.faulty import CommitFault, Faults, LoadFault
from tests.simulation.loop import SimulatedLoop
from tests.simulation.replay import command_of_step, only_step, reproducible, show
from tests.simulation.world import Process, World

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 0.4
SLOTS = 8

CALM = Faults()
ANSWER_LOST = Faults(commit={CommitFault.LOST_ANSWER: 1.0}, silence=0.0, limit=1)
REQUEST_LOST = Faults(commit={CommitFault.LOST_REQUEST: 1.0}, silence=0.0, limit=1)
NO_ANSWER = Faults(commit={CommitFault.LOST_ANSWER: 1.0}, silence=1.0, limit=1)
REFUSED = Faults(commit={CommitFault.REFUSED: 1.0}, limit=1)
NO_RECORD = Faults(load={LoadFault.LOST: 1.0}, limit=1)
NEVER_AN_ANSWER = Faults(commit={CommitFault.LOST_ANSWER: 1.0}, silence=1.0)
NEVER_A_RECORD = Faults(load={LoadFault.LOST: 1.0})


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Calls that one process makes at once, the first of them by the victim."""

    name: str
    verbs: tuple[Verb, ...]
    faults: Faults = CALM
    first_use: bool = False
    apart: float = 0.0
    """Seconds between two calls."""
    rivals: int = 0
    """Calls of another process for the same key."""
    keys: int = 1
    lease: float | None = None
    """Under a lock of this lease, if any."""
    fails: bool = False
    """Whether calls may fail: else the others' must be done."""

    def __str__(self) -> str:
        return self.name


HOT = (
    Verb.UPDATE,
    Verb.GET,
    Verb.REFUSE,
    Verb.PUT,
    Verb.OBSERVE,
    Verb.DELETE,
    Verb.UPDATE,
)
BEHIND = (Verb.UPDATE, Verb.UPDATE, Verb.GET, Verb.REFUSE)

SCENARIOS = [
    *(Scenario(f"one {verb}", (verb,)) for verb in Verb),
    *(Scenario(f"first use: {verb}", (verb,), first_use=True) for verb in Verb),
    Scenario("a hot key", HOT),
    Scenario("a hot key at first use", HOT, first_use=True),
    Scenario("a hot key and rivals", BEHIND, rivals=3),
    Scenario("one after the other", HOT, apart=0.0007),
    Scenario("reads, one after the other", (Verb.GET,) * 5, apart=0.0007),
    Scenario("a batch that is split", BEHIND + BEHIND, REFUSED, keys=4, fails=True),
    Scenario("answer lost", BEHIND, ANSWER_LOST),
    Scenario("answer lost, and rivals", BEHIND, ANSWER_LOST, rivals=3),
    Scenario("request lost", BEHIND, REQUEST_LOST),
    Scenario("commit without an answer", BEHIND, NO_ANSWER),
    Scenario("load without an answer", BEHIND, NO_RECORD, fails=True),
]
ORDERS = [None, 1, 2]


class Stage:
    """A world for one performance of a scenario."""

    def __init__(self, scenario: Scenario, order: int | None) -> None:
        rng = None if order is None else random.Random(order)
        self.loop = SimulatedLoop(rng)
        log = None if only_step() is None else show
        self.world = World(self.loop, keys=scenario.keys, log=log)
        self.scenario = scenario
        self.process = self._start("process", scenario.faults)
        self.rival = self._start("rival", CALM) if scenario.rivals else None
        self.calls: list[asyncio.Task[Call]] = []

    def _start(self, name: str, faults: Faults) -> Process:
        return self.world.start(name, name, faults, timeout=TIMEOUT, max_pending=SLOTS)

    async def begin(self) -> None:
        """Start all calls, after the store was used once, or not."""
        world, key = self.world, self.world.keys[0]
        if not self.scenario.first_use:
            faults, self.process.backend.faults = self.process.backend.faults, CALM
            await world.call(self.process, key, Verb.PUT)
            self.process.backend.faults = faults
        self.calls = [
            self.loop.create_task(self._call(number, verb))
            for number, verb in enumerate(self.scenario.verbs)
        ]
        for _ in range(self.scenario.rivals):
            assert self.rival is not None
            rival = world.call(self.rival, key, Verb.UPDATE)
            self.calls.append(self.loop.create_task(rival))

    async def _call(self, number: int, verb: Verb) -> Call:
        await asyncio.sleep(number * self.scenario.apart)
        key = self.world.keys[number % self.scenario.keys]
        lease = self.scenario.lease
        return await self.world.call(self.process, key, verb, lease=lease)

    async def end(self) -> list[Call | BaseException]:
        """Wait until everybody was answered, then end all faults."""
        answers = await asyncio.gather(*self.calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        for process in self.world.processes:
            process.backend.faults = CALM
        return answers


def at_every_step(performance: Callable[[int], bool]) -> None:
    """Interrupt each step in turn, until an interruption has nothing to interrupt."""
    only = only_step()
    for step in itertools.count() if only is None else [only]:
        with reproducible(command_of_step, step):
            if not performance(step):
                assert step > 0
                return


LOCKING = [
    *SCENARIOS,
    Scenario("a lock", (Verb.UPDATE, Verb.UPDATE), lease=1.0),
    Scenario("a lock, and rivals", (Verb.PUT,), lease=1.0, rivals=1),
    Scenario("a lock, answer lost", (Verb.UPDATE, Verb.PUT), ANSWER_LOST, lease=1.0),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scenario", LOCKING, ids=str)
def test_a_caller_is_cancelled(scenario: Scenario, order: int | None) -> None:
    def performance(step: int) -> bool:
        stage = Stage(scenario, order)
        in_time = False

        def interrupt() -> None:
            nonlocal in_time
            in_time = stage.calls[0].cancel()

        async def main() -> None:
            await stage.begin()
            stage.loop.interrupt(stage.loop.steps + step, interrupt)
            _, *others = await stage.end()
            for other in others:
                assert isinstance(other, Call)
                if other.outcome is not Outcome.DONE and not scenario.fails:
                    raise Violation(f"another call suffered: {other}")
            await stage.world.audit()

        stage.world.play(main())
        stage.world.judge()
        return in_time

    at_every_step(performance)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
@pytest.mark.parametrize("which", ["all", "first", "last"])
def test_the_engine_is_cancelled(
    scenario: Scenario, which: str, order: int | None
) -> None:
    """As when the event loop ends: every caller is told, and told the truth."""

    def performance(step: int) -> bool:
        stage = Stage(scenario, order)
        ended: list[asyncio.Task[None]] = []
        in_time = False

        def interrupt() -> None:
            nonlocal in_time
            in_time = not all(call.done() for call in stage.calls)
            stage.process.closed = True  # so callers may be told
            tasks = stage.process.engine
            ended.extend({"all": tasks, "first": tasks[:1], "last": tasks[-1:]}[which])
            for task in ended:
                task.cancel()

        async def main() -> None:
            await stage.begin()
            stage.loop.interrupt(stage.loop.steps + step, interrupt)
            await stage.end()
            await asyncio.sleep(2 * TIMEOUT)
            if not all(task.done() for task in ended):
                raise Violation("the engine survived being cancelled")
            await stage.process.close()
            await stage.world.audit()

        stage.world.play(main())
        stage.world.judge()
        return in_time

    at_every_step(performance)


CLOSING = [
    *SCENARIOS,
    Scenario("never an answer", BEHIND, NEVER_AN_ANSWER),
    Scenario("never a record", HOT, NEVER_A_RECORD),
    Scenario("never a record, many reads", (Verb.GET,) * 4, NEVER_A_RECORD),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scenario", CLOSING, ids=str)
def test_the_store_is_closed(scenario: Scenario, order: int | None) -> None:
    """Whatever is under way is finished or failed, truly, and soon."""

    def performance(step: int) -> bool:
        stage = Stage(scenario, order)
        closing: list[asyncio.Task[None]] = []
        in_time = False

        def interrupt() -> None:
            nonlocal in_time
            in_time = not all(call.done() for call in stage.calls)
            closing.append(stage.loop.create_task(stage.process.close()))

        async def main() -> None:
            await stage.begin()
            since = stage.loop.time()
            stage.loop.interrupt(stage.loop.steps + step, interrupt)
            await stage.end()
            await asyncio.gather(*closing)
            if stage.loop.time() - since > 4 * TIMEOUT:
                raise Violation(f"closing took {stage.loop.time() - since} s")
            await stage.world.audit()

        stage.world.play(main())
        stage.world.judge()
        return in_time

    at_every_step(performance)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("nothing under way", ()),
        Scenario("while opening", (Verb.UPDATE, Verb.GET), first_use=True),
        Scenario("a hot key", HOT),
        Scenario("commit without an answer", BEHIND, NO_ANSWER),
    ],
    ids=str,
)
def test_closing_is_cancelled(scenario: Scenario, order: int | None) -> None:
    """Who closes again finishes what a cancelled closing has left."""

    def performance(step: int) -> bool:
        stage = Stage(scenario, order)
        in_time = False

        async def main() -> None:
            await stage.begin()
            stage.process.closed = True
            closing = stage.loop.create_task(stage.process.store.aclose())

            def interrupt() -> None:
                nonlocal in_time
                in_time = closing.cancel()

            stage.loop.interrupt(stage.loop.steps + step, interrupt)
            await asyncio.gather(closing, return_exceptions=True)
            await stage.process.close()
            await stage.end()
            await stage.world.audit()

        stage.world.play(main())
        stage.world.judge()
        return in_time

    at_every_step(performance)


@pytest.mark.parametrize("order", ORDERS)
def test_a_caller_is_cancelled_while_the_backend_cannot_be_opened(
    order: int | None,
) -> None:
    """The others are told why, and the next use opens it."""
    scenario = Scenario("refused", (Verb.GET, Verb.UPDATE, Verb.PUT), first_use=True)

    def performance(step: int) -> bool:
        stage = Stage(scenario, order)
        stage.process.backend.refusals = 1
        in_time = False

        def interrupt() -> None:
            nonlocal in_time
            in_time = stage.calls[0].cancel()

        async def main() -> None:
            await stage.begin()
            stage.loop.interrupt(stage.loop.steps + step, interrupt)
            _, *others = await stage.end()
            for other in others:
                assert isinstance(other, Call)
                if other.outcome is Outcome.FAILED:
                    assert BackendUnavailableError.__name__ in other.note
                else:
                    assert other.outcome is Outcome.DONE
            await stage.world.audit()

        stage.world.play(main())
        stage.world.judge()
        return in_time

    at_every_step(performance)
