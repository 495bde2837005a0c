"""One run of the simulation, drawn from a seed: who calls what, and what goes wrong.

A ``Plan`` says what there is to draw from (``plans`` has them all). Several processes
with some callers each work on a few keys; networks fail, processes crash or are closed,
calls are cancelled, the clock jumps. Then all faults end, and ``world`` has the last
word.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from botsessions.conformance.history import Call, Outcome, Verb, Violation
from botsessions.errors import SessionError
from tests.simulation.faulty import Faults
from tests.simulation.loop import SimulatedLoop
from tests.simulation.moments import ENDLESS, Lifetime
from tests.simulation.world import Process, World, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from botsessions.keys import SessionKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is drawn from; times are in seconds, chances between 0 and 1.

    ``calls`` is for each of the ``callers`` of each of the ``processes``; between two
    of them is a ``pause``, on the average. From ``crashes`` to ``strays``: how often
    that happens. ``calm``: whatever goes wrong can be mended in time, so every call
    succeeds (but for poisoned keys and cancelled calls). ``correction`` is the longest
    step of a corrected clock, ``unknown`` the greatest share of calls whose outcome may
    stay unknown.
    """

    name: str
    mix: Mapping[Verb, float]
    faults: Faults = dataclasses.field(default_factory=Faults)
    processes: int = 2
    callers: int = 3
    calls: int = 6
    keys: int = 1
    pause: float = 0.005
    timeout: float = 4.0
    max_pending: int = 24
    concurrent_batches: int = 1
    lifetime: Lifetime = ENDLESS
    slow_functions: float = 0.0
    cancel: float = 0.0
    crashes: int = 0
    closings: int = 0
    clock_steps: int = 0
    clock_corrections: int = 0
    correction: float = 0.05
    sweeps: int = 0
    strays: int = 0
    calm: bool = False
    unknown: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What came of one run: calls by outcome, writes that landed, the longest wait."""

    outcomes: Counter[str]
    landed: int
    slowest: float


def play(plan: Plan, seed: int, log: Callable[..., None] | None = None) -> Report:
    """Play a plan as a seed has it; raise ``Violation`` if a law was broken."""
    return _Run(plan, seed, log).play()


class _Run:
    def __init__(
        self, plan: Plan, seed: int, log: Callable[..., None] | None = None
    ) -> None:
        self._plan = plan
        self._seed = seed
        self._callers: list[asyncio.Task[None]] = []
        luck = self._rng("luck")
        # One run in four keeps to the order in which asyncio would run things.
        in_order = luck.random() < 0.25
        self._world = World(
            SimulatedLoop(None if in_order else self._rng("loop")),
            keys=plan.keys,
            flat=luck.random() < 0.5,
            lifetime=plan.lifetime,
            log=log,
        )

    def _rng(self, purpose: str) -> random.Random:
        """Return a generator that no other purpose draws from."""
        return random.Random(f"{self._seed}/{purpose}")

    def play(self) -> Report:
        world = self._world
        world.play(self._main())
        if self._plan.calm:
            for call in world.history.calls:
                self._check_calm(call)
        world.judge()
        self._check_waits()
        notes = {"cancelled", "crashed"}
        return Report(
            Counter(
                call.note if call.note in notes else call.outcome.value
                for call in world.history.calls
            ),
            len(world.server.journal),
            world.slowest,
        )

    def _check_waits(self) -> None:
        """It is looked ten times in each timeout; what is under way has two more."""
        opening, timeout = self._plan.faults.trip + 1e-6, self._plan.timeout
        for took, most in (
            (self._world.slowest_get, 1.1 * timeout),
            (self._world.slowest, 1.3 * timeout),
        ):
            if took > opening + most:
                raise Violation(f"a call took {took} s, not {most} s at most")

    def _check_calm(self, call: Call) -> None:
        poisoned = place_of(call.key) in self._plan.faults.poisoned
        done = call.outcome is Outcome.DONE or call.note == "cancelled"
        if not done and not poisoned:
            raise Violation(f"it could have been done: {call}")

    async def _main(self) -> None:
        plan, world = self._plan, self._world
        for _ in range(plan.processes):
            self._start(plan.calls)
        disturbances = [
            world.loop.create_task(self._disturb(times, self._rng(what), action))
            for what, times, action in [
                ("crashes", plan.crashes, self._crash),
                ("closings", plan.closings, self._close),
                ("clock", plan.clock_steps, self._step),
                ("corrections", plan.clock_corrections, self._correct),
                ("sweeps", plan.sweeps, self._sweep),
                ("strays", plan.strays, self._stray),
            ]
        ]
        await asyncio.gather(*disturbances)
        for caller in self._callers:  # a list that grows with each new process
            await asyncio.wait([caller])
            if not caller.cancelled():
                caller.result()
        await self._calm_down()
        await world.audit(plan.max_pending, plan.faults.poisoned)

    def _start(self, calls: int) -> None:
        plan, world = self._plan, self._world
        name = f"process-{len(world.processes) + 1}"
        process = world.start(
            name,
            f"{self._seed}/{name}",
            plan.faults,
            concurrent_batches=plan.concurrent_batches,
            slow_functions=plan.slow_functions,
            timeout=plan.timeout,
            max_pending=plan.max_pending,
        )
        with process.running():
            for number in range(plan.callers):
                rng = self._rng(f"{name}/caller-{number + 1}")
                caller = world.loop.create_task(self._call_on(process, rng, calls))
                self._callers.append(caller)

    async def _call_on(self, process: Process, rng: random.Random, calls: int) -> None:
        plan, world = self._plan, self._world
        verbs, weights = list(plan.mix), list(plan.mix.values())
        for _ in range(calls):
            if rng.random() < 0.7:
                await asyncio.sleep(rng.random() * 2 * plan.pause)
            key, verb = rng.choice(world.keys), rng.choices(verbs, weights)[0]
            if rng.random() < plan.cancel:
                await self._call_and_cancel(process, key, verb, rng.random())
            else:
                await world.call(process, key, verb)

    async def _call_and_cancel(
        self, process: Process, key: SessionKey, verb: Verb, when: float
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop, trip = self._world.loop, self._plan.faults.trip
        timer = loop.call_later(when * 6 * trip, task.cancel)
        try:
            await self._world.call(process, key, verb)
        finally:
            timer.cancel()

    # What goes wrong.

    async def _disturb(
        self,
        times: int,
        rng: random.Random,
        action: Callable[[random.Random], Coroutine[Any, Any, None] | None],
    ) -> None:
        """Do something at some moments of the run."""
        plan = self._plan
        length = plan.calls * (plan.pause + 4 * plan.faults.trip)
        for _ in range(times):
            await asyncio.sleep(rng.random() * 2 * length / times)
            waiting = action(rng)
            if waiting is not None:
                await waiting

    def _victim(self, rng: random.Random) -> Process:
        return rng.choice([p for p in self._world.processes if p.alive])

    def _crash(self, rng: random.Random) -> None:
        victim = self._victim(rng)
        self._world.log(victim.name, "crashes")
        self._start(max(self._plan.calls // 2, 1))
        victim.crash()

    async def _close(self, rng: random.Random) -> None:
        victim = self._victim(rng)
        self._world.log(victim.name, "closes")
        self._start(max(self._plan.calls // 2, 1))
        await victim.close()

    async def _sweep(self, rng: random.Random) -> None:
        victim = self._victim(rng)
        self._world.log(victim.name, "sweeps")
        try:
            await victim.store.delete_expired()
        except (SessionError, asyncio.CancelledError):
            if victim.alive:
                raise

    def _step(self, rng: random.Random) -> None:
        """Let the clock jump ahead."""
        self._world.step_clock(rng.choice([0.001, 0.1, 1.0, 20.0]) * rng.random())

    def _correct(self, rng: random.Random) -> None:
        """Set the clock right, back or ahead, as a time server does."""
        self._world.step_clock(
            rng.choice([-1, 1]) * rng.random() * self._plan.correction
        )

    def _stray(self, rng: random.Random) -> None:
        world = self._world
        world.server.stray(place_of(rng.choice(world.keys)), world.shape, rng)

    async def _calm_down(self) -> None:
        """End all faults, and let everything arrive that is under way."""
        plan, world = self._plan, self._world
        calm = Faults(trip=plan.faults.trip, poisoned=plan.faults.poisoned)
        for process in world.processes:
            process.backend.faults = calm
        await asyncio.sleep(plan.faults.late + plan.faults.slow + plan.timeout)
        world.log("world", "calms down")
