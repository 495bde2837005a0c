"""How the engine cuts what is ready into batches: none too large, no writer idle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from botsessions import Codec, MemoryBackend
from botsessions.engine.batched import AT_ONCE, BatchedEngine
from botsessions.engine.pace import MAX_ROWS, MIN_SHARE, Pace, share
from botsessions.engine.rules import Policy
from tests.places import OnlyContract

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from botsessions import Backend, Loaded, Write


class Counting(OnlyContract):
    """Notes how large loads and commits are; a commit takes a few turns of the loop."""

    def __init__(self, concurrent_batches: int) -> None:
        super().__init__(MemoryBackend())
        self.concurrent_batches = concurrent_batches
        self.loads: list[int] = []
        self.commits: list[int] = []

    async def load(self, keys: Sequence[str]) -> Loaded:
        self.loads.append(len(keys))
        return await super().load(keys)

    async def commit(self, writes: Sequence[Write]) -> Sequence[Any]:
        self.commits.append(len(writes))
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().commit(writes)


class Timer:
    """Seconds that pass only while a function runs."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(
    backend: Backend, timer: Timer, rng: random.Random | None = None
) -> BatchedEngine:
    return BatchedEngine(
        backend,
        Codec(),
        Policy(None, None, 1 << 20),
        prefix="p/",
        timeout=10.0,
        max_pending=10_000,
        rng=rng or random.Random(1),
        timer=timer,
    )


async def test_slow_functions_make_small_batches_instead_of_loads_in_vain() -> None:
    backend, timer = Counting(1), Timer()
    engine = made(backend, timer)

    def slow(session: dict[Any, Any]) -> dict[Any, Any]:
        timer.now += 0.0001  # fifty of them are all that a batch has time for
        return {"n": session.get("n", 0) + 1}

    for _ in range(4):
        await asyncio.gather(*(engine.update(f"{n}", slow) for n in range(500)))
    assert sum(backend.commits) == 2000
    # The first load could not know.
    assert sum(backend.loads[1:]) < 1.2 * 2000
    await engine.aclose()


async def test_one_hot_key_does_not_make_the_batches_of_the_others_small() -> None:
    backend, timer = Counting(1), Timer()
    engine = made(backend, timer)

    def some(session: dict[Any, Any]) -> dict[Any, Any]:
        timer.now += 0.00001
        return {"n": session.get("n", 0) + 1}

    for _ in range(10):
        hot = [engine.update("hot", some) for _ in range(1000)]
        await asyncio.gather(*hot, *(engine.update(f"{n}", some) for n in range(400)))
    assert sorted(backend.commits)[-5:] > [300] * 5
    await engine.aclose()


async def test_callers_in_lock_step_keep_every_writer_at_work() -> None:
    backend = Counting(2)
    engine = made(backend, Timer())
    for _ in range(5):
        await asyncio.gather(*(engine.put(f"{n}", b"\x80") for n in range(64)))
    assert max(backend.commits) <= 32
    assert sum(backend.commits) >= 64
    await engine.aclose()


@pytest.mark.parametrize(
    ("ready", "free", "lanes"),
    [
        (64, 2, 32),
        (65, 2, 33),
        (20, 2, MIN_SHARE),
        (20, 1, 20),
        (5000, 2, MAX_ROWS),
        (1, 1, MIN_SHARE),
    ],
)
def test_a_share(ready: int, free: int, lanes: int) -> None:
    assert share(ready, free) == lanes


def test_a_pace_forgets_a_pause_soon() -> None:
    pace = Pace()
    assert pace.operations_in_time() == MAX_ROWS
    for _ in range(50):
        pace.learn(0.001, 100)
    assert pace.operations_in_time() == pytest.approx(500)
    pace.learn(0.1, 100)  # the machine was busy with something else
    assert 150 < pace.operations_in_time() < 300
    for _ in range(20):
        pace.learn(0.001, 100)
    assert pace.operations_in_time() > 400


async def test_callers_of_a_large_batch_go_on_a_few_at_a_time() -> None:
    """Whoever else waits for the loop is not held up by all of them at once."""
    counting = Counting(1)
    engine = made(counting, Timer())
    turn = 0
    went_on: Counter[int] = Counter()

    async def turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def call(number: int) -> None:
        await engine.put(str(number), b"\x80")
        went_on[turn] += 1

    turning = asyncio.create_task(turns())
    await asyncio.gather(*(call(number) for number in range(100)))
    turning.cancel()
    await engine.aclose()
    assert counting.commits == [100]
    assert went_on.total() == 100
    assert max(went_on.values()) <= AT_ONCE


class LosesEachOther(Counting):
    """Refuses each other commit: somebody was faster. ``meanwhile`` is for the rest."""

    meanwhile: Callable[[], object]

    async def commit(self, writes: Sequence[Write]) -> Sequence[Any]:
        if len(self.commits) % 2 == 0:
            await super().commit([])
            return [False for _ in writes]
        self.meanwhile()
        return await super().commit(writes)


class Highest(random.Random):
    """Draws what makes a pause as long as it can be."""

    def random(self) -> float:
        return 1.0 - 2**-53


async def test_who_got_through_begins_anew_with_short_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    pauses: list[float] = []

    def call_later(delay: float, *arguments: Any) -> asyncio.TimerHandle:
        pauses.append(delay)
        return loop.call_at(loop.time() + delay, *arguments)

    monkeypatch.setattr(loop, "call_later", call_later)
    backend = LosesEachOther(1)
    engine = made(backend, Timer(), Highest())
    updates: list[asyncio.Future[Any]] = []

    def update() -> None:
        # While the one before it lands, so that the key is never out of use.
        if len(updates) < 8:
            updates.append(engine.update("1", lambda s: {"n": s.get("n", 0) + 1}))

    backend.meanwhile = update
    update()
    while not all(one.done() for one in updates):
        await asyncio.gather(*updates)
    assert updates[-1].result() == {"n": 8}
    assert [round(pause, 9) for pause in pauses if pause < 0.1] == [0.002] * 8
    await engine.aclose()
