"""What a holder has: a block to enter, and the session to change while it lasts.

Neighbour: ``locks``, which does what these ask for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botsessions.engine import rules
from botsessions.errors import LockLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from botsessions.engine.fold import Guard
    from botsessions.lock.locks import Locks
    from botsessions.lock.turns import Claim


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
