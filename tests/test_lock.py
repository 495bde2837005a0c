"""Locks: who has one, who waits, who lost it; over every kind of place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from botsessions.record import GRACE_MS
from tests.places import OnlyContract

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from botsessions.record import Write
    from tests.places import Place

KEY = bs.SessionKey(chat_id=-1001, user_id=42)
OTHER = bs.SessionKey(chat_id=-1001, user_id=43)


async def holds(store: bs.SessionStore, key: bs.SessionKey = KEY) -> bool:
    """Tell whether the lock of a key is held by anybody."""
    try:
        async with store.lock(key, timeout=0.15):
            return False
    except bs.LockTimeoutError:
        return True


async def die(store: bs.SessionStore) -> None:
    """Let a store renew nothing any more, as if its process had died."""
    assert store._locks is not None
    for queue in store._locks._queues.values():
        assert queue.tenure is not None
        assert queue.tenure.renewal is not None
        queue.tenure.renewal.cancel()


async def nothing_is_kept(store: bs.SessionStore) -> None:
    """Wait, not for long, until a store has given all its locks back."""
    async with asyncio.timeout(2):
        while store._locks is not None and store._locks._queues:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# Exclusion.


async def test_what_is_read_and_put_under_a_lock_loses_nothing(place: Place) -> None:
    async with place.store() as one, place.store() as other:

        async def count(store: bs.SessionStore) -> None:
            async with store.lock(KEY, timeout=30) as held:
                session = await held.get()
                await asyncio.sleep(0.001)
                await held.put({"n": session.get("n", 0) + 1})

        await asyncio.gather(*(count(store) for store in (one, other) * 15))
        assert await one.get(KEY) == {"n": 30}


async def test_within_a_process_a_lock_is_given_in_the_order_of_asking(
    place: Place,
) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        async with store.lock(KEY):
            order.append(number)

    async with place.store() as store:
        async with store.lock(KEY):
            tasks = [asyncio.create_task(work(number)) for number in range(20)]
            await asyncio.sleep(0.01)
            assert order == []
        await asyncio.gather(*tasks)
    assert order == list(range(20))


async def test_another_key_has_a_lock_of_its_own(place: Place) -> None:
    async with (
        place.store() as store,
        place.store() as other,
        store.lock(KEY),
        store.lock(OTHER),
    ):
        assert await holds(other)
        assert await holds(other, OTHER)


async def test_processes_take_turns_when_each_has_many_who_wait(place: Place) -> None:
    """Neither is left out for as long as the other has somebody."""
    over = False
    got = [0, 0]

    async def work(store: bs.SessionStore, number: int) -> None:
        while not over:
            async with store.lock(KEY, timeout=30):
                got[number] += 1
                await asyncio.sleep(0.001)

    async with place.store() as one, place.store() as other:
        tasks = [
            asyncio.create_task(work(store, number))
            for number, store in enumerate((one, other))
            for _ in range(5)
        ]
        async with asyncio.timeout(15):
            while min(got) == 0:  # noqa: ASYNC110 - a busy list
                await asyncio.sleep(0.01)
        over = True
        await asyncio.gather(*tasks)


async def test_who_asks_again_for_what_it_holds_gets_an_error_at_once(
    place: Place,
) -> None:
    async with place.store() as store, store.lock(KEY):
        with pytest.raises(RuntimeError, match="would wait for itself"):
            async with store.lock(KEY):
                pass
        # A plain call knows nothing of locks.
        assert await store.update(KEY, lambda _: {"by": "me"}) == {"by": "me"}


async def test_who_waits_for_too_long_is_told_and_nobody_else_is_disturbed(
    place: Place,
) -> None:
    async with place.store() as store, place.store() as other:
        async with store.lock(KEY):
            for waiting in (store, other):
                began = time.monotonic()

                async def wait(waiting: bs.SessionStore = waiting) -> None:
                    async with waiting.lock(KEY, timeout=0.1):
                        raise AssertionError

                with pytest.raises(bs.LockTimeoutError, match=r"0.1 s; nothing was"):
                    await asyncio.create_task(wait())
                assert time.monotonic() - began < 2
        for asking in (other, store):
            async with asking.lock(KEY, timeout=2):
                pass


@pytest.mark.parametrize("seed", range(3))
async def test_those_who_are_cancelled_leave_no_lock_behind(
    place: Place, seed: int
) -> None:
    rng = random.Random(seed)
    inside = 0

    async def work(store: bs.SessionStore) -> None:
        nonlocal inside
        async with store.lock(KEY, timeout=5):
            inside += 1
            assert inside == 1
            try:
                await asyncio.sleep(rng.uniform(0, 0.002))
            finally:
                inside -= 1

    async with place.store() as one, place.store() as other:
        for _ in range(15):
            tasks = [
                asyncio.create_task(work(rng.choice((one, other)))) for _ in range(8)
            ]
            await asyncio.sleep(rng.uniform(0, 0.01))
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError)
        for store in (one, other):
            async with store.lock(KEY, timeout=2):
                pass
            await nothing_is_kept(store)


# Turns: the process has the lock, and callers hand it on among themselves.


class Counting(OnlyContract):
    """Counts the commits of locks, and how many locks were in each."""

    def __init__(self, backend: bs.MemoryBackend) -> None:
        super().__init__(backend)
        self.commits: list[int] = []

    async def commit(self, writes: Sequence[Write]) -> Sequence[bool]:
        locks = sum("!" in write.key for write in writes)
        if locks:
            self.commits.append(locks)
        return await super().commit(writes)


async def test_callers_of_one_process_take_turns_without_the_backend() -> None:
    counting = Counting(bs.MemoryBackend())
    async with bs.SessionStore(counting) as store:

        async def work() -> None:
            for _ in range(5):
                async with store.lock(KEY) as held:
                    await held.update(lambda s: {"n": s.get("n", 0) + 1})

        await asyncio.gather(*(work() for _ in range(10)))
        assert await store.get(KEY) == {"n": 50}
        assert counting.commits == [1]
        await nothing_is_kept(store)
        assert counting.commits == [1, 1]


async def test_locks_that_nobody_wants_are_given_back_together() -> None:
    counting = Counting(bs.MemoryBackend())
    keys = [bs.SessionKey(chat_id=n) for n in range(1, 51)]

    async def work(key: bs.SessionKey) -> None:
        async with store.lock(key):
            pass

    async with bs.SessionStore(counting) as store:
        await asyncio.gather(*map(work, keys))
        await nothing_is_kept(store)
        assert sum(counting.commits) == 100
        assert len(counting.commits) < 20  # 2, on a machine that is not busy
        counting.commits.clear()
        await work(KEY)
    # Closing leaves none behind either.
    assert counting.commits == [1, 1]


async def test_another_process_need_not_wait_for_long(place: Place) -> None:
    async with place.store() as store, place.store() as other:
        async with store.lock(KEY):
            pass
        began = time.monotonic()
        async with other.lock(KEY, timeout=5):
            assert time.monotonic() - began < 1


async def test_who_asks_for_another_lease_gets_that(place: Place) -> None:
    async with place.store() as store, place.store() as other:
        async with store.lock(KEY, lease=60):
            pass
        async with store.lock(KEY, lease=5):
            await die(store)
            place.clock.now += 5.1
            async with other.lock(KEY, timeout=2):
                pass
            await store.aclose()


async def test_a_lock_is_entered_once(place: Place) -> None:
    async with place.store() as store:
        locking = store.lock(KEY)
        async with locking:
            pass
        with pytest.raises(RuntimeError, match="entered before"):
            async with locking:
                pass


async def cancelled(change: Coroutine[Any, Any, object], slow: Slow) -> None:
    """Begin a change whose commit is kept back, and wait for it no longer."""
    slow.gate = asyncio.Event()
    task = asyncio.create_task(change)
    await asyncio.wait_for(slow.reached.wait(), 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_change_whose_caller_left_is_over_before_the_lock_is_given_on() -> None:
    for within in (True, False):  # the next holder is of this process, or another
        memory = bs.MemoryBackend()
        slow = Slow(memory)
        slow.concurrent_batches = 2
        async with bs.SessionStore(slow) as store, bs.SessionStore(memory) as other:
            next_holder = store if within else other

            async def hold(store: bs.SessionStore = store, slow: Slow = slow) -> None:
                async with store.lock(KEY) as held:
                    await cancelled(held.put({"by": "first"}), slow)

            async def follow(store: bs.SessionStore = next_holder) -> dict[Any, Any]:
                async with store.lock(KEY) as its:
                    return await its.get()

            holding = asyncio.create_task(hold())
            await asyncio.wait_for(slow.reached.wait(), 2)
            following = asyncio.create_task(follow())
            await asyncio.sleep(0.1)
            assert not holding.done()
            assert not following.done()
            assert slow.gate is not None
            slow.gate.set()
            await holding
            assert await following == {"by": "first"}


async def test_a_change_whose_caller_left_may_be_one_of_which_nobody_knows() -> None:
    memory = bs.MemoryBackend()
    slow = Slow(memory)
    slow.concurrent_batches = 2
    async with bs.SessionStore(slow, timeout=0.2) as store:
        async with store.lock(KEY) as held:
            await cancelled(held.put({"by": "first"}), slow)
        other = bs.SessionStore(memory)
        assert await holds(other)
        await other.aclose()


async def test_a_change_of_which_nobody_knows_keeps_the_lock_to_its_end() -> None:
    """It may land for as long as the lease lasts, so nobody may follow before."""
    now = 1_000_000.0
    memory = bs.MemoryBackend(clock=lambda: now)
    lossy = Lossy(memory)

    async def for_ever() -> None:
        lossy.instead = for_ever

    async with bs.SessionStore(lossy, timeout=0.3) as store:
        other = bs.SessionStore(memory)
        with pytest.raises(bs.OutcomeUnknownError):  # noqa: PT012 - in its block
            async with store.lock(KEY, lease=5) as held:
                lossy.instead = for_ever
                await held.put({"by": "nobody knows"})
        lossy.instead = None
        await nothing_is_kept(store)
        assert await holds(other)
        now += 5.1
        assert not await holds(other)
        await other.aclose()


# Leases.


async def test_a_lock_outlives_its_lease_while_it_is_held(place: Place) -> None:
    async with place.store() as store, place.store() as other:
        async with store.lock(KEY, lease=1) as held:
            for _ in range(4):
                place.clock.now += 0.5
                assert store._locks is not None
                tenure = store._locks._queues[str(KEY)].tenure
                assert tenure is not None
                store._locks._renew(tenure)
                await asyncio.sleep(0.05)
            held_inside = held.is_held
            assert await holds(other)
            await held.put({"by": "holder"})
        assert (held_inside, held.is_held) == (True, False)
        assert await other.get(KEY) == {"by": "holder"}


async def test_the_lock_of_a_dead_process_is_free_once_its_lease_is_over(
    place: Place,
) -> None:
    async with place.store() as other:
        store = place.store()
        async with store.lock(KEY, lease=5) as held:
            await die(store)
            assert await holds(other)
            place.clock.now += 5.1
            async with other.lock(KEY, timeout=2) as its:
                for change in (
                    held.put({"by": "dead"}),
                    held.update(lambda _: {"by": "dead"}),
                    held.delete(),
                ):
                    with pytest.raises(bs.LockLostError, match="Nothing was written"):
                        await change
                assert await its.get() == {}
                await its.put({"by": "other"})
            with pytest.raises(bs.LockLostError):
                await held.put({"by": "dead"})
            await store.aclose()
        assert await other.get(KEY) == {"by": "other"}


async def test_who_lost_its_lock_is_told_when_it_leaves(place: Place) -> None:
    async with place.store() as store, place.store() as other:

        async def lose(error: Exception | None) -> None:
            async with store.lock(KEY, lease=0.2):
                await die(store)
                place.clock.now += 0.2
                async with other.lock(KEY):
                    await asyncio.sleep(0.2)
                if error is not None:
                    raise error

        with pytest.raises(bs.LockLostError):
            await lose(None)
        with pytest.raises(ZeroDivisionError):
            await lose(ZeroDivisionError())
        assert not await holds(other)


async def test_who_was_refused_a_change_is_told_when_it_leaves(place: Place) -> None:
    """Also if the clock of this machine stood still, as in one that was suspended."""
    async with place.store() as store, place.store() as other:
        with pytest.raises(bs.LockLostError):  # noqa: PT012 - by the end of the block
            async with store.lock(KEY, lease=5) as held:
                place.clock.now += 5.1
                async with other.lock(KEY):
                    with pytest.raises(bs.LockLostError):
                        await held.put({"by": "late"})
                assert not held.is_held


async def test_a_lock_that_is_over_changes_nothing(place: Place) -> None:
    async with place.store() as store:
        async with store.lock(KEY) as held:
            await held.update(lambda s: {**s, "n": 1})
        for change in (held.put({}), held.delete(), held.update(dict)):
            with pytest.raises(bs.LockLostError, match="block is over"):
                await change
        assert await store.get(KEY) == {"n": 1}


class Slow(OnlyContract):
    """Keeps back the commits of a session until it is told."""

    gate: asyncio.Event | None = None

    def __init__(self, backend: bs.MemoryBackend) -> None:
        super().__init__(backend)
        self.reached = asyncio.Event()

    async def commit(self, writes: Sequence[Write]) -> Sequence[bool]:
        if self.gate is not None and any("!" not in write.key for write in writes):
            self.reached.set()
            await self.gate.wait()
        return await super().commit(writes)


async def test_a_change_that_arrives_after_the_lease_does_not_land() -> None:
    now = 1_000_000.0
    memory = bs.MemoryBackend(clock=lambda: now)
    slow = Slow(memory)
    slow.concurrent_batches = 2
    async with (
        bs.SessionStore(slow) as store,
        bs.SessionStore(memory) as other,
        store.lock(KEY, lease=1) as held,
    ):
        await die(store)
        slow.gate = asyncio.Event()
        late = asyncio.create_task(held.put({"by": "late"}))
        await asyncio.sleep(0.01)
        now += 1.1
        async with other.lock(KEY) as its:
            assert await its.get() == {}
            slow.gate.set()
            with pytest.raises(bs.LockLostError):
                await late
            assert await its.get() == {}
        slow.gate = None
        await store.aclose()


class Lossy(OnlyContract):
    """Loses one commit of a session, and does something instead."""

    instead: Callable[[], Awaitable[None]] | None = None

    async def commit(self, writes: Sequence[Write]) -> Sequence[bool]:
        if self.instead is not None and any("!" not in write.key for write in writes):
            instead, self.instead = self.instead, None
            await instead()
            raise bs.OutcomeUnknownError("no answer")
        return await super().commit(writes)


async def test_a_change_that_got_lost_is_not_sent_again_without_the_lock() -> None:
    now = 1_000_000.0
    memory = bs.MemoryBackend(clock=lambda: now)
    lossy = Lossy(memory)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(bs.SessionStore(lossy, timeout=0.5))
        other = await stack.enter_async_context(bs.SessionStore(memory))

        async def lose_the_lock() -> None:
            nonlocal now
            now += 1.1
            await stack.enter_async_context(other.lock(KEY))

        async def work() -> None:
            async with store.lock(KEY, lease=1) as held:
                await die(store)
                lossy.instead = lose_the_lock
                await held.put({"by": "late"})

        with pytest.raises((bs.LockLostError, bs.OutcomeUnknownError)):
            await work()
        assert await other.get(KEY) == {}


# What is kept.


async def test_locks_are_no_sessions_and_nothing_is_kept_of_them(place: Place) -> None:
    async with place.store() as store:
        async with store.lock(KEY), store.lock(OTHER):
            assert [key async for key in store.keys()] == []
            await store.put(OTHER, {"a": 1})
            assert [key async for key in store.keys()] == [OTHER]
            assert [key async for key in store.keys(chat_id=-1001)] == [OTHER]
        await nothing_is_kept(store)
        assert store._locks is not None
        place.clock.now += GRACE_MS / 1000 + 1
        store._locks._start_to_sweep()
        assert store._locks._sweeping is not None
        await store._locks._sweeping
        backend: Any = store._backend
        if not place.sweeps_itself:
            pages = backend.list_pages("sessions/", "sessions/", 10)
            kept = [key async for page in pages for key, _ in page.entries]
            assert kept == [f"sessions/{OTHER}"]


async def test_a_store_that_is_closed_leaves_nobody_waiting(place: Place) -> None:
    store = place.store()
    errors: list[BaseException] = []

    async def wait() -> None:
        try:
            async with store.lock(KEY, timeout=30):
                pass
        except bs.SessionError as exc:
            errors.append(exc)

    async with store.lock(KEY):
        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0.01)
        await store.aclose()
        async with asyncio.timeout(2):
            await asyncio.gather(*tasks)
    assert [type(error) for error in errors] == [bs.StoreClosedError] * 3
    with pytest.raises(bs.StoreClosedError):
        async with store.lock(KEY):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lease": 0.01}, "lease is a number of seconds from 0.1"),
        ({"lease": 4000}, "lease is a number of seconds from 0.1"),
        ({"timeout": 0}, "timeout is a number of seconds above 0"),
    ],
)
async def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    async with bs.open_store("memory://") as store:
        with pytest.raises(ValueError, match=message):
            async with store.lock(KEY, **options):
                pass
        with pytest.raises(bs.InvalidKeyError):
            async with store.lock("chat=1"):  # type: ignore[arg-type]
                pass


# Processes.

HOLDER = """
import asyncio, sys
import botsessions as bs
key = bs.SessionKey(chat_id=1)
async def main(url):
    async with bs.open_store(url) as store, store.lock(key, lease=1):
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(main(sys.argv[1]))
"""


async def test_the_lock_of_a_process_that_was_killed_comes_free(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bot.db"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, url),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(bs.__file__).parents[1])},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    key = bs.SessionKey(chat_id=1)
    async with bs.open_store(url) as store:
        await asyncio.sleep(1.5)  # longer than the lease
        assert await holds(store, key)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        began = time.monotonic()
        async with store.lock(key, timeout=5):
            assert time.monotonic() - began < 2
