"""A copy that comes late, by a clock that was set back meanwhile, still counts once.

The first commit gets no answer. What it carried arrives at one moment after another of
what the engine does next, each time with the clock set back to before its end.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from botsessions.backends.memory import MemoryBackend
from botsessions.errors import OutcomeUnknownError
from botsessions.keys import SessionKey
from botsessions.store import SessionStore
from tests.simulation.loop import SimulatedLoop
from tests.simulation.server import Clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botsessions.record import Loaded, Write

KEY = SessionKey(chat_id=1)
TIMEOUT = 1.0
MOMENTS = 40


class LateCopy:
    """Keeps the first write back until a given moment; each call has three."""

    concurrent_batches = 1

    def __init__(self, loop: SimulatedLoop, arrives: int) -> None:
        self.clock = Clock(loop)
        self.arrives = arrives
        self.arrived = False
        self.memory = MemoryBackend(clock=self.clock)
        self.moment = 0
        self.held: Sequence[Write] = ()
        self.sent_at = 0.0
        self.holding = False

    async def open(self) -> None:
        await self.memory.open()

    async def aclose(self) -> None:
        await self.memory.aclose()

    async def load(self, keys: Sequence[str]) -> Loaded:
        await self._pass_moment()
        loaded = await self.memory.load(keys)
        await self._pass_moment()
        return loaded

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        if self.holding and not self.held:
            self.held, self.sent_at = list(writes), self.clock()
            await asyncio.Event().wait()
        await self._pass_moment()
        landed = await self.memory.commit(writes)
        await self._pass_moment()
        return landed

    async def _pass_moment(self) -> None:
        await asyncio.sleep(0.001)
        self.moment += bool(self.held)
        if self.held and self.moment == self.arrives:
            self.clock.step(self.sent_at - self.clock())
            self.arrived = (await self.memory.commit(self.held)) == [True]


async def played(
    loop: SimulatedLoop, arrives: int, ttl: float | None
) -> tuple[list[str], LateCopy, bool]:
    backend = LateCopy(loop, arrives)
    rng = random.Random(arrives)
    store = SessionStore(
        backend, timeout=TIMEOUT, ttl=ttl, rng=rng, timer=backend.clock
    )

    def note(session: dict[Any, Any]) -> dict[Any, Any]:
        return {"log": [*session.get("log", []), "x"]}

    async with store:
        await store.update(KEY, note)
        backend.holding = True
        try:
            await store.update(KEY, note)
            known = True
        except OutcomeUnknownError:
            known = False
        # Wherever the clock went, no session has expired when we look.
        backend.clock.step(backend.sent_at - backend.clock())
        return (await store.get(KEY)).get("log", []), backend, known


@pytest.mark.parametrize("ttl", [None, 0.2, 30.0])
def test_a_copy_that_lands_after_the_clock_was_set_back_counts_once(
    ttl: float | None,
) -> None:
    arrived = 0
    for arrives in range(1, MOMENTS):
        loop = SimulatedLoop()
        log, backend, known = loop.play(played(loop, arrives, ttl))
        arrived += backend.arrived
        assert len(log) in ([2] if known else [1, 2]), f"moment {arrives}: {log}"
    assert arrived > 0
