"""Locks on sessions: exclusive for a while, across tasks, processes and machines.

A lock is a record beside the session that it guards, made and renewed through the same
engine, and dead by itself once its lease is over. Changes under it are *fenced*: they
are loaded together with that record and may land only while it lives, by the backend's
own clock. It is the process that has a lock, for its *tenure*: callers take turns in
it, only the first of them asks the backend, and a moment after the last the lock is
given back. ``store`` (above) hands locks out; ``engine.batched`` (below) does the work.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

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
from botsessions.record import GRACE_MS

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from botsessions.backend import Backend
    from botsessions.codec import Codec
    from botsessions.engine.batched import BatchedEngine

T = TypeVar("T")
_log = logging.getLogger(__name__)

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


class Lock:
    """What the holder of a lock has: the session, to read and to change under it.

    Each change is refused with ``LockLostError`` if the lease ran out or the block is
    over, and then certainly nothing is written, however late it reaches the backend.
    """

    __slots__ = ("_claim", "_locks")

    def __init__(self, locks: Locks, claim: Claim) -> None:
        self._locks = locks
        self._claim = claim

    @property
    def is_held(self) -> bool:
        """Tell whether the lease certainly lasts still."""
        tenure = self._claim.tenure
        return tenure is not None and self._locks.is_held(tenure)

    async def get(self) -> dict[Any, Any]:
        """Read the session, as ``SessionStore.get`` does."""
        engine, key = self._locks.engine, self._claim.key
        session = engine.get_now(key)
        return await engine.get(key) if session is None else session

    async def update(
        self, function: Callable[[dict[Any, Any]], Mapping[Any, Any]]
    ) -> dict[Any, Any]:
        """Change the session as ``SessionStore.update`` does, while the lock is held.

        Who does not ask for the lock may change it all the same.
        """
        rules.check_function(function)
        guard = self._guard()
        return await self._locks.engine.update(self._claim.key, function, guard=guard)

    async def put(self, session: Mapping[Any, Any]) -> None:
        """Replace the session, while the lock is held."""
        body = self._locks.pack(session)
        guard = self._guard()
        await self._locks.engine.put(self._claim.key, body, guard=guard)

    async def delete(self) -> None:
        """Remove the session, while the lock is held."""
        guard = self._guard()
        await self._locks.engine.delete(self._claim.key, guard=guard)

    def _guard(self) -> Guard:
        tenure = self._claim.tenure
        if tenure is None or tenure.guard.is_lost:
            raise rules.lock_lost(self._claim.key)
        return tenure.guard


class Locking:
    """What ``async with store.lock(…)`` enters, once."""

    __slots__ = ("_acquire", "_claim", "_locks")

    def __init__(
        self, acquire: Callable[[], Awaitable[Claim]], locks: Callable[[], Locks]
    ) -> None:
        self._acquire = acquire
        self._locks = locks
        self._claim: Claim | None = None

    async def __aenter__(self) -> Lock:
        if self._claim is not None:
            raise RuntimeError("this lock was entered before; ask for another one")
        self._claim = await self._acquire()
        return Lock(self._locks(), self._claim)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._claim is not None  # noqa: S101 - for mypy
        try:
            await self._locks().release(self._claim)
        except LockLostError:
            if exc is None:
                raise


class Claim:
    """One caller's wish for a lock, from asking to letting go.

    ``tenure`` is what it has the turn in, None before and after. ``turn`` ends with
    None if the tenure goes on, else with the seconds to wait before asking the backend.
    """

    __slots__ = ("key", "lease", "owner", "tenure", "turn")

    def __init__(
        self,
        key: str,
        lease: float,
        owner: object,
        turn: asyncio.Future[float | None],
    ) -> None:
        self.key = key
        self.lease = lease
        self.owner = owner
        self.turn = turn
        self.tenure: Tenure | None = None


class Tenure:
    """The time for which this process has one lock, whoever of it has the turn.

    ``until`` is when (by the loop's clock) its lease may be over: minus infinity as
    long as there is none. ``since`` is when it began.
    """

    __slots__ = ("guard", "lease", "mark", "policy", "renewal", "since", "until")

    def __init__(self, guard: Guard, mark: dict[str, int], lease: float) -> None:
        self.guard = guard
        self.mark = mark
        self.lease = lease
        self.policy = rules.Policy(int(lease * 1000), None, 1024)
        self.until = -math.inf
        self.since = math.inf
        self.renewal: asyncio.TimerHandle | None = None


class _Queue:
    """Those of this process who want one lock: whose turn it is, and who comes next.

    Without a ``first`` the lock lingers since ``idle_since``, or ``is_ending``: it is
    just being given back.
    """

    __slots__ = ("first", "idle_since", "is_ending", "key", "tenure", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.first: Claim | None = None
        self.tenure: Tenure | None = None
        self.idle_since = math.inf
        self.is_ending = False
        self.waiting: deque[Claim] = deque()

    def following(self) -> Claim | None:
        """Return who comes next; those who gave up are forgotten."""
        while self.waiting and self.waiting[0].turn.done():
            self.waiting.popleft()
        return self.waiting[0] if self.waiting else None

    def give_turn(self, pause: float | None) -> None:
        """Give the turn to who comes next."""
        self.first = self.waiting.popleft()
        if pause is None:
            self.first.tenure = self.tenure
        self.first.turn.set_result(pause)


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
        self._queues: dict[str, _Queue] = {}
        # Those that linger, longest first.
        self._idle: dict[str, _Queue] = {}
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
            queue = self._queues[key] = _Queue(key)
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
        queue: _Queue,
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

    def _next_turn(self, queue: _Queue) -> asyncio.Task[bool] | None:
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

    def _ask_next(self, queue: _Queue, pause: float) -> None:
        """Let who comes next ask the backend; forget the queue if there is nobody."""
        if queue.following() is None:
            del self._queues[queue.key]
        else:
            queue.give_turn(pause)

    def _linger(self, queue: _Queue) -> None:
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

    async def _contend(self, queue: _Queue, claim: Claim, pause: float) -> None:
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

    def _end(self, queue: _Queue) -> asyncio.Task[bool]:
        """Give the lock back, then let others ask; tells if it had been lost."""
        queue.is_ending = True
        task = self._loop.create_task(self._give_back(queue))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _give_back(self, queue: _Queue) -> bool:
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
