"""One run of the simulation, drawn from a seed: who calls what, and what goes wrong.

A ``Plan`` says what there is to draw from (``plans`` has them all). Several processes
with some callers each work on a few keys; networks fail, processes crash or are closed,
or cut off, the server crashes and is up again with what was durable, calls are
cancelled, the clock
jumps, and where clocks are skewed no two go alike. Then all faults end, and ``world``
has the last word.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from botsessions.conformance.histories.history import Call, Outcome, Verb, Violation
from botsessions.errors import BackendError
from tests.simulation.faulty import Faults, FaultyBackend
from tests.simulation.loop import TRUE_TIME, LocalTime, SimulatedLoop
from tests.simulation.moments import ENDLESS, Lifetime
from tests.simulation.report import Report
from tests.simulation.server import place_of
from tests.simulation.world import NOTES, PATIENCE, Process, World, check_crashed

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
    ``outage`` is the longest time for which the server is down, or, each of ``cuts``
    times, a process cut off.
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
    cuts: int = 0
    clock_steps: int = 0
    clock_corrections: int = 0
    correction: float = 0.05
    sweeps: int = 0
    strays: int = 0
    stores: int = 1
    backend: type[FaultyBackend] = FaultyBackend
    skew: float = 0.0
    locked: float = 0.0
    lease: float = 0.6
    walks: float = 0.0
    disk: Disk | None = None
    server_crashes: int = 0
    outage: float = 0.02
    calm: bool = False
    unknown: float = 0.0

    def kinds(self) -> list[str]:
        """Return what must have happened at all, when it was played often enough."""
        chances = {
            "processes crashed": self.crashes,
            "processes closed": self.closings,
            "processes cut off": self.cuts,
            "clocks set": self.clock_steps + self.clock_corrections,
            "sweeps": self.sweeps,
            "strays": self.strays,
            "crashes of the server": self.server_crashes,
            "writes lost by them": self.server_crashes,
            "calls cancelled": self.cancel,
            "calls under a lock": self.locked,
            "walks": self.walks,
        }
        faults = self.faults
        if not (self.sweeps or self.walks):
            faults = dataclasses.replace(faults, aside={})
        return [*faults.kinds(), *(what for what, n in chances.items() if n)]


def play(plan: Plan, seed: int, log: Callable[..., None] | None = None) -> Report:
    """Play a plan as a seed has it; raise ``Violation`` if a law was broken."""
    return _Run(plan, seed, log).play()


class _Run:
    def __init__(
        self, plan: Plan, seed: int, log: Callable[..., None] | None = None
    ) -> None:
        self._plan = plan
        self._seed = seed
        self._callers: list[tuple[Process, asyncio.Task[None]]] = []
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
        return Report(
            1,
            Counter(
                call.note if call.note in NOTES else call.outcome.value
                for call in world.history.calls
            ),
            len(world.server.journal),
            max(world.slowest.values()),
            +world.tally(),
        )

    def _check_waits(self) -> None:
        """It is looked ten times in each timeout; what is under way has two more.

        Under a lock one waits for it, looks, changes, and lets go, each in its time. A
        walk has no timeout: it takes as long as its pages travel, two keys on each, and
        may wait for the disk, begun with and anew, at each.
        """
        plan = self._plan
        flush = plan.disk.flush if plan.disk else 0
        page = 2 * plan.faults.trip + plan.faults.slow + 4 * flush
        most = {
            "get": 1.1 * plan.timeout,
            "call": 1.3 * plan.timeout,
            "call under a lock": PATIENCE * plan.lease + 3 * 1.3 * plan.timeout,
            "walk": (plan.keys // 2 + 2) * page,
        }
        for what, took in self._world.slowest.items():
            if took > most[what] + plan.faults.trip + 1e-6:
                raise Violation(f"a {what} took {took} s, not {most[what]} s at most")

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
                ("cuts", plan.cuts, self._cut_off),
            ]
            if times
        ]
        await asyncio.gather(*disturbances)
        for process, caller in self._callers:  # a list that grows with each new one
            await asyncio.wait([caller])
            if caller.cancelled():
                check_crashed(process)
            else:
                caller.result()
        await self._calm_down()
        await world.audit(plan.faults.poisoned)

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
                self._callers.append((process, caller))

    def _local_time(self, name: str) -> LocalTime:
        skew = self._plan.skew
        if not skew:
            return TRUE_TIME
        rng = self._rng(f"{name}/clock")
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

    def _note(self, process: Process, what: str, count_as: str) -> None:
        self._world.log(process.name, what)
        self._world.happened[count_as] += 1

    def _victim(self, rng: random.Random) -> Process:
        return rng.choice([p for p in self._world.processes if p.alive])

    def _crash(self, rng: random.Random) -> None:
        victim = self._victim(rng)
        self._note(victim, "crashes", "processes crashed")
        self._start(max(self._plan.calls // 2, 1))
        victim.crash()

    async def _close(self, rng: random.Random) -> None:
        victim = self._victim(rng)
        self._note(victim, "closes", "processes closed")
        self._start(max(self._plan.calls // 2, 1))
        await victim.close()

    async def _sweep(self, rng: random.Random) -> None:
        victim = self._victim(rng)
        self._note(victim, "sweeps", "sweeps")
        try:
            await victim.store.delete_expired()
        except BackendError:
            pass  # it was injected: another time, then
        except asyncio.CancelledError:
            check_crashed(victim)

    async def _cut_off(self, rng: random.Random) -> None:
        """Let nothing go to a process, or come from it, for a while."""
        victim = self._victim(rng)
        self._note(victim, "is cut off", "processes cut off")
        victim.backend.is_cut_off = True
        await asyncio.sleep(rng.random() * self._plan.outage)
        victim.backend.is_cut_off = False
        self._world.log(victim.name, "is cut off no more")

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
