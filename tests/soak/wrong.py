"""Backends that do one thing wrong now and then: a soak must find each of them out.

Each stands before a right one. Tests put them there; nothing else does.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from botsessions.backend import SupportsListing
from botsessions.record import Loaded, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from botsessions.backend import Backend, Outcome, Page
    from botsessions.errors import BackendError
    from botsessions.record import Write

# Of so many batches or records one is treated wrongly, as a rule.
_SELDOM = 0.02


class Honest:
    """Hands everything through."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._rng = random.Random(1)
        self.concurrent_batches = backend.concurrent_batches

    async def open(self) -> None:
        await self._backend.open()

    async def aclose(self) -> None:
        await self._backend.aclose()

    async def load(self, keys: Sequence[str]) -> Loaded:
        return await self._backend.load(keys)

    async def commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        return await self._backend.commit(writes)

    def list_pages(self, prefix: str, after: str, limit: int) -> AsyncIterator[Page]:
        assert isinstance(self._backend, SupportsListing)
        return self._backend.list_pages(prefix, after, limit)

    def _now_and_then(self) -> bool:
        return self._rng.random() < _SELDOM


class Forgetful(Honest):
    """Acknowledges some batches that it never wrote."""

    async def commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        if self._now_and_then():
            return [True] * len(writes)
        return await super().commit(writes)


class Deaf(Honest):
    """Says of some batches that they did not land, and they did."""

    async def commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        outcomes = await super().commit(writes)
        return [False] * len(writes) if self._now_and_then() else outcomes


class Late(Honest):
    """Holds sessions to be alive for two seconds after their end."""

    async def load(self, keys: Sequence[str]) -> Loaded:
        now, records = await super().load(keys)
        return Loaded(now, [_longer(record) for record in records])


def _longer(record: Record | BackendError | None) -> Record | BackendError | None:
    if isinstance(record, Record) and record.value and record.expires_at is not None:
        return record._replace(expires_at=record.expires_at + 2000)
    return record


BACKENDS: dict[str, Callable[[Backend], Backend]] = {
    "honest": Honest,
    "forgetful": Forgetful,
    "deaf": Deaf,
    "late": Late,
    "all of it": lambda backend: Forgetful(Deaf(Late(backend))),
}
