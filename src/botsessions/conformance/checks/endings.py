"""Checks of what ends: cancelled calls, closing, other event loops, kills.

Neighbours: ``cancelled`` (the first of them), ``child`` (the process that is killed),
``contention`` (what happens at once).
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from botsessions.conformance import child
from botsessions.conformance.checks import cancelled
from botsessions.conformance.checks.cancelled import look, write_over
from botsessions.conformance.leftovers import leaves_nothing
from botsessions.conformance.steps import Moment
from botsessions.conformance.subject import (
    expect,
    in_a_minute,
    on_another_loop,
    opened,
    together,
    within,
)
from botsessions.conformance.witness import judge
from botsessions.conformance.workers import read_all
from botsessions.record import Record, Write

if TYPE_CHECKING:
    from botsessions.backend import Backend
    from botsessions.conformance.histories.history import Call
    from botsessions.conformance.subject import Subject

# How often a process is killed at some moment; the most awaits at which one is, and
# seconds after which no further await is tried.
_KILLS, _AWAITS, _LONG = 3, 20, 10.0
# How often a backend is opened and closed, and how many loads are made meanwhile.
_TIMES, _AT_ONCE = 10, 20
# How many changes are made by one that is open.
_CHANGES = 50


async def reopening_keeps_what_was_acknowledged(subject: Subject) -> None:
    """What was acknowledged is there when all have closed, and one opens again."""
    keys = [subject.key(f"{number}") for number in range(20)]
    found: list[Record | None] = [None for _ in keys]
    for turn in range(3):
        async with opened(await subject.unopened()) as backend:
            loaded = await backend.load(keys)
            subject.steps.append(f"open {turn + 1}, load, replace all, close")
            expect(list(loaded.records) == found, "what was acknowledged is not there")
            until = await in_a_minute(backend)
            new = [subject.record(b"%d" % turn, record) for record in found]
            writes = [
                Write(key, old and old.version, after, until)
                for key, old, after in zip(keys, found, new, strict=True)
            ]
            landed = await backend.commit(writes)
            expect(all(did is True for did in landed), "what is there was not expected")
        found = list(new)


async def several_stores_may_open_it(subject: Subject) -> None:
    """Opened twice and closed once, a backend is open, and holds what it held."""
    key, record = subject.key(), subject.record()
    after = subject.record(b"after", record)
    subject.steps.append("open, commit, open, load, close, commit, close")
    async with opened(await subject.unopened()) as backend:
        until = await in_a_minute(backend)
        [landed] = await backend.commit([Write(key, None, record, until)])
        expect(landed is True, "a creation did not land")
        async with opened(backend):
            found = (await backend.load([key])).records
            expect(list(found) == [record], "the second open has changed what is there")
        [landed] = await backend.commit([Write(key, record.version, after, until)])
        expect(landed is True, "one of two has closed it, and now it does not write")
    subject.steps.append("three at once: open, load, close")
    await together(*(look(backend, key) for _ in range(3)))


async def what_is_closed_leaves_nothing_open(subject: Subject) -> None:
    """Opened, used by many at once and closed, a backend leaves nothing open."""
    keys = [subject.key(f"{number}") for number in range(_AT_ONCE)]
    # Or the garbage collector would close what they have forgotten.
    made: list[Backend] = []

    async def change(backend: Backend) -> None:
        until = await in_a_minute(backend)
        record = subject.record(expires_at=until)
        await backend.commit([Write(subject.key(), None, record, until)])

    async def use() -> None:
        made.append(subject.made())
        async with opened(made[-1]) as backend:
            await together(*(backend.load([key]) for key in keys))
            await change(backend)

    # What is made once, for good, is there then.
    for _ in range(3):
        await use()
    subject.steps.append(f"{_TIMES} times: open, {_AT_ONCE} loads at once, close")
    async with leaves_nothing(_TIMES, "opening and closing it"):
        for _ in range(_TIMES):
            await use()
    async with opened(subject.made()) as backend:
        await change(backend)
        subject.steps.append(f"{_CHANGES} times: load, commit")
        # More of them than a pool has connections, which may still be filling itself.
        async with leaves_nothing(_CHANGES, "a load and a commit"):
            for _ in range(_CHANGES):
                await change(backend)


async def it_works_on_another_event_loop(subject: Subject) -> None:
    """Closed on one event loop, a backend can be opened on another, later."""
    backend = await subject.unopened()
    keys = [subject.key(f"{number}") for number in range(3)]
    for turn in range(3):
        subject.steps.append(f"event loop {turn + 1}: open, commits at once, close")
        await on_another_loop(partial(_use, subject, backend, keys))


async def _use(subject: Subject, backend: Backend, keys: list[str]) -> None:
    async with opened(backend):
        await together(*(write_over(subject, backend, key) for key in keys))


async def it_serves_several_event_loops_at_once(subject: Subject) -> None:
    """Opened on an event loop, a backend can be opened on another thread's as well."""
    keys = [subject.key(f"{number}") for number in range(3)]
    subject.steps.append("open on an event loop; on another: open, commit, close")
    async with opened(await subject.unopened()) as backend:
        await together(*(write_over(subject, backend, key) for key in keys))
        use = partial(_use, subject, backend, keys)
        await together(on_another_loop(use), on_another_loop(use))
        await together(*(write_over(subject, backend, key) for key in keys))


async def a_kill_at_any_await_leaves_it_usable(subject: Subject) -> None:
    """Killed at whichever await, each write of a commit has landed whole or not.

    Whatever the process had locked is free, soon.
    """
    await subject.need_shared()
    backend = (await subject.open()).backend
    keys = [subject.key(name) for name in "abc"]
    there = [await write_over(subject, backend, key) for key in keys]
    ends = time.monotonic() + _LONG
    for at in range(1, _AWAITS + 1):
        got_there = False
        for moment in (Moment.WAITING, Moment.ANSWERED):
            subject.steps[:] = [f"commit a, b, c: killed at await {at}, {moment.value}"]
            until = await in_a_minute(backend)
            new = [subject.record(b"%d" % at, record) for record in there]
            writes = [
                Write(key, old.version, after, until)
                for key, old, after in zip(keys, there, new, strict=True)
            ]
            got_there |= await child.commit_and_die(subject.make, writes, at, moment)
            found = (await within(backend.load(keys), "the next load waits")).records
            for record, old, after in zip(found, there, new, strict=True):
                expect(record in {old, after}, f"neither before nor after: {record!r}")
            there = [await write_over(subject, backend, key) for key in keys]
        if not got_there or time.monotonic() > ends:
            break


async def a_kill_loses_nothing_acknowledged(subject: Subject) -> None:
    """What a process was told before SIGKILL is there, once; the rest whole or not."""
    await subject.need_shared()
    keys = [subject.key(f"{number}") for number in range(8)]
    backend = (await subject.open()).backend
    calls: list[Call] = []
    for number in range(_KILLS):
        seconds = 0.1 + 0.2 * subject.rng.random()
        subject.steps.append(f"a process appends, and is killed after {seconds:.2f} s")
        calls += await child.hammer(subject.make, keys, number, seconds)
        calls += await read_all(backend, keys, _KILLS + number)
    judge(subject, calls)


CHECKS = (
    *cancelled.CHECKS,
    reopening_keeps_what_was_acknowledged,
    several_stores_may_open_it,
    what_is_closed_leaves_nothing_open,
    it_works_on_another_event_loop,
    it_serves_several_event_loops_at_once,
    a_kill_at_any_await_leaves_it_usable,
    a_kill_loses_nothing_acknowledged,
)
