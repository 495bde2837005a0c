"""A thread that has one SQLite connection and does one job after the other with it.

Its user ``sqlite`` waits for the answers on an event loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

T = TypeVar("T")


class ConnectionThread:
    """Starts at the first job, and makes its connection then."""

    def __init__(self, name: str, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._jobs: queue.SimpleQueue[
            tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]] | None
        ] = queue.SimpleQueue()
        # A daemon: a program that forgets to close must still be able to end.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._started = False
        self._starting = threading.Lock()
        self._working = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._is_over = False

    async def run(self, job: Callable[..., T], *args: Any) -> T:
        """Do a job on the thread; cancelled, it is finished but not waited for."""
        if not self._started:
            self._start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((job, args, future))
        return await future

    def _start(self) -> None:
        with self._starting:
            if self._started:
                return
            try:
                self._thread.start()
            except RuntimeError as exc:
                raise BackendUnavailableError(
                    f"no thread could be started: {exc}; nothing was written"
                ) from exc
            self._started = True

    def borrow(self) -> apsw.Connection | None:
        """Lend the connection while no job is being done, until ``give_back``.

        What it wrote last is still in its cache, which another would have to read.
        """
        if not self._working.acquire(blocking=False):
            return None
        if self._connection is None or self._connection.in_transaction:
            self._working.release()
            return None
        return self._connection

    def give_back(self) -> None:
        """Let the thread go on with the connection."""
        self._working.release()

    def finish(self) -> None:
        """Let the thread do its jobs, close the connection, and end."""
        self._jobs.put(None)

    async def ended(self) -> None:
        """Wait until the thread has ended, also while the interpreter does."""
        if not self._started:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._starting:
            self._waiting = future
            if self._is_over:
                future.set_result(None)
        await future
        self._thread.join()  # which has nothing more to do

    def _work(self) -> None:
        while (work := self._jobs.get()) is not None:
            job, args, future = work
            result: Any = None
            error: BaseException | None = None
            try:
                with self._working:
                    if self._connection is None:
                        self._connection = self._connect()
                    result = job(self._connection, *args)
            except BaseException as exc:  # noqa: BLE001 - it is the caller's
                error = exc
            # The loop may be closed by now: then nobody waits for the answer.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_deliver, future, result, error)
        if self._connection is not None:
            self._connection.close()
        with self._starting, suppress(RuntimeError):
            self._is_over = True
            if self._waiting is not None:
                loop = self._waiting.get_loop()
                loop.call_soon_threadsafe(_deliver, self._waiting, None, None)


def _deliver(
    future: asyncio.Future[Any], result: object, error: BaseException | None
) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
