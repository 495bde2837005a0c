"""Wrong about an ability: listing, sweeping, loading at once, being taken inline."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any

from botsessions.record import GRACE_MS, Loaded, Record, Write
from tests.conformance.wrong.base import Wrong, WrongInline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from botsessions.backend import Page


class ListsInNoOrder(Wrong):
    """Lists keys as they come: Redis' ``SCAN``."""

    caught_by = "listing_is_whole_and_in_order"

    def keys(self) -> list[str]:
        return list(self.disk.rows)


class ListsByCollation(Wrong):
    """Sorts ``a`` before ``B``: PostgreSQL's collation is that of the locale."""

    caught_by = "listing_is_whole_and_in_order"

    def keys(self) -> list[str]:
        return sorted(self.disk.rows, key=lambda key: (key.lower(), key))


class ListsFromTheBeginning(Wrong):
    """Ignores ``after`` for the first page: it was thought of as the pages' own."""

    caught_by = "listing_is_whole_and_in_order"

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        async for page in super().list_pages(prefix, "", limit):
            yield page


class BringsTheFirstTwice(Wrong):
    """Begins with ``after`` itself: ``>=`` for ``>``."""

    caught_by = "listing_is_whole_and_in_order"

    def page(self, prefix: str, after: str, limit: int) -> tuple[Page, bool]:
        found = [k for k in self.keys() if self.is_under(k, prefix) and k >= after]
        return self.page_of(found[:limit]), len(found) <= limit


class SkipsAtBorders(Wrong):
    """Leaves out the first key behind a full page: it was read to see whether there
    are more.
    """

    caught_by = "listing_is_whole_and_in_order"

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        keys = [k for k in self.keys() if self.is_under(k, prefix) and k > after]
        for begin in range(0, len(keys), limit + 1):
            await self.trip()
            yield self.page_of(keys[begin : begin + limit])


class StopsAtAFullLastPage(Wrong):
    """Ends where a page is not full, and full pages count one too few."""

    caught_by = "listing_is_whole_and_in_order"

    def page(self, prefix: str, after: str, limit: int) -> tuple[Page, bool]:
        page, last = super().page(prefix, after, limit)
        return page, last or len(page.entries) < 2


class ListsWhatIsAlike(Wrong):
    """Finds a prefix with ``LIKE prefix || '%'``: ``%`` and ``_`` in it are not
    escaped.
    """

    caught_by = "listing_is_whole_and_in_order"

    def is_under(self, key: str, prefix: str) -> bool:
        pattern = re.escape(prefix).replace("%", ".*").replace("_", ".")
        return re.match(pattern, key) is not None


class ListsByGlob(Wrong):
    """Finds a prefix with ``SCAN MATCH prefix*``: ``*`` and ``[…]`` in it are not
    escaped.
    """

    caught_by = "listing_is_whole_and_in_order"

    def is_under(self, key: str, prefix: str) -> bool:
        return fnmatch.fnmatchcase(key, prefix + "*")


class ListsUpToZ(Wrong):
    """Reads keys from ``prefix`` to ``prefix + 'z'``: but for those with ``~``."""

    caught_by = "listing_is_whole_and_in_order"

    def is_under(self, key: str, prefix: str) -> bool:
        return prefix <= key <= prefix + "z"


class ListsWithoutCase(Wrong):
    """Finds ``B`` under ``b``: SQLite's ``LIKE`` knows no case."""

    caught_by = "listing_is_whole_and_in_order"

    def is_under(self, key: str, prefix: str) -> bool:
        return key.lower().startswith(prefix.lower())


class ListsInOnePage(Wrong):
    """Brings all in one page: the limit was only a hint, was it not?"""

    caught_by = "listing_is_whole_and_in_order"

    def page(self, prefix: str, after: str, limit: int) -> tuple[Page, bool]:
        return super().page(prefix, after, 10**9)


class ListsInSeconds(Wrong):
    """Tells the time in seconds with a page, and in milliseconds with a load."""

    caught_by = "listing_is_whole_and_in_order"

    def page_of(self, keys: Sequence[str]) -> Page:
        page = super().page_of(keys)
        return page._replace(now=page.now // 1000)


class ListsRows(Wrong):
    """Brings the rows of a page as the driver does, tuples: they equal records."""

    caught_by = "listing_is_whole_and_in_order"

    def page_of(self, keys: Sequence[str]) -> Page:
        page = super().page_of(keys)
        rows: Any = [(key, tuple(record)) for key, record in page.entries]
        return page._replace(entries=rows)


class ListsAnOldCopy(Wrong):
    """Lists from an index with copies of the records, written when they are created."""

    caught_by = "listing_is_whole_and_in_order"

    @property
    def index(self) -> dict[str, Record]:
        index: dict[str, Record] = vars(self.disk).setdefault("index", {})
        return index

    async def store(self, place: str, row: Record) -> None:
        self.index.setdefault(place, row)
        await super().store(place, row)

    def page_of(self, keys: Sequence[str]) -> Page:
        page = super().page_of(keys)
        return page._replace(entries=[(k, self.index[k]) for k, _ in page.entries])


class TakesAShortPageForTheLast(Wrong):
    """Ends where the server brings fewer than the limit: DynamoDB brings a megabyte at
    most, and ``LastEvaluatedKey`` was not looked at.
    """

    caught_by = "a_long_listing_is_whole"

    def page(self, prefix: str, after: str, limit: int) -> tuple[Page, bool]:
        page, _ = super().page(prefix, after, limit)
        size = 0
        brought = []
        for key, record in page.entries:
            size += len(record.value)
            if size <= 1024 * 1024:
                brought.append((key, record))
        return page._replace(entries=brought), len(brought) < limit


class ListsAHundred(Wrong):
    """Ends behind 100 keys: the server brings no more at once, whatever the limit."""

    caught_by = "a_long_listing_is_whole"

    def page(self, prefix: str, after: str, limit: int) -> tuple[Page, bool]:
        page, is_last = super().page(prefix, after, min(limit, 100))
        return page, is_last or len(page.entries) < limit


class ListsByOffset(Wrong):
    """Counts with ``OFFSET``: what comes new ahead of it moves the pages."""

    caught_by = "listing_survives_changes"

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        offset = 0
        while True:
            await self.trip()
            keys = [k for k in self.keys() if self.is_under(k, prefix) and k > after]
            if offset >= len(keys):
                return
            yield self.page_of(keys[offset : offset + limit])
            offset += limit


class BreaksOnChanges(Wrong):
    """Walks the live index: ``dictionary changed size during iteration``."""

    caught_by = "listing_survives_changes"

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        keys: list[str] = []
        self.disk.rows = dict(sorted(self.disk.rows.items()))
        for key in self.disk.rows:
            if self.is_under(key, prefix) and key > after:
                keys.append(key)
            if len(keys) == limit:
                yield self.page_of(keys)
                keys = []
        if keys:
            yield self.page_of(keys)


class LocksWhatItLists(Wrong):
    """Holds its rows until the walk is over: a cursor in a transaction, with ``FOR
    UPDATE``.
    """

    caught_by = "listing_survives_changes"
    lock_patience = 0.1

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        held = [key for key in self.keys() if self.is_under(key, prefix)]
        for key in held:
            await self.disk.lock(key, self.lock_patience)
        try:
            async for page in super().list_pages(prefix, after, limit):
                yield page
        finally:
            for key in held:
                self.disk.unlock(key)


class StopsAtAPageOfTheDead(Wrong):
    """Leaves the dead out of each page that it has read, and stops at one that is
    empty then.
    """

    caught_by = "listing_passes_over_the_dead"

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        async for page in super().list_pages(prefix, after, limit):
            alive = [(k, rec) for k, rec in page.entries if not rec.is_dead(page.now)]
            if not alive:
                return
            yield page._replace(entries=alive)


class LosesItsPlace(Wrong):
    """Looks for the last key of a page to go on behind it, which has been swept by
    then.
    """

    caught_by = "listing_passes_over_the_dead"

    def page(self, prefix: str, after: str, limit: int) -> tuple[Page, bool]:
        found = [k for k in self.keys() if self.is_under(k, prefix)]
        begin = found.index(after) + 1 if after.startswith(prefix) else 0
        return self.page_of(found[begin : begin + limit]), len(found) <= begin + limit


class ListsNothing(Wrong):
    """Has no page at all: the method is there, its body is not yet."""

    caught_by = "listing_is_whole_and_in_order"

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        return
        yield


class SweepsTheEndless(Wrong):
    """Sweeps what has no end: ``NULL`` became 0 on the way."""

    caught_by = "sweeping_takes_only_the_long_dead"

    def is_long_dead(self, row: Record) -> bool:
        return (row.expires_at or 0) <= self.now() - GRACE_MS


class SweepsAtOnce(Wrong):
    """Sweeps whatever is dead: the grace looked like a mistake."""

    caught_by = "sweeping_takes_only_the_long_dead"

    def is_long_dead(self, row: Record) -> bool:
        return row.is_dead(self.now())


class SweepsOnlyTheDeleted(Wrong):
    """Sweeps what was deleted, and keeps what has expired for ever."""

    caught_by = "sweeping_takes_only_the_long_dead"

    def is_long_dead(self, row: Record) -> bool:
        return not row.value and super().is_long_dead(row)


class SweepsInSeconds(Wrong):
    """Takes the grace for seconds: 60,000 of them are most of a day."""

    caught_by = "sweeping_takes_only_the_long_dead"

    def is_long_dead(self, row: Record) -> bool:
        return row.is_dead(self.now() - GRACE_MS * 1000)


class CountsWhatItLookedAt(Wrong):
    """Answers how many rows it has looked at, not how many went."""

    caught_by = "sweeping_takes_only_the_long_dead"

    async def sweep(self, prefix: str, limit: int) -> int:
        looked = [key for key in self.keys() if self.is_under(key, prefix)]
        await super().sweep(prefix, limit)
        return len(looked)


class SweepsWhatWasRenewed(Wrong):
    """Looks for dead keys, then removes them by name: ``SCAN``, then ``DEL``. Some are
    alive again by then.
    """

    caught_by = "sweeping_takes_only_the_long_dead"

    async def sweep(self, prefix: str, limit: int) -> int:
        await self.trip()
        dead = [
            key
            for key, row in sorted(self.disk.rows.items())
            if self.is_under(key, prefix) and self.is_long_dead(row)
        ][:limit]
        for _ in range(5):
            await self.trip()
        return sum(self.disk.rows.pop(key, None) is not None for key in dead)


class SweepsAll(Wrong):
    """Sweeps all there is at once: the limit was only a hint."""

    caught_by = "sweeping_keeps_to_its_bounds"

    async def sweep(self, prefix: str, limit: int) -> int:
        return await super().sweep(prefix, 10**9)


class SweepsInSilence(Wrong):
    """Answers 0 whatever it has swept: nobody asked for the count of the rows. Who
    sweeps until nothing is left stops at once.
    """

    caught_by = "sweeping_keeps_to_its_bounds"

    async def sweep(self, prefix: str, limit: int) -> int:
        await super().sweep(prefix, limit)
        return 0


class SweepsAmongTheFirst(Wrong):
    """Looks at the first keys only, as many as may go: ``Scan`` with a ``Limit``. If
    these live it answers 0, and nothing behind them is ever swept.
    """

    caught_by = "sweeping_keeps_to_its_bounds"

    async def sweep(self, prefix: str, limit: int) -> int:
        first = [key for key in super().keys() if self.is_under(key, prefix)][:limit]
        return sum(self.sweep_row(key) for key in first)


class SweepsBeyondThePrefix(Wrong):
    """Sweeps with ``LIKE prefix || '%'``, so among the neighbours, too."""

    caught_by = "sweeping_keeps_to_its_bounds"

    async def sweep(self, prefix: str, limit: int) -> int:
        # All of it, as the server does it: the client counts no further than asked.
        return await super().sweep(prefix.split("%", 1)[0], limit)


class LoadsNowFromACache(Wrong):
    """Answers ``load_now`` from what the last load has seen."""

    caught_by = "loading_now_is_loading"

    async def open(self) -> None:
        await super().open()
        self.cache: dict[str, Record | None] = {}

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        records = [self.cache.setdefault(key, self.read(key)) for key in keys]
        return Loaded(self.now(), records)


class LoadsNowWhatIsThere(Wrong):
    """Answers ``load_now`` without None for what is missing."""

    caught_by = "loading_now_is_loading"

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        return Loaded(self.now(), [rec for rec in map(self.read, keys) if rec])


class LoadsNowInSeconds(Wrong):
    """Tells the time in seconds with ``load_now``, and in milliseconds with
    ``load``.
    """

    caught_by = "loading_now_is_loading"

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        return Loaded(self.now() // 1000, [self.read(key) for key in keys])


class NeverLoadsNow(Wrong):
    """Has a ``load_now`` that never answers: what it waits for does not come."""

    caught_by = "loading_now_is_loading"

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        return None


class VersionsAnewForEachLoad(WrongInline):
    """Gives what was written inline another version each time it is loaded."""

    caught_by = "inline_and_contract_agree"

    def _record(self, key: str) -> Record | None:
        table, text = self._place(key)
        entry = table.records.get(text)
        record = super()._record(key)
        if isinstance(entry, bytes):
            table.records[text] = entry
        return record


class WritesBesideTheTable(WrongInline):
    """Commits to a dict of its own, which who reads inline does not see."""

    caught_by = "inline_and_contract_agree"

    def _swap(self, write: Write) -> bool:
        table, text = self._place(write.key)
        before = table.records.get(text)
        landed = super()._swap(write)
        if landed and before is not None:
            table.records[text] = before
        return landed
