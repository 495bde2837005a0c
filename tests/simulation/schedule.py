"""One run of the simulation, drawn from a seed: who calls what, and what goes wrong.

A ``Plan`` says what there is to draw from (``plans`` has them all). Several processes
with some callers each work on a few keys; networks fail, processes crash or are closed,
the server crashes and is up again with what was durable, calls are cancelled, the clock
jumps, and no two clocks go alike. Then all faults end, and ``world`` has the last
word.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from botsessions.conformance.histories.history import Call, Outcome, Verb, Violation
from botsessions.errors import BackendError, SessionError
from tests.simulation.faulty import Faults, FaultyBackend
from tests.simulation.loop import TRUE_TIME, LocalTime, SimulatedLoop
from tests.simulation.moments import ENDLESS, Lifetime
from tests.simulation.world import Process, World, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from tests.simulation.server import Disk


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is drawn from; times are in seconds, chances between 0 and 1.

    ``calls`` is for each of the ``callers`` of each of the ``processes``; between two
    of them is a ``pause``, on the average. From ``crashes`` to ``strays``: how often
    that happens. ``calm``: whatever goes wrong can be mended in time, so every call
    succeeds (but for poisoned keys and cancelled calls). ``correction`` is the longest
    step of a corrected clock, ``unknown`` the greatest share of calls whose outcome may
    stay unknown. ``stores`` is for each process, over the one ``backend`` that it has.
    Clocks go up to ``skew`` faster or slower than they should: that of each process,
    and the server's. ``locked`` is the chance that a change is made under a lock, of
    such a ``lease``; ``walks`` that all sessions are walked instead of a call.
    ``outage`` is the longest time for which the server is down.
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
    stores: int = 1
    backend: type[FaultyBackend] = FaultyBackend
    skew: float = 0.0
    locked: float = 0.0
    lease: float = 1.0
    walks: float = 0.0
    disk: Disk | None = None
    server_crashes: int = 0
    outage: float = 0.2
    calm: bool = False
    unknown: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What came of one run: calls by outcome, writes that landed, the longest wait.

    ``happened`` counts what there is to see of a fault, to prove that there were any.
    """

    outcomes: Counter[str]
    landed: int
    slowest: float
    happened: Counter[str]


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
            disk=plan.disk,
            luck=self._rng("server"),
            clock_rate=1 + plan.skew * self._rng("clock rate").uniform(-1, 1),
            log=log,
        )
        self._world.honest_clocks = not (
            plan.skew or plan.clock_steps or plan.clock_corrections
        )
        self._world.exclusive = plan.locked == 1

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
            +Counter(
                {
                    "crashes of the server": world.server.crashes,
                    "writes lost by them": world.server.lost,
                    "requests overtaken": world.server.requests.overtaken,
                    "answers overtaken": world.server.answers.overtaken,
                    "changes under a lock": len(world.guards),
                    "walks": world.walks,
                }
            ),
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
                ("outages", plan.server_crashes, self._crash_server),
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
            stores=plan.stores,
            kind=plan.backend,
            local_time=self._local_time(name),
        )
        with process.running():
            for number in range(plan.callers):
                rng = self._rng(f"{name}/caller-{number + 1}")
                caller = world.loop.create_task(self._call_on(process, rng, calls))
                self._callers.append(caller)

    def _local_time(self, name: str) -> LocalTime:
        skew, rng = self._plan.skew, self._rng(f"{name}/clock")
        if not skew:
            return TRUE_TIME
        return LocalTime(1 + skew * rng.uniform(-1, 1), rng.random() * 1000)

    async def _call_on(self, process: Process, rng: random.Random, calls: int) -> None:
        plan, world = self._plan, self._world
        verbs, weights = list(plan.mix), list(plan.mix.values())
        for _ in range(calls):
            if rng.random() < 0.7:
                await asyncio.sleep(rng.random() * 2 * plan.pause)
            key, verb = rng.choice(world.keys), rng.choices(verbs, weights)[0]
            store = rng.choice(process.stores)
            lease = plan.lease if rng.random() < plan.locked else None
            if rng.random() < plan.walks:
                await rng.choice([world.walk, world.walk_keys])(process, store)
                continue
            calling = world.call(process, key, verb, store=store, lease=lease)
            if rng.random() < plan.cancel:
                await self._cancel(calling, rng.random())
            else:
                await calling

    async def _cancel(self, calling: Coroutine[Any, Any, Call], when: float) -> None:
        """Call, and be cancelled meanwhile, or too late."""
        task = asyncio.current_task()
        assert task is not None
        loop, trip = self._world.loop, self._plan.faults.trip
        timer = loop.call_later(when * 6 * trip, task.cancel)
        try:
            await calling
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
        except BackendError:
            pass  # it was injected: another time, then
        except (SessionError, asyncio.CancelledError):
            if victim.alive:
                raise

    async def _crash_server(self, rng: random.Random) -> None:
        self._world.server.crash()
        await asyncio.sleep(rng.random() * self._plan.outage)
        self._world.server.restart()

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
        lease = plan.lease if plan.locked else 0
        await asyncio.sleep(plan.faults.late + plan.faults.slow + plan.timeout + lease)
        world.log("world", "calms down")
