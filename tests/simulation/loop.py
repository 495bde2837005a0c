"""An event loop on virtual time that can be told what runs next, and when to interfere.

Time stands still while anything is ready and then jumps to the next timer, so nothing
ever sleeps. Callbacks run one at a time: in the order they came, or drawn from a random
generator. Nothing ready and no timer left means that somebody waits for ever: an error
here, where a real loop would hang. Needs no selector, no thread and no socket.

Each process may have a clock of its own (``LocalTime``): it is told another time, and
what it asks to be done in a second is done when a second has passed for it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    import random
    from collections import deque
    from collections.abc import Callable, Coroutine
    from contextvars import Context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Timers closer together than this are due at once.
_RESOLUTION = 1e-9


class DeadlockError(AssertionError):
    """Nothing is ready and no timer is set: a task waits for what never comes."""


class LivelockError(AssertionError):
    """The run takes more steps than it possibly needs."""


class LocalTime(NamedTuple):
    """How a clock goes: so many seconds in each true one, and what it began with."""

    rate: float = 1.0
    began: float = 0.0


TRUE_TIME = LocalTime()


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs callbacks one by one; ``rng`` draws the next one, without it they queue.

    ``steps`` counts them. What the loop would log (an exception in a callback or in a
    task that nobody awaits) is kept in ``complaints``. ``local_time`` is asked how the
    clock goes of whoever is running.
    """

    # What asyncio.BaseEventLoop keeps its callbacks in, from 3.4 to this day, and what
    # tells it to stop.
    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(
        self, rng: random.Random | None = None, *, max_steps: int = 200_000
    ) -> None:
        super().__init__()
        self._rng = rng
        self._now = 0.0
        # When, in which order they were set, and what.
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self._max_steps = max_steps
        self._interruption: tuple[int, Callable[[], object]] | None = None
        self.steps = 0
        self.complaints: list[str] = []
        self.local_time: Callable[[], LocalTime] = lambda: TRUE_TIME
        self.set_exception_handler(SimulatedLoop._complain)

    def time(self) -> float:
        """Return the virtual time in seconds, by the clock of who asks."""
        local = self.local_time()
        return local.began + local.rate * self._now

    @property
    def true_time(self) -> float:
        """The virtual time in seconds, whoever asks; it begins at 0."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer by the clock of who asks."""
        local = self.local_time()
        when = (when - local.began) / local.rate
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Put a callback among those that are ready."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def interrupt(self, step: int, action: Callable[[], object]) -> None:
        """Do something just before the given step (the next one is ``steps``)."""
        self._interruption = step, action

    def play(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end, then cancel what is left over and close."""
        try:
            return self.run_until_complete(main)
        finally:
            self._interruption = None
            self._max_steps += self.steps
            self._bury()
            self.close()

    def _bury(self) -> None:
        """Cancel what a failed run has left waiting."""
        self._rng = None
        for _ in range(10):
            left = asyncio.all_tasks(self)
            if not left:
                return
            for task in left:
                task.cancel()
            self.call_later(3600, self.stop)
            self.run_forever()

    def _run_once(self) -> None:
        """Run callbacks until the loop is stopped (``run_forever`` calls this)."""
        timers, ready, rng = self._timers, self._ready, self._rng
        while not self._stopping:
            if not ready:
                self._now = max(self._now, self._next_timer())
            while timers and timers[0][0] < self._now + _RESOLUTION:
                ready.append(heapq.heappop(timers)[2])
            if rng is not None and len(ready) > 1:
                drawn = int(rng.random() * len(ready))
                ready[0], ready[drawn] = ready[drawn], ready[0]
            handle = ready.popleft()
            if not handle.cancelled():
                self._step()
                handle._run()

    def _next_timer(self) -> float:
        """Return when the next timer is due."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise DeadlockError(self._who_waits())
        return self._timers[0][0]

    def _step(self) -> None:
        """Count a step, and interrupt it if this is the one."""
        if self._interruption is not None and self._interruption[0] <= self.steps:
            action, self._interruption = self._interruption[1], None
            action()
        self.steps += 1
        if self.steps > self._max_steps:
            raise LivelockError(f"{self.steps:,} steps, {self._now:.3f} s, and no end")

    def _who_waits(self) -> str:
        waiting = []
        for task in asyncio.all_tasks(self):
            frames = task.get_stack()
            where = f"{frames[-1].f_code.co_qualname}" if frames else "nowhere"
            waiting.append(f"  {task.get_name()} in {where}")
        when = f"nothing is ready and no timer is set at {self._now:.3f} s"
        return "\n".join([f"{when}, so these wait for ever:", *sorted(waiting)])

    @staticmethod
    def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        assert isinstance(loop, SimulatedLoop)
        reason = context.get("exception")
        loop.complaints.append(f"{context.get('message')}: {reason!r}")

    def _write_to_self(self) -> None:
        """Wake nobody: there is no selector to wake (asked by threads' calls)."""
