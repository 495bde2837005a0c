"""Sessions from one store to another as they are: records, never decoded.

A copy is a few passes. Each walks both stores at once in the order of their keys, and
``lineage`` says of every key what is to be done in the destination; that is looked at
once more there, and done by compare-and-swap (``side``). A pass that finds nothing to
do has compared everything, and is the last. Nothing is remembered between two runs but
what the records themselves tell, so a copy that was stopped is simply run again.

``cli`` is the user. Below: ``backend`` (the contract), ``record``.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from botsessions.engine.rules import new_token
from botsessions.errors import BackendError, ConflictError, OutcomeUnknownError
from botsessions.record import Record, Version
from botsessions.transfer.lineage import (
    WRITES,
    Decision,
    Signature,
    decide,
    tombstone,
)
from botsessions.transfer.side import BATCH_BYTES, BATCH_ROWS, Side

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Callable

# No namespace begins so.
_SOURCES = ":source"
# Before so many passes it does not count whether they get shorter.
_ENOUGH = 3
# So many keys are named; all are counted.
_NAMED = 20
_EXTRA = Decision.EXTRA


class Tally:
    """Counts sessions, and makes one checksum of keys, contents and ends."""

    def __init__(self) -> None:
        self.sessions = 0
        self._hash = blake2b(digest_size=16)

    def add(self, key: str, record: Record) -> None:
        """Take in the session that follows in the order of the keys."""
        self.sessions += 1
        head = f"{key} {record.expires_at} {len(record.value)}\n"
        self._hash.update(head.encode() + record.value)

    @property
    def checksum(self) -> str:
        """The checksum so far."""
        return self._hash.hexdigest()


class Pair(NamedTuple):
    """What both sides have under one key. The later of their clocks counts for both."""

    key: str
    found: Record | None
    there: Record | None
    now: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one pass saw: each key's decision, and the live sessions of both sides.

    Sessions that only the destination knows are not in its tally. ``own`` names the
    first of those that were left because neither comes of the other.
    """

    decisions: Counter[Decision] = field(default_factory=Counter)
    source: Tally = field(default_factory=Tally)
    destination: Tally = field(default_factory=Tally)
    own: list[str] = field(default_factory=list)

    @property
    def to_do(self) -> int:
        """How many keys were still to be written."""
        return sum(self.decisions[decision] for decision in WRITES)

    def add(self, pair: Pair, decision: Decision) -> None:
        """Take in one key."""
        key, found, there, now = pair
        self.decisions[decision] += 1
        if found is not None and not found.is_gone(now):
            self.source.add(key, found)
        if there is not None and not there.is_gone(now) and decision is not _EXTRA:
            self.destination.add(key, there)
        if decision is Decision.OWN and len(self.own) < _NAMED:
            self.own.append(key)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a copy did in all its passes (``written``), and what the last one saw.

    ``named``: the source could be given a name, so that a later copy knows again what
    this one has written.
    """

    passes: int
    written: Counter[Decision]
    last: Comparison
    named: bool


async def copy(
    source: Side,
    destination: Side,
    *,
    rng: random.Random,
    on_progress: Callable[[int, int], None],
) -> Summary:
    """Copy all sessions, and what has become of them meanwhile.

    Stops at the pass that finds nothing to do; or, because the source is in use, when a
    pass has more than half as much to do as the one before. ``on_progress`` is told the
    number of the pass, and how many keys of it are done.
    """
    name, named = await _name_of(source, rng)
    transfer = _Transfer(source, destination, Signature(name), rng)
    passes, before = 0, 0
    while True:
        passes += 1
        last = await transfer.run(passes, on_progress)
        if not last.to_do or (passes >= _ENOUGH and last.to_do * 2 > before):
            return Summary(passes, transfer.written, last, named)
        before = last.to_do


class _Transfer:
    def __init__(
        self,
        source: Side,
        destination: Side,
        signature: Signature,
        rng: random.Random,
    ) -> None:
        self._source = source
        self._destination = destination
        self._signature = signature
        self._rng = rng
        self.written: Counter[Decision] = Counter()

    async def run(
        self, number: int, on_progress: Callable[[int, int], None]
    ) -> Comparison:
        """Walk both sides once, and write what is to be written."""
        seen = Comparison()
        batch: dict[str, Record | None] = {}
        size = 0
        async with aclosing(_pairs(self._source, self._destination)) as pairs:
            async for pair in pairs:
                decision = decide(pair.found, pair.there, self._signature, pair.now)
                seen.add(pair, decision)
                if decision in WRITES:
                    batch[pair.key] = pair.found
                    size += len(pair.found.value) if pair.found is not None else 0
                if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
                    await self._write(batch)
                    batch, size = {}, 0
                on_progress(number, seen.decisions.total())
        await self._write(batch)
        return seen

    async def _write(self, batch: dict[str, Record | None]) -> None:
        # That a listing lacks something is not enough to remove it elsewhere.
        missing = [key for key, found in batch.items() if found is None]
        if missing:
            _, again = await self._source.load(missing)
            batch.update(zip(missing, again, strict=True))
        decisions: dict[str, Decision] = {}

        def choose(key: str, there: Record | None, now: int) -> Record | None:
            found = batch[key]
            decisions[key] = decide(found, there, self._signature, now)
            if decisions[key] not in WRITES:
                return None
            if found is None:
                found = tombstone(there, now, new_token(self._rng))
            return self._signature.signed(found)

        if batch:
            await self._destination.replace(list(batch), choose)
        self.written.update(decisions.values())


async def _pairs(source: Side, destination: Side) -> AsyncGenerator[Pair]:
    """Walk two listings as one."""
    async with (
        aclosing(source.records()) as ones,
        aclosing(destination.records()) as others,
    ):
        one, other = await anext(ones, None), await anext(others, None)
        while one is not None or other is not None:
            entries = [entry for entry in (one, other) if entry is not None]
            key = min(entry.key for entry in entries)
            now = max(entry.now for entry in entries)
            found = there = None
            if one is not None and one.key == key:
                found, one = one.record, await anext(ones, None)
            if other is not None and other.key == key:
                there, other = other.record, await anext(others, None)
            yield Pair(key, found, there, now)


async def _name_of(source: Side, rng: random.Random) -> tuple[bytes, bool]:
    """Return the name of a source, and whether a later copy will find the same.

    It lies beside the sessions, so it moves with the file and is not in another one
    that takes its place.
    """
    names = Side(source.backend, _SOURCES)
    new = rng.randbytes(16)

    def choose(_: str, there: Record | None, now: int) -> Record | None:
        if there is not None:
            return None
        return Record(Version(1, new_token(rng)), new, b"", now, None)

    try:
        await names.replace([source.namespace], choose)
        _, [record] = await names.load([source.namespace])
    except (BackendError, ConflictError, OutcomeUnknownError):
        # It may be read only, or full: often the reason to move.
        record = None
    return (new, False) if record is None else (record.value, True)
