"""Checks of calls that are cancelled: at each await, one alone and many at once.

One alone shows what is left half done; many at once use up whatever each of them does
not give back. Neighbours: ``subject``, ``steps`` (who cancels), ``endings`` (whose part
this is).
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions.backend import SupportsListing, SupportsSweeping
from botsessions.conformance.histories.history import Violation
from botsessions.conformance.leftovers import leaves_nothing
from botsessions.conformance.steps import Moment, cancelled_at
from botsessions.conformance.subject import (
    expect,
    in_a_minute,
    now,
    opened,
    together,
    within,
)
from botsessions.errors import BackendError, BackendUnavailableError
from botsessions.record import GRACE_MS, Record, Write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from botsessions.backend import Backend
    from botsessions.conformance.subject import Subject

T = TypeVar("T")

# The most awaits at which a call is cancelled, one after the other.
_AWAITS = 60
# How many calls are cancelled at once: more than a pool has connections.
_AT_ONCE = 12
# How many backends are opened, or closed, at once, each cancelled.
_TIMES = 5
# Seconds after which no further await is tried; for which a backend may look for its
# server, when somebody who waited for it was cancelled; and between two calls then.
_LONG, _AWAY, _PAUSE = 20.0, 5.0, 0.01


async def a_cancelled_load_leaves_it_usable(subject: Subject) -> None:
    """Cancelled at whichever await, a load leaves a backend that works."""
    watched = await subject.open()
    backend, key = watched.backend, subject.key()
    record = await watched.must_write(key, None, subject.record())
    other = subject.key("other")
    await watched.must_write(other, None, subject.record(b"other"))

    async def cancel(at: int, moment: Moment, count: int) -> bool:
        # Of another key: an answer that comes late must not be taken for this one's.
        load = partial(backend.load, [other])
        reached = await _cancel(at, moment, [load] * count)
        subject.steps.append("load key")
        found = await _usable(partial(backend.load, [key]), "the next load waits")
        expect(list(found.records) == [record], "the next load shows something else")
        return reached

    await _at_each(subject, "load other", cancel)


async def a_cancelled_commit_leaves_it_usable(subject: Subject) -> None:
    """Cancelled at whichever await, each write of a commit has landed whole or not."""
    backend = (await subject.open()).backend
    keys = [subject.key(name) for name in "abc"]
    there: list[Record | None] = [None for _ in keys]

    async def cancel(at: int, moment: Moment, count: int) -> bool:
        until = await in_a_minute(backend)
        new = [subject.record(b"%d" % at, record) for record in there]
        writes = [
            Write(key, record and record.version, after, until)
            for key, record, after in zip(keys, there, new, strict=True)
        ]
        # Of other keys: else they would wait for each other, and not for the backend.
        more = [_creation(subject, f"{number}", until) for number in range(1, count)]
        [(reached, landed), *others] = await together(
            cancelled_at(at, partial(backend.commit, writes), moment),
            *(cancelled_at(at, partial(backend.commit, [w]), moment) for w in more),
        )
        refuse = partial(_must_refuse, subject, backend, keys)
        await _usable(refuse, "the next commit waits for ever")
        found = (await within(backend.load(keys), "the next load waits")).records
        for record, old, after in zip(found, there, new, strict=True):
            expect(record in {old, after}, f"neither before nor after: {record!r}")
        # It may have been answered all the same; then that is true.
        for did, record, after in zip(landed or (), found, new, strict=False):
            told = not isinstance(did, bool) or did is (record == after)
            expect(told, f"it was told {did}, and that is not what is there")
        for number, key in enumerate(keys):
            there[number] = await write_over(subject, backend, key)
        return reached or any(got_there for got_there, _ in others)

    await _at_each(subject, "commit a, b, c", cancel)


async def a_cancelled_open_leaves_nothing_open(subject: Subject) -> None:
    """Cancelled at whichever await, an open leaves nothing open; the next one works."""
    backend = await subject.unopened()
    # Or the garbage collector would close what they have forgotten.
    made: list[Backend] = []

    async def cancel(at: int, moment: Moment, count: int) -> bool:
        reached = False
        backends = _several(subject, backend, count)
        made.extend(backends)
        told = await together(
            *(cancelled_at(at, partial(_opened, one), moment) for one in backends)
        )
        for one, (got_there, is_open) in zip(backends, told, strict=True):
            reached |= got_there
            if is_open:
                await within(one.aclose(), "it does not close")
        await together(*(_can_be_opened(subject, one) for one in backends))
        return reached

    await look(backend, subject.key())
    async with leaves_nothing(_TIMES, "an open that was cancelled"):
        await _at_each(subject, "open", cancel, at_once=_TIMES)


async def a_cancelled_close_leaves_nothing_open(subject: Subject) -> None:
    """Cancelled at whichever await, a close leaves nothing open; it can be reopened."""
    backend = await subject.unopened()
    made: list[Backend] = []

    async def used(one: Backend) -> None:
        await one.open()
        await together(*(one.load([subject.key()]) for _ in range(3)))

    async def cancel(at: int, moment: Moment, count: int) -> bool:
        backends = _several(subject, backend, count)
        made.extend(backends)
        await together(*map(used, backends))
        reached = await _cancel(at, moment, [one.aclose for one in backends])
        await together(*(_can_be_opened(subject, one) for one in backends))
        return reached

    await look(backend, subject.key())
    async with leaves_nothing(_TIMES, "a close that was cancelled"):
        await _at_each(subject, "open, load, close", cancel, at_once=_TIMES)


async def a_cancelled_walk_leaves_it_usable(subject: Subject) -> None:
    """Cancelled at whichever await, a walk leaves a backend that works."""
    lister: SupportsListing = await subject.able(SupportsListing, "list_pages")
    watched = await subject.open()
    keys = [subject.key(f"{number}") for number in range(5)]
    for key in keys:
        await watched.must_write(key, None, subject.record())

    async def walk() -> list[str]:
        pages = lister.list_pages(subject.prefix, "", 2)
        return [key async for page in pages for key, _ in page.entries]

    async def cancel(at: int, moment: Moment, count: int) -> bool:
        reached = await _cancel(at, moment, [walk] * count)
        found = await _usable(walk, "the next walk is never over")
        expect(found == keys, f"the next walk brings {len(found)} of {len(keys)} keys")
        return reached

    await _at_each(subject, "walk", cancel)


async def a_cancelled_sweep_leaves_it_usable(subject: Subject) -> None:
    """Cancelled at whichever await, a sweep has taken only the dead, and none is stuck.

    The next sweep takes the rest.
    """
    sweeper: SupportsSweeping = await subject.able(SupportsSweeping, "sweep")
    watched = await subject.open()
    alive = await watched.must_write(subject.key("alive"), None, subject.record())
    dead = [subject.key(f"dead/{number}") for number in range(3)]
    sweep = partial(sweeper.sweep, subject.prefix, 100)

    async def cancel(at: int, moment: Moment, count: int) -> bool:
        ended = await now(watched.backend) - 2 * GRACE_MS
        for key in dead:
            # What is swept, or is not, can be written; a server may remove it itself.
            await write_over(subject, watched.backend, key, ended)
        reached = await _cancel(at, moment, [sweep] * count)
        await _usable(sweep, "the next sweep is never over")
        found = await watched.load(subject.key("alive"), *dead)
        expect(found[0] == alive, "it took more than the dead")
        return reached

    await _at_each(subject, "sweep", cancel)
    for key in dead:
        await write_over(subject, watched.backend, key)


async def _at_each(
    subject: Subject,
    call: str,
    cancel: Callable[[int, Moment, int], Awaitable[bool]],
    *,
    at_once: int = _AT_ONCE,
) -> None:
    """Let calls be cancelled at each await, in each way, one alone and many at once.

    ``cancel`` tells whether a call got to that await.
    """
    until = time.monotonic() + _LONG
    for at in range(1, _AWAITS):
        reached = False
        for moment in Moment:
            for count in (1, at_once):
                times = "" if count == 1 else f", {count} at once"
                subject.steps[:] = [
                    f"{call}{times}: cancelled at await {at}, {moment.value}"
                ]
                reached |= await cancel(at, moment, count)
        if not reached or time.monotonic() > until:
            return


async def _usable(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Make the next call; a server that somebody gave up may be asked for first."""

    async def insist() -> T:
        until = time.monotonic() + _AWAY
        while True:
            try:
                return await call()
            except BackendUnavailableError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(_PAUSE)

    return await within(insist(), what)


def _several(subject: Subject, backend: Backend, count: int) -> list[Backend]:
    return [backend] if count == 1 else [subject.made() for _ in range(count)]


async def _can_be_opened(subject: Subject, backend: Backend) -> None:
    next_one = partial(look, backend, subject.key())
    await _usable(next_one, "the next open, load and close wait")


async def _opened(backend: Backend) -> bool:
    await backend.open()
    return True


async def look(backend: Backend, key: str) -> None:
    """Open a backend, load from it, and close it."""
    async with opened(backend):
        await backend.load([key])


async def write_over(
    subject: Subject, backend: Backend, key: str, expires_at: int | None = None
) -> Record:
    """Replace what is there, though something cancelled may come in between."""

    async def write() -> Record:
        while True:
            [found] = (await backend.load([key])).records
            if isinstance(found, BackendError):
                raise Violation(f"it cannot be read: {found!r}")
            record = subject.record(b"over", found, expires_at)
            expected = found and found.version
            until = await in_a_minute(backend)
            [landed] = await backend.commit([Write(key, expected, record, until)])
            if landed is True:
                return record

    return await within(write(), "what expects what is there does not land")


async def _cancel(
    at: int, moment: Moment, calls: Sequence[Callable[[], Coroutine[Any, Any, object]]]
) -> bool:
    """Make calls at once, each cancelled at its so many-th await, if one gets there."""
    told = await together(*(cancelled_at(at, call, moment) for call in calls))
    return any(got_there for got_there, _ in told)


async def _must_refuse(subject: Subject, backend: Backend, keys: list[str]) -> None:
    """Commit what expects what never was."""
    until = await in_a_minute(backend)
    wrong = [
        Write(key, subject.version(), subject.record(b"wrong"), until) for key in keys
    ]
    answers = list(await backend.commit(wrong))
    expect(
        answers == [False, False, False],
        f"the next commit expects what never was, and is told {answers}",
    )


def _creation(subject: Subject, name: str, until: int) -> Write:
    return Write(subject.key(f"other/{name}"), None, subject.record(), until)


CHECKS = (
    a_cancelled_load_leaves_it_usable,
    a_cancelled_commit_leaves_it_usable,
    a_cancelled_open_leaves_nothing_open,
    a_cancelled_close_leaves_nothing_open,
    a_cancelled_walk_leaves_it_usable,
    a_cancelled_sweep_leaves_it_usable,
)
