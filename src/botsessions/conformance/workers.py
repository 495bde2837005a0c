"""Who append to records and read them, by load and commit alone, and note each call.

A record's value is the list of the ids of the appends that made it, eight bytes each.
Its version says the same, how many and which was the last, so that a reader notices a
record that was put together from two. Ticks are nanoseconds of the monotonic clock,
which all processes of a machine share. Neighbours: ``contention`` and ``child`` let
them work, ``history`` says what a call is.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import (
    Call,
    Ids,
    Outcome,
    Verb,
    Violation,
)
from botsessions.conformance.subject import MINUTE_MS, expect, fresh
from botsessions.errors import OutcomeUnknownError
from botsessions.record import Record, Version, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from botsessions.backend import Backend

# Ids of one worker are below this; its number says where they begin.
_STRIDE = 100_000
# More refusals in turn than others can have been faster.
_REFUSALS = 1_000
# The most seconds between two appends of one worker.
_PAUSE = 0.002


async def append_in_turn(
    backend: Backend, keys: Sequence[str], number: int, times: int
) -> list[Call]:
    """Append so many ids to the records of keys, in turn; return the calls."""
    rng = random.Random(number)
    calls: list[Call] = []
    for turn in range(times):
        key = keys[(number + turn) % len(keys)]
        refusals = 0
        while await append(backend, key, number, calls, rng) is False:
            refusals += 1
            expect(refusals < _REFUSALS, f"refused {_REFUSALS:,} times in turn")
            await asyncio.sleep(rng.random() * _PAUSE)
        await asyncio.sleep(rng.random() * _PAUSE)
    return calls


async def append(  # noqa: PLR0913, PLR0917 - who, where, and to whom it is told
    backend: Backend,
    key: str,
    number: int,
    calls: list[Call],
    rng: random.Random,
    tell: Callable[[Call], None] = lambda _: None,
) -> bool | None:
    """Append one id, unless somebody was faster; None if nobody knows.

    ``tell`` is told of each call that was answered, and of the change as it begins.
    """
    record, now = await _read(backend, key, number, calls)
    tell(calls[-1])
    before = ids_in(record)
    call = _begin(calls, number, key, Verb.UPDATE)
    tell(call)
    after = (*before, call.id)
    value = b"".join(i.to_bytes(8, "big") for i in after)
    expected = None if record is None else record.version
    new = fresh(rng, value, record)._replace(version=_version_of(after))
    write = Write(key, expected, new, now + MINUTE_MS)
    try:
        [landed] = await backend.commit([write])
    except OutcomeUnknownError:
        landed = OutcomeUnknownError()
    call.returned = time.monotonic_ns()
    if isinstance(landed, OutcomeUnknownError):
        return None
    call.outcome = Outcome.DONE if landed is True else Outcome.FAILED
    call.saw = after if landed is True else None
    tell(call)
    return landed is True


async def read_all(backend: Backend, keys: Sequence[str], number: int) -> list[Call]:
    """Read the record of each key; return the calls."""
    calls: list[Call] = []
    for key in keys:
        await _read(backend, key, number, calls)
    return calls


async def read_while(
    at_work: Collection[int], backend: Backend, key: str, number: int
) -> list[Call]:
    """Read a record as long as anybody is at work; return the calls."""
    calls: list[Call] = []
    while at_work:
        await _read(backend, key, number, calls)
        await asyncio.sleep(_PAUSE / 10)
    return calls


def ids_in(record: Record | None) -> Ids:
    """Return the ids that a record lists."""
    value = b"" if record is None else record.value
    if len(value) % 8:
        raise Violation(f"a value was cut: {len(value)} bytes are no list of ids")
    return tuple(_numbers(value))


async def _read(
    backend: Backend, key: str, number: int, calls: list[Call]
) -> tuple[Record | None, int]:
    call = _begin(calls, number, key, Verb.GET)
    loaded = await backend.load([key])
    call.returned = time.monotonic_ns()
    [record] = loaded.records
    if record is not None and not isinstance(record, Record):
        raise Violation(f"an error instead of a record: {record!r}")
    call.outcome, call.saw = Outcome.DONE, ids_in(record)
    if record is not None and record.version != _version_of(call.saw):
        raise Violation(
            f"the value of one version under another: {record.version} beside a list "
            f"of {len(call.saw)} that ends with {call.saw[-1:]}"
        )
    return record, loaded.now


def _begin(calls: list[Call], number: int, key: str, verb: Verb) -> Call:
    ident = (number + 1) * _STRIDE + len(calls)
    call = Call(ident, key, verb, time.monotonic_ns(), process=f"worker {number}")
    calls.append(call)
    return call


def _version_of(ids: Ids) -> Version:
    return Version(len(ids), ids[-1] if ids else 0)


def _numbers(value: bytes) -> Iterator[int]:
    for at in range(0, len(value), 8):
        yield int.from_bytes(value[at : at + 8], "big")
