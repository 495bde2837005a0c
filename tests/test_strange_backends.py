"""What a backend of somebody else may do: the store answers what is true, and goes on.

The engine's tests run on virtual time, so that no wait costs any and an endless one is
an error. What the simulation draws at random is set up here on purpose.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import pytest

from botsessions import (
    BackendError,
    BackendUnavailableError,
    CorruptRecordError,
    Loaded,
    MemoryBackend,
    OutcomeUnknownError,
    Record,
    SessionKey,
    SessionStore,
    StoreClosedError,
    Version,
    Write,
)
from tests.places import OnlyContract
from tests.simulation.loop import SimulatedLoop

if TYPE_CHECKING:
    from tests.places import Place

P = ParamSpec("P")
Session = dict[Any, Any]
# Takes the place of one call; what it is given does what that call should have done.
Script = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

KEYS = [SessionKey(chat_id=number) for number in range(1, 9)]
KEY = KEYS[0]


def count(session: Session) -> Session:
    return {**session, "n": session.get("n", 0) + 1}


def on_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a coroutine test one that plays on a loop where nothing ever sleeps."""

    @functools.wraps(test)
    def play(*args: P.args, **kwargs: P.kwargs) -> None:
        loop = SimulatedLoop()
        loop.play(test(*args, **kwargs))
        assert loop.complaints == []

    return play


class Strange(OnlyContract):
    """Keeps the contract, but for the calls that ``loads`` and ``commits`` replace."""

    def __init__(self, *, batches: int = 1) -> None:
        super().__init__(MemoryBackend(clock=asyncio.get_running_loop().time))
        self.concurrent_batches = batches
        self.loads: deque[Script] = deque()
        self.commits: deque[Script] = deque()
        self.loaded: list[list[str]] = []

    async def load(self, keys: Sequence[str]) -> Loaded:
        self.loaded.append(list(keys))
        script = self.loads.popleft() if self.loads else as_it_should
        answer: Loaded = await script(functools.partial(super().load, keys))
        return answer

    async def commit(self, writes: Sequence[Write]) -> Sequence[bool]:
        script = self.commits.popleft() if self.commits else as_it_should
        answer: Sequence[bool] = await script(functools.partial(super().commit, writes))
        return answer


class Timer:
    """What measures the functions; only they let its time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def as_it_should(do: Callable[[], Awaitable[Any]]) -> Any:
    return await do()


async def hangs(_: object) -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def answers(answer: object) -> Script:
    async def script(_: object) -> object:
        return answer

    return script


def raises(error: BaseException) -> Script:
    async def script(_: object) -> NoReturn:
        raise error

    return script


def done_before(script: Script) -> Script:
    """Do what is asked for, and then something else than to say so."""

    async def both(do: Callable[[], Awaitable[Any]]) -> Any:
        await do()
        return await script(do)

    return both


# A cancellation that nobody of ours asked for.


async def was_cancelled(_: object) -> NoReturn:
    raise asyncio.CancelledError


async def awaits_what_is_cancelled(_: object) -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    await future


foreign_cancellation = pytest.mark.parametrize(
    "ended", [was_cancelled, awaits_what_is_cancelled]
)
landed_or_not = pytest.mark.parametrize("landed", [False, True], ids=["lost", "landed"])


@pytest.mark.parametrize(
    ("batches", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError)]
)
def test_a_backend_that_takes_no_batches_is_refused_at_once(
    batches: Any, error: type[Exception]
) -> None:
    backend = OnlyContract(MemoryBackend())
    backend.concurrent_batches = batches
    with pytest.raises(error, match="concurrent_batches"):
        SessionStore(backend)


@foreign_cancellation
@on_virtual_time
async def test_a_load_that_somebody_else_cancelled_is_a_definite_failure(
    ended: Script,
) -> None:
    backend = Strange()
    async with SessionStore(backend) as store:
        await store.put(KEY, {"n": 1})
        for call in (store.get, lambda key: store.update(key, count)):
            backend.loads.append(ended)
            with pytest.raises(BackendError) as failed:
                await call(KEY)
            assert failed.type is BackendError
            assert await store.get(KEY) == {"n": 1}
        assert await store.update(KEY, count) == {"n": 2} == await store.get(KEY)


@foreign_cancellation
@landed_or_not
@on_virtual_time
async def test_a_commit_that_somebody_else_cancelled_is_settled(
    ended: Script, *, landed: bool
) -> None:
    backend = Strange()
    async with SessionStore(backend) as store:
        await store.put(KEY, {"n": 1})
        backend.commits.append(done_before(ended) if landed else ended)
        assert await store.update(KEY, count) == {"n": 2} == await store.get(KEY)
        assert await store.update(KEY, count) == {"n": 3} == await store.get(KEY)


@foreign_cancellation
@landed_or_not
@on_virtual_time
async def test_a_commit_that_somebody_else_cancelled_is_unknown_if_nothing_can_be_read(
    ended: Script, *, landed: bool
) -> None:
    backend = Strange()
    async with SessionStore(backend) as store:
        await store.put(KEY, {"n": 1})
        backend.commits.append(done_before(ended) if landed else ended)
        backend.loads.extend([as_it_should, *[hangs] * 9])
        with pytest.raises(OutcomeUnknownError):
            await store.update(KEY, count)
        backend.loads.clear()
        assert await store.get(KEY) == {"n": 1 + landed}
        assert await store.update(KEY, count) == {"n": 2 + landed}


# Errors of its own.


class RefusedError(BackendError):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class UnreachableError(BackendUnavailableError):
    def __init__(self, *, host: str) -> None:
        super().__init__(f"{host} is out of reach")


class LostError(OutcomeUnknownError):
    def __init__(self, *, host: str) -> None:
        super().__init__(f"{host} has gone")


@pytest.mark.parametrize("verb", ["get", "update", "commit"])
@pytest.mark.parametrize(
    ("error", "nearest"),
    [
        (RefusedError(5, "no"), BackendError),
        (UnreachableError(host="db"), BackendUnavailableError),
    ],
    ids=["refused", "unreachable"],
)
@on_virtual_time
async def test_an_error_class_of_its_own_reaches_callers_as_the_nearest_of_ours(
    verb: str, error: BackendError, nearest: type[BackendError]
) -> None:
    backend = Strange()
    async with SessionStore(backend) as store:
        await store.put(KEY, {"n": 1})
        (backend.commits if verb == "commit" else backend.loads).append(raises(error))
        calls = [
            store.get(KEY) if verb == "get" else store.update(KEY, count)
            for _ in range(3)
        ]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        for failure in failures:
            assert type(failure) is nearest
            assert str(failure) == str(error)
            assert failure.__cause__ is error
        assert len(set(map(id, failures))) == 3
        assert await store.update(KEY, count) == {"n": 2} == await store.get(KEY)


@landed_or_not
@on_virtual_time
async def test_an_unknown_outcome_of_its_own_class_is_settled(*, landed: bool) -> None:
    backend = Strange()
    async with SessionStore(backend) as store:
        lost = raises(LostError(host="db"))
        backend.commits.append(done_before(lost) if landed else lost)
        assert await store.update(KEY, count) == {"n": 1} == await store.get(KEY)


# Answers that are none.


@pytest.mark.parametrize(
    "answer",
    [None, Loaded(0, []), Loaded(0, [None, None]), (0, None)],
    ids=["none", "too few", "too many", "something else"],
)
@on_virtual_time
async def test_a_load_without_an_answer_for_each_key_is_a_definite_failure(
    answer: object,
) -> None:
    backend = Strange()
    async with SessionStore(backend) as store:
        await store.put(KEY, {"n": 1})
        for call in (store.get, lambda key: store.update(key, count)):
            backend.loads.append(answers(answer))
            with pytest.raises(BackendError) as failed:
                await call(KEY)
            assert failed.type is BackendError
        assert await store.update(KEY, count) == {"n": 2} == await store.get(KEY)


@pytest.mark.parametrize(
    "answer",
    [None, [], [True], [True] * 3, 7],
    ids=["none", "nothing", "too few", "too many", "something else"],
)
@landed_or_not
@on_virtual_time
async def test_a_commit_without_an_answer_for_each_write_is_settled(
    answer: object, *, landed: bool
) -> None:
    backend = Strange()
    async with SessionStore(backend) as store:
        wrong = answers(answer)
        backend.commits.append(done_before(wrong) if landed else wrong)
        found = await asyncio.gather(*(store.update(key, count) for key in KEYS[:2]))
        assert found == [{"n": 1}] * 2
        for key in KEYS[:2]:
            assert await store.get(key) == {"n": 1}
            assert await store.update(key, count) == {"n": 2}


# Slow functions, and what they leave for later.


@pytest.mark.parametrize("changes", [False, True], ids=["no change", "changes"])
@on_virtual_time
async def test_slow_functions_of_many_keys_let_the_loop_turn(*, changes: bool) -> None:
    timer = Timer()
    turn = 0
    ran_in: Counter[int] = Counter()

    async def turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    def takes_a_millisecond(session: Session) -> Session:
        timer.now += 0.001
        ran_in[turn] += 1
        return count(session) if changes else session

    async with SessionStore(Strange(), timer=timer) as store:
        turning = asyncio.create_task(turns())
        keys = [SessionKey(chat_id=number) for number in range(400)]
        await asyncio.gather(*(store.update(key, takes_a_millisecond) for key in keys))
        turning.cancel()
    assert ran_in.total() == 400
    # Five milliseconds, and the one that went beyond.
    assert max(ran_in.values()) <= 6


@on_virtual_time
async def test_what_was_put_back_for_lack_of_time_has_no_unknown_outcome() -> None:
    backend, timer = Strange(), Timer()
    ran: list[int] = []

    def change(number: int) -> Callable[[Session], Session]:
        def function(session: Session) -> Session:
            ran.append(number)
            if len(ran) > 6:
                timer.now += 1.0
            return {**session, number: True}

        return function

    async with SessionStore(backend, timer=timer) as store:
        await store.put(KEY, {})
        # All six lose once. Then four of them are sent, and nothing is heard any more.
        backend.commits.extend([answers([False]), hangs])
        backend.loads.extend([as_it_should, as_it_should, *[hangs] * 9])
        failures = await asyncio.gather(
            *(store.update(KEY, change(number)) for number in range(6)),
            return_exceptions=True,
        )
        assert ran == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
        assert list(map(type, failures)) == [
            *[OutcomeUnknownError] * 4,
            *[BackendUnavailableError] * 2,
        ]
        assert "nothing was written" in str(failures[-1])
        backend.loads.clear()
        assert await store.update(KEY, count) == {"n": 1} == await store.get(KEY)


@on_virtual_time
async def test_what_is_left_for_lack_of_time_goes_to_the_writer_that_is_idle() -> None:
    backend, timer = Strange(batches=2), Timer()
    loading, go_on, two_sent, answer = (asyncio.Event() for _ in range(4))
    sent = 0

    def slow(session: Session) -> Session:
        timer.now += 1.0
        return count(session)

    async def held_load(do: Callable[[], Awaitable[Any]]) -> Any:
        loading.set()
        await go_on.wait()
        return await do()

    async def held_commit(do: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal sent
        sent += 1
        if sent == 2:
            two_sent.set()
        await answer.wait()
        return await do()

    async with SessionStore(backend, timer=timer) as store:
        backend.loads.append(held_load)
        backend.commits.extend([held_commit] * 4)
        calls = [asyncio.create_task(store.update(key, slow)) for key in KEYS[:4]]
        await loading.wait()
        for _ in range(9):  # the other writer finds nothing to do
            await asyncio.sleep(0)
        assert len(backend.loaded[0]) == 4
        go_on.set()
        await asyncio.wait_for(two_sent.wait(), 1)
        answer.set()
        assert await asyncio.gather(*calls) == [{"n": 1}] * 4


# Reads behind a load that hangs and cannot be cancelled.


def hangs_until(released: asyncio.Event) -> Script:
    async def script(do: Callable[[], Awaitable[Any]]) -> Any:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()
        return await do()

    return script


@on_virtual_time
async def test_late_reads_make_room_for_others_while_a_load_hangs() -> None:
    backend, released = Strange(), asyncio.Event()
    async with SessionStore(backend, timeout=1.0, max_pending=3) as store:
        await store.put(KEY, {"n": 1})
        backend.loads.append(hangs_until(released))
        for _ in range(9):
            with pytest.raises(BackendUnavailableError):
                await store.get(KEY)
        assert await store.update(KEY, count) == {"n": 2}
        released.set()
        assert await store.get(KEY) == {"n": 2}


@on_virtual_time
async def test_nothing_is_read_for_callers_that_have_gone() -> None:
    backend, released = Strange(), asyncio.Event()
    async with SessionStore(backend, timeout=1.0) as store:
        backend.loads.append(hangs_until(released))
        hung = asyncio.create_task(store.get(KEYS[0]))
        for _ in range(9):  # it is under way, and the next ones wait behind it
            await asyncio.sleep(0)
        cancelled = asyncio.create_task(store.get(KEYS[1]))
        await asyncio.sleep(0)
        cancelled.cancel()
        for late in (store.get(KEYS[2]), hung):
            with pytest.raises(BackendUnavailableError):
                await late
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        last = asyncio.create_task(store.get(KEYS[3]))
        await asyncio.sleep(0)
        released.set()
        assert await last == {}
    assert backend.loaded == [[f"sessions/{key}"] for key in (KEYS[0], KEYS[3])]


# Closing from elsewhere.


async def test_aclose_on_another_loop_is_refused_and_closes_nothing(
    place: Place,
) -> None:
    store = place.store()
    await store.put(KEY, {"n": 1})

    def close_elsewhere() -> None:
        asyncio.run(store.aclose())

    for _ in range(2):
        with pytest.raises(BackendError, match="another event loop") as refused:
            await asyncio.to_thread(close_elsewhere)
        assert refused.type is BackendError
    assert await store.get(KEY) == {"n": 1}
    assert await store.update(KEY, count) == {"n": 2}
    assert await store.delete_expired() == 0
    await store.aclose()
    async with place.store() as again:
        assert await again.get(KEY) == {"n": 2}


# One that can read without waiting.


class Quick(OnlyContract):
    """Answers a look by what ``now`` says: a Loaded, None, or something to raise."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend())
        self.now: Any = None
        self.loads = 0

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        if isinstance(self.now, Exception):
            raise self.now
        answer: Loaded | None = self.now
        return answer

    async def load(self, keys: Sequence[str]) -> Loaded:
        self.loads += 1
        return await super().load(keys)


async def test_a_read_that_would_have_to_wait_is_one_of_a_batch() -> None:
    quick = Quick()
    async with SessionStore(quick) as store:
        await store.put(KEY, {"n": 1})
        quick.loads = 0
        assert await store.get(KEY) == {"n": 1}
        assert quick.loads == 1
        quick.now = await quick.load([f"sessions/{KEY}"])
        assert await store.get(KEY) == {"n": 1}
        async with store.lock(KEY) as held:
            quick.loads = 0
            assert await held.get() == {"n": 1}
        assert quick.loads == 0


async def test_what_goes_wrong_with_a_read_at_once_is_told_as_ever() -> None:
    quick = Quick()
    damaged = Record(Version(1, 1), b"no session", b"", 0, None)
    wrong: list[tuple[Any, type[Exception], str]] = [
        (BackendUnavailableError("away"), BackendUnavailableError, "away"),
        (ZeroDivisionError("bug"), BackendError, "could not read: ZeroDivision"),
        (Loaded(1, []), BackendError, "an answer too few"),
        (Loaded(1, [BackendError("this one")]), BackendError, "this one"),
        (Loaded(1, [damaged]), CorruptRecordError, f"session {KEY} cannot be read"),
    ]
    async with SessionStore(quick) as store:
        await store.get(KEY)
        for quick.now, error, message in wrong:
            with pytest.raises(error, match=message):
                await store.get(KEY)
        quick.now = Loaded(1, [None])
        assert await store.get(KEY) == {}
    with pytest.raises(StoreClosedError):
        await store.get(KEY)
