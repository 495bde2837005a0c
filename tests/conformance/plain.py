"""A right backend, by the contract alone: the one that each wrong one differs from.

The database is a ``Disk`` in this process; each ``PlainBackend`` is a client of it, on
whichever thread. Its steps are small methods, so that a fault is a few lines. Waiting
is in there on purpose: between reading and writing a row, and for rows that others have
locked. Neighbours: ``wrong`` (the faults), ``test_wrong``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from botsessions.backend import Page, read_pages
from botsessions.errors import BackendError
from botsessions.record import GRACE_MS, Loaded, Record, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

_POLL = 0.0002


class Disk:
    """What all clients of one database share: rows by key, and which are locked."""

    def __init__(self) -> None:
        self.rows: dict[str, Record] = {}
        self._locked: set[str] = set()
        self._guard = threading.Lock()

    async def lock(self, key: str, patience: float) -> None:
        """Wait until a row is ours; an error if that takes too long, as servers do."""
        until = time.monotonic() + patience
        await asyncio.sleep(0)
        while not self.try_lock(key):
            if time.monotonic() > until:
                raise BackendError("lock wait timeout exceeded")
            await asyncio.sleep(_POLL)

    def try_lock(self, key: str) -> bool:
        """Lock a row, unless somebody has; rows need not exist for that."""
        with self._guard:
            if key in self._locked:
                return False
            self._locked.add(key)
            return True

    def unlock(self, key: str) -> None:
        """Let others have the row."""
        self._locked.remove(key)


class PlainBackend:
    """Compares and swaps under row locks, taken in the order of the keys."""

    concurrent_batches = 1
    lock_patience = 10.0

    def __init__(self, disk: Disk, *, clock: Callable[[], float] = time.time) -> None:
        self.disk = disk
        self.clock = clock
        self.users = 0

    async def open(self) -> None:
        self.users += 1

    async def aclose(self) -> None:
        self.users -= 1

    async def load(self, keys: Sequence[str]) -> Loaded:
        self.check_open()
        await self.trip()
        return self.loaded(keys)

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        self.check_open()
        await self.trip()
        locked: list[str] = []
        try:
            for key in self.lock_order(writes):
                await self.disk.lock(key, self.lock_patience)
                locked.append(key)
            return await self.swap_all(writes)
        finally:
            for key in locked:
                self.disk.unlock(key)

    def list_pages(self, prefix: str, after: str, limit: int) -> AsyncIterator[Page]:
        async def read(after: str) -> tuple[Page, bool]:
            self.check_open()
            await self.trip()
            return self.page(prefix, after, limit)

        return read_pages(read, after)

    async def sweep(self, prefix: str, limit: int) -> int:
        self.check_open()
        await self.trip()
        count = 0
        for key in self.keys():
            if count < limit and self.is_under(key, prefix) and self.sweep_row(key):
                count += 1
        return count

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        self.check_open()
        return self.loaded(keys)

    # The steps.

    def check_open(self) -> None:
        if self.users < 1:
            raise BackendError("this backend is not open")

    async def trip(self) -> None:
        """Be on the way to the server, while others go on."""
        await asyncio.sleep(0)

    def now(self) -> int:
        return int(self.clock() * 1000)

    def place(self, key: str) -> str:
        """Return what a key is stored under."""
        return key

    def row(self, record: Record) -> Record:
        """Return what is stored of a record."""
        return record

    def read(self, key: str) -> Record | None:
        return self.disk.rows.get(self.place(key))

    def loaded(self, keys: Sequence[str]) -> Loaded:
        return Loaded(self.now(), [self.read(key) for key in keys])

    def keys(self) -> list[str]:
        return sorted(self.disk.rows)

    def lock_order(self, writes: Sequence[Write]) -> list[str]:
        return sorted({self.place(write.key) for write in writes})

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        return [await self.swap(write) for write in writes]

    async def swap(self, write: Write) -> bool:
        """Compare and swap one row, which is locked."""
        found = self.read(write.key)
        await self.trip()
        if not self.is_expected(write, found) or self.is_late(write):
            return False
        await self.store(self.place(write.key), self.row(write.record))
        return True

    def is_expected(self, write: Write, found: Record | None) -> bool:
        return write.expected == (None if found is None else found.version)

    def is_late(self, write: Write) -> bool:
        return self.now() >= write.not_after

    async def store(self, place: str, row: Record) -> None:
        self.disk.rows[place] = row

    def page(self, prefix: str, after: str, limit: int) -> tuple[Page, bool]:
        """Return a page of what comes behind ``after``, and whether it is the last."""
        found = [k for k in self.keys() if self.is_under(k, prefix) and k > after]
        return self.page_of(found[:limit]), len(found) <= limit

    def page_of(self, keys: Sequence[str]) -> Page:
        there = [(key, self.read(key)) for key in keys]
        return Page(self.now(), [(k, rec) for k, rec in there if rec is not None])

    def is_under(self, key: str, prefix: str) -> bool:
        return key.startswith(prefix)

    def sweep_row(self, key: str) -> bool:
        """Remove a row that has long been dead, unless somebody is writing it."""
        if not self.disk.try_lock(key):
            return False
        try:
            row = self.disk.rows.get(key)
            if row is None or not self.is_long_dead(row):
                return False
            del self.disk.rows[key]
            return True
        finally:
            self.disk.unlock(key)

    def is_long_dead(self, row: Record) -> bool:
        return row.is_dead(self.now() - GRACE_MS)
