"""Checks of what interrupts: cancelling, closing, other event loops, kills.

Neighbours: ``subject``, ``child`` (the process that is killed), ``contention`` (what
happens at once).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions.conformance import child
from botsessions.conformance.histories.history import Violation
from botsessions.conformance.subject import expect, soon
from botsessions.conformance.witness import judge
from botsessions.conformance.workers import read_in_turn
from botsessions.errors import BackendError, OutcomeUnknownError
from botsessions.record import Record, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from botsessions.backend import Backend
    from botsessions.conformance.histories.history import Call
    from botsessions.conformance.subject import Subject

T = TypeVar("T")

# The most awaits at which a call is cancelled, one after the other.
_AWAITS = 60
# Seconds for which a backend may be busy with what was cancelled.
_PATIENCE = 10.0
# How often a process is killed.
_KILLS = 3


async def a_cancelled_load_leaves_it_usable(subject: Subject) -> None:
    """Cancelled at whichever await, a load leaves a backend that works."""
    watched = await subject.open()
    backend, key = watched.backend, subject.key()
    record = await watched.must_write(key, None, subject.record())
    other = subject.key("other")
    await watched.must_write(other, None, subject.record(b"other"))
    for at in range(1, _AWAITS):
        steps = f"load other, cancelled at its await number {at}; load key"
        subject.steps[:] = [steps]
        # Of another key: an answer that comes late must not be taken for this one's.
        reached, _ = await _cancelled_at(at, partial(backend.load, [other]))
        found = await _soon(backend.load([key]))
        expect(list(found.records) == [record], "the next load shows something else")
        if not reached:
            return


async def a_cancelled_commit_leaves_it_usable(subject: Subject) -> None:
    """Cancelled at whichever await, each write of a commit has landed whole or not."""
    backend = (await subject.open()).backend
    keys = [subject.key(name) for name in "abc"]
    there: list[Record | None] = [None for _ in keys]
    for at in range(1, _AWAITS):
        subject.steps[:] = [f"commit a, b, c, cancelled at its await number {at}"]
        until = await soon(backend)
        new = [subject.record(b"%d" % at, record) for record in there]
        writes = [
            Write(key, record and record.version, after, until)
            for key, record, after in zip(keys, there, new, strict=True)
        ]
        reached, landed = await _cancelled_at(at, partial(backend.commit, writes))
        wrong = [
            Write(key, subject.version(), subject.record(b"wrong"), until)
            for key in keys
        ]
        answers = list(await _soon(backend.commit(wrong)))
        expect(
            answers == [False, False, False],
            f"the next commit expects what never was, and is told {answers}",
        )
        found = (await _soon(backend.load(keys))).records
        for record, old, after in zip(found, there, new, strict=True):
            expect(record in {old, after}, f"neither before nor after: {record!r}")
        # It may have been answered all the same; then that is true.
        for did, record, after in zip(landed or (), found, new, strict=False):
            told = not isinstance(did, bool) or did is (record == after)
            expect(told, f"it was told {did}, and that is not what is there")
        for number, key in enumerate(keys):
            there[number] = await _write_over(subject, backend, key)
        if not reached:
            return


async def reopening_keeps_what_was_acknowledged(subject: Subject) -> None:
    """What was acknowledged is there when all have closed, and one opens again."""
    backend = await subject.user()
    keys = [subject.key(f"{number}") for number in range(20)]
    found: list[Record | None] = [None for _ in keys]
    for turn in range(3):
        await backend.open()
        loaded = await backend.load(keys)
        subject.steps.append(f"open {turn + 1}, load, replace all, close")
        expect(list(loaded.records) == found, "what was acknowledged is not there")
        until = await soon(backend)
        new = [subject.record(b"%d" % turn, record) for record in found]
        writes = [
            Write(key, old and old.version, after, until)
            for key, old, after in zip(keys, found, new, strict=True)
        ]
        landed = await backend.commit(writes)
        expect(all(did is True for did in landed), "what is there was not expected")
        await backend.aclose()
        found = list(new)
        backend = await subject.user()


async def several_stores_may_open_it(subject: Subject) -> None:
    """Opened twice and closed once, a backend is open, and holds what it held."""
    backend, key = await subject.user(), subject.key()
    await backend.open()
    subject.steps.append("open, commit, open, load, close, commit, close")
    record = subject.record()
    [landed] = await backend.commit([Write(key, None, record, await soon(backend))])
    expect(landed is True, "a creation did not land")
    await backend.open()
    found = (await backend.load([key])).records
    expect(list(found) == [record], "the second open has changed what is there")
    await backend.aclose()
    after = subject.record(b"after", record)
    write = Write(key, record.version, after, await soon(backend))
    [landed] = await backend.commit([write])
    expect(landed is True, "one of two has closed it, and now it does not write")
    await backend.aclose()
    subject.steps.append("three at once: open, load, close")
    await asyncio.gather(*(_look(backend, key) for _ in range(3)))


async def _look(backend: Backend, key: str) -> None:
    """Open a backend, load from it, and close it."""
    await backend.open()
    try:
        await backend.load([key])
    finally:
        await backend.aclose()


async def it_works_on_another_event_loop(subject: Subject) -> None:
    """Closed on one event loop, a backend can be opened on another, later."""
    backend = await subject.user()
    keys = [subject.key(f"{number}") for number in range(3)]
    for turn in range(3):
        subject.steps.append(f"event loop {turn + 1}: open, commits at once, close")
        await asyncio.to_thread(asyncio.run, _use(subject, backend, keys))


async def _use(subject: Subject, backend: Backend, keys: list[str]) -> None:
    await backend.open()
    try:
        await asyncio.gather(*(_write_over(subject, backend, key) for key in keys))
    finally:
        await backend.aclose()


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
        calls += await read_in_turn(backend, keys, _KILLS + number, len(keys))
    judge(subject, calls)


async def _write_over(subject: Subject, backend: Backend, key: str) -> Record:
    """Replace what is there, though something cancelled may come in between."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            loaded = await backend.load([key])
            [found] = loaded.records
            if isinstance(found, BackendError):
                raise Violation(f"it cannot be read: {found!r}")
            record = subject.record(b"over", found)
            expected = found and found.version
            write = Write(key, expected, record, await soon(backend))
            [landed] = await backend.commit([write])
            if landed is True:
                return record


async def _soon(work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await work
    except TimeoutError:
        raise Violation(f"no answer for {_PATIENCE:g} s") from None


async def _cancelled_at(
    at: int, call: Callable[[], Coroutine[Any, Any, T]]
) -> tuple[bool, T | None]:
    """Make a call, and cancel it at its so many-th await.

    Tell whether it got there, and what it answered, if it did.
    """
    counted = _Counted(call(), at)
    task = asyncio.ensure_future(_await(counted))
    counted.task = task
    try:
        async with asyncio.timeout(_PATIENCE):
            await asyncio.wait([task])
    except TimeoutError:
        raise Violation(f"cancelled, and not over for {_PATIENCE:g} s") from None
    answer = None
    if not task.cancelled():
        error = task.exception()
        # Interrupted, it may also say that it failed, or that it does not know.
        if not isinstance(error, BackendError | OutcomeUnknownError | None):
            raise error
        answer = task.result() if error is None else None
    return counted.count >= at, answer


async def _await(counted: _Counted) -> Any:
    return await counted


class _Counted:
    """Awaits a call, counts how often it waits, and cancels its task the n-th time."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self._work = work
        self._at = at
        self.count = 0
        self.task: asyncio.Task[Any] | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        step = partial(inner.send, None)
        while True:
            try:
                waiting = step()
            except StopIteration as done:
                return done.value
            self.count += 1
            if self.count == self._at and self.task is not None:
                asyncio.get_running_loop().call_soon(self.task.cancel)
            try:
                yield waiting
            except BaseException as exc:  # noqa: BLE001 - it is the call's
                step = partial(inner.throw, exc)
            else:
                step = partial(inner.send, None)


CHECKS = (
    a_cancelled_load_leaves_it_usable,
    a_cancelled_commit_leaves_it_usable,
    reopening_keeps_what_was_acknowledged,
    several_stores_may_open_it,
    it_works_on_another_event_loop,
    a_kill_loses_nothing_acknowledged,
)
