"""How many operations are under way, and whether more may come."""

from __future__ import annotations

import asyncio

from botsessions.errors import OverloadedError, StoreClosedError


class Gate:
    """Counts the operations of one engine in and out; can be closed, once.

    Neighbours: ``batched`` and ``reader`` pass each operation through it.
    """

    __slots__ = ("_empty", "_most", "closed", "pending")

    def __init__(self, most: int) -> None:
        self._most = most
        self._empty = asyncio.Event()
        self.pending = 0
        self.closed: StoreClosedError | None = None

    def enter(self) -> None:
        """Let one operation in, or refuse it before it has done anything."""
        if self.closed is not None:
            raise self.refusal()
        if self.pending >= self._most:
            raise OverloadedError(
                f"{self.pending:,} calls are waiting already; this one did nothing. "
                "Slow down, or open the store with a larger max_pending"
            )
        self.pending += 1

    def leave(self, count: int = 1) -> None:
        """Count operations out."""
        self.pending -= count
        if not self.pending:
            self._empty.set()

    def close(self, reason: str) -> None:
        """Let nothing in any more; the first reason stays."""
        if self.closed is None:
            self.closed = StoreClosedError(reason)

    def refusal(self) -> StoreClosedError:
        """Return an error of its own for a caller that finds the gate closed."""
        return StoreClosedError(*(self.closed.args if self.closed is not None else ()))

    async def emptied(self) -> None:
        """Wait until the last operation has left."""
        while self.pending:
            self._empty.clear()
            await self._empty.wait()
