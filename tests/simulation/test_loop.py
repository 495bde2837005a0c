"""The simulated event loop: virtual time, drawn order, endless waits."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.simulation.loop import (
    DeadlockError,
    LivelockError,
    LocalTime,
    SimulatedLoop,
)


def test_time_jumps() -> None:
    loop = SimulatedLoop()
    began = time.monotonic()

    async def main() -> list[float]:
        await asyncio.sleep(3600)
        times = [loop.time()]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.sleep(61)
        return [*times, loop.time()]

    assert loop.play(main()) == [3600.0, 3660.0]
    assert time.monotonic() - began < 10


def order_of_ten(rng: random.Random | None) -> list[int]:
    order: list[int] = []

    async def note(number: int) -> None:
        await asyncio.sleep(0)
        order.append(number)

    async def main() -> None:
        await asyncio.gather(*map(note, range(10)))

    SimulatedLoop(rng).play(main())
    assert sorted(order) == list(range(10))
    return order


def test_without_a_generator_callbacks_run_in_the_order_they_came() -> None:
    assert order_of_ten(None) == list(range(10))


def test_a_seed_draws_the_order_and_draws_it_again() -> None:
    drawn = [order_of_ten(random.Random(seed)) for seed in range(5)]
    again = [order_of_ten(random.Random(seed)) for seed in range(5)]
    assert drawn == again
    assert len(set(map(tuple, drawn))) == 5


def test_timers_fire_in_time_whatever_is_drawn() -> None:
    loop = SimulatedLoop(random.Random(1))
    times: list[float] = []

    async def main() -> None:
        for delay in (0.3, 0.1, 0.2):
            loop.call_later(delay, lambda: times.append(loop.time()))
        loop.call_later(0.15, times.append, -1.0).cancel()
        await asyncio.sleep(1)

    loop.play(main())
    assert times == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_what_is_timed_by_a_clock_that_goes_wrong_takes_another_time(
    rate: float,
) -> None:
    loop = SimulatedLoop()
    loop.local_time = lambda: LocalTime(rate, 100.0)

    async def main() -> float:
        assert loop.time() == 100.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await asyncio.sleep(4)
        await asyncio.sleep(1)
        return loop.time()

    assert loop.play(main()) == pytest.approx(104.0)
    assert loop.true_time == pytest.approx(4.0 / rate)


def test_an_endless_wait_is_an_error_that_names_who_waits() -> None:
    loop = SimulatedLoop()

    async def wait() -> None:
        await loop.create_future()

    async def main() -> None:
        await asyncio.gather(loop.create_task(wait(), name="the one that waits"))

    with pytest.raises(DeadlockError, match=r"the one that waits in .*wait"):
        loop.play(main())


def test_an_endless_run_is_an_error() -> None:
    loop = SimulatedLoop(max_steps=1000)

    def again() -> None:
        loop.call_soon(again)

    async def main() -> None:
        again()
        await loop.create_future()

    with pytest.raises(LivelockError):
        loop.play(main())


@pytest.mark.parametrize("step", range(3))
def test_an_interruption_comes_just_before_its_step(step: int) -> None:
    loop = SimulatedLoop()
    seen: list[int | str] = []

    async def main() -> None:
        loop.interrupt(loop.steps + step, lambda: seen.append("now"))
        for number in range(3):
            await asyncio.sleep(0)
            seen.append(number)

    loop.play(main())
    assert seen == [*range(step), "now", *range(step, 3)]


def test_what_a_loop_would_log_is_kept() -> None:
    loop = SimulatedLoop()

    async def main() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    loop.play(main())
    [complaint] = loop.complaints
    assert "ZeroDivisionError" in complaint


def test_tasks_that_are_left_over_are_cancelled() -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1)
            ended.append("lingering")

    async def main() -> None:
        task = asyncio.ensure_future(linger())
        await asyncio.sleep(1)
        assert not task.done()

    SimulatedLoop().play(main())
    assert ended == ["lingering"]
