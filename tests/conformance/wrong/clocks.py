"""Wrong about time that has come to an end, or goes back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from botsessions.record import Loaded, Record
from tests.conformance.wrong.base import Wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from botsessions.backend import Page
    from tests.conformance.plain import Disk


class EndsASecondEarly(Wrong):
    """Loads nothing that ends within a second: a margin for clocks that differ."""

    caught_by = "a_session_ends_at_its_millisecond"

    def loaded(self, keys: Sequence[str]) -> Loaded:
        loaded = super().loaded(keys)
        records = [
            None if isinstance(rec, Record) and rec.is_dead(loaded.now + 1000) else rec
            for rec in loaded.records
        ]
        return loaded._replace(records=records)


class ListsByAnotherClock(Wrong):
    """Tells with each page when the walk began, by the clock of the first open."""

    caught_by = "a_session_ends_at_its_millisecond"

    async def open(self) -> None:
        await super().open()
        self.began = self.now()

    def page_of(self, keys: Sequence[str]) -> Page:
        return super().page_of(keys)._replace(now=self.began)


class DeletesByTheEnd(Wrong):
    """Deletes by setting ``expires_at`` and leaves the value: a soft delete, which a
    clock can undo.
    """

    caught_by = "a_clock_set_back_revives_nothing"

    async def store(self, place: str, row: Record) -> None:
        found = self.disk.rows.get(place)
        if not row.value and found is not None:
            row = row._replace(value=found.value)
        await super().store(place, row)


class ReadsAsOfNow(Wrong):
    """Answers what was there at this time, from a history by time: a clock that is set
    back shows what was before.
    """

    caught_by = "a_clock_set_back_loses_nothing"

    def __init__(self, disk: Disk, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(disk, clock=clock)
        self.history: dict[str, list[tuple[int, Record]]] = {}

    def read(self, key: str) -> Record | None:
        then = [rec for at, rec in self.history.get(key, ()) if at <= self.now()]
        return then[-1] if then else None

    async def store(self, place: str, row: Record) -> None:
        self.history.setdefault(place, []).append((self.now(), row))
        await super().store(place, row)


class TheLatestWriteWins(Wrong):
    """Keeps what has the later time of writing, whoever was last: Cassandra's rule."""

    caught_by = "a_clock_set_back_loses_nothing"

    def __init__(self, disk: Disk, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(disk, clock=clock)
        self.written: dict[str, int] = {}

    async def store(self, place: str, row: Record) -> None:
        if self.now() >= self.written.get(place, 0):
            self.written[place] = self.now()
            await super().store(place, row)
