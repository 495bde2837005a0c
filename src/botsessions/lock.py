"""Locks on sessions: exclusive for a while, across tasks, processes and machines.

A lock is a record beside the session that it guards, made and renewed through the same
engine, and dead by itself once its lease is over. Changes under it are *fenced*: they
are loaded together with that record and may land only while it lives, by the backend's
own clock. Within a process callers take turns, and only the first of them asks the
backend. ``store`` (above) hands locks out; ``engine.batched`` (below) does the work.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
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
from botsessions.record import GRACE_MS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from botsessions.backend import Backend
    from botsessions.codec import Codec
    from botsessions.engine.batched import BatchedEngine

# With this begins the key of a lock, and of no session; it sorts before all of them.
MARK = "!"
# Sorts behind every key of a lock, and before every key of a session.
BEHIND_LOCKS = '"'
# Seconds between asking whether another process has let go: at first, and at most.
_FIRST_PAUSE, _PAUSE = 0.004, 0.1
# Seconds for which callers of one process may hand a lock on among themselves; then
# others get their chance.
_STREAK = 2.0
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
        return self._locks.is_held(self._claim)

    async def get(self) -> dict[Any, Any]:
        """Read the session, as ``SessionStore.get`` does."""
        return await self._locks.engine.get(self._claim.key)

    async def update(
        self, function: Callable[[dict[Any, Any]], Mapping[Any, Any]]
    ) -> dict[Any, Any]:
        """Change the session as ``SessionStore.update`` does, while the lock is held.

        Who does not ask for the lock may change it all the same.
        """
        rules.check_function(function)
        claim = self._held()
        return await self._locks.engine.update(claim.key, function, guard=claim.guard)

    async def put(self, session: Mapping[Any, Any]) -> None:
        """Replace the session, while the lock is held."""
        body = self._locks.pack(session)
        claim = self._held()
        await self._locks.engine.put(claim.key, body, guard=claim.guard)

    async def delete(self) -> None:
        """Remove the session, while the lock is held."""
        claim = self._held()
        await self._locks.engine.delete(claim.key, guard=claim.guard)

    def _held(self) -> Claim:
        if self._claim.until == -math.inf:
            raise rules.lock_lost(self._claim.key)
        return self._claim


class Claim:
    """One caller's wish for a lock, from asking to letting go.

    ``until`` is when (by the loop's clock) its lease may be over: minus infinity as
    long as there is none, and once it is lost or given back. ``turn`` ends with None if
    the lock was handed on, else with the seconds to wait before asking the backend.
    """

    __slots__ = (
        "guard",
        "key",
        "lease",
        "mark",
        "owner",
        "policy",
        "renewal",
        "turn",
        "until",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - what a caller says, and what it waits for
        self,
        key: str,
        guard: Guard,
        mark: dict[str, int],
        lease: float,
        owner: object,
        turn: asyncio.Future[float | None],
    ) -> None:
        self.key = key
        self.guard = guard
        self.mark = mark
        self.lease = lease
        self.owner = owner
        self.turn = turn
        self.policy = rules.Policy(int(lease * 1000), None, 1024)
        self.until = -math.inf
        self.renewal: asyncio.TimerHandle | None = None


class _Queue:
    """Those of this process who want one lock: whose turn it is, and who comes next.

    ``since`` is when the process got it from the backend.
    """

    __slots__ = ("first", "since", "waiting")

    def __init__(self, first: Claim) -> None:
        self.first = first
        self.since = math.inf
        self.waiting: deque[Claim] = deque()

    def next(self) -> Claim | None:
        """Take out who comes next, and give the turn to it."""
        while self.waiting:
            claim = self.waiting.popleft()
            if not claim.turn.done():
                self.first = claim
                return claim
        return None


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
        self._releasing: set[asyncio.Task[bool]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.Task[None] | None = None

    def is_held(self, claim: Claim) -> bool:
        """Tell whether its lease certainly lasts still."""
        return self._loop.time() < claim.until

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
        if queue is not None and queue.first.owner is owner:
            raise RuntimeError(
                f"{key} is locked by this very task or thread, which would wait for "
                "itself; use the lock it has"
            )
        claim = self._claim(key, lease, owner)
        if queue is None:
            queue = self._queues[key] = _Queue(claim)
            claim.turn.set_result(0)
        else:
            queue.waiting.append(claim)
        try:
            async with asyncio.timeout(timeout):
                pause = await claim.turn
                if pause is not None:
                    await self._contend(claim, pause)
                    queue.since = self._loop.time()
        except BaseException as exc:
            turn = claim.turn
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._start_to_release(queue, claim)
            if isinstance(exc, TimeoutError):
                raise LockTimeoutError(
                    f"{key} was locked by another for {timeout:g} s; nothing was done. "
                    "Try again, or wait longer with timeout="
                ) from exc
            raise
        return claim

    async def release(self, claim: Claim) -> None:
        """Let go; raise ``LockLostError`` if the lock was lost before.

        Is carried through even if this call is cancelled.
        """
        task = self._start_to_release(self._queues[claim.key], claim)
        if await asyncio.shield(task):
            raise rules.lock_lost(claim.key)

    async def aclose(self) -> None:
        """Fail those who wait, finish those who let go; what is held ends by itself."""
        for queue in self._queues.values():
            self._end(queue.first)
            for claim in queue.waiting:
                if not claim.turn.done():
                    claim.turn.set_exception(StoreClosedError("the store is closed"))
        if self._sweep is not None:
            self._sweep.cancel()
        tasks = [*self._releasing, *([self._sweeping] if self._sweeping else [])]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _claim(self, key: str, lease: float, owner: object) -> Claim:
        # In braces stands what a Cluster is to choose the slot by: the session's own
        # key, so that both are on one server and go by one clock.
        text = f"{MARK}{{{self._prefix}{key}}}"
        mark = {"holder": rules.new_token(self._rng)}
        guard = Guard(text, self._codec.encode(mark))
        return Claim(key, guard, mark, lease, owner, self._loop.create_future())

    # Getting it from the backend, and keeping it.

    async def _contend(self, claim: Claim, pause: float) -> None:
        """Ask until the lock is ours; once, as a rule."""

        def take(found: dict[Any, Any]) -> dict[str, int]:
            if found and found != claim.mark:
                raise _HeldElsewhereError
            return claim.mark

        following = _FIRST_PAUSE
        while True:
            if pause:
                await asyncio.sleep(pause * (0.5 + self._rng.random() / 2))
            began = self._loop.time()
            try:
                await self.engine.update(claim.guard.key, take, policy=claim.policy)
            except (_HeldElsewhereError, ConflictError):
                pause, following = following, min(2 * following, _PAUSE)
            except OutcomeUnknownError:
                pause = 0  # ask again: if it landed, we find our own mark
            else:
                self._begin(claim, began)
                return

    def _begin(self, claim: Claim, asked: float) -> None:
        """Count on a lease that was asked for at a moment, and renew it in time."""
        claim.until = asked + claim.lease * _CERTAIN
        self._renew_in(claim, claim.lease / 3)

    def _renew_in(self, claim: Claim, seconds: float) -> None:
        claim.renewal = self._loop.call_later(seconds, self._renew, claim)

    def _renew(self, claim: Claim) -> None:
        asked = self._loop.time()

        def renewed(future: asyncio.Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            if claim.renewal is None:
                return  # let go meanwhile
            if error is None:
                self._begin(claim, asked)
            elif isinstance(error, LockLostError):
                claim.until = -math.inf
            elif self.is_held(claim):
                self._renew_in(claim, claim.lease / 20)

        try:
            future = self.engine.update(
                claim.guard.key,
                lambda mark: mark,
                guard=claim.guard,
                policy=claim.policy,
            )
        except SessionError:  # too many calls wait, or the store is closed
            if self.is_held(claim):
                self._renew_in(claim, claim.lease / 20)
        else:
            future.add_done_callback(renewed)

    # Letting go.

    def _start_to_release(self, queue: _Queue, claim: Claim) -> asyncio.Task[bool]:
        claim.owner = None  # who asks again from now on does not wait for itself
        task = self._loop.create_task(self._release(queue, claim))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        return task

    async def _release(self, queue: _Queue, claim: Claim) -> bool:
        """Hand a lock on, or give it back; tell whether it had been lost by then."""
        error, following, pause = None, None, 0.0
        while True:
            may_hand_on = self.is_held(claim)
            self._end(claim)
            asked = self._loop.time()
            if asked - queue.since > _STREAK:
                may_hand_on, pause = False, 2 * _PAUSE
            following = queue.next() if may_hand_on else None
            if following is None:
                error = await self._give_back(claim)
                break
            error = await self._hand_on(claim, following)
            if error is not None:
                break  # what became of it, the next one finds out
            self._begin(following, asked)
            if not following.turn.done():
                following.turn.set_result(None)
                return False
            claim = following  # gave up meanwhile
        while following is None or following.turn.done():
            following = queue.next()
            if following is None:
                del self._queues[claim.key]
                return isinstance(error, LockLostError)
        following.turn.set_result(pause)
        return isinstance(error, LockLostError)

    async def _hand_on(self, claim: Claim, following: Claim) -> SessionError | None:
        try:
            await self.engine.update(
                claim.guard.key,
                lambda _: following.mark,
                guard=claim.guard,
                policy=following.policy,
            )
        except SessionError as exc:
            return exc
        return None

    async def _give_back(self, claim: Claim) -> SessionError | None:
        try:
            await self.engine.delete(claim.guard.key, guard=claim.guard)
        except SessionError as exc:
            return exc  # if it is still there, its lease ends by itself
        self._sweep_later()
        return None

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

    def _end(self, claim: Claim) -> None:
        claim.until = -math.inf
        if claim.renewal is not None:
            claim.renewal.cancel()
            claim.renewal = None
