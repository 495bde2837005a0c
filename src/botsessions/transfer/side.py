"""One end of a transfer: the records of one namespace, read and replaced in bulk.

What ``copy``, export and import do with a backend, all of it by the contract, in
bounded pages and with an end to all waiting. It knows records, no sessions.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from botsessions.backend import Backend, Page, SupportsListing
from botsessions.errors import BackendError, BackendUnavailableError, ConflictError
from botsessions.lock import BEHIND_LOCKS
from botsessions.record import Record, Write

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    Choose = Callable[[str, Record | None, int], Record | None]

# What is given to ``replace`` in one go.
BATCH_ROWS = 256
BATCH_BYTES = 4 * 1024 * 1024
_PAGE = 500
# Milliseconds after which a write that is late must not land any more.
_WINDOW = 10_000
# Seconds after which a backend that does not answer is given up.
_PATIENCE = 30.0
# The same for a page: Redis looks at all of its keys before the first.
_PATIENCE_TO_LIST = 600.0
_ATTEMPTS = 5


class Entry(NamedTuple):
    """A record, by its key without the namespace, and the clock of its backend."""

    key: str
    record: Record
    now: int


class Side:
    """One namespace of an open backend: its records, each by the text of its key."""

    def __init__(self, backend: Backend, namespace: str) -> None:
        self.backend = backend
        self.namespace = namespace
        self._prefix = namespace + "/"

    async def load(self, keys: Sequence[str]) -> tuple[int, list[Record | None]]:
        """Read records, dead ones included, and the backend's clock."""
        async with _in_time(_PATIENCE):
            now, found = await self.backend.load([self._prefix + key for key in keys])
        records: list[Record | None] = []
        for record in found:
            if isinstance(record, BackendError):
                raise record
            records.append(record)
        return now, records

    async def records(self) -> AsyncGenerator[Entry]:
        """Walk all records, dead ones included, in the order of their keys."""
        if not isinstance(self.backend, SupportsListing):
            name = type(self.backend).__name__
            raise BackendError(f"{name} cannot list its keys: it lacks SupportsListing")
        last = BEHIND_LOCKS  # a lock belongs to the bots that use the store
        pages = self.backend.list_pages(self._prefix, self._prefix + last, _PAGE)
        while (page := await _next(pages)) is not None:
            for text, record in page.entries:
                key = text.removeprefix(self._prefix)
                if key <= last:  # then no key could be called missing
                    raise BackendError(f"the listing is not in order behind {last}")
                yield Entry(key, record, page.now)
                last = key

    async def replace(self, keys: Sequence[str], choose: Choose) -> None:
        """Put what ``choose`` makes of a key, its record and the clock in its place.

        ``choose`` returns None to leave a record alone. It is asked again when another
        writer was faster; ``ConflictError`` if that happens time and again.
        """
        for _ in range(_ATTEMPTS):
            now, records = await self.load(keys)
            writes = []
            for key, there in zip(keys, records, strict=True):
                record = choose(key, there, now)
                if record is not None:
                    expected = None if there is None else there.version
                    text = self._prefix + key
                    writes.append(Write(text, expected, record, now + _WINDOW))
            if not writes:
                return
            keys = await self._commit(writes)
        if keys:
            raise ConflictError(f"others keep changing {keys[0]}; run this again later")

    async def _commit(self, writes: Sequence[Write]) -> list[str]:
        """Commit; return the keys of what did not land."""
        async with _in_time(_PATIENCE):
            outcomes = await self.backend.commit(writes)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return [
            write.key.removeprefix(self._prefix)
            for write, landed in zip(writes, outcomes, strict=True)
            if not landed
        ]


@asynccontextmanager
async def _in_time(patience: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(patience):
            yield
    except TimeoutError as exc:
        raise BackendUnavailableError(
            f"the store has not answered for {patience:.0f} seconds; run this again"
        ) from exc


async def _next(pages: AsyncIterator[Page]) -> Page | None:
    async with _in_time(_PATIENCE_TO_LIST):
        return await anext(pages, None)
