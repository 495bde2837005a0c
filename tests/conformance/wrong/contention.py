"""Wrong when several use it at once: tasks, threads, processes."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from botsessions.errors import BackendError
from botsessions.record import Loaded, Record, Version, Write
from tests.conformance.wrong.base import Wrong, WrongFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from botsessions.backend import Page

# Seconds on the way to a server: long enough for others to come in between.
_TRIP = 0.001


class _WithoutRowLocks(Wrong):
    def lock_order(self, writes: Sequence[Write]) -> list[str]:
        return []

    async def trip(self) -> None:
        await asyncio.sleep(_TRIP)


class ReadsThenWrites(_WithoutRowLocks):
    """Compares in Python and writes without a condition: ``GET``, ``if``, ``SET``."""

    caught_by = "tasks_lose_nothing"


class SharesOneConnection(Wrong):
    """Uses one connection for all tasks, without taking turns: asyncpg says that
    another operation is in progress.
    """

    caught_by = "tasks_lose_nothing"
    is_busy = False

    async def trip(self) -> None:
        if self.is_busy:
            raise BackendError("another operation is in progress")
        self.is_busy = True
        await super().trip()
        self.is_busy = False


class RunsOutOfConnections(Wrong):
    """Opens a connection for each call, and the server takes some dozens: a pool was
    for later.
    """

    caught_by = "tasks_lose_nothing"
    connections = 0

    async def trip(self) -> None:
        if self.connections == 50:
            raise BackendError("sorry, too many clients already")
        self.connections += 1
        await super().trip()
        self.connections -= 1


class RepeatsBlindly(Wrong):
    """Sends a commit again when its answer is lost, and answers what became of the
    copy: the driver's ``retry_on_error``.
    """

    caught_by = "tasks_lose_nothing"

    async def open(self) -> None:
        await super().open()
        self.line = random.Random(7)

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        landed = await super().commit(writes)
        if self.line.random() < 0.3:  # the line lost that answer
            landed = await super().commit(writes)
        return landed


class AnswersUnknownAsFalse(Wrong):
    """Answers False when the answer of a commit is lost: ``except TimeoutError: return
    False``.
    """

    caught_by = "tasks_lose_nothing"

    async def open(self) -> None:
        await super().open()
        self.line = random.Random(7)

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        landed = await super().commit(writes)
        return landed if self.line.random() < 0.7 else [False for _ in writes]


class WritesThenLooks(_WithoutRowLocks):
    """Writes first, and puts back what was there if that was not expected."""

    caught_by = "tasks_lose_nothing"

    async def swap(self, write: Write) -> bool:
        found = self.disk.rows.get(write.key)
        await self.store(write.key, write.record)
        await self.trip()
        if self.is_expected(write, found) and not self.is_late(write):
            return True
        if found is None:
            self.disk.rows.pop(write.key, None)
        else:
            self.disk.rows[write.key] = found
        return False


class RefusesForGood(Wrong):
    """Answers False to each write from the tenth on: a quota is used up, and nobody
    looks why nothing was changed.
    """

    caught_by = "tasks_lose_nothing"
    writes = 0

    async def swap(self, write: Write) -> bool:
        self.writes += 1
        return self.writes < 10 and await super().swap(write)


class StopsTakingWrites(Wrong):
    """Fails from the third commit on: the connection that is written on is never made
    anew.
    """

    caught_by = "law_3_each_update_is_applied_once"
    commits = 0

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        self.commits += 1
        if self.commits > 2:
            raise BackendError("the connection was closed")
        return await super().commit(writes)


class HasOneWriter(Wrong):
    """Lets only the one write that has written first, for a while: a lease, which
    others wait for in vain.
    """

    caught_by = "law_8_an_unknown_outcome_is_settled_or_told"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        leases = vars(self.disk)
        until, holder = leases.get("lease", (0.0, self))
        if holder is not self and holder.users and until > time.monotonic():
            raise BackendError("another has the lease")
        leases["lease"] = (time.monotonic() + 10, self)
        return await super().commit(writes)


class VersionBeforeValue(Wrong):
    """Writes the version, then the value: two ``HSET``, and others read in between."""

    caught_by = "tasks_lose_nothing"

    async def store(self, place: str, row: Record) -> None:
        found = self.disk.rows.get(place)
        await super().store(place, row._replace(value=found.value if found else b""))
        await asyncio.sleep(_TRIP)
        await super().store(place, row)


class ValueBeforeVersion(Wrong):
    """Writes the value, then the version: others read the new one under the old
    version.
    """

    caught_by = "reads_are_never_stale"

    async def store(self, place: str, row: Record) -> None:
        found = self.disk.rows.get(place)
        if found is not None:
            await super().store(place, found._replace(value=row.value))
            await asyncio.sleep(_TRIP)
        await super().store(place, row)


class LocksForItself(_WithoutRowLocks):
    """Has a lock in each backend object: that excludes its own tasks alone."""

    caught_by = "threads_lose_nothing"

    async def open(self) -> None:
        await super().open()
        self.turn = asyncio.Lock()

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        async with self.turn:
            return await super().commit(writes)


class LocksForItsLoop(_WithoutRowLocks):
    """Has a lock in the database object, which excludes the tasks of one thread: it
    only asks whether its own loop is busy.
    """

    caught_by = "threads_lose_nothing"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        mine = f"loop {threading.get_ident()}"
        await self.disk.lock(mine, self.lock_patience)
        try:
            return await super().commit(writes)
        finally:
            self.disk.unlock(mine)


_ONE_AT_A_TIME = threading.Lock()


class LocksForItsProcess(WrongFile):
    """Compares and writes in two statements under a lock of this process: SQLite locks
    by itself, does it not?
    """

    caught_by = "processes_lose_nothing"

    def _commit(
        self, connection: apsw.Connection, writes: Sequence[Write]
    ) -> list[bool]:
        with _ONE_AT_A_TIME:
            return [self._swap(connection, write) for write in writes]

    def _swap(self, connection: apsw.Connection, write: Write) -> bool:
        until = self._clock() + 5.0
        key, expected, record, not_after = write
        found: list[Any] = self._insist(
            connection, "SELECT v, t FROM botsessions WHERE k = ?", until, (key,)
        )
        there = Version(*found[0]) if found else None
        if there != expected or self._now() >= not_after:
            return False
        time.sleep(_TRIP)
        row = (key, *record.version, *record[2:], record.value)
        sql = "INSERT OR REPLACE INTO botsessions VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._insist(connection, sql, until, row)
        return True


class ReadsFromAReplica(Wrong):
    """Loads from whichever server answers first: a replica is some milliseconds
    behind.
    """

    caught_by = "reads_are_never_stale"

    async def open(self) -> None:
        await super().open()
        self.replica: dict[str, Record] = {}
        self.copied = 0.0
        self.turn = 0

    async def load(self, keys: Sequence[str]) -> Loaded:
        loaded = await super().load(keys)
        self.turn += 1
        if time.monotonic() - self.copied > 0.005:
            self.replica = dict(self.disk.rows)
            self.copied = time.monotonic()
        if self.turn % 2:
            return loaded
        return loaded._replace(records=[self.replica.get(key) for key in keys])


class ReadsFromACopy(Wrong):
    """Reads from a copy of the table, made anew for each 60th load, until it writes for
    the first time: a cache for those who only read.
    """

    caught_by = "reads_are_never_stale"
    writes = False
    left = 0

    async def load(self, keys: Sequence[str]) -> Loaded:
        if self.writes:
            return self.loaded(keys)
        if not self.left:
            self.copy, self.left = dict(self.disk.rows), 60
        self.left -= 1
        return Loaded(self.now(), [self.copy.get(key) for key in keys])

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        self.writes = True
        await asyncio.sleep(_TRIP)
        return await super().commit(writes)


class ReadsInOneSnapshot(WrongFile):
    """Reads in a transaction that it leaves open for a while: with autocommit off, the
    first ``SELECT`` begins one.
    """

    caught_by = "reads_are_never_stale"
    reads = 0

    def _read(self, connection: apsw.Connection, keys: Sequence[str]) -> Loaded:
        if self._inline is None:
            return super()._read(connection, keys)
        if not self._inline.in_transaction:
            self._inline.execute("BEGIN")
        loaded = super()._read(self._inline, keys)
        self.reads += 1
        if self.reads % 8 == 0:
            self._inline.execute("ROLLBACK")
        return loaded


class LocksInTheOrderOfTheCaller(Wrong):
    """Locks rows in the order in which they come: two batches wait for each other."""

    caught_by = "batches_in_any_order_never_block"
    lock_patience = 0.5

    def lock_order(self, writes: Sequence[Write]) -> list[str]:
        return [write.key for write in writes]

    async def store(self, place: str, row: Record) -> None:
        await super().store(place, row)
        await self.trip()


class AnswersTheVictimFalse(Wrong):
    """Locks row by row, and answers False for a whole batch that a deadlock ended, also
    for what it had written by then.
    """

    caught_by = "batches_in_any_order_never_block"
    lock_patience = 0.1

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        locked: list[str] = []
        landed: list[bool] = []
        try:
            for write in writes:
                await self.disk.lock(write.key, self.lock_patience)
                locked.append(write.key)
                landed.append(await self.swap(write))
        except BackendError:
            return [False for _ in writes]
        else:
            return landed
        finally:
            for key in locked:
                self.disk.unlock(key)


class BlocksTheEventLoop(Wrong):
    """Waits for the server in place: the driver knows no asyncio, and a commit takes
    only half a millisecond.
    """

    caught_by = "it_never_blocks_the_event_loop"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        time.sleep(0.0005)  # noqa: ASYNC251 - that is what is wrong
        return await super().swap_all(writes)


class BlocksForAnotherThread(Wrong):
    """Reads on a thread, as it should, and waits for it with ``result()``."""

    caught_by = "it_never_blocks_the_event_loop"

    async def load(self, keys: Sequence[str]) -> Loaded:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(time.sleep, 0.0002).result()
        return await super().load(keys)


class BlocksWhileItLists(Wrong):
    """Reads each page in place: only administrators list."""

    caught_by = "it_never_blocks_the_event_loop"

    def page(self, prefix: str, after: str, limit: int) -> tuple[Page, bool]:
        time.sleep(0.0005)
        return super().page(prefix, after, limit)


class BlocksWhileItSweeps(Wrong):
    """Sweeps in place: it is rare."""

    caught_by = "it_never_blocks_the_event_loop"

    def sweep_row(self, key: str) -> bool:
        time.sleep(0.0005)
        return super().sweep_row(key)


class LoadsNowWithAQuery(Wrong):
    """Asks the server for what is to be there at once: it is a millisecond away."""

    caught_by = "it_never_blocks_the_event_loop"

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        time.sleep(0.001)
        return super().load_now(keys)


class BusyIsFalse(Wrong):
    """Answers False for a row that somebody has locked, ``NOWAIT``, though he may give
    up: DynamoDB's ``TransactionConflict`` is no condition that failed.
    """

    caught_by = "tasks_lose_nothing"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        landed = []
        for write in writes:
            if not self.disk.try_lock(write.key):
                landed.append(False)
                continue
            try:
                await asyncio.sleep(0.001)
                landed.append(await self.swap(write))
            finally:
                self.disk.unlock(write.key)
        return landed
