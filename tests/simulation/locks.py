"""Locks over a network that fails: one holder at a time, and nothing written without.

Several processes count under the lock of one session, reading and then replacing it:
nothing but the lock keeps two of them from counting to the same number. Each write that
lands is looked at, so one of a holder that had lost its lock gives itself away. The
clocks of every third seed do not go alike: then two may be certain at once that they
have the lock, and still nothing may be written but by the one who has it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections import Counter
from typing import TYPE_CHECKING

from botsessions import (
    BackendError,
    Codec,
    ConflictError,
    LockLostError,
    LockTimeoutError,
    OutcomeUnknownError,
    SessionKey,
    SessionStore,
)
from botsessions.conformance.histories.history import Violation
from tests.simulation.faulty import CommitFault, Faults, FaultyBackend, LoadFault
from tests.simulation.loop import TRUE_TIME, LocalTime, SimulatedLoop
from tests.simulation.mutants import Mutant
from tests.simulation.report import Report
from tests.simulation.server import Clock, Server, at_once, place_of
from tests.simulation.world import Process, locks_end, populate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from botsessions import Lock, Write

KEY = SessionKey(chat_id=1)
PLACE = place_of(KEY)
PROCESSES, CALLERS, TURNS = 3, 4, 5
TIMEOUT = 2.0
# So much faster or slower clocks go, if they do not go alike.
SKEW = 0.5
FAULTS = Faults(
    commit={
        CommitFault.LOST_REQUEST: 0.02,
        CommitFault.LOST_ANSWER: 0.03,
        CommitFault.LATE: 0.1,
        CommitFault.TWICE: 0.05,
        CommitFault.SLOW: 0.15,
        CommitFault.REFUSED: 0.01,
    },
    load={LoadFault.LOST: 0.005, LoadFault.SLOW: 0.05, LoadFault.REFUSED: 0.005},
    slow=0.6,
    late=2.0,
)
NOT_DONE = (
    BackendError,
    ConflictError,
    LockLostError,
    LockTimeoutError,
    OutcomeUnknownError,
    TimeoutError,
)
_codec = Codec()


class Counted(Server):
    """Sees to it that each write counts on, and is one of whoever holds the lock."""

    def __init__(
        self,
        loop: SimulatedLoop,
        clock: Clock,
        tick: Callable[[], int],
        log: Callable[..., None],
    ) -> None:
        super().__init__(loop, clock, tick, log)
        self.count = 0
        self.honest_clocks = True
        self.holders: dict[int, Lock] = {}

    def commit(self, writes: Sequence[Write]) -> list[bool]:
        landed = at_once(self._memory.commit(writes))
        for write, did in zip(writes, landed, strict=True):
            if did and write.key == PLACE:
                session = _codec.decode(write.record.value)
                self.log("server", "landed", session)
                self._check(**session)
        return landed

    def begin(self, turn: int, held: Lock) -> None:
        """Note who holds the lock from now on."""
        self.log("holder", turn)
        if self._others(turn):
            self.complaints.append("two hold the lock, and both are certain")
        self.holders[turn] = held

    def _check(self, n: int, turn: int) -> None:
        if n != self.count + 1:
            self.complaints.append(f"{n} was written on {self.count}")
        if self._others(turn):
            self.complaints.append("written while another held the lock")
        self.count = n

    def _others(self, turn: int) -> list[int]:
        if not self.honest_clocks:
            return []  # one of them is wrong, and cannot know
        return [
            other
            for other, held in self.holders.items()
            if other != turn and held.is_held
        ]


class World:
    """Some processes on one server, and their callers, drawn from a seed."""

    def __init__(
        self, seed: int, loop: SimulatedLoop, log: Callable[..., None] | None
    ) -> None:
        populate(loop)
        self._rng = random.Random(seed)
        self._loop = loop
        self._listener = log
        ticks = itertools.count(1)
        self.clock = Clock(loop)
        self.server = Counted(loop, self.clock, lambda: next(ticks), self._log)
        self.server.honest_clocks = seed % 3 != 2
        self.processes = [self._process(number) for number in range(PROCESSES)]
        self._turns = itertools.count(1)
        self.acknowledged = 0

    def _log(self, *what: object) -> None:
        if self._listener is not None:
            self._listener(self._loop.true_time, *what)

    def _process(self, number: int) -> Process:
        rng = random.Random(self._rng.random())
        name = f"process {number}"
        backend = FaultyBackend(
            self.server, FAULTS, rng, name=name, concurrent_batches=2
        )
        store = SessionStore(backend, timeout=TIMEOUT, rng=rng, timer=self.clock)
        local_time = TRUE_TIME
        if not self.server.honest_clocks:
            local_time = LocalTime(1 + rng.uniform(-SKEW, SKEW), rng.random())
        return Process(
            name, [store], backend, local_time, timeout=TIMEOUT, max_pending=sys.maxsize
        )

    async def run(self) -> None:
        callers = []
        for process in self.processes:
            with process.running():
                callers += [
                    asyncio.create_task(self._caller(process.store))
                    for _ in range(CALLERS)
                ]
        for task in self._rng.sample(callers, 3):
            await asyncio.sleep(self._rng.random() * 5)
            task.cancel()
        for ended in await asyncio.gather(*callers, return_exceptions=True):
            if isinstance(ended, Exception):
                raise Violation(f"an exception of nobody's: {ended!r}") from ended
        for process in self.processes:
            await locks_end(process, process.store)
            await process.close()

    async def _caller(self, store: SessionStore) -> None:
        for _ in range(TURNS):
            try:
                async with store.lock(KEY, lease=3.0, timeout=200) as held:
                    await self._count(held, store)
            except NOT_DONE:
                await asyncio.sleep(self._rng.random())

    async def _count(self, held: Lock, store: SessionStore) -> None:
        turn = next(self._turns)
        self.server.begin(turn, held)
        try:
            number = (await held.get()).get("n", 0)
            pause = 0.5
            if self._rng.random() < 0.2:
                pause = 5
                _renew_no_more(store)
            await asyncio.sleep(self._rng.random() * pause)
            # Some give up waiting while their change is under way.
            patience = 0.1 if self._rng.random() < 0.4 else 60
            async with asyncio.timeout(self._rng.random() * patience):
                await held.put({"n": number + 1, "turn": turn})
            self.acknowledged += 1
        finally:
            del self.server.holders[turn]


def _renew_no_more(store: SessionStore) -> None:
    """Let a process lose its lock, as if it stood still."""
    assert store._locks is not None
    tenure = store._locks._queues[str(KEY)].tenure
    if tenure is not None and tenure.renewal is not None:
        tenure.renewal.cancel()


def play(seed: int, log: Callable[..., None] | None = None) -> Report:
    """Play a seed; raise ``Violation`` if the lock did not hold what it says."""
    loop = SimulatedLoop(random.Random(seed), max_steps=500_000)
    world = World(seed, loop, log)
    loop.play(world.run())
    complaints = [*world.server.complaints, *loop.complaints]
    if complaints:
        raise Violation("; ".join(complaints))
    if not world.server.count >= world.acknowledged > 0:
        raise Violation(f"{world.acknowledged} counts make {world.server.count}")
    return Report(
        1,
        Counter(done=world.acknowledged),
        world.server.count,
        happened=sum((p.backend.happened for p in world.processes), Counter()),
    )


_BATCHED, _LOCK = "botsessions.engine.batched", "botsessions.lock.locks"
_LOST = "elif not _holds(held, operation.guard, now):\n                operation.guard"
_END = "not_after = min(self._end_of_lease(lane, guards, now) or now, not_after)"
_END_AGAIN = "not_after = min(end or lane.doubtful.not_after, not_after)"
MUTANTS = [
    Mutant(
        "who lost the lock writes all the same",
        "locks",
        _BATCHED,
        {_LOST: "elif False:\n                operation.guard", _END: "pass"},
    ),
    Mutant(
        "a write under a lock may arrive after its lease",
        "locks",
        _BATCHED,
        {_END: "pass", _END_AGAIN: "pass"},
    ),
    Mutant(
        "the lock is passed on while a change is under way",
        "locks",
        _LOCK,
        {
            "if guard.changes or guard.is_doubtful or not": "if not",
            "        if guard.changes:\n": "        if False:\n",
            "return not guard.is_doubtful": "return True",
        },
    ),
    Mutant(
        "another's lock is taken for free",
        "locks",
        _LOCK,
        {"if found and found != tenure.mark:": "if False:"},
    ),
    Mutant(
        "the lease is trusted for longer than it lasts",
        "locks",
        _LOCK,
        {"asked + tenure.lease * _CERTAIN": "asked + tenure.lease * 3"},
    ),
    Mutant(
        "an unanswered taking of the lock is given up and forgotten",
        "locks",
        _LOCK,
        {
            "            if queue.first is claim:\n": "            if False:\n",
        },
    ),
    Mutant(
        "a lock that was lost is given back, whoever has it now",
        "locks",
        _LOCK,
        {"delete(tenure.guard.key, guard=tenure.guard)": "delete(tenure.guard.key)"},
    ),
    Mutant(
        "a lease is counted from the answer",
        "locks",
        _LOCK,
        {
            "self._keep(tenure, began)": "self._keep(tenure, self._loop.time())",
            "self._keep(tenure, asked)": "self._keep(tenure, self._loop.time())",
        },
    ),
]
