"""The locks of a store on its event loop: getting them, keeping them, giving them back.

Neighbours: ``turns`` (the state), ``held`` (what a holder sees of it).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from botsessions.backend import SupportsSweeping
from botsessions.engine import rules
from botsessions.engine.fold import Guard
from botsessions.errors import (
    ConflictError,
    LockLostError,
    LockTimeoutError,
    OutcomeUnknownError,
    SessionError,
    StoreClosedError,
)
from botsessions.lock.turns import Claim, Queue, Tenure
from botsessions.record import GRACE_MS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from botsessions.backend import Backend
    from botsessions.codec import Codec
    from botsessions.engine.batched import BatchedEngine

_log = logging.getLogger("botsessions.lock")

# With this begins the key of a lock, and of no session; it sorts before all of them.
MARK = "!"
# Sorts behind every key of a lock, and before every key of a session.
BEHIND_LOCKS = '"'
# Seconds between asking whether another process has let go: at first, and at most.
_FIRST_PAUSE, _PAUSE = 0.004, 0.05
# Seconds for which callers of one process may take turns among themselves; then others
# get their chance.
_STREAK = 2.0
# Seconds for which a lock that nobody wants is kept: who asks next, often the same chat
# again, has it at once, and those that are over go back to the backend together.
_LINGER = 0.02
# The end of a lease moves lazily (``rules.Policy``), so it may be so much nearer.
_CERTAIN = 0.9
# Seconds after which the records of locks that were let go are swept, and how many at
# once.
_SWEEP_AFTER, _SWEEP = GRACE_MS / 1000 + 1, 500


def _tell_if_lost(key: str, ending: asyncio.Task[bool]) -> None:
    """Log what comes out only when no block is there any more to raise it in.

    So it is if the backend's clock went ahead of ours: this machine was suspended.
    """
    if not ending.cancelled() and ending.exception() is None and ending.result():
        _log.warning(
            "The lock of %s was lost before it was given back: another may have held "
            "it at the same time. Nothing was written under it once it was lost",
            key,
        )


class _HeldElsewhereError(Exception):
    """Another process has it; never leaves this module."""


class Locks:
    """The locks of one store on one event loop: who holds which, and who waits."""

    def __init__(  # noqa: PLR0913 - everything it depends on is an argument
        self,
        engine: BatchedEngine,
        backend: Backend,
        codec: Codec,
        pack: Callable[[Mapping[Any, Any]], bytes],
        *,
        prefix: str,
        rng: random.Random,
    ) -> None:
        self.engine = engine
        self._backend = backend
        self._codec = codec
        self.pack = pack
        self._prefix = prefix
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._queues: dict[str, Queue] = {}
        # Those that linger, longest first.
        self._idle: dict[str, Queue] = {}
        self._lingering: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[bool]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.Task[None] | None = None

    def is_held(self, tenure: Tenure) -> bool:
        """Tell whether its lease certainly lasts still."""
        return self._loop.time() < tenure.until and not tenure.guard.is_lost

    async def acquire(
        self,
        key: str,
        *,
        lease: float,
        timeout: float,  # noqa: ASYNC109 - fixed by the design
        owner: object,
    ) -> Claim:
        """Wait for the lock of a key; ``release`` must follow."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        elif queue.first is not None and queue.first.owner is owner:
            raise RuntimeError(
                f"{key} is locked by this very task or thread, which would wait for "
                "itself; use the lock it has"
            )
        claim = Claim(key, lease, owner, self._loop.create_future())
        queue.waiting.append(claim)
        if queue.first is None and not queue.is_ending:
            self._idle.pop(key, None)
            self._next_turn(queue)
        if claim.tenure is None:
            await self._wait(queue, claim, timeout)
        return claim

    async def release(self, claim: Claim) -> None:
        """Let go; raise ``LockLostError`` if the lock was lost before.

        Is carried through even if this call is cancelled.
        """
        claim.tenure = None
        ending = self._next_turn(self._queues[claim.key])
        if ending is not None and await asyncio.shield(ending):
            raise rules.lock_lost(claim.key)

    async def aclose(self) -> None:
        """Fail those who wait, finish those who let go; what is held ends by itself."""
        for queue in self._queues.values():
            if queue.tenure is not None:
                self._stop_renewing(queue.tenure)
            for claim in queue.waiting:
                if not claim.turn.done():
                    claim.turn.set_exception(StoreClosedError("the store is closed"))
        for timer in (self._lingering, self._sweep):
            if timer is not None:
                timer.cancel()
        while self._idle:
            self._end(self._idle.popitem()[1])
        tasks = [*self._ending, *([self._sweeping] if self._sweeping else [])]
        await asyncio.gather(*tasks, return_exceptions=True)

    # Turns within the process.

    async def _wait(
        self,
        queue: Queue,
        claim: Claim,
        timeout: float,  # noqa: ASYNC109 - it raises an error of its own
    ) -> None:
        try:
            async with asyncio.timeout(timeout):
                pause = await claim.turn
                if pause is not None:
                    await self._contend(queue, claim, pause)
        except BaseException as exc:
            claim.tenure = None
            if queue.first is claim:
                self._next_turn(queue)
            if isinstance(exc, TimeoutError):
                raise LockTimeoutError(
                    f"{claim.key} was locked by another for {timeout:g} s; nothing was "
                    "done. Try again, or wait longer with timeout="
                ) from exc
            raise

    def _next_turn(self, queue: Queue) -> asyncio.Task[bool] | None:
        """Let the tenure go on with who comes next, linger, or end."""
        queue.first = None
        tenure, following = queue.tenure, queue.following()
        if tenure is None:
            self._ask_next(queue, 0)
        elif not self._goes_on(tenure, following):
            return self._end(queue)
        elif following is not None:
            queue.give_turn(None)
        else:
            self._linger(queue)
        return None

    def _goes_on(self, tenure: Tenure, following: Claim | None) -> bool:
        """Tell whether nothing of one caller's is left, and time for another."""
        guard = tenure.guard
        if guard.changes or guard.is_doubtful or not self.is_held(tenure):
            return False
        if following is None:
            return True
        now = self._loop.time()
        return (
            following.lease == tenure.lease
            and now + tenure.lease / 2 < tenure.until
            and now < tenure.since + _STREAK
        )

    def _ask_next(self, queue: Queue, pause: float) -> None:
        """Let who comes next ask the backend; forget the queue if there is nobody."""
        if queue.following() is None:
            del self._queues[queue.key]
        else:
            queue.give_turn(pause)

    def _linger(self, queue: Queue) -> None:
        queue.idle_since = self._loop.time()
        self._idle[queue.key] = queue
        if self._lingering is None:
            self._lingering = self._loop.call_later(_LINGER, self._end_idle)

    def _end_idle(self) -> None:
        """Give back what has lingered for long enough, all of it together."""
        self._lingering = None
        enough = self._loop.time() - _LINGER / 2
        for queue in list(self._idle.values()):
            if queue.idle_since > enough:
                self._lingering = self._loop.call_later(_LINGER, self._end_idle)
                break
            del self._idle[queue.key]
            self._end(queue).add_done_callback(partial(_tell_if_lost, queue.key))

    # Getting it from the backend, and keeping it.

    async def _contend(self, queue: Queue, claim: Claim, pause: float) -> None:
        """Ask until the lock is ours; once, as a rule."""
        tenure = queue.tenure = self._tenure(claim)

        def take(found: dict[Any, Any]) -> dict[str, int]:
            if found and found != tenure.mark:
                raise _HeldElsewhereError
            return tenure.mark

        following = _FIRST_PAUSE
        while True:
            if pause:
                await asyncio.sleep(pause * (0.5 + self._rng.random() / 2))
            began = self._loop.time()
            try:
                await self.engine.update(tenure.guard.key, take, policy=tenure.policy)
            except (_HeldElsewhereError, ConflictError):
                pause, following = following, min(2 * following, _PAUSE)
            except OutcomeUnknownError:
                pause = 0  # ask again: if it landed, we find our own mark
            else:
                break
        tenure.since = self._loop.time()
        self._keep(tenure, began)
        claim.tenure = tenure

    def _tenure(self, claim: Claim) -> Tenure:
        # In braces stands what a Cluster is to choose the slot by: the session's own
        # key, so that both are on one server and go by one clock.
        text = f"{MARK}{{{self._prefix}{claim.key}}}"
        mark = {"holder": rules.new_token(self._rng)}
        return Tenure(Guard(text, self._codec.encode(mark)), mark, claim.lease)

    def _keep(self, tenure: Tenure, asked: float) -> None:
        """Count on a lease that was asked for at a moment, and renew it in time."""
        tenure.until = asked + tenure.lease * _CERTAIN
        self._renew_in(tenure, tenure.lease / 3)

    def _renew_in(self, tenure: Tenure, seconds: float) -> None:
        tenure.renewal = self._loop.call_later(seconds, self._renew, tenure)

    def _renew(self, tenure: Tenure) -> None:
        asked = self._loop.time()

        def renewed(future: asyncio.Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            if tenure.renewal is None:
                return  # let go meanwhile
            if error is None:
                self._keep(tenure, asked)
            elif self.is_held(tenure):
                self._renew_in(tenure, tenure.lease / 20)

        try:
            future = self.engine.update(
                tenure.guard.key,
                lambda mark: mark,
                guard=tenure.guard,
                policy=tenure.policy,
            )
        except SessionError:  # too many calls wait, or the store is closed
            if self.is_held(tenure):
                self._renew_in(tenure, tenure.lease / 20)
        else:
            future.add_done_callback(renewed)

    @staticmethod
    def _stop_renewing(tenure: Tenure) -> None:
        if tenure.renewal is not None:
            tenure.renewal.cancel()
            tenure.renewal = None

    # Giving it back.

    def _end(self, queue: Queue) -> asyncio.Task[bool]:
        """Give the lock back, then let others ask; tells if it had been lost."""
        queue.is_ending = True
        task = self._loop.create_task(self._give_back(queue))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _give_back(self, queue: Queue) -> bool:
        tenure, queue.tenure = queue.tenure, None
        assert tenure is not None  # noqa: S101 - for mypy
        # Those of other processes look every now and then; leave them a moment.
        had_enough = self._loop.time() >= tenure.since + _STREAK
        is_settled = await self._is_settled(tenure.guard)
        self._stop_renewing(tenure)
        lost = False
        if is_settled:
            try:
                await self.engine.delete(tenure.guard.key, guard=tenure.guard)
            except LockLostError:
                lost = True
            except SessionError:
                pass  # if it is still there, its lease ends by itself
            else:
                self._sweep_later()
        queue.is_ending = False
        self._ask_next(queue, 2 * _PAUSE if had_enough else 0)
        return lost

    async def _is_settled(self, guard: Guard) -> bool:
        """Wait for what nobody else waits for; False if it may land for ever so.

        Then the lock must stay until its lease is over: what is late dies with it.
        """
        if guard.changes:
            guard.settled = self._loop.create_future()
            await guard.settled
        return not guard.is_doubtful

    def _sweep_later(self) -> None:
        """See to it that nothing is kept for keys that nobody locks any more."""
        if self._sweep is None and isinstance(self._backend, SupportsSweeping):
            self._sweep = self._loop.call_later(_SWEEP_AFTER, self._start_to_sweep)

    def _start_to_sweep(self) -> None:
        self._sweep = None
        self._sweeping = self._loop.create_task(self._sweep_all())

    async def _sweep_all(self) -> None:
        assert isinstance(self._backend, SupportsSweeping)  # noqa: S101 - for mypy
        with suppress(SessionError):  # whoever locks next sweeps again
            while await self._backend.sweep(self._prefix + MARK, _SWEEP):
                pass
