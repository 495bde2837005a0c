"""A call of a backend step by step, from one await to the next.

To cancel it at each of them, to end its process there, or to see whether a step keeps
the event loop waiting. Neighbours: ``child``, and the checks ``cancelled`` and
``contention``, for whom this is.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import os
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from botsessions.conformance.subject import within
from botsessions.errors import BackendError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")

if sys.platform == "linux":
    from resource import RUSAGE_THREAD, getrusage

    def _waits() -> float:
        """Count how often this thread has waited by itself, not when others cut in."""
        return getrusage(RUSAGE_THREAD).ru_nvcsw

else:

    def _waits() -> float:
        """Answer another number each time, as if it always waited: nobody counts."""
        return time.perf_counter()


class _Stepped(Generic[T]):
    """Awaits a call; ``step`` does the way to its next await, and may look at it."""

    def __init__(self, call: Awaitable[T]) -> None:
        self._call = call

    def step(self, go_on: Callable[[], object]) -> object:
        return go_on()

    def __await__(self) -> Generator[Any, Any, T]:
        inner = self._call.__await__()
        go_on: Callable[[], object] = partial(inner.send, None)
        while True:
            try:
                awaited = self.step(go_on)
            except StopIteration as done:
                answer: T = done.value
                return answer
            try:
                yield awaited
            except BaseException as exc:  # noqa: BLE001 - it is the call's
                go_on = partial(inner.throw, exc)
            else:
                go_on = partial(inner.send, None)


class Moment(enum.Enum):
    """When a call is cancelled that waits for something, or its process killed."""

    WAITING = "as it begins to wait"
    ANSWERED = "as what it waits for is there"
    """Who is cancelled then has been given something, and does not come to know it."""
    AGAIN = "as it begins to wait, and again as it cleans up"
    """A time limit has passed, and then the program ends, say."""


class _CancelledAt(_Stepped[T]):
    """Cancels its task at the so many-th await."""

    def __init__(self, call: Awaitable[T], at: int, moment: Moment) -> None:
        super().__init__(call)
        self._left = at
        self._moment = moment
        self.task: asyncio.Task[T] | None = None

    @property
    def got_there(self) -> bool:
        return self._left <= 0

    def step(self, go_on: Callable[[], object]) -> object:
        awaited = super().step(go_on)
        self._left -= 1
        if self._left == 0 or (self._left == -1 and self._moment is Moment.AGAIN):
            if self._moment is Moment.ANSWERED and isinstance(awaited, asyncio.Future):
                # Called before the task's own, which comes to wait for it only now.
                awaited.add_done_callback(self._cancel)
            else:
                asyncio.get_running_loop().call_soon(self._cancel)
        return awaited

    def _cancel(self, _: object = None) -> None:
        if self.task is not None:
            self.task.cancel()


async def cancelled_at(
    at: int, call: Callable[[], Coroutine[Any, Any, T]], moment: Moment
) -> tuple[bool, T | None]:
    """Make a call, and cancel it at its so many-th await.

    Tell whether it got there, and what it answered, if it did.
    """
    stepped = _CancelledAt(call(), at, moment)

    async def answered() -> T:
        return await stepped

    task = stepped.task = asyncio.create_task(answered())
    await within(asyncio.wait([task]), "a call that was cancelled is not over")
    answer = None
    if not task.cancelled():
        error = task.exception()
        # Interrupted, it may also say that it failed, or that it does not know.
        if not isinstance(error, BackendError | OutcomeUnknownError | None):
            raise error
        answer = task.result() if error is None else None
    return stepped.got_there, answer


class _Deadly(_Stepped[T]):
    """Ends the process at an await that ``is_the_one``, of a call or of a task."""

    def __init__(
        self, call: Awaitable[T], is_the_one: Callable[[], bool], moment: Moment
    ) -> None:
        super().__init__(call)
        self._is_the_one = is_the_one
        self._moment = moment
        self._dies = False

    def step(self, go_on: Callable[[], object]) -> object:
        self._die_if_due(Moment.ANSWERED)
        awaited = super().step(go_on)
        self._dies = self._is_the_one()
        self._die_if_due(Moment.WAITING)
        return awaited

    def _die_if_due(self, moment: Moment) -> None:
        if self._dies and moment is self._moment:
            os.kill(os.getpid(), signal.SIGKILL)


async def killed_at(at: int, call: Callable[[], Awaitable[T]], moment: Moment) -> None:
    """Make a call in a process that is killed at the so many-th await from then on.

    Awaits of all tasks count that begin meanwhile: a call may be made of several.
    """
    awaits = itertools.count(1)

    def is_the_one() -> bool:
        return next(awaits) == at

    def start(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        async def answered() -> Any:
            return await _Deadly(work, is_the_one, moment)

        return asyncio.Task(answered(), loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(start)
    await _Deadly(call(), is_the_one, moment)


class _Timed(_Stepped[T]):
    """Notes for how long a step has kept its thread waiting, at the most."""

    longest = 0.0

    def step(self, go_on: Callable[[], object]) -> object:
        waits, began, worked = _waits(), time.perf_counter(), time.thread_time()
        try:
            return super().step(go_on)
        finally:
            waited = time.perf_counter() - began - (time.thread_time() - worked)
            if _waits() != waits:
                self.longest = max(self.longest, waited)


async def longest_wait(call: Awaitable[object]) -> float:
    """Make a call; return for how many seconds it kept its thread waiting at once."""
    timed = _Timed(call)
    await timed
    return timed.longest
