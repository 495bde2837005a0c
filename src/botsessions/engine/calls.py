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

from botsessions.backend import SupportsLoadingNow
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    OutcomeUnknownError,
    SessionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from botsessions.backend import Backend, Outcome
    from botsessions.record import Loaded, Write

T = TypeVar("T")
_ERRORS = SessionError.__module__


class Worker:
    """A task that awaits the backend: until when, and whether that was too long."""

    __slots__ = ("stopped", "task", "until")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.until = math.inf
        self.stopped = False

    def has_ended(self) -> bool:
        """Tell whether the task is done."""
        return self.task is not None and self.task.done()


class Calls:
    """The workers of one engine, and their calls, each bounded by ``limit`` seconds."""

    def __init__(self, backend: Backend, limit: float) -> None:
        self._backend = backend
        self._load_now = (
            backend.load_now if isinstance(backend, SupportsLoadingNow) else None
        )
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._workers: list[Worker] = []

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
        return len(working)

    async def ended(self) -> None:
        """Wait until the last worker has ended."""
        tasks = [worker.task for worker in self._workers if worker.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop_late(self, now: float) -> None:
        """Cancel the calls whose time is over."""
        for worker in self._workers:
            if worker.until <= now and worker.task is not None and not worker.stopped:
                worker.stopped = True
                worker.task.cancel()

    def under_way(self) -> bool:
        """Tell whether a worker awaits the backend."""
        return any(worker.until < math.inf for worker in self._workers)

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        """Load records at once, or raise ``BackendError``; None if that takes waiting.

        Needs no worker: nothing is left half done if it raises.
        """
        if self._load_now is None:
            return None
        try:
            loaded = self._load_now(keys)
            if loaded is not None:
                _check_count(loaded.records, keys)
        except BackendError:
            raise
        except Exception as exc:
            raise _could_not_read(exc) from exc
        return loaded

    async def load(self, worker: Worker, keys: Sequence[str]) -> Loaded:
        """Load records, or raise ``BackendError``."""
        try:
            loaded = await self._bounded(worker, self._backend.load(keys))
            _check_count(loaded.records, keys)
        except BackendError:
            raise
        except TimeoutError as exc:
            raise BackendUnavailableError(
                f"the backend did not answer within {self._limit:.3g} s; "
                "nothing was written"
            ) from exc
        except Exception as exc:
            raise _could_not_read(exc) from exc
        return loaded

    async def commit(
        self, worker: Worker, writes: Sequence[Write]
    ) -> Sequence[Outcome]:
        """Commit writes, or raise ``BackendError`` or ``OutcomeUnknownError``."""
        try:
            landed = await self._bounded(worker, self._backend.commit(writes))
            _check_count(landed, writes)
        except (BackendError, OutcomeUnknownError):
            raise
        except Exception as exc:
            raise OutcomeUnknownError(f"the commit got no answer: {exc!r}") from exc
        return landed

    async def _bounded(self, worker: Worker, work: Coroutine[Any, Any, T]) -> T:
        worker.until = self._loop.time() + self._limit
        task = worker.task
        try:
            return await work
        except asyncio.CancelledError:
            # Did we cancel, or nobody of ours? Then the worker goes on.
            if task is None or task.cancelling() > worker.stopped:
                raise
            if worker.stopped:
                raise TimeoutError(f"no answer within {self._limit:.3g} s") from None
            raise RuntimeError("something that the backend waited for ended") from None
        finally:
            worker.until = math.inf
            if worker.stopped and task is not None:
                task.uncancel()
                worker.stopped = False


def _could_not_read(exc: Exception) -> BackendError:
    return BackendError(f"the backend could not read: {exc!r}")


def _check_count(answers: Sequence[object], questions: Sequence[object]) -> None:
    if len(answers) != len(questions):
        raise ValueError("it gave an answer too few or too many")


def wake(idle: asyncio.Future[None]) -> None:
    """Wake a worker, unless it is being cancelled: then it is the last to look."""
    if not idle.done():
        idle.set_result(None)


def own(error: SessionError) -> SessionError:
    """Return an exception object for one caller: tracebacks grow where it is raised."""
    # A backend's own class may be made in any way; ours take a message.
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == _ERRORS)
    copy: SessionError = kind(str(error))
    copy.__cause__ = error.__cause__ or error
    return copy
