"""An event loop on a thread of its own, for callers that block; used by ``sync_store``.

Calls are gathered: one wake-up of the loop begins all that came meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions.engine import rules
from botsessions.errors import BackendError, StoreClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class LoopThread:
    """Does on its event loop what other threads ask for, and gives them the answers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._asked: deque[_Call] = deque()
        self._answered: list[_Call] = []
        self._woken = self._ended = False
        self._over = asyncio.Event()
        self._last: Coroutine[Any, Any, object] | None = None
        # A daemon: it must not keep the interpreter from ending.
        self._thread = threading.Thread(
            target=self._work, name="botsessions", daemon=True
        )
        self._thread.start()

    def call(self, begin: Callable[[], asyncio.Future[Any]]) -> Any:
        """Let the loop begin something; wait for what comes of it.

        Who is interrupted (KeyboardInterrupt) leaves it to go on.
        """
        return self._ask(begin).wait()

    def run(
        self,
        work: Coroutine[Any, Any, T],
        undo: Callable[[T], Coroutine[Any, Any, object]] | None = None,
    ) -> T:
        """Let the loop run a coroutine; wait for what it returns.

        Who is interrupted cancels it; if that comes too late, ``undo`` takes it back.
        """
        tasks: set[asyncio.Task[Any]] = set()
        context = copy_context()

        def begin() -> asyncio.Future[T]:
            task = self._loop.create_task(work, context=context)
            tasks.add(task)
            return task

        def take_back(task: asyncio.Task[Any]) -> None:
            if undo and not task.cancelled() and task.exception() is None:
                tasks.add(self._loop.create_task(undo(task.result())))

        def give_up() -> None:
            for task in list(tasks):
                task.cancel()
                task.add_done_callback(take_back)

        try:
            call = self._ask(begin)
        except BaseException:
            work.close()
            raise
        try:
            result: T = call.wait()
        except BaseException:
            if not call.is_answered:
                self._loop.call_soon_threadsafe(give_up)
            raise
        return result

    def end(self, last: Coroutine[Any, Any, object]) -> None:
        """Run one thing more, then end; whatever is still under way is cancelled."""
        with self._lock:
            self._ended = True
        self._last = last
        self._loop.call_soon_threadsafe(self._over.set)
        # The garbage collector may have called us on that very thread.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _ask(self, begin: Callable[[], asyncio.Future[Any]]) -> _Call:
        if threading.current_thread() is self._thread:
            raise rules.called_from_inside()
        if not self._ended and not self._thread.is_alive():
            raise BackendError(
                "this store was used before a fork; open one in each process"
            )
        call = _Call(begin)
        with self._lock:
            if self._ended:
                raise StoreClosedError("the store is closed; open a new one")
            self._asked.append(call)
            if self._woken:
                return call
            self._woken = True
        self._loop.call_soon_threadsafe(self._begin_all)
        return call

    def _begin_all(self) -> None:
        with self._lock:
            calls, self._asked = self._asked, deque()
            self._woken = False
        for call in calls:
            try:
                future = call.begin()
            except BaseException as exc:  # noqa: BLE001 - it is the caller's
                call.fail(exc)
            else:
                future.add_done_callback(partial(self._answer, call))

    def _answer(self, call: _Call, future: asyncio.Future[Any]) -> None:
        """Pass on what became of a call, once what comes next is under way.

        Threads that go on want the interpreter, and the next batch would have to queue
        for it behind all of them; so it is sent to the backend first.
        """
        call.take(future)
        if not self._answered:
            self._loop.call_soon(self._let_go_on)
        self._answered.append(call)

    def _let_go_on(self) -> None:
        answered, self._answered = self._answered, []
        for call in answered:
            call.finish()

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self._over.wait()
        if self._last is not None:
            await self._last


class _Call:
    """What one thread asked for, and waits for."""

    __slots__ = ("_answered", "_error", "_result", "begin", "is_answered")

    def __init__(self, begin: Callable[[], asyncio.Future[Any]]) -> None:
        self.begin = begin
        self.is_answered = False
        # A bare lock costs less than an event, and an interrupt ends the waiting.
        self._answered = threading.Lock()
        self._answered.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def wait(self) -> Any:
        """Return the answer, or raise it."""
        self._answered.acquire()
        if self._error is not None:
            raise self._error
        return self._result

    def take(self, future: asyncio.Future[Any]) -> None:
        """Take what became of it."""
        if future.cancelled():
            self._error = StoreClosedError(
                "the store was closed meanwhile; open a new one"
            )
            return
        self._error = future.exception()
        if self._error is None:
            self._result = future.result()

    def fail(self, error: BaseException) -> None:
        """Let the caller have an error."""
        self._error = error
        self.finish()

    def finish(self) -> None:
        """Let the caller go on."""
        self.is_answered = True
        self._answered.release()
