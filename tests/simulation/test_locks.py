"""Locks over a network that fails: one holder at a time, and nothing written without.

Several processes count under the lock of one session, reading and then replacing it:
nothing but the lock keeps two of them from counting to the same number. Each write that
lands is looked at, so one of a holder that had lost its lock gives itself away.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import pytest

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
from tests.simulation.faulty import CommitFault, Faults, FaultyBackend, LoadFault
from tests.simulation.loop import SimulatedLoop
from tests.simulation.mutants import Mutant
from tests.simulation.server import NAMESPACE, Clock, Server, at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from botsessions import Lock, Write

KEY = SessionKey(chat_id=1)
PLACE = f"{NAMESPACE}/{KEY}"
RUNS = 50
PROCESSES, CALLERS, TURNS = 3, 4, 5
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

    def __init__(self, clock: Clock, tick: Callable[[], int]) -> None:
        super().__init__(clock, tick)
        self.count = 0
        self.holders: dict[int, Lock] = {}

    def commit(self, writes: Sequence[Write]) -> list[bool]:
        landed = at_once(self._memory.commit(writes))
        for write, did in zip(writes, landed, strict=True):
            if did and write.key == PLACE:
                self._check(**_codec.decode(write.record.value))
        return landed

    def begin(self, turn: int, held: Lock) -> None:
        """Note who holds the lock from now on."""
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
        return [
            other
            for other, held in self.holders.items()
            if other != turn and held.is_held
        ]


class World:
    """Some processes on one server, and their callers, drawn from a seed."""

    def __init__(self, seed: int, loop: SimulatedLoop) -> None:
        self._rng = random.Random(seed)
        ticks = itertools.count(1)
        self.clock = Clock(loop)
        self.server = Counted(self.clock, lambda: next(ticks))
        self.stores = [self._process(number) for number in range(PROCESSES)]
        self._turns = itertools.count(1)
        self.acknowledged = 0

    def _process(self, number: int) -> SessionStore:
        rng = random.Random(self._rng.random())
        backend = FaultyBackend(
            self.server, FAULTS, rng, name=f"process {number}", concurrent_batches=2
        )
        return SessionStore(backend, timeout=2.0, rng=rng, timer=self.clock)

    async def run(self) -> None:
        callers = [
            asyncio.create_task(self._caller(store))
            for store in self.stores
            for _ in range(CALLERS)
        ]
        for task in self._rng.sample(callers, 3):
            await asyncio.sleep(self._rng.random() * 5)
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        for store in self.stores:
            assert store._locks is not None
            for _ in range(100):
                if store._locks._queues:
                    await asyncio.sleep(1)
            assert store._locks._queues == {}
            await store.aclose()

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


def play(seed: int) -> World:
    loop = SimulatedLoop(random.Random(seed), max_steps=500_000)
    world = World(seed, loop)
    loop.play(world.run())
    assert world.server.complaints == [], f"seed {seed}"
    assert loop.complaints == [], f"seed {seed}"
    assert world.server.count >= world.acknowledged > 0
    return world


@pytest.mark.parametrize("seed", range(RUNS))
def test_one_holder_at_a_time_whatever_the_network_does(seed: int) -> None:
    play(seed)


_BATCHED, _LOCK = "botsessions.engine.batched", "botsessions.lock.locks"
_LOST = "elif not _holds(held, operation.guard, now):\n                operation.guard"
_END = "not_after = min(self._end_of_lease(lane, guards, now) or now, not_after)"
_END_AGAIN = "not_after = min(end or lane.doubtful.not_after, not_after)"
MUTANTS = [
    Mutant(
        "who lost the lock writes all the same",
        "",
        _BATCHED,
        {_LOST: "elif False:\n                operation.guard", _END: "pass"},
    ),
    Mutant(
        "a write under a lock may arrive after its lease",
        "",
        _BATCHED,
        {_END: "pass", _END_AGAIN: "pass"},
    ),
    Mutant(
        "the lock is passed on while a change is under way",
        "",
        _LOCK,
        {
            "if guard.changes or guard.is_doubtful or not": "if not",
            "        if guard.changes:\n": "        if False:\n",
            "return not guard.is_doubtful": "return True",
        },
    ),
    Mutant(
        "another's lock is taken for free",
        "",
        _LOCK,
        {"if found and found != tenure.mark:": "if False:"},
    ),
    Mutant(
        "the lease is trusted for longer than it lasts",
        "",
        _LOCK,
        {"asked + tenure.lease * _CERTAIN": "asked + tenure.lease * 3"},
    ),
    Mutant(
        "an unanswered taking of the lock is given up and forgotten",
        "",
        _LOCK,
        {
            "            if queue.first is claim:\n": "            if False:\n",
        },
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_lock_that_is_broken_on_purpose_is_noticed(mutant: Mutant) -> None:
    with mutant.planted():
        for seed in range(4 * RUNS):
            try:
                play(seed)
            except AssertionError:
                return
    pytest.fail(f"nobody noticed: {mutant}")
