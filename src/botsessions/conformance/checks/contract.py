"""Checks of the contract by one user at a time: what is kept, compared and answered.

Each is a coroutine function that raises ``Violation`` when the backend breaks what its
docstring says. Neighbours: ``subject`` (what they work with), ``run`` (who calls them).
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import Violation
from botsessions.conformance.results import NotSupported
from botsessions.conformance.subject import (
    MINUTE_MS,
    described,
    expect,
    in_a_minute,
    now,
)
from botsessions.errors import BackendError, OutcomeUnknownError
from botsessions.record import GRACE_MS, Record, Version, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botsessions.conformance.subject import Subject, Watched

_MANY = 1_000
# Together they are about 17 MiB: an engine sends 16 MiB at once, and one session more.
_SIZE = 6_200
# More than a server or a driver takes at once that has a limit, such as 25, or 100.
_SEVERAL = 200
_LARGE = 1024 * 1024 + 16
_LONGEST_KEY = 1_200
# Seconds which no clock is off that somebody sets.
_FAR_OFF = 600.0
# Seconds for making a history shorter, on a backend that is slow to answer.
_SHRINKING = 10.0
# What would mean something to SQL, Lua, a shell, a pattern, a path, or a protocol.
_HOSTILE = (
    "'",
    "''",
    '"',
    "'; DROP TABLE botsessions; --",
    "') OR 1=1 --",
    "%",
    # Percent-encoded once more they stay apart, and decoded once too often they do not.
    "A",
    "%41",
    "%2F",
    "_",
    "a%b",
    "*",
    "?",
    "[a-z]",
    "{tag}",
    "{",
    "}",
    "\\",
    "\\'",
    "$1",
    ":name",
    "`id`",
    "..",
    "a..b",
    ".",
    ">",
    "#",
    "key",
    "KEY",
    "Key",
    "~!@^&()+=|<>,;",
    "/",
    "//",
    "null",
    "]]..redis.call('FLUSHALL')..[[",
)


async def concurrent_batches_is_a_number(subject: Subject) -> None:
    """It says how many batches of writes an engine may send at once: 1 or more."""
    backend = (await subject.open()).backend
    most = getattr(backend, "concurrent_batches", None)
    subject.steps.append(f"concurrent_batches is {most!r}")
    expect(type(most) is int and most > 0, f"it is {most!r}, no int of 1 or more")


async def a_missing_key_has_no_record(subject: Subject) -> None:
    """A key that nobody wrote has no record: None, in its place."""
    backend = await subject.open()
    expect(await backend.load(subject.key()) == [None], "there is something")
    there = await backend.must_write(subject.key("there"), None, subject.record())
    found = await backend.load(subject.key(), subject.key("there"), subject.key("3"))
    expect(list(found) == [None, there, None], "not None, the record, None")


async def what_was_committed_is_what_is_loaded(subject: Subject) -> None:
    """Every field of a record comes back as it was, the ring byte for byte."""
    backend = await subject.open()
    before, until = None, await in_a_minute(backend.backend)
    for number in range(10):
        end = until + number if number % 3 else None
        record = subject.record(b"value %d \x00\xff" % number, before, end)
        # A session that began anew in the same record is younger.
        record = record._replace(created_at=record.created_at + number // 4)
        await backend.must_write(subject.key(), before, record)
        found = await backend.found(subject.key())
        for field in Record._fields:
            kept, given = getattr(found, field), getattr(record, field)
            expect(kept == given, f"{field} was {given!r} and is {kept!r}")
        before = record


async def numbers_of_any_size_are_kept(subject: Subject) -> None:
    """Counters up to 2**63 - 1 and tokens of 64 bits with a sign are exact."""
    backend = await subject.open()
    for counter in (1, 2**31, 2**32, 2**53 + 1, 2**63 - 1):
        for token in (0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)):
            key = subject.key(f"{counter}/{token}")
            record = subject.record()._replace(version=Version(counter, token))
            await backend.must_write(key, None, record)
            found = await backend.found(key)
            expect(found.version == record.version, f"it became {found.version}")
            other = record._replace(version=subject.version(7))
            await backend.must_write(key, record, other)


async def times_are_kept_to_the_millisecond(subject: Subject) -> None:
    """``created_at`` and ``expires_at`` are exact, and no end stays none."""
    backend = await subject.open()
    began = await now(backend.backend)
    for number, end in enumerate(
        (None, began + 3_600_001, began + 10**11 + 999, 2**53)
    ):
        key = subject.key(f"{number}")
        record = subject.record(expires_at=end)._replace(created_at=began - 12_345_677)
        await backend.must_write(key, None, record)
        found = await backend.found(key)
        expect(found.created_at == record.created_at, f"created_at: {found.created_at}")
        expect(found.expires_at == end, f"expires_at was {end}, is {found.expires_at}")


async def large_values_are_kept(subject: Subject) -> None:
    """A value may have a mebibyte and a little more, of any bytes."""
    backend = await subject.open()
    until = await in_a_minute(backend.backend)
    for size in (255, 256, 65_535, 65_536, _LARGE):
        value = random.Random(size).randbytes(size)
        # With an end, so that a sweep takes what would stay for ever.
        record = subject.record(value, expires_at=until)
        await backend.must_write(subject.key(f"{size}"), None, record)
        found = await backend.found(subject.key(f"{size}"))
        expect(
            found.value == value, f"{size:,} bytes came back as {len(found.value):,}"
        )


async def small_values_are_kept(subject: Subject) -> None:
    """No byte, one, zeros at the ends, what looks like text: each is kept as it is."""
    backend = await subject.open()
    values = (b"", b"\x00", b"\x00\x00\x00", b"\x01\x00", b" ", b" a ", b"\xff", b"\n")
    for number, value in enumerate((*values, b"null", b"0", b"\\x00", b"\r\n")):
        await backend.must_write(subject.key(f"{number}"), None, subject.record(value))
        found = await backend.found(subject.key(f"{number}"))
        expect(found.value == value, f"{value!r} came back as {found.value!r}")


async def hostile_keys_are_only_keys(subject: Subject) -> None:
    """Printable ASCII is a key, up to 1,200 characters; case counts, nothing else."""
    backend = await subject.open()
    long = "k" * (_LONGEST_KEY - len(subject.prefix) - 1)
    texts = [*_HOSTILE, "x" * 300, "x" * 299, *(long + end for end in "ab")]
    keys = [subject.key(text) for text in texts]
    records = [subject.record(f"of {number}".encode()) for number in range(len(keys))]
    for text, key, record in zip(texts, keys, records, strict=True):
        landed = await backend.write(key, None, record)
        expect(landed, f"{text!r:.40} is taken for a key that was written before it")
    for text, key, record in zip(texts, keys, records, strict=True):
        [of_key] = await backend.load(key)
        other = "nothing" if of_key is None else "the record of another key"
        expect(of_key == record, f"under {text!r:.40} is {other}")
    found = await backend.load(*keys)
    expect(list(found) == records, "loaded together they are others than one by one")


async def each_write_compares_the_counter(subject: Subject) -> None:
    """A write that expects another counter does not land."""
    await _refuses(subject, Version(1, 0))


async def each_write_compares_the_token(subject: Subject) -> None:
    """A write that expects another token does not land, though the counter is right."""
    await _refuses(subject, Version(0, 1))


async def _refuses(subject: Subject, off: Version) -> None:
    backend = await subject.open()
    record = subject.record()._replace(version=Version(5, 1000))
    await backend.must_write(subject.key(), None, record)
    for sign in (-1, 1):
        wrong = Version(5 + sign * off.counter, 1000 + sign * off.token)
        expected = record._replace(version=wrong)
        landed = await backend.write(
            subject.key(), expected, subject.record(b"wrong", record)
        )
        expect(not landed, f"it expected {wrong}, found {record.version}, and landed")
        found = await backend.found(subject.key())
        expect(found == record, "it was told that it did not land, and it did")
    missing = subject.key("missing")
    landed = await backend.write(missing, record, subject.record(b"wrong", record))
    expect(not landed, "it expected a version where nothing is, and landed")
    expect(await backend.load(missing) == [None], "refused, and yet it is there")


async def a_creation_needs_an_absent_key(subject: Subject) -> None:
    """A write that expects no record does not land where one is."""
    backend = await subject.open()
    record = await backend.must_write(subject.key(), None, subject.record())
    landed = await backend.write(subject.key(), None, subject.record(b"another"))
    expect(not landed, "a creation took the place of a record")
    expect(await backend.found(subject.key()) == record, "refused, and yet it landed")


async def a_dead_record_still_guards_its_key(subject: Subject) -> None:
    """A deleted or expired record is loaded, and compared, for a minute still."""
    backend = await subject.open()
    began = await now(backend.backend)
    dead = {
        "deleted": subject.record(b"", expires_at=began + 20),
        "expired": subject.record(expires_at=began + 20),
        "long expired": subject.record(expires_at=began - GRACE_MS // 2),
    }
    for name, record in dead.items():
        await backend.must_write(subject.key(name), None, record)
    await subject.pass_time(60)
    for name, record in dead.items():
        key = subject.key(name)
        expect(await backend.load(key) == [record], f"a record is gone: {name}")
        landed = await backend.write(key, None, subject.record(b"new"))
        expect(not landed, f"a creation landed over a record: {name}")
        after = subject.record(b"", record)
        wrong = record._replace(version=subject.version(record.version.counter))
        landed = await backend.write(key, wrong, after)
        expect(not landed, f"a wrong version was taken over a record: {name}")
        await backend.must_write(key, record, after)


async def a_version_never_comes_back(subject: Subject) -> None:
    """After a delete the versions go on, and none of the earlier writes lands again."""
    backend = await subject.open()
    key, found = subject.key(), None
    until = await in_a_minute(backend.backend)
    sent: list[Write] = []
    for value in (b"first", b"second", b"", b"third", b"", b"fourth"):
        end = None if value else until
        record = subject.record(value, found, end)
        sent.append(Write(key, found and found.version, record, until))
        [landed] = await backend.commit(sent[-1])
        expect(landed is True, "a write that expected what is there did not land")
        found = await backend.found(key)
        expect(found == record, f"not {described(record)}, but {described(found)}")
        for number, write in enumerate(sent, 1):
            [landed] = await backend.commit(write)
            there = write is sent[-1]
            expect(
                await backend.found(key) == record,
                f"write {number} came again, and landed again",
            )
            expect(
                landed is False or (there and landed is True),
                f"write {number} came again, changed nothing, and was told {landed!r}, "
                "though another record is there",
            )


async def the_same_write_twice_lands_once(subject: Subject) -> None:
    """A copy of a write, sent once more behind it, changes nothing.

    It may be told that it landed, as long as what it wrote is what is there.
    """
    backend = await subject.open()
    until = await in_a_minute(backend.backend)
    found = None
    for value in (b"first", b"second", b"third"):
        record = subject.record(value, found)
        write = Write(subject.key(), found and found.version, record, until)
        [landed] = await backend.commit(write)
        expect(landed is True, "a write that expected what is there did not land")
        [again] = await backend.commit(write)
        expect(isinstance(again, bool), f"an error instead of an answer: {again!r}")
        found = await backend.found(subject.key())
        expect(found == record, "a copy of the write has changed what it wrote")


async def writes_of_a_batch_land_each_alone(subject: Subject) -> None:
    """A write that loses does not keep the others of its batch from landing."""
    backend = await subject.open()
    until = await in_a_minute(backend.backend)
    keys = [subject.key(f"{number}") for number in range(6)]
    old = [subject.record(b"old") for _ in keys]
    for key, record in zip(keys, old, strict=True):
        await backend.must_write(key, None, record)
    new = [subject.record(b"new", record) for record in old]
    loses = {1, 4}
    landed = await backend.commit(
        *(
            Write(
                key,
                subject.version() if number in loses else old[number].version,
                new[number],
                until,
            )
            for number, key in enumerate(keys)
        )
    )
    found = await backend.load(*keys)
    for number in range(len(keys)):
        wins = number not in loses
        expect(landed[number] is wins, f"write {number} was told {landed[number]}")
        right = found[number] == (new if wins else old)[number]
        expect(right, f"write {number} was told {wins}, and that is not what is there")


async def a_key_twice_in_one_batch_is_told_the_truth(subject: Subject) -> None:
    """No engine of ours does that; whoever does must not be told that both landed.

    Refusing the batch with an error is as good, if no more than one is there then.
    """
    backend = await subject.open()
    until = await in_a_minute(backend.backend)
    first = await backend.must_write(subject.key(), None, subject.record(b"first"))
    rivals = [subject.record(value, first) for value in (b"one", b"other")]
    writes = [Write(subject.key(), first.version, rival, until) for rival in rivals]
    try:
        landed = list(await backend.backend.commit(writes))
    except BackendError:
        landed = [False, False]
    except Exception as exc:  # noqa: BLE001 - to refuse it is as good, with any error
        landed = [OutcomeUnknownError(str(exc))] * 2
    subject.steps.append(f"commit two writes of one key: {landed}")
    found = await backend.found(subject.key())
    expect(found in {first, *rivals}, "what is there is neither of them")
    told = [record for record, did in zip(rivals, landed, strict=True) if did is True]
    expect(len(told) < 2, "both were told that they landed")
    expect(not told or found == told[0], "what is there is not what was told")
    for rival, did in zip(rivals, landed, strict=True):
        sure = did is False or isinstance(did, BackendError)
        expect(not sure or found != rival, f"told {did!r}, and it is there")


async def answers_come_in_the_order_of_the_writes(subject: Subject) -> None:
    """The answers of a batch stand in the order of its writes."""
    backend = await subject.open()
    until = await in_a_minute(backend.backend)
    keys = [subject.key(f"{number:03}") for number in range(_SEVERAL)]
    there = {key: subject.record() for key in subject.rng.sample(keys, _SEVERAL // 3)}
    await backend.must_create(there)
    subject.rng.shuffle(keys)
    landed = await backend.commit(
        *(Write(key, None, subject.record(), until) for key in keys)
    )
    for number, (key, did) in enumerate(zip(keys, landed, strict=True), 1):
        right = key not in there
        expect(did is right, f"answer {number} of {_SEVERAL} is {did}, not {right}")


async def records_come_in_the_order_of_the_keys(subject: Subject) -> None:
    """The records of a load stand in the order of its keys."""
    backend = await subject.open()
    keys = [subject.key(f"{number:03}") for number in range(_SEVERAL)]
    there = {
        key: subject.record(key[-3:].encode())
        for key in subject.rng.sample(keys, _SEVERAL // 2)
    }
    await backend.must_create(there)
    subject.rng.shuffle(keys)
    found = await backend.load(*keys)
    for number, (key, record) in enumerate(zip(keys, found, strict=True), 1):
        right = there.get(key)
        expect(
            record == right,
            f"record {number} of {_SEVERAL} is {described(record)}, not "
            f"{described(right)}",
        )


async def a_large_batch_is_taken_whole(subject: Subject) -> None:
    """A load and a commit of a thousand keys are no other than those of one."""
    backend = await subject.open()
    until = await in_a_minute(backend.backend)
    # With an end, so that a sweep takes what would stay for ever.
    records = {
        subject.key(f"{number}"): subject.record(
            b"%d" % number * _SIZE, expires_at=until
        )
        for number in range(_MANY)
    }
    await backend.must_create(records)
    found = await backend.load(*records)
    expect(found == [*records.values()], "what is loaded is not what was written")


async def an_empty_batch_is_fine(subject: Subject) -> None:
    """A load of no keys, and a commit of no writes, answer nothing."""
    backend = await subject.open()
    await backend.load()
    await backend.commit()


async def a_late_write_does_not_land(subject: Subject) -> None:
    """From ``not_after`` on a write is refused, not before, by the backend's clock."""
    # Where the clock can stand still, a write can be late by no time at all.
    with suppress(NotSupported):
        subject.stop_clock()
    backend = await subject.open()
    began = await now(backend.backend)
    for late in (0, 1, MINUTE_MS, began):
        # By now it is this moment, or a later one.
        landed = await backend.write(
            subject.key(), None, subject.record(), max(began - late, 1)
        )
        expect(not landed, f"it came {late:,} ms or more too late, and landed")
        expect(await backend.load(subject.key()) == [None], "refused, and it is there")
    there = await backend.must_write(subject.key(), None, subject.record())
    after = subject.record(b"late", there)
    expect(not await backend.write(subject.key(), there, after, began), "it was late")
    expect(await backend.found(subject.key()) == there, "refused, and yet it landed")
    end = await now(backend.backend) + 50
    await subject.pass_time(60)
    expect(
        not await backend.write(subject.key(), there, after, end),
        "its time ran out after it was computed, and it landed",
    )
    for number in range(5):
        key, end = subject.key(f"in time {number}"), await now(backend.backend) + 300
        landed = await backend.write(key, None, subject.record(), end)
        early = end - await now(backend.backend)
        expect(landed or early <= 0, f"{early} ms before its not_after it was refused")
        # Whoever counts in whole seconds is right in some parts of a second.
        await subject.pass_time(130)


async def the_clock_runs_in_milliseconds(subject: Subject) -> None:
    """``now`` is in milliseconds since the epoch, and goes on as time does."""
    backend = await subject.open()
    began = asyncio.get_running_loop().time()
    before = await backend.loaded(subject.key())
    await subject.pass_time(100)
    after = await backend.loaded(subject.key())
    took = 1000 * (asyncio.get_running_loop().time() - began) + 100
    expect(type(after.now) is int, f"it is {type(after.now).__name__}, not int")
    passed = after.now - before.now
    expect(80 <= passed <= took + 20, f"100 ms passed, and it went on by {passed}")
    a_year = 365 * 24 * 3600 * 1000
    plausible = 50 * a_year < after.now < 1000 * a_year
    expect(plausible, f"{after.now} is no time of these years")
    ahead = after.now / 1000 - time.time()
    expect(
        abs(ahead) < _FAR_OFF,
        f"it is {ahead / 3600:+.2f} h off the clock of this machine: a time zone?",
    )


async def acknowledged_is_seen_by_all(subject: Subject) -> None:
    """A load that starts after a commit was acknowledged sees it, whoever asks."""
    one, other = await subject.open(), await subject.open()
    for who in (one, other):
        # That it was missing must not be remembered either.
        expect(await who.load(subject.key()) == [None], "there is something")
    found = None
    for number in range(10):
        writer, reader = (one, other) if number % 2 else (other, one)
        record = subject.record(b"%d" % number, found)
        found = await writer.must_write(subject.key(), found, record)
        for who in (reader, writer):
            seen = await who.load(subject.key())
            expect(seen == [record], "acknowledged, and not what a load shows then")


async def answers_do_not_change_afterwards(subject: Subject) -> None:
    """What load and commit gave stays as it is, whatever comes, and is the caller's."""
    backend = await subject.open()
    first = await backend.must_write(subject.key(), None, subject.record())
    loaded = (await backend.loaded(subject.key(), subject.key("other"))).records
    kept = list(loaded)
    landed = await backend.commit(
        Write(
            subject.key(),
            first.version,
            subject.record(b"second", first),
            await in_a_minute(backend.backend),
        )
    )
    await backend.load(subject.key())
    await backend.commit()
    expect(list(loaded) == kept, "what was loaded earlier shows a later state")
    expect(list(landed) == [True], "the answers of an earlier commit have changed")
    if isinstance(loaded, list):
        loaded.clear()
    if isinstance(landed, list):
        landed.clear()
    [found] = await backend.load(subject.key())
    expect(isinstance(found, Record), "it was the backend's own list")


async def what_is_handed_in_stays_as_it_is(subject: Subject) -> None:
    """Keys and writes that are handed in are read, not changed, in any order."""
    backend = (await subject.open()).backend
    until = await in_a_minute(backend)
    names = ["c", "a", "b"]
    writes = [Write(subject.key(name), None, subject.record(), until) for name in names]
    keys = [write.key for write in writes]
    subject.steps.append("commit and load c, a, b, in lists of the caller's")
    given = list(writes), list(keys)
    await backend.commit(writes)
    await backend.load(keys)
    expect((writes, keys) == given, "the caller's lists are others now")


async def histories_agree_with_the_model(subject: Subject) -> None:
    """Whatever is loaded and written in turn, it is as with a dict of records."""
    backend = await subject.open()
    plan = [_drawn(subject.rng) for _ in range(120)]
    if await _differs(subject, backend, plan, "all") is None:
        return
    # Leave out, one after the other, what the difference does not need.
    until = time.monotonic() + _SHRINKING
    for at in reversed(range(len(plan))):
        if time.monotonic() > until:
            break
        shorter = plan[:at] + plan[at + 1 :]
        if await _differs(subject, backend, shorter, f"{at}") is not None:
            plan = shorter
    wrong = await _differs(subject, backend, plan, "shortest")
    raise Violation(wrong or "wrong now and then, and not with these operations again")


# One operation: which keys, and for a commit how each write comes about.
_Drawn = tuple[tuple[str, ...], tuple[str, ...]]


def _drawn(rng: random.Random) -> _Drawn:
    keys = rng.sample("abcd", rng.randint(1, 3))
    if rng.random() < 0.3:
        return (tuple(keys), ())
    kinds = ["right"] * 6 + ["none", "stale", "token", "late", "delete", "delete"]
    return (tuple(keys), tuple(rng.choice(kinds) for _ in keys))


async def _differs(
    subject: Subject, backend: Watched, plan: Sequence[_Drawn], name: str
) -> str | None:
    """Play operations on keys of their own; say where backend and model differ."""
    subject.steps.clear()
    model = _Model(subject, await in_a_minute(backend.backend))
    for letters, kinds in [*plan, (tuple("abcd"), ())]:
        keys = [subject.key(f"{name}/{letter}") for letter in letters]
        if not kinds:
            right = [model.records.get(key) for key in keys]
            if list(await backend.load(*keys)) != right:
                shown = ", ".join(map(described, right))
                return f"what is loaded should be {shown}"
            continue
        drawn = zip(keys, kinds, strict=True)
        writes, lands = zip(*(model.write(*pair) for pair in drawn), strict=True)
        if tuple(await backend.commit(*writes)) != lands:
            return f"the answers should be {list(lands)}"
    return None


class _Model:
    """What should be there: a dict of records, and their versions before the last."""

    def __init__(self, subject: Subject, until: int) -> None:
        self.records: dict[str, Record] = {}
        self._older: dict[str, Version] = {}
        self._subject = subject
        self._until = until

    def write(self, key: str, kind: str) -> tuple[Write, bool]:
        """Return a write of some kind, and whether it lands."""
        there = self.records.get(key)
        current = there and there.version
        value, end = (b"", self._until) if kind == "delete" else (kind.encode(), None)
        record = self._subject.record(value, there, end)
        expected = current
        if kind == "none":
            expected = None
        elif kind == "stale":
            expected = self._older.get(key, self._subject.version())
        elif kind == "token" and current is not None:
            expected = self._subject.version(current.counter)
        not_after = 1 if kind == "late" else self._until
        lands = kind != "late" and expected == current
        if lands:
            if current is not None:
                self._older[key] = current
            self.records[key] = record
        return Write(key, expected, record, not_after), lands


CHECKS = (
    concurrent_batches_is_a_number,
    a_missing_key_has_no_record,
    what_was_committed_is_what_is_loaded,
    numbers_of_any_size_are_kept,
    times_are_kept_to_the_millisecond,
    large_values_are_kept,
    small_values_are_kept,
    hostile_keys_are_only_keys,
    each_write_compares_the_counter,
    each_write_compares_the_token,
    a_creation_needs_an_absent_key,
    a_dead_record_still_guards_its_key,
    a_version_never_comes_back,
    the_same_write_twice_lands_once,
    writes_of_a_batch_land_each_alone,
    a_key_twice_in_one_batch_is_told_the_truth,
    answers_come_in_the_order_of_the_writes,
    records_come_in_the_order_of_the_keys,
    a_large_batch_is_taken_whole,
    an_empty_batch_is_fine,
    a_late_write_does_not_land,
    the_clock_runs_in_milliseconds,
    acknowledged_is_seen_by_all,
    answers_do_not_change_afterwards,
    what_is_handed_in_stays_as_it_is,
    histories_agree_with_the_model,
)
