"""Wrong when something ends: a call is cancelled, a store closes, a process dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from botsessions.errors import BackendError
from botsessions.record import Loaded, Record, Write
from tests.conformance.wrong.base import Wrong, WrongFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from botsessions.backend import Outcome, Page


async def _soon(connection: Awaitable[object]) -> None:
    """Wait for a connection as pools do: not for ever."""
    try:
        async with asyncio.timeout(0.2):
            await connection
    except TimeoutError as exc:
        raise BackendError("no connection is free") from exc


async def _take(pool: asyncio.Semaphore) -> None:
    await _soon(pool.acquire())


class LeaksConnections(Wrong):
    """Puts a connection back behind the load, not in a ``finally``: each one that is
    cancelled costs one.
    """

    caught_by = "a_cancelled_load_leaves_it_usable"

    async def open(self) -> None:
        await super().open()
        self.free = 1

    async def load(self, keys: Sequence[str]) -> Loaded:
        if not self.free:
            raise BackendError("no connection is free")
        self.free -= 1
        loaded = await super().load(keys)
        self.free += 1
        return loaded


class ReadsTheAnswerOfAnother(Wrong):
    """Goes on with a connection on which the answer of a cancelled load is still to
    come, and takes it for the next one's: as redis-py once did.
    """

    caught_by = "a_cancelled_load_leaves_it_usable"

    async def open(self) -> None:
        await super().open()
        self.answers: list[Loaded] = []

    async def load(self, keys: Sequence[str]) -> Loaded:
        self.answers.append(Loaded(self.now(), [self.read(key) for key in keys]))
        await self.trip()
        return self.answers.pop(0)


class LeaksFromAPool(Wrong):
    """Takes a connection out of a pool of ten, and does not put it back when it is
    cancelled.
    """

    caught_by = "a_cancelled_load_leaves_it_usable"

    async def open(self) -> None:
        await super().open()
        self.pool = asyncio.Semaphore(10)

    async def load(self, keys: Sequence[str]) -> Loaded:
        await _take(self.pool)
        loaded = await super().load(keys)
        self.pool.release()
        return loaded


class HandsOverToNobody(Wrong):
    """Hands a connection to who has waited longest, though he may have been cancelled
    by then: it is lost.
    """

    caught_by = "a_cancelled_load_leaves_it_usable"

    async def open(self) -> None:
        await super().open()
        self.free = 10
        self.waiting: list[asyncio.Future[None]] = []

    async def load(self, keys: Sequence[str]) -> Loaded:
        if self.free:
            self.free -= 1
        else:
            self.waiting.append(asyncio.get_running_loop().create_future())
            await _soon(self.waiting[-1])
        try:
            return await super().load(keys)
        finally:
            if self.waiting:
                turn = self.waiting.pop(0)
                if not turn.done():
                    turn.set_result(None)
            else:
                self.free += 1


class LosesWhatItWasGiven(Wrong):
    """Asks for a connection, and loses it if it is cancelled as it gets it: the
    ``try`` begins behind that.
    """

    caught_by = "a_cancelled_load_leaves_it_usable"

    async def open(self) -> None:
        await super().open()
        self.free = 10

    async def load(self, keys: Sequence[str]) -> Loaded:
        connection = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self.give, connection)
        await connection
        try:
            return await super().load(keys)
        finally:
            self.free += 1

    def give(self, connection: asyncio.Future[None]) -> None:
        if connection.done():
            return
        if self.free:
            self.free -= 1
            connection.set_result(None)
        else:
            connection.set_exception(BackendError("no connection is free"))


class LeavesTheLockHeld(Wrong):
    """Unlocks behind the writes, not in a ``finally``: who is cancelled keeps his
    rows.
    """

    caught_by = "a_cancelled_commit_leaves_it_usable"
    lock_patience = 0.1

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        await self.trip()
        for key in self.lock_order(writes):
            await self.disk.lock(key, self.lock_patience)
        landed = await self.swap_all(writes)
        for key in self.lock_order(writes):
            self.disk.unlock(key)
        return landed


class LeavesHalfARecord(Wrong):
    """Writes the value, then the rest, and can be cancelled in between."""

    caught_by = "a_cancelled_commit_leaves_it_usable"

    async def store(self, place: str, row: Record) -> None:
        found = self.disk.rows.get(place, row)
        await super().store(place, found._replace(value=row.value))
        await self.trip()
        await super().store(place, row)


class AnswersTrueWhenCancelled(Wrong):
    """Swallows the cancellation and answers that all has landed: ``except
    BaseException`` around a clean-up.
    """

    caught_by = "a_cancelled_commit_leaves_it_usable"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        try:
            return await super().commit(writes)
        except asyncio.CancelledError:
            return [True for _ in writes]


class ReadsTheOutcomeOfAnother(Wrong):
    """Takes the outcome of a commit that was cancelled for that of the next one, on
    the same connection.
    """

    caught_by = "a_cancelled_commit_leaves_it_usable"

    async def open(self) -> None:
        await super().open()
        self.outcomes: list[list[bool]] = []

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        self.outcomes.append(await super().commit(writes))
        await self.trip()
        return self.outcomes.pop(0)


class _Pings(Wrong):
    """Has a task that keeps its connection alive."""

    pinger: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await super().open()
        if self.pinger is None:
            self.pinger = asyncio.create_task(asyncio.sleep(3600))

    async def aclose(self) -> None:
        await super().aclose()
        if not self.users:
            self.stop()

    def stop(self) -> None:
        if self.pinger is not None:
            self.pinger.cancel()
        self.pinger = None


class KeepsPinging(_Pings):
    """Leaves the task that keeps its connection alive running for ever."""

    caught_by = "what_is_closed_leaves_nothing_open"

    def stop(self) -> None:
        self.pinger = None


class LeaksForEachLoad(Wrong):
    """Makes a client for each load, which lives as long as the backend: the collector
    of a test closes them all, and that of a bot none.
    """

    caught_by = "what_is_closed_leaves_nothing_open"

    async def load(self, keys: Sequence[str]) -> Loaded:
        self.clients = [*self.clients, asyncio.create_task(asyncio.sleep(3600))]
        return await super().load(keys)

    clients: Sequence[asyncio.Task[None]] = ()


class LeaksUntilItIsClosed(LeaksForEachLoad):
    """Closes all its clients as it is closed itself, and bots run for months."""

    caught_by = "what_is_closed_leaves_nothing_open"

    async def aclose(self) -> None:
        await super().aclose()
        for client in self.clients:
            client.cancel()


class CountsWhoNeverCame(_Pings):
    """Counts whoever opens it, also who is cancelled then, and so is never closed."""

    caught_by = "a_cancelled_open_leaves_nothing_open"

    async def open(self) -> None:
        await super().open()
        await self.trip()


class OpensByHalves(_Pings):
    """Logs in when it has connected, and leaves the connection open if it is cancelled
    in between.
    """

    caught_by = "a_cancelled_open_leaves_nothing_open"

    async def open(self) -> None:
        pinger = asyncio.create_task(asyncio.sleep(3600))
        await self.trip()
        pinger.cancel()
        await super().open()


class CleansUpInSteps(_Pings):
    """Says goodbye, then closes, when ``open`` is cancelled, and can be cancelled again
    in between: our own Redis backend did so.
    """

    caught_by = "a_cancelled_open_leaves_nothing_open"

    async def open(self) -> None:
        pinger = asyncio.create_task(asyncio.sleep(3600))
        try:
            await self.trip()
        finally:
            await self.trip()
            pinger.cancel()
        await super().open()


class CountsTheCancelled(Wrong):
    """Counts who opens it first of all, also who is cancelled then: one more than will
    ever close it.
    """

    caught_by = "a_cancelled_open_leaves_nothing_open"
    is_closed = True

    async def open(self) -> None:
        await super().open()
        if self.is_closed and self.users > 1:
            raise BackendError("closed, and yet in use")
        await self.trip()
        self.is_closed = False

    async def aclose(self) -> None:
        await super().aclose()
        self.is_closed = True


class ClosesByHalves(_Pings):
    """Says goodbye, then closes, and forgets the rest if it is cancelled in between."""

    caught_by = "a_cancelled_close_leaves_nothing_open"

    async def aclose(self) -> None:
        self.users -= 1
        if not self.users:
            pinger, self.pinger = self.pinger, None
            await self.trip()
            if pinger is not None:
                pinger.cancel()


class _ReadsPagesFromAPool(Wrong):
    """Has ten connections for reading pages."""

    async def open(self) -> None:
        await super().open()
        self.pool = asyncio.Semaphore(10)


class LeaksWithAPage(_ReadsPagesFromAPool):
    """Does not put back the connection of a page that was cancelled."""

    caught_by = "a_cancelled_walk_leaves_it_usable"

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        last = False
        while not last:
            await _take(self.pool)
            await self.trip()
            page, last = self.page(prefix, after, limit)
            self.pool.release()
            yield page
            after = page.entries[-1][0] if page.entries else after


class HoldsAConnectionForAWalk(_ReadsPagesFromAPool):
    """Holds a connection until the walk is over: a cursor on the server."""

    caught_by = "walks_may_be_left_in_the_middle"

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        await _take(self.pool)
        try:
            async for page in super().list_pages(prefix, after, limit):
                yield page
        finally:
            self.pool.release()


class SweepsOneAtATime(Wrong):
    """Waits while another sweeps, by a mark that a sweep that was cancelled leaves
    behind.
    """

    caught_by = "a_cancelled_sweep_leaves_it_usable"

    async def sweep(self, prefix: str, limit: int) -> int:
        await self.disk.lock("sweeping", 0.2)
        count = await super().sweep(prefix, limit)
        self.disk.unlock("sweeping")
        return count


class LosesOnReconnect(Wrong):
    """Keeps what it writes in the session of its connection: a temporary table, a
    transaction nobody commits.
    """

    caught_by = "reopening_keeps_what_was_acknowledged"

    async def open(self) -> None:
        await super().open()
        self.before = dict(self.disk.rows)

    async def aclose(self) -> None:
        await super().aclose()
        self.disk.rows.clear()
        self.disk.rows.update(self.before)


class DropsItsBuffer(Wrong):
    """Writes when eight have gathered, and forgets the rest on closing: nobody
    flushed.
    """

    caught_by = "reopening_keeps_what_was_acknowledged"

    async def open(self) -> None:
        await super().open()
        self.buffer: dict[str, Record] = {}

    def read(self, key: str) -> Record | None:
        return self.buffer.get(key) or super().read(key)

    async def store(self, place: str, row: Record) -> None:
        self.buffer[place] = row
        if len(self.buffer) == 8:
            self.disk.rows.update(self.buffer)
            self.buffer.clear()


class EmptiesOnOpening(Wrong):
    """Begins with an empty table: ``DROP TABLE IF EXISTS`` stood in the set-up of the
    tests.
    """

    caught_by = "several_stores_may_open_it"

    async def open(self) -> None:
        await super().open()
        self.disk.rows.clear()


class TheFirstToCloseClosesForAll(Wrong):
    """Closes its connection at the first ``aclose``: nobody counted who had opened."""

    caught_by = "several_stores_may_open_it"

    async def aclose(self) -> None:
        self.users = 0


class OpensOnce(Wrong):
    """Refuses a second ``open``: it is open, so the caller must be mistaken."""

    caught_by = "several_stores_may_open_it"

    async def open(self) -> None:
        if self.users:
            raise BackendError("already open")
        await super().open()


class IsOpenTooSoon(Wrong):
    """Lets a second ``open`` return while the first one still connects: it has seen
    that somebody does.
    """

    caught_by = "several_stores_may_open_it"
    is_opening = False

    async def open(self) -> None:
        if self.is_opening:
            return
        self.is_opening = True
        for _ in range(5):
            await self.trip()
        await super().open()
        self.is_opening = False


class BoundToItsFirstLoop(Wrong):
    """Makes its lock once, for good: it belongs to the event loop that first waited
    for it.
    """

    caught_by = "it_works_on_another_event_loop"
    turn: asyncio.Lock | None = None

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        if self.turn is None:
            self.turn = asyncio.Lock()
        async with self.turn:
            return await super().commit(writes)


class ConnectsOnce(Wrong):
    """Keeps the connection of its first event loop when it is closed: the pool is made
    if there is none.
    """

    caught_by = "it_works_on_another_event_loop"
    connection: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        await super().open()
        if self.connection is None:
            self.connection = asyncio.get_running_loop()

    async def trip(self) -> None:
        assert self.connection is not None
        answer = self.connection.create_future()
        self.connection.call_soon(answer.set_result, None)
        await answer


class BelongsToTheFirstLoop(Wrong):
    """Has one connection as long as anybody has it open, of the event loop of who came
    first.
    """

    caught_by = "it_serves_several_event_loops_at_once"
    home: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        await super().open()
        if self.users == 1:
            self.home = asyncio.get_running_loop()

    async def trip(self) -> None:
        if asyncio.get_running_loop() is not self.home:
            raise RuntimeError("got Future attached to a different loop")
        await super().trip()


class LeavesItsLock(WrongFile):
    """Locks by a file, which stays when its process is killed."""

    caught_by = "a_kill_at_any_await_leaves_it_usable"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        for _ in range(100):
            if self.has_locked():
                break
            await asyncio.sleep(0.001)
        else:
            raise BackendError("somebody has the lock")
        try:
            return await super().commit(writes)
        finally:
            self.lock.unlink()

    @property
    def lock(self) -> Path:
        return Path(f"{self._path}.lock")

    def has_locked(self) -> bool:
        try:
            self.lock.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class WritesInTwoParts(WrongFile):
    """Writes the value, then the rest, each for itself: two tables, or two keys."""

    caught_by = "a_kill_at_any_await_leaves_it_usable"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        found = (await self.load([write.key for write in writes])).records
        half = [
            write._replace(record=old._replace(value=write.record.value))
            for write, old in zip(writes, found, strict=True)
            if isinstance(old, Record) and old.version == write.expected
        ]
        if half:
            await super().commit(half)
        return await super().commit(writes)


class WritesBehind(WrongFile):
    """Answers once it is in memory, and writes each 20 ms: many commits, one wait for
    the disk.
    """

    caught_by = "a_kill_loses_nothing_acknowledged"

    async def open(self) -> None:
        await super().open()
        self.behind: dict[str, Write] = {}
        self.work = asyncio.ensure_future(self.write_now_and_then())

    async def aclose(self) -> None:
        self.work.cancel()
        await self.write_all()
        await super().aclose()

    async def load(self, keys: Sequence[str]) -> Loaded:
        loaded = await super().load(keys)
        records = [
            self.behind[key].record if key in self.behind else found
            for key, found in zip(keys, loaded.records, strict=True)
        ]
        return loaded._replace(records=records)

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        found = (await self.load([write.key for write in writes])).records
        landed = []
        for write, record in zip(writes, found, strict=True):
            there = record.version if isinstance(record, Record) else None
            landed.append(there == write.expected and self._now() < write.not_after)
            if landed[-1]:
                first = self.behind.get(write.key, write)
                self.behind[write.key] = write._replace(expected=first.expected)
        return landed

    async def write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            await self.write_all()

    async def write_all(self) -> Sequence[Outcome]:
        writes = list(self.behind.values())
        landed = await super().commit(writes)
        for write in writes:
            if self.behind.get(write.key) is write:
                del self.behind[write.key]
        return landed
