"""Carry out a coroutine on a thread and an event loop of its own, for so long at most.

Whatever a backend does in it, its caller goes on: a call that never returns, a line
that blocks the thread, an ``aclose`` that hangs while all is being cancelled. It works
below a running event loop, too, and Ctrl-C ends it. Neighbour: ``run``.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from botsessions import blame

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from botsessions.blame import Frames

    Work = Callable[[], Coroutine[Any, Any, None]]

# The command line knows by it that something was left behind, which Python would wait
# for at its end.
_NAME: Final = "botsessions.conformance"
# Seconds for cleaning up after the limit, or after Ctrl-C.
_GRACE = 5.0


class NotOverError(TimeoutError):
    """It was not over in time.

    ``lines`` say where it is, if it could not be stopped and was left behind.
    """

    def __init__(self, message: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.lines = lines
        self.is_left = bool(lines)


def attempt(work: Work, limit: float) -> None:
    """Carry it out, blocking; what it raises is raised here."""
    thread = _Attempt(work, limit)
    # Not by ``join``: Python 3.11 takes a thread for ended if Ctrl-C comes meanwhile.
    try:
        # In here, too: it may be well under way when this comes back.
        thread.start()
        is_over = thread.over.wait(limit + _GRACE)
    except KeyboardInterrupt:
        thread.stop()
        if thread.over.wait(_GRACE):
            thread.join()
        raise
    if not is_over:
        raise thread.left_behind()
    thread.join()
    if thread.error is not None:
        raise thread.error


class _Attempt(threading.Thread):
    def __init__(self, work: Work, limit: float) -> None:
        # A daemon: it must not keep the interpreter from ending.
        super().__init__(name=_NAME, daemon=True)
        self.over = threading.Event()
        self.error: BaseException | None = None
        self._work = work
        self._limit = limit
        self._context = copy_context()
        self._others = set(threading.enumerate())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def run(self) -> None:
        try:
            self._context.run(asyncio.run, self._within_limit())
        except BaseException as exc:  # noqa: BLE001 - it is the caller's
            self.error = exc
        finally:
            self.over.set()

    async def _within_limit(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        timer = asyncio.timeout(self._limit)
        try:
            async with timer:
                await self._work()
        except Exception as exc:
            # Any other may be the backend's own, or what it makes of being cancelled.
            if not timer.expired():
                raise
            # The exception that was thrown in where it waited knows the place.
            thrown = blame.from_own_line(exc.__cause__ or exc)
            where = blame.place(traceback.walk_tb(thrown.__traceback__))
            raise NotOverError(
                f"it was not over after {self._limit:g} s: something waits for ever, "
                f"or is slow{where}"
            ) from thrown

    def stop(self) -> None:
        """Cancel it."""
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)

    def left_behind(self) -> NotOverError:
        """Return the error that says where it hangs."""
        frames = list(self._frames())
        stack = traceback.StackSummary.extract(iter(frames)).format()
        lines = "".join(stack).splitlines() or ["in no line outside of botsessions"]
        return NotOverError(
            f"it was not over after {self._limit:g} s, and cannot be stopped: "
            f"something hangs{blame.place(frames)}",
            tuple(lines),
        )

    def _frames(self) -> Frames:
        """Return the frames of the user's own at which tasks wait and threads are."""
        if self._loop is not None:
            for task in asyncio.all_tasks(self._loop):
                yield from blame.own(_awaits(task))
        now = sys._current_frames()  # noqa: SLF001 - there is no other way to ask
        # This thread, and those that something in it has begun.
        for thread in set(threading.enumerate()) - self._others:
            if frame := now.get(thread.ident or 0):
                stack = list(traceback.walk_stack(frame))
                yield from blame.own(reversed(stack))


def _awaits(task: asyncio.Task[Any]) -> Iterator[tuple[Any, int]]:
    """Walk from the coroutine of a task to the innermost that it waits for."""
    inner: Any = task.get_coro()
    while (frame := getattr(inner, "cr_frame", None)) is not None:
        yield frame, frame.f_lineno
        inner = inner.cr_await
