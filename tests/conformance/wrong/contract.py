"""Wrong about what is kept, compared and answered, even to one user alone."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import apsw

from botsessions.errors import BackendError
from botsessions.record import Loaded, Record, Version, Write
from tests.conformance.wrong.base import Wrong, WrongFile

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOTHING = Record(Version(0, 0), b"", b"", 0, 0)


class TakesNoBatches(Wrong):
    """Says that it takes 0 batches at once: that was to mean without a limit."""

    caught_by = "concurrent_batches_is_a_number"
    concurrent_batches = 0


class CountsBatchesInText(Wrong):
    """Says how many batches it takes as the text of a setting: ``os.environ``."""

    caught_by = "concurrent_batches_is_a_number"
    concurrent_batches = cast("int", "4")


# What is missing.


class MissingIsAnEmptyRecord(Wrong):
    """Answers an empty record for a missing key: a ``defaultdict`` saved a branch."""

    caught_by = "a_missing_key_has_no_record"

    def read(self, key: str) -> Record | None:
        return super().read(key) or _NOTHING


class LeavesMissingOnesOut(Wrong):
    """Answers fewer records than keys: MongoDB's ``find`` with ``$in`` returns those
    that are there.
    """

    caught_by = "a_missing_key_has_no_record"

    def loaded(self, keys: Sequence[str]) -> Loaded:
        loaded = super().loaded(keys)
        return loaded._replace(records=[rec for rec in loaded.records if rec])


# What is kept of a record.


class DropsTheRing(Wrong):
    """Has no column for the ring: nobody knew what it was good for."""

    caught_by = "what_was_committed_is_what_is_loaded"

    def row(self, record: Record) -> Record:
        return record._replace(ring=b"")


class KeepsTheRingAsText(Wrong):
    """Stores the ring as text: the driver decodes answers (``decode_responses=True``)
    and replaces what is no UTF-8.
    """

    caught_by = "what_was_committed_is_what_is_loaded"

    def row(self, record: Record) -> Record:
        return record._replace(ring=record.ring.decode(errors="replace").encode())


class CutsTheRing(Wrong):
    """Keeps four tokens of the ring: ``BINARY(32)`` looked long enough."""

    caught_by = "what_was_committed_is_what_is_loaded"

    def row(self, record: Record) -> Record:
        return record._replace(ring=record.ring[:32])


class AnswersTuplesForVersions(Wrong):
    """Hands out the version as a plain tuple: rows go into ``Record(*row)`` as they
    are.
    """

    caught_by = "what_was_committed_is_what_is_loaded"

    def row(self, record: Record) -> Record:
        return record._replace(version=cast("Version", tuple(record.version)))


class WrapsTheCounter(Wrong):
    """Counts to 2**32: the column is ``INT UNSIGNED``."""

    caught_by = "numbers_of_any_size_are_kept"

    def row(self, record: Record) -> Record:
        counter, token = record.version
        return record._replace(version=Version(counter & 0xFFFF_FFFF, token))


class CountsInFloats(Wrong):
    """Sends the counter as JSON to a script that reads numbers as doubles: Lua,
    JavaScript.
    """

    caught_by = "numbers_of_any_size_are_kept"

    def row(self, record: Record) -> Record:
        counter, token = record.version
        return record._replace(version=Version(int(float(counter)), token))


class KeepsTokensWithoutSign(Wrong):
    """Stores tokens in an unsigned column and reads them back as they come."""

    caught_by = "numbers_of_any_size_are_kept"

    def row(self, record: Record) -> Record:
        counter, token = record.version
        return record._replace(version=Version(counter, token % 2**64))


class KeepsTokensAsFloats(Wrong):
    """Keeps tokens as the score of a sorted set, which is a double."""

    caught_by = "numbers_of_any_size_are_kept"

    def row(self, record: Record) -> Record:
        counter, token = record.version
        return record._replace(version=Version(counter, int(float(token))))


class EndsInWholeSeconds(Wrong):
    """Rounds ``expires_at`` to seconds: DynamoDB's TTL attribute, Redis' ``EXPIRE``."""

    caught_by = "times_are_kept_to_the_millisecond"

    def row(self, record: Record) -> Record:
        end = record.expires_at
        return record._replace(expires_at=None if end is None else end // 1000 * 1000)


class EndsIn2038(Wrong):
    """Clamps ``expires_at`` to what MySQL's ``TIMESTAMP`` can show."""

    caught_by = "times_are_kept_to_the_millisecond"

    def row(self, record: Record) -> Record:
        end = record.expires_at
        last = (2**31 - 1) * 1000
        return record._replace(expires_at=None if end is None else min(end, last))


class NoEndIsZero(Wrong):
    """Stores no end as 0: the column is ``NOT NULL DEFAULT 0``."""

    caught_by = "times_are_kept_to_the_millisecond"

    def row(self, record: Record) -> Record:
        return record._replace(expires_at=record.expires_at or 0)


class CreatedWhenWritten(Wrong):
    """Replaces ``created_at`` with the time of the write: ``DEFAULT now()`` is less to
    send.
    """

    caught_by = "times_are_kept_to_the_millisecond"

    def row(self, record: Record) -> Record:
        return record._replace(created_at=self.now())


class CutsValues(Wrong):
    """Cuts values at 64 KiB: MySQL's ``BLOB``, without strict mode."""

    caught_by = "large_values_are_kept"

    def row(self, record: Record) -> Record:
        return record._replace(value=record.value[:65_535])


class RefusesAMebibyte(Wrong):
    """Refuses values from 1 MiB on: the default limit of messages in NATS, of items in
    memcached.
    """

    caught_by = "large_values_are_kept"

    async def store(self, place: str, row: Record) -> None:
        if len(row.value) > 1024 * 1024:
            raise BackendError("maximum payload exceeded")
        await super().store(place, row)


class EmptyIsMissing(Wrong):
    """Takes an empty value for none: ``if not row.value: return None``."""

    caught_by = "small_values_are_kept"

    def read(self, key: str) -> Record | None:
        found = super().read(key)
        return found if found and found.value else None


class StripsZeroBytes(Wrong):
    """Strips zeros at the end: a ``BINARY`` column pads with them, so reading strips
    them.
    """

    caught_by = "small_values_are_kept"

    def row(self, record: Record) -> Record:
        return record._replace(value=record.value.rstrip(b"\x00"))


class MendsLineEnds(Wrong):
    """Turns CR LF into LF: the file was opened in text mode."""

    caught_by = "small_values_are_kept"

    def row(self, record: Record) -> Record:
        return record._replace(value=record.value.replace(b"\r\n", b"\n"))


class AnswersMemoryviews(Wrong):
    """Hands out values as the driver gives them: psycopg and sqlite3 have
    ``memoryview``.
    """

    caught_by = "small_values_are_kept"

    def read(self, key: str) -> Record | None:
        found = super().read(key)
        return found and found._replace(value=cast("bytes", memoryview(found.value)))


class KeepsTheFirstBeginning(Wrong):
    """Never replaces ``created_at``: it was left out of ``ON DUPLICATE KEY UPDATE``."""

    caught_by = "what_was_committed_is_what_is_loaded"

    async def store(self, place: str, row: Record) -> None:
        there = self.disk.rows.get(place)
        if there is not None:
            row = row._replace(created_at=there.created_at)
        await super().store(place, row)


class KeepsTheEnd(Wrong):
    """Keeps an end that is to go: ``expires_at = COALESCE(?, expires_at)``."""

    caught_by = "what_was_committed_is_what_is_loaded"

    async def store(self, place: str, row: Record) -> None:
        there = self.disk.rows.get(place)
        if there is not None and row.expires_at is None:
            row = row._replace(expires_at=there.expires_at)
        await super().store(place, row)


class ValuesAreByteArrays(Wrong):
    """Brings values as the driver does, some of which make bytearrays: they equal."""

    caught_by = "what_was_committed_is_what_is_loaded"

    def read(self, key: str) -> Record | None:
        found = super().read(key)
        return found and found._replace(value=cast("bytes", bytearray(found.value)))


# Keys.


class KeysWithoutCase(Wrong):
    """Takes ``Key`` for ``key``: MySQL's default collation."""

    caught_by = "hostile_keys_are_only_keys"

    def place(self, key: str) -> str:
        return key.lower()


class CutsKeys(Wrong):
    """Cuts keys at 255 characters: ``VARCHAR(255)``, without strict mode."""

    caught_by = "hostile_keys_are_only_keys"

    def place(self, key: str) -> str:
        return key[:255]


class KeysArePaths(Wrong):
    """Takes ``a//b`` and ``a/./b`` for ``a/b``: each key is a file."""

    caught_by = "hostile_keys_are_only_keys"

    def place(self, key: str) -> str:
        return "/".join(part for part in key.split("/") if part not in {"", "."})


class KeysAreDecoded(Wrong):
    """Takes ``%41`` for ``A``: keys go into a URL, and the HTTP client (or the server:
    Consul, S3) decodes once too often.
    """

    caught_by = "hostile_keys_are_only_keys"

    def place(self, key: str) -> str:
        return unquote(key)


class RefusesLongKeys(Wrong):
    """Fails on keys of more than 250 characters: memcached's limit; MySQL's index has
    one, too.
    """

    caught_by = "hostile_keys_are_only_keys"

    def place(self, key: str) -> str:
        if len(key) > 250:
            raise BackendError("key too long")
        return key


class KeysAreTokens(Wrong):
    """Replaces what a subject of NATS cannot hold by ``_``, so that keys fall
    together.
    """

    caught_by = "hostile_keys_are_only_keys"

    def place(self, key: str) -> str:
        return "".join("_" if char in " .*>" else char for char in key)


class QuotesBreakOut(WrongFile):
    """Puts keys into SQL by hand: ``f"… WHERE k = '{key}'"``."""

    caught_by = "hostile_keys_are_only_keys"

    def _read(self, connection: apsw.Connection, keys: Sequence[str]) -> Loaded:
        records: list[Record | None] = []
        for key in keys:
            sql = f"SELECT v, t, b, r, c, e FROM botsessions WHERE k = '{key}'"
            row: Any = connection.execute(sql).fetchone()
            records.append(row and Record(Version(*row[:2]), *row[2:]))
        return Loaded(self._now(), records)


class KeysAreLikePatterns(WrongFile):
    """Finds keys with ``LIKE``, which reads ``%`` and ``_`` and ignores case."""

    caught_by = "hostile_keys_are_only_keys"

    def _read(self, connection: apsw.Connection, keys: Sequence[str]) -> Loaded:
        records: list[Record | None] = []
        for key in keys:
            sql = "SELECT v, t, b, r, c, e FROM botsessions WHERE k LIKE ?"
            row: Any = connection.execute(sql, (key,)).fetchone()
            records.append(row and Record(Version(*row[:2]), *row[2:]))
        return Loaded(self._now(), records)


# Comparing.


class IgnoresTheExpectedVersion(Wrong):
    """Replaces whatever is there: an upsert, as other session stores do it."""

    caught_by = "each_write_compares_the_counter"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        return True


class ComparesOnlyTheToken(Wrong):
    """Compares the token alone: 64 random bits are enough, are they not?"""

    caught_by = "each_write_compares_the_counter"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        if write.expected is None or found is None:
            return write.expected is None and found is None
        return write.expected.token == found.version.token


class ReplacesWhatIsNotThere(Wrong):
    """Creates what a write expects to replace: ``INSERT … ON CONFLICT DO UPDATE WHERE
    v = ?`` compares only where there is a conflict.
    """

    caught_by = "each_write_compares_the_counter"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        return found is None or super().is_expected(write, found)


class ComparesOnlyTheCounter(Wrong):
    """Compares the counter alone: a version number is how it is usually done."""

    caught_by = "each_write_compares_the_token"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        if write.expected is None or found is None:
            return write.expected is None and found is None
        return write.expected.counter == found.version.counter


class TakesNewerCounters(Wrong):
    """Lets a write win whose counter is higher: last write wins, as in Cassandra."""

    caught_by = "each_write_compares_the_token"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        if write.expected is None or found is None:
            return write.expected is None and found is None
        return write.record.version.counter > found.version.counter


class CreatesOverARecord(Wrong):
    """Creates with a plain ``SET``: ``NX`` was forgotten."""

    caught_by = "a_creation_needs_an_absent_key"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        return write.expected is None or super().is_expected(write, found)


class CreatesOverTheDead(Wrong):
    """Creates where a dead record is: it is gone for users, why not for writes?"""

    caught_by = "a_dead_record_still_guards_its_key"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        if write.expected is None and found is not None and found.is_dead(self.now()):
            return True
        return super().is_expected(write, found)


class LeavesTheDeadOut(Wrong):
    """Loads with ``WHERE e IS NULL OR e > now()``: nobody wants what has expired."""

    caught_by = "a_dead_record_still_guards_its_key"

    def loaded(self, keys: Sequence[str]) -> Loaded:
        loaded = super().loaded(keys)
        alive = [
            None if isinstance(rec, Record) and rec.is_dead(loaded.now) else rec
            for rec in loaded.records
        ]
        return loaded._replace(records=alive)


class LetsTheServerExpire(Wrong):
    """Has each record removed at its ``expires_at``, without a grace: ``PEXPIREAT``, a
    TTL index.
    """

    caught_by = "a_dead_record_still_guards_its_key"

    def read(self, key: str) -> Record | None:
        found = super().read(key)
        return None if found is None or found.is_dead(self.now()) else found


class DeletesForReal(Wrong):
    """Removes the row of a deleted session: that is what ``DELETE`` is for."""

    caught_by = "a_version_never_comes_back"

    async def store(self, place: str, row: Record) -> None:
        if row.value:
            await super().store(place, row)
        else:
            self.disk.rows.pop(place, None)


class CountsByItself(Wrong):
    """Has the server count (``SET v = v + 1``), anew after each delete: etcd's
    ``version``.
    """

    caught_by = "a_version_never_comes_back"

    async def store(self, place: str, row: Record) -> None:
        found = self.disk.rows.get(place)
        counter = found.version.counter + 1 if found and found.value else 1
        version = Version(counter, row.version.token)
        await super().store(place, row._replace(version=version))


class TakesEarlierVersions(Wrong):
    """Takes any version of the ring for the expected one: the ring is what the record
    remembers.
    """

    caught_by = "a_version_never_comes_back"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        if write.expected is not None and found is not None:
            token = write.expected.token.to_bytes(8, "big", signed=True)
            return token in found.ring or super().is_expected(write, found)
        return super().is_expected(write, found)


class CountsReplays(Wrong):
    """Counts on when the same write comes again: ``ON DUPLICATE KEY UPDATE v = v +
    1``.
    """

    caught_by = "the_same_write_twice_lands_once"

    async def swap(self, write: Write) -> bool:
        found = self.read(write.key)
        if found is not None and found.version == write.record.version:
            version = Version(found.version.counter + 1, found.version.token)
            await self.store(self.place(write.key), found._replace(version=version))
            return True
        return await super().swap(write)


class RepeatsRevive(Wrong):
    """Lets a creation land again over what it has created and others have changed: it
    looks for its token in the ring, and writes.
    """

    caught_by = "a_version_never_comes_back"

    def is_expected(self, write: Write, found: Record | None) -> bool:
        if write.expected is None and found is not None:
            token = write.record.version.token.to_bytes(8, "big", signed=True)
            return token in found.ring
        return super().is_expected(write, found)


# Batches.


class OneConflictFailsAll(Wrong):
    """Rolls the whole batch back when one write loses: one transaction, one outcome."""

    caught_by = "writes_of_a_batch_land_each_alone"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        before = {w.key: self.disk.rows.get(w.key) for w in writes}
        landed = await super().swap_all(writes)
        if all(landed):
            return landed
        for key, row in before.items():
            if row is None:
                self.disk.rows.pop(key, None)
            else:
                self.disk.rows[key] = row
        return [False for _ in writes]


class StopsAtTheFirstConflict(Wrong):
    """Does not come to what is behind a write that lost: MongoDB's ``bulk_write`` is
    ordered.
    """

    caught_by = "writes_of_a_batch_land_each_alone"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        landed: list[bool] = []
        for write in writes:
            landed.append(all(landed) and await self.swap(write))
        return landed


class AppliesHalfABatch(Wrong):
    """Applies the first half and answers True for all: DynamoDB's ``UnprocessedItems``
    were not looked at.
    """

    caught_by = "writes_of_a_batch_land_each_alone"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        half = (len(writes) + 1) // 2
        landed = await super().swap_all(writes[:half])
        return landed + [True for _ in writes[half:]]


class AnswersOneForAll(Wrong):
    """Answers for all what became of the last write: the row count of
    ``executemany``.
    """

    caught_by = "writes_of_a_batch_land_each_alone"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        landed = await super().swap_all(writes)
        return [landed[-1] for _ in landed] if landed else []


class AnswersRowCounts(Wrong):
    """Answers 1 and 0 for True and False: ``cursor.rowcount`` as it is."""

    caught_by = "writes_of_a_batch_land_each_alone"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        landed = await super().swap_all(writes)
        return [cast("bool", int(did)) for did in landed]


class ComparesAllThenWritesAll(Wrong):
    """Compares the whole batch before it writes any: both writes of one key land."""

    caught_by = "a_key_twice_in_one_batch_is_told_the_truth"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        landed = [
            self.is_expected(write, self.read(write.key)) and not self.is_late(write)
            for write in writes
        ]
        for write, did in zip(writes, landed, strict=True):
            if did:
                await self.store(self.place(write.key), self.row(write.record))
        return landed


class KeepsTheLastOfAKey(Wrong):
    """Gathers a batch in a dict by key, and answers by key: two writes of one key have
    one answer.
    """

    caught_by = "a_key_twice_in_one_batch_is_told_the_truth"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        by_key = {write.key: write for write in writes}
        landed = {key: await self.swap(write) for key, write in by_key.items()}
        return [landed[write.key] for write in writes]


class RefusesWhatItHasWritten(Wrong):
    """Refuses the second write of a key when the first is written: each is a statement
    of its own, without a transaction.
    """

    caught_by = "a_key_twice_in_one_batch_is_told_the_truth"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        landed: dict[str, bool] = {}
        for write in writes:
            if write.key in landed:
                raise BackendError("duplicate key value violates unique constraint")
            landed[write.key] = await self.swap(write)
        return list(landed.values())


class AnswersByKey(Wrong):
    """Answers in the order of the keys: the batch was sorted for its locks, and stayed
    so.
    """

    caught_by = "answers_come_in_the_order_of_the_writes"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        return await super().swap_all(sorted(writes, key=lambda write: write.key))


class AnswersWinnersFirst(Wrong):
    """Answers replacements before creations: they are two statements."""

    caught_by = "answers_come_in_the_order_of_the_writes"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        return sorted(await super().swap_all(writes), reverse=True)


class AnswersByPlaceInTheChunk(Wrong):
    """Says of the wrong writes that they did not land: it commits 25 at a time, and
    DynamoDB numbers its ``CancellationReasons`` from 0 in each.
    """

    caught_by = "answers_come_in_the_order_of_the_writes"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        landed = [True] * len(writes)
        for start in range(0, len(writes), 25):
            for place, write in enumerate(writes[start : start + 25]):
                if not await self.swap(write):
                    landed[place] = False
        return landed


class LoadsInTheOrderOfTheTable(Wrong):
    """Answers records in the order of the table: ``WHERE k = ANY($1)`` keeps no
    order.
    """

    caught_by = "records_come_in_the_order_of_the_keys"

    def loaded(self, keys: Sequence[str]) -> Loaded:
        return super().loaded(sorted(keys))


class LoadsMissingOnesLast(Wrong):
    """Answers what it found, then None for the rest: it only filled up the list."""

    caught_by = "records_come_in_the_order_of_the_keys"

    def loaded(self, keys: Sequence[str]) -> Loaded:
        loaded = super().loaded(keys)
        return loaded._replace(
            records=sorted(loaded.records, key=lambda rec: rec is None)
        )


class FillsUpTheLastChunk(Wrong):
    """Loads 100 keys at a time, and puts what it found of the later ones in a row: the
    place was looked up for the first request only.
    """

    caught_by = "records_come_in_the_order_of_the_keys"

    def loaded(self, keys: Sequence[str]) -> Loaded:
        loaded = super().loaded(keys)
        later = sorted(loaded.records[100:], key=lambda record: record is None)
        return loaded._replace(records=[*loaded.records[:100], *later])


class LoadsAHundred(Wrong):
    """Loads the first 100 keys of a batch: DynamoDB's ``UnprocessedKeys`` were not
    looked at.
    """

    caught_by = "a_large_batch_is_taken_whole"

    def loaded(self, keys: Sequence[str]) -> Loaded:
        loaded = super().loaded(keys[:100])
        return loaded._replace(records=[*loaded.records, *(None for _ in keys[100:])])


class RefusesWhatAnEngineSends(Wrong):
    """Fails on a batch of more than 16 MiB: MySQL's ``max_allowed_packet``."""

    caught_by = "a_large_batch_is_taken_whole"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        if sum(len(write.record.value) for write in writes) > 16 * 1024 * 1024:
            raise BackendError("Got a packet bigger than 'max_allowed_packet' bytes")
        return await super().commit(writes)


class RefusesLargeBatches(Wrong):
    """Fails on a batch of more than 4 MiB: what gRPC, and so etcd, takes at once."""

    caught_by = "a_large_batch_is_taken_whole"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        if sum(len(write.record.value) for write in writes) > 4 * 1024 * 1024:
            raise BackendError("received message larger than max")
        return await super().commit(writes)


class FailsOnManyKeys(WrongFile):
    """Fails on more than 999 keys: one ``?`` for each, and SQLite's old limit."""

    caught_by = "a_large_batch_is_taken_whole"

    def _read(self, connection: apsw.Connection, keys: Sequence[str]) -> Loaded:
        connection.limit(apsw.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        sql = f"SELECT * FROM botsessions WHERE k IN ({','.join('?' * len(keys))})"
        rows: Any = connection.execute(sql, keys).fetchall()
        found = {k: Record(Version(v, t), b, r, c, e) for k, v, t, r, c, e, b in rows}
        return Loaded(self._now(), [found.get(key) for key in keys])


class FailsOnNoKeys(Wrong):
    """Fails on an empty load: ``WHERE k IN ()`` is no SQL."""

    caught_by = "an_empty_batch_is_fine"

    async def load(self, keys: Sequence[str]) -> Loaded:
        if not keys:
            raise BackendError("syntax error at or near ')'")
        return await super().load(keys)


class FailsOnNoWrites(Wrong):
    """Fails on an empty commit: ``max()`` of no deadlines."""

    caught_by = "an_empty_batch_is_fine"

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        max(write.not_after for write in writes)
        return await super().commit(writes)


# Time.


class IgnoresNotAfter(Wrong):
    """Writes however late it is: no database asks for that."""

    caught_by = "a_late_write_does_not_land"

    def is_late(self, write: Write) -> bool:
        return False


class LateByOne(Wrong):
    """Writes at ``not_after`` still: ``>`` for ``>=``."""

    caught_by = "a_late_write_does_not_land"

    def is_late(self, write: Write) -> bool:
        return self.now() > write.not_after


class LateByAnotherClock(Wrong):
    """Goes by the client's clock for ``not_after``, and by the server's for ``now``."""

    caught_by = "a_late_write_does_not_land"

    def is_late(self, write: Write) -> bool:
        return time.time() * 1000 >= write.not_after


class LateInSeconds(Wrong):
    """Compares whole seconds, so it refuses what comes up to a second too early."""

    caught_by = "a_late_write_does_not_land"

    def is_late(self, write: Write) -> bool:
        return self.now() // 1000 >= write.not_after // 1000


class CreatesLate(Wrong):
    """Looks at ``not_after`` only where it replaces: the two statements differ."""

    caught_by = "a_late_write_does_not_land"

    def is_late(self, write: Write) -> bool:
        return write.expected is not None and super().is_late(write)


class ClockInSeconds(Wrong):
    """Tells the time in seconds: ``time.time()``, as it is."""

    caught_by = "the_clock_runs_in_milliseconds"

    def now(self) -> int:
        return int(self.clock())


class ClockOfAnotherZone(Wrong):
    """Is hours off: ``datetime.utcnow().timestamp()``, where the zone is not UTC."""

    caught_by = "the_clock_runs_in_milliseconds"

    def now(self) -> int:
        return super().now() - 2 * 3_600_000


class ClockSinceBoot(Wrong):
    """Tells the time since the machine started: ``time.monotonic()`` never goes
    back.
    """

    caught_by = "the_clock_runs_in_milliseconds"

    def now(self) -> int:
        booted = 1_790_000_000_000
        return super().now() - booted


class ClockStandsStill(Wrong):
    """Tells when it was opened: Python evaluates a default once."""

    caught_by = "the_clock_runs_in_milliseconds"

    async def open(self) -> None:
        await super().open()
        self.opened = super().now()

    def now(self) -> int:
        return self.opened


class ClockInFloats(Wrong):
    """Tells the time as a float: ``EXTRACT(EPOCH FROM now()) * 1000``."""

    caught_by = "the_clock_runs_in_milliseconds"

    def now(self) -> int:
        return cast("int", self.clock() * 1000)


# Who sees it, and whose it is.


class AcknowledgesBeforeTheWrite(Wrong):
    """Answers first and writes 10 ms later: write-behind makes it fast."""

    caught_by = "acknowledged_is_seen_by_all"

    async def store(self, place: str, row: Record) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.010, self.disk.rows.__setitem__, place, row)


class ReadsFromItsCache(Wrong):
    """Answers from what it has read or written before: one round trip less."""

    caught_by = "acknowledged_is_seen_by_all"

    async def open(self) -> None:
        await super().open()
        self.cache: dict[str, Record] = {}

    def loaded(self, keys: Sequence[str]) -> Loaded:
        loaded = super().loaded(keys)
        records = [
            self.cache.setdefault(key, rec) if isinstance(rec, Record) else rec
            for key, rec in zip(keys, loaded.records, strict=True)
        ]
        return loaded._replace(records=records)

    async def store(self, place: str, row: Record) -> None:
        await super().store(place, row)
        self.cache[place] = row


class ReadsAsOfItsOpening(Wrong):
    """Reads what was there as it opened, and what it wrote itself: one transaction for
    as long as it is open.
    """

    caught_by = "acknowledged_is_seen_by_all"

    async def open(self) -> None:
        await super().open()
        if self.users == 1:
            self.seen = dict(self.disk.rows)

    def read(self, key: str) -> Record | None:
        return self.seen.get(key)

    async def store(self, place: str, row: Record) -> None:
        await super().store(place, row)
        self.seen[place] = row


class RemembersWhatIsMissing(Wrong):
    """Answers None for ever for what was once missing: a negative cache."""

    caught_by = "acknowledged_is_seen_by_all"

    async def open(self) -> None:
        await super().open()
        self.missing: set[str] = set()

    def read(self, key: str) -> Record | None:
        found = None if key in self.missing else super().read(key)
        if found is None:
            self.missing.add(key)
        return found

    async def store(self, place: str, row: Record) -> None:
        await super().store(place, row)
        self.missing.discard(place)


class UsesOneListForAll(Wrong):
    """Answers each load in the same list: to allocate is slow."""

    caught_by = "answers_do_not_change_afterwards"

    async def open(self) -> None:
        await super().open()
        self.answer: list[Any] = []

    async def load(self, keys: Sequence[str]) -> Loaded:
        loaded = await super().load(keys)
        self.answer[:] = loaded.records
        return loaded._replace(records=self.answer)


class UsesOneListOfAnswers(Wrong):
    """Answers each commit in the same list, the connection's."""

    caught_by = "answers_do_not_change_afterwards"

    async def open(self) -> None:
        await super().open()
        self.answer: list[bool] = []

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        self.answer[:] = await super().swap_all(writes)
        return self.answer


class SortsTheCallersList(Wrong):
    """Sorts the writes it was given in place: ``writes.sort()``, for the locks."""

    caught_by = "what_is_handed_in_stays_as_it_is"

    def lock_order(self, writes: Sequence[Write]) -> list[str]:
        if isinstance(writes, list):
            writes.sort(key=lambda write: write.key)
        return super().lock_order(writes)


class EatsTheCallersKeys(Wrong):
    """Takes the keys out of the list it was given: ``while keys: keys.pop(0)``."""

    caught_by = "what_is_handed_in_stays_as_it_is"

    async def load(self, keys: Sequence[str]) -> Loaded:
        loaded = await super().load(keys)
        if isinstance(keys, list):
            keys.clear()
        return loaded


# What only a longer history shows.


class SkipsWhatIsEqual(Wrong):
    """Writes nothing and answers True if the value is what is there: nothing to do."""

    caught_by = "histories_agree_with_the_model"

    async def swap(self, write: Write) -> bool:
        found = self.read(write.key)
        if found is not None and found.value == write.record.value:
            return self.is_expected(write, found) and not self.is_late(write)
        return await super().swap(write)


class TheLatestEndCounts(Wrong):
    """Takes the latest ``not_after`` of a batch for all of it: one transaction, one
    deadline.
    """

    caught_by = "histories_agree_with_the_model"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        end = max((write.not_after for write in writes), default=0)
        return await super().swap_all([w._replace(not_after=end) for w in writes])


class LateEndsTheBatch(Wrong):
    """Leaves the loop at a write that is late: ``break`` for ``continue``."""

    caught_by = "histories_agree_with_the_model"

    async def swap_all(self, writes: Sequence[Write]) -> list[bool]:
        landed: list[bool] = []
        for write in writes:
            if self.is_late(write):
                break
            landed.append(await self.swap(write))
        return landed + [False] * (len(writes) - len(landed))
