"""Calls on the backend: bounded in time, and checked for what the contract says.

Whatever a backend does, the callers here (``reader``, ``batched``) meet three outcomes:
an answer, a ``BackendError`` (certainly nothing was written), or an
``OutcomeUnknownError``.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    OutcomeUnknownError,
    SessionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from botsessions.backend import Backend
    from botsessions.record import Loaded, Write

T = TypeVar("T")


class Worker:
    """A task that awaits the backend, and until when it does so."""

    __slots__ = ("late", "task", "until")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.until = math.inf
        self.late = False

    def has_ended(self) -> bool:
        """Tell whether the task is done."""
        return self.task is not None and self.task.done()


class Calls:
    """The workers of one engine, and their calls.

    A timer for each call would cost more than the call's own bookkeeping: there is one
    for all, and it is moved only when it fires.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._workers: list[Worker] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(
        self,
        work: Callable[[Worker], Coroutine[Any, Any, None]],
        name: str,
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """Start a worker; ``ended`` is called however it ends, begun or not."""
        worker = Worker()
        self._workers.append(worker)
        # An empty context: a worker outlives the call that happened to start it.
        worker.task = self._loop.create_task(work(worker), name=name, context=Context())
        worker.task.add_done_callback(ended)

    def cancel(self) -> int:
        """Cancel the workers, and the calls that they await; return how many remain."""
        working = [worker.task for worker in self._workers if not worker.has_ended()]
        for task in working:
            if task is not None:
                task.cancel()
        if not working and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return len(working)

    async def ended(self) -> None:
        """Wait until the last worker has ended."""
        tasks = [worker.task for worker in self._workers if worker.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def load(self, worker: Worker, keys: Sequence[str], limit: float) -> Loaded:
        """Load records, or raise ``BackendError``; takes at most ``limit`` seconds."""
        try:
            loaded = await self._bounded(worker, self._backend.load(keys), limit)
        except BackendError:
            raise
        except TimeoutError as exc:
            raise BackendUnavailableError(
                f"the backend did not answer within {limit:.3g} s; nothing was written"
            ) from exc
        except Exception as exc:
            raise BackendError(f"the backend could not read: {exc!r}") from exc
        if len(loaded.records) != len(keys):
            raise BackendError("the backend gave a record too few or too many")
        return loaded

    async def commit(
        self, worker: Worker, writes: Sequence[Write], limit: float
    ) -> Sequence[bool]:
        """Commit writes, or raise ``BackendError`` or ``OutcomeUnknownError``."""
        try:
            landed = await self._bounded(worker, self._backend.commit(writes), limit)
        except (BackendError, OutcomeUnknownError):
            raise
        except Exception as exc:
            raise OutcomeUnknownError(f"the commit got no answer: {exc!r}") from exc
        if len(landed) != len(writes):
            raise OutcomeUnknownError("the backend gave an answer too few or too many")
        return landed

    async def _bounded(
        self, worker: Worker, work: Coroutine[Any, Any, T], limit: float
    ) -> T:
        worker.until = self._loop.time() + limit
        if self._timer is None or self._timer.when() > worker.until:
            self._look_at(worker.until)
        task = worker.task
        try:
            return await work
        except asyncio.CancelledError:
            # Ours alone, or has somebody else cancelled as well?
            if task is None or not worker.late or task.cancelling() > 1:
                raise
            raise TimeoutError(f"no answer within {limit:.3g} s") from None
        finally:
            worker.until = math.inf
            if worker.late and task is not None:
                task.uncancel()
            worker.late = False

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Stop the calls whose time is over; look again when the next one's is."""
        self._timer = None
        now = self._loop.time()
        for worker in self._workers:
            if worker.until <= now and worker.task is not None and not worker.late:
                worker.late = True
                worker.task.cancel()
        following = min(math.inf, *(w.until for w in self._workers if not w.late))
        if following < math.inf:
            self._look_at(following)


def wake(idle: asyncio.Future[None]) -> None:
    """Wake a worker, unless it is being cancelled: then it is the last to look."""
    if not idle.done():
        idle.set_result(None)


def own(error: SessionError) -> SessionError:
    """Return an exception object for one caller: tracebacks grow where it is raised."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__ or error
    return copy
