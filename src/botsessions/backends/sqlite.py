"""Records in one SQLite file: the durable default, for all processes of one machine.

Writes go through a thread of our own: one transaction for a whole batch, one wait for
the disk. Small reads are done in place on a connection of their own, since write-ahead
logging never makes a reader wait; larger ones on a second thread. We wait for other
processes' locks ourselves, in jittered steps below a millisecond: SQLite's own handler
sleeps up to 100 ms, and starves beside a busy writer.

Neighbours: ``backend`` (the contract), ``sqlite_thread`` (jobs on a connection),
``sqlite_file`` (is this file fit for us?), ``sqlite_errors`` (what the driver says).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import apsw

from botsessions.backend import Page, read_pages
from botsessions.backends import sqlite_file
from botsessions.backends.sqlite_errors import translated
from botsessions.backends.sqlite_thread import ConnectionThread
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    OutcomeUnknownError,
)
from botsessions.record import GRACE_MS, Loaded, Record, Version, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

# A rowid table: WITHOUT ROWID is up to four times slower from 5 KB a value on.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS botsessions (
    k TEXT PRIMARY KEY,   -- namespace/key
    v INTEGER NOT NULL,   -- version: counter
    t INTEGER NOT NULL,   -- version: token
    r BLOB NOT NULL,      -- ring: tokens of the versions before
    c INTEGER NOT NULL,   -- created, ms since the epoch
    e INTEGER,            -- dead from then on, ms; NULL = never
    b BLOB NOT NULL       -- the sealed session; empty = deleted
) STRICT;
CREATE INDEX IF NOT EXISTS botsessions_e ON botsessions (e) WHERE e IS NOT NULL;
"""
_LOAD_ONE = "SELECT v, t, b, r, c, e FROM botsessions WHERE k = ?"
_LOAD_MANY = (
    "SELECT k, v, t, b, r, c, e FROM json_each(?) CROSS JOIN botsessions ON k = value"
)
_LIST = (
    "SELECT k, v, t, b, r, c, e FROM botsessions "
    "WHERE k > ? AND k >= ? AND k < ? ORDER BY k LIMIT ?"
)
_CREATE = (
    "INSERT INTO botsessions (v, t, b, r, c, e, k) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
_REPLACE = (
    "UPDATE botsessions SET v = ?, t = ?, b = ?, r = ?, c = ?, e = ? "
    "WHERE k = ? AND v = ? AND t = ?"
)
_SWEEP = (
    "DELETE FROM botsessions WHERE rowid IN (SELECT rowid FROM botsessions "
    "WHERE e <= ? AND k >= ? AND k < ? LIMIT ?)"
)

_SHORTEST_WAIT, _LONGEST_WAIT = 0.0002, 0.001
# Seconds to wait for other processes where no write's deadline says how long.
_PATIENCE = 5.0
# Up to so many records are read on the event loop's thread: handing over is more work.
_IN_PLACE = 64
# Above every character of a key.
_END = "\x7f"
_PAGE_BYTES = 8 * 1024 * 1024


class SQLiteBackend:
    """Keeps records in a file, shared by any number of processes on this machine.

    With ``durability="full"`` an acknowledged change survives a power loss; with
    ``"normal"`` it survives the death of the process, but a power loss may undo the
    last ones (never corrupt the file). A missing file is made, unless ``create`` is
    False. The directory must exist, on a local disk: network file systems are refused
    where they can be told. Beside the file lie its ``-wal`` and ``-shm``; copy a
    database that is in use with SQLite's backup, not with ``cp``. ``clock`` returns
    seconds since the epoch.
    """

    concurrent_batches = 1

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Literal["full", "normal"] = "full",
        create: bool = True,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        if durability not in ("full", "normal"):
            raise ValueError(
                f"durability is 'full' or 'normal', not {str(durability)[:40]!r}"
            )
        self._path = os.path.abspath(path)  # noqa: PTH100 - no object needed
        if "\0" in self._path:
            raise ValueError("the name of a file has no null character")
        self._durability = durability
        self._may_create = create
        self._clock = clock
        self._rng = rng if rng is not None else random.Random()
        self._guard = threading.Lock()
        self._users = 0
        self._pid = 0
        self._file = (0, 0)
        self._inline: apsw.Connection | None = None
        self._inline_thread = 0
        self._writer: ConnectionThread | None = None
        self._reader: ConnectionThread | None = None

    def __repr__(self) -> str:
        return f"SQLiteBackend({self._path!r})"

    async def open(self) -> None:
        """Open the file, and create it and its table if they are missing."""
        # Stores of several tasks and threads may open and close at once.
        with self._guard:
            if self._writer is not None:
                self._check_process()
            self._users += 1
            if self._writer is None:
                self._pid = os.getpid()
                self._writer = ConnectionThread(
                    "botsessions-sqlite-writer", self._create
                )
                self._reader = ConnectionThread(
                    "botsessions-sqlite-reader", self._connect
                )
                self._inline_thread = threading.get_ident()
            writer = self._writer
        try:
            inline: apsw.Connection | None
            inline = await self._run(writer, self._connect_another)
        except BaseException:
            await self.aclose()
            raise
        with self._guard:
            if self._inline is None and self._writer is writer:
                self._inline, inline = inline, None
        if inline is not None:
            inline.close()

    async def aclose(self) -> None:
        """Close the connections once the last store is closed."""
        with self._guard:
            self._users -= 1
            if self._users:
                return
            # Taken out before we wait: an open that comes meanwhile makes new ones.
            threads, inline = (self._reader, self._writer), self._inline
            self._reader = self._writer = self._inline = None
        if inline is not None:
            inline.close()  # not the last one: that would work off the log, here
        for thread in threads:
            if thread is not None:
                thread.finish()
        for thread in threads:
            if thread is not None:
                await thread.ended()

    async def load(self, keys: Sequence[str]) -> Loaded:
        """Read records: a few in place, many on the reading thread."""
        loaded = self.load_now(keys)
        if loaded is not None:
            return loaded
        return await self._run(self._reader, self._read_patiently, keys)

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        """Read a few records in place, unless that would have to wait."""
        if len(keys) > _IN_PLACE or self._inline_thread != threading.get_ident():
            return None
        if self._writer is None or self._inline is None:
            raise _not_open()
        self._check_process()
        warm = self._writer.borrow()
        try:
            return self._read(warm or self._inline, keys)
        except apsw.BusyError:
            return None
        except apsw.Error as exc:
            raise translated(exc, self._path) from exc
        finally:
            if warm is not None:
                self._writer.give_back()

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        """Commit all writes in one transaction; acknowledged means durable."""
        return await self._run(self._writer, self._commit, writes)

    def list_pages(self, prefix: str, after: str, limit: int) -> AsyncIterator[Page]:
        """Read pages of records in the order of their keys."""

        async def read(after: str) -> tuple[Page, bool]:
            return await self._run(self._reader, self._list, prefix, after, limit)

        return read_pages(read, after)

    async def sweep(self, prefix: str, limit: int) -> int:
        """Delete what has been dead for the grace period."""
        return await self._run(self._writer, self._sweep, prefix, limit)

    async def _run(
        self, thread: ConnectionThread | None, job: Callable[..., T], *args: Any
    ) -> T:
        if thread is None:
            raise _not_open()
        self._check_process()
        try:
            return await thread.run(job, *args)
        except apsw.Error as exc:
            raise translated(exc, self._path) from exc

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise BackendError(
                "this SQLite store was opened before a fork; open one in each process"
            )

    # On the threads.

    def _create(self) -> apsw.Connection:
        """Check the file, make it ours if it is new, and return a connection to it."""
        sqlite_file.check_place(self._path, create=self._may_create)
        sqlite_file.create_private(self._path)
        self._file = sqlite_file.identity(self._path)
        # Somebody may have been faster. A journal is played back at the first look.
        sqlite_file.check_owners(self._path)
        connection = self._connect()
        try:
            self._make_ours(connection, self._clock() + _PATIENCE)
            # The log is open now, and has nothing of a session yet.
            sqlite_file.check_owners(self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_ours(self, connection: apsw.Connection, until: float) -> None:
        # Looked at before anything is changed: somebody else's file stays as it is.
        new = self._patiently(lambda: self._look(connection), until)
        # A commit writes whole pages: sessions are small, so pages are too. Only a new
        # file takes this on.
        self._insist(connection, "PRAGMA page_size = 2048", until)
        [(mode,)] = self._insist(connection, "PRAGMA journal_mode = WAL", until)
        if mode != "wal":
            raise BackendUnavailableError(
                f"{self._path} cannot have a write-ahead log, its journal is {mode!r}; "
                "choose a file on a local disk"
            )
        if not new:
            return
        self._insist(connection, "BEGIN IMMEDIATE", until)
        try:
            if sqlite_file.is_new(connection, self._path):
                connection.execute(_SCHEMA)
                sqlite_file.sign(connection)
            self._insist(connection, "COMMIT", until)
        except BaseException:
            _roll_back(connection)
            raise

    def _connect_another(self, _: apsw.Connection) -> apsw.Connection:
        return self._connect()

    def _check_file(self) -> None:
        """Refuse to go on with a file that only we still see."""
        if sqlite_file.identity(self._path) != self._file:
            raise BackendUnavailableError(
                f"{self._path} was deleted or replaced while it was in use; nothing "
                "was written. Put it back, or restart the program to begin anew"
            )

    def _look(self, connection: apsw.Connection) -> bool:
        # In one transaction: another process may be making the file right now.
        connection.execute("BEGIN")
        try:
            return sqlite_file.is_new(connection, self._path)
        finally:
            _roll_back(connection)

    def _connect(self) -> apsw.Connection:
        self._check_file()
        until = self._clock() + _PATIENCE
        synchronous = "FULL" if self._durability == "full" else "NORMAL"
        connection = apsw.Connection(
            self._path, flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=32
        )
        try:
            connection.set_busy_timeout(0)
            self._insist(connection, f"PRAGMA synchronous = {synchronous}", until)
            # A checkpoint writes each page once, however often the log has it: rare
            # ones cost less in all. 16,384 pages are a log of 32 MiB.
            self._insist(connection, "PRAGMA wal_autocheckpoint = 16384", until)
            # On macOS only this makes fsync reach the disk.
            self._insist(connection, "PRAGMA fullfsync = 1", until)
        except BaseException:
            connection.close()
            raise
        return connection

    def _insist(
        self,
        connection: apsw.Connection,
        sql: str,
        until: float,
        bindings: tuple[Any, ...] = (),
    ) -> list[tuple[Any, ...]]:
        return self._patiently(
            lambda: connection.execute(sql, bindings).fetchall(), until
        )

    def _patiently(self, do: Callable[[], T], until: float) -> T:
        """Wait for other processes in short random steps."""
        while True:
            try:
                return do()
            except apsw.BusyError:
                if self._clock() >= until:
                    raise
                time.sleep(self._rng.uniform(_SHORTEST_WAIT, _LONGEST_WAIT))

    def _read_patiently(
        self, connection: apsw.Connection, keys: Sequence[str]
    ) -> Loaded:
        until = self._clock() + _PATIENCE
        return self._patiently(lambda: self._read(connection, keys), until)

    def _read(self, connection: apsw.Connection, keys: Sequence[str]) -> Loaded:
        rows: list[tuple[Any, ...]]
        if len(keys) == 1:
            rows = connection.execute(_LOAD_ONE, keys).fetchall()
            return Loaded(self._now(), [_record(*row) for row in rows] or [None])
        # Fetched to the end: a cursor in the traceback of an error about one row would
        # keep the snapshot open, and our reads in the past.
        rows = connection.execute(_LOAD_MANY, (json.dumps(keys),)).fetchall()
        found = {key: _record(*row) for key, *row in rows}
        return Loaded(self._now(), list(map(found.get, keys)))

    def _commit(
        self, connection: apsw.Connection, writes: Sequence[Write]
    ) -> list[bool]:
        last_chance = max((write.not_after for write in writes), default=0) / 1000
        self._check_file()
        _roll_back(connection)
        self._insist(connection, "BEGIN IMMEDIATE", last_chance)
        try:
            now = self._now()
            landed = [_swap(connection, write, now) for write in writes]
            if any(landed):
                self._finish(connection, last_chance)
        finally:
            _roll_back(connection)
        return landed

    def _finish(self, connection: apsw.Connection, last_chance: float) -> None:
        try:
            # BUSY leaves the transaction open: it is the COMMIT that is repeated.
            self._insist(connection, "COMMIT", last_chance)
        except (apsw.BusyError, apsw.FullError):
            raise
        except apsw.Error as exc:
            # The log may hold the whole transaction, and a recovery would find it.
            raise OutcomeUnknownError(str(translated(exc, self._path))) from exc

    def _list(
        self, connection: apsw.Connection, prefix: str, after: str, limit: int
    ) -> tuple[Page, bool]:
        until = self._clock() + _PATIENCE
        found = (after, prefix, prefix + _END, limit)
        return self._patiently(lambda: self._page(connection, found), until)

    def _page(
        self, connection: apsw.Connection, found: tuple[str, str, str, int]
    ) -> tuple[Page, bool]:
        entries: list[tuple[str, Record]] = []
        size = 0
        cursor: Any = connection.execute(_LIST, found)
        try:
            for row in cursor:
                record = _record(*row[1:])
                entries.append((row[0], record))
                size += len(record.value)
                if size > _PAGE_BYTES:
                    return Page(self._now(), entries), False
        finally:
            cursor.close()
        return Page(self._now(), entries), len(entries) < found[-1]

    def _sweep(self, connection: apsw.Connection, prefix: str, limit: int) -> int:
        until = self._clock() + _PATIENCE
        self._insist(connection, "BEGIN IMMEDIATE", until)
        try:
            dead = self._now() - GRACE_MS
            connection.execute(_SWEEP, (dead, prefix, prefix + _END, limit))
            count = connection.changes()
            self._insist(connection, "COMMIT", until)
        finally:
            _roll_back(connection)
        return count


def _record(  # noqa: PLR0913, PLR0917 - the columns
    counter: int, token: int, value: bytes, ring: bytes, created: int, end: int | None
) -> Record:
    # SQLite does not look at what it reads: one flipped bit makes a number a text.
    if not (
        type(counter) is type(token) is type(created) is int
        and type(value) is type(ring) is bytes
        and (end is None or type(end) is int)
    ):
        raise apsw.CorruptError("a row holds something else than was stored")
    return Record(Version(counter, token), value, ring, created, end)


def _swap(connection: apsw.Connection, write: Write, now: int) -> bool:
    if now >= write.not_after:
        return False
    (counter, token), value, ring, created, end = write.record
    row = (counter, token, value, ring, created, end, write.key)
    if write.expected is None:
        connection.execute(_CREATE, row)
    else:
        connection.execute(_REPLACE, row + write.expected)
    return connection.changes() == 1


def _roll_back(connection: apsw.Connection) -> None:
    """End a transaction that has not ended by itself (as it does on a full disk)."""
    if connection.in_transaction:
        # If that fails, what led here is the error to tell; the next one tries again.
        with suppress(apsw.Error):
            connection.execute("ROLLBACK")


def _not_open() -> BackendError:
    return BackendError("this SQLite backend is not open; use it through a store")
