"""Records in a dict of this process: for tests and development, gone when it ends.

The reference for the contract, and the fastest: an engine may take its dict directly
(``SupportsInline``). Neighbours: ``backend`` (the contract), ``engine.inline`` (which
does the work there).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

from botsessions.backend import Home, InlineTable, Page
from botsessions.record import GRACE_MS, Loaded, Record, Version, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from botsessions.backend import RunsOn


class MemoryBackend:
    """Keeps records in memory; stores that share one backend share its records.

    Safe to use from several threads and event loops. ``clock`` returns seconds since
    the epoch. Nothing survives the process: in production use ``SQLiteBackend``.
    """

    concurrent_batches = 1

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._home = Home(self._lock, None)
        self._thread = 0
        self._owner: asyncio.AbstractEventLoop | None = None
        self._turned = threading.Event()
        self._attached = 0
        self._tables: dict[str, InlineTable] = {}
        self._rng = random.Random()

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def aclose(self) -> None:
        """Keep everything: another store may open this backend later."""

    def now(self) -> int:
        """Return the clock in milliseconds."""
        return int(self._clock() * 1000)

    async def load(self, keys: Sequence[str]) -> Loaded:
        """Read records; dead ones included."""
        with self._exclusively():
            return Loaded(self.now(), [self._record(key) for key in keys])

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        """Compare and swap each write; what landed lasts as long as the process."""
        with self._exclusively():
            return [self._swap(write) for write in writes]

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        """Walk keys in order; which they are is looked up once, as the walk begins."""
        with self._exclusively():
            keys = sorted(k for k in self._keys() if k.startswith(prefix) and k > after)
        for begin in range(0, len(keys), limit):
            with self._exclusively():
                found = [
                    (key, self._record(key)) for key in keys[begin : begin + limit]
                ]
                now = self.now()
            yield Page(now, [(key, rec) for key, rec in found if rec is not None])

    async def sweep(self, prefix: str, limit: int) -> int:
        """Remove what has been dead for the grace period."""
        end = self.now() - GRACE_MS
        with self._exclusively():
            dead: list[tuple[InlineTable, str]] = []
            for key in self._keys():
                table, text = self._place(key)
                entry = table.records[text]
                if (
                    len(dead) < limit
                    and key.startswith(prefix)
                    and isinstance(entry, Record)
                    and entry.is_dead(end)
                ):
                    dead.append((table, text))
            for table, text in dead:
                del table.records[text]
            return len(dead)

    def attach(
        self,
        prefix: str,
        loop: asyncio.AbstractEventLoop | None,
        seal: Callable[[bytes], bytes],
    ) -> InlineTable:
        """Give an engine the records; a second event loop makes them shared."""
        with self._lock:
            # Not while anybody is attached, even if the owner's loop is closed: others
            # may have shared the records with it, and still use them.
            if not self._attached:
                self._move_to(loop)
            self._attached += 1
            table = self._table(prefix)
            table.seal = seal
        if self._owner is not loop:
            self._share()
        return table

    def detach(self) -> None:
        """Forget one engine."""
        with self._lock:
            self._attached -= 1

    def _move_to(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Start anew with one owner; engines of an earlier loop keep the old home."""
        self._owner, self._thread = loop, threading.get_ident()
        self._turned = threading.Event()
        self._home = Home(self._lock, None if loop is None else _runs_on(loop))
        for table in self._tables.values():
            table.home = self._home

    def _share(self) -> None:
        """Let other threads in, as soon as the owner has finished what it does."""
        with self._lock:
            if self._owner is not None and not self._home.is_shared:
                self._home.share()
                with suppress(RuntimeError):  # the loop is closed
                    self._owner.call_soon_threadsafe(self._turned.set)
        # What the owner began before it could see that, ends before its loop turns. It
        # may need the lock to get there.
        while not self._turned.is_set() and self._owner and self._owner.is_running():
            time.sleep(0.0001)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        if self._attached and self._thread != threading.get_ident():
            self._share()
        with self._lock:
            yield

    def _table(self, prefix: str) -> InlineTable:
        table = self._tables.get(prefix)
        if table is None:
            table = self._tables[prefix] = InlineTable(self._home, bytes)
        return table

    def _place(self, key: str) -> tuple[InlineTable, str]:
        prefix, slash, text = key.partition("/")
        return self._table(prefix + slash), text

    def _keys(self) -> Iterator[str]:
        for prefix, table in self._tables.items():
            for text in table.records:
                yield prefix + text

    def _record(self, key: str) -> Record | None:
        table, text = self._place(key)
        entry = table.records.get(text)
        if not isinstance(entry, bytes):
            return entry
        # Written inline, without a version: give it one that stays until it changes.
        version = Version(1, self._rng.getrandbits(64) - (1 << 63))
        record = Record(version, table.seal(entry), b"", self.now(), None)
        table.records[text] = record
        return record

    def _swap(self, write: Write) -> bool:
        table, text = self._place(write.key)
        found = self._record(write.key)
        if (found.version if found is not None else None) != write.expected:
            return False
        if self.now() >= write.not_after:
            return False
        table.records[text] = write.record
        return True


def _runs_on(loop: asyncio.AbstractEventLoop) -> RunsOn:
    if isinstance(loop, asyncio.BaseEventLoop):
        return cast("RunsOn", loop)
    return _Foreign(loop)


class _Foreign:
    """Asks a loop that is not asyncio's own (uvloop) the slower way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_running = loop.is_running
        self._thread = threading.get_ident()

    @property
    def _thread_id(self) -> int | None:
        return self._thread if self._is_running() else None
