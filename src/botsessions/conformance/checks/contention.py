"""Checks of the contract by many at once: tasks, threads, processes.

Each worker appends numbers to records, by loading one and committing the next, and
notes what it was told; ``order`` and ``linearizability`` judge all of it. Neighbours:
``subject``, ``workers`` (who do it, here and in ``child`` processes), ``endings`` (what
interrupts).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from botsessions.backend import (
    SupportsListing,
    SupportsLoadingNow,
    SupportsSweeping,
)
from botsessions.conformance import child
from botsessions.conformance.histories.history import Violation
from botsessions.conformance.histories.recording import RecordedBackend
from botsessions.conformance.histories.versions import check_versions
from botsessions.conformance.steps import longest_wait
from botsessions.conformance.subject import (
    PAGE,
    expect,
    in_a_minute,
    on_another_loop,
    opened,
    together,
    within,
)
from botsessions.conformance.witness import judge
from botsessions.conformance.workers import append_in_turn, read_all, read_while
from botsessions.record import Record, Write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from botsessions.backend import Backend
    from botsessions.conformance.histories.history import Call
    from botsessions.conformance.histories.registers import Operation
    from botsessions.conformance.subject import Subject

_WORKERS = 4
# How often each worker appends.
_TIMES = 25
# More calls at once than a pool has connections, or a server takes.
_AT_ONCE = 100
# How many calls are looked at, and the seconds which one may keep its thread waiting.
_LOOKS, _WAIT = 40, 0.0001


async def tasks_lose_nothing(subject: Subject) -> None:
    """Tasks that use one backend at once: who was told that it landed, it did."""
    backend = (await subject.open()).backend
    keys = [subject.key("a"), subject.key("b")]
    subject.steps.append(f"load a, {_AT_ONCE} times at once")
    await together(*(backend.load(keys[:1]) for _ in range(_AT_ONCE)))
    subject.steps.append(f"{_WORKERS} tasks append to a and b, {_TIMES} times each")
    operations: list[Operation] = []
    recorded = RecordedBackend(backend, operations, "a task")
    work = [append_in_turn(recorded, keys, n, _TIMES) for n in range(_WORKERS)]
    calls = [call for made in await together(*work) for call in made]
    await _judge(subject, backend, keys, calls)
    # Who was told False was too late for another version, and not only busy.
    try:
        check_versions(operations)
    except Violation as violation:
        subject.steps += map(str, violation.calls)
        raise


async def threads_lose_nothing(subject: Subject) -> None:
    """Threads, each with a backend and an event loop of its own, lose nothing."""
    await subject.need_shared()
    keys = [subject.key("a"), subject.key("b")]

    async def work(number: int) -> list[Call]:
        async with opened(subject.made()) as backend:
            return await append_in_turn(backend, keys, number, _TIMES)

    # Made here, so that what must be made first (a file, a table) is there.
    backend = (await subject.open()).backend
    subject.steps.append(f"{_WORKERS} threads append to a and b, {_TIMES} times each")
    threads = [on_another_loop(partial(work, number)) for number in range(_WORKERS)]
    calls = [call for made in await together(*threads) for call in made]
    await _judge(subject, backend, keys, calls)


async def processes_lose_nothing(subject: Subject) -> None:
    """Processes, each with a backend of its own, lose nothing."""
    await subject.need_shared()
    keys = [subject.key("a"), subject.key("b")]
    backend = (await subject.open()).backend
    subject.steps.append(f"3 processes append to a and b, {_TIMES} times each")
    all_made = asyncio.Barrier(3).wait
    work = [
        child.append_in_turn(subject.make, keys, number, _TIMES, all_made)
        for number in range(3)
    ]
    calls = [call for made in await together(*work) for call in made]
    await _judge(subject, backend, keys, calls)


async def reads_are_never_stale(subject: Subject) -> None:
    """What one has read, nobody reads an earlier state of afterwards."""
    key = subject.key()
    backends = [(await subject.open()).backend for _ in range(_WORKERS)]
    at_work = {0, 1}
    subject.steps.append(f"2 tasks append, {_TIMES} times each, while 2 read")

    async def write(number: int) -> list[Call]:
        try:
            return await append_in_turn(backends[number], [key], number, _TIMES)
        finally:
            at_work.remove(number)

    write_all = [write(number) for number in (0, 1)]
    read = [read_while(at_work, backends[n], key, n) for n in range(2, _WORKERS)]
    made = await together(*write_all, *read)
    states = {call.saw for calls in made[2:] for call in calls}
    expect(len(states) > 2, f"of {2 * _TIMES} states they saw {len(states)}")
    calls = [call for of_one in made for call in of_one]
    await _judge(subject, backends[0], [key], calls)


async def batches_in_any_order_never_block(subject: Subject) -> None:
    """Batches of the same keys in other orders, at once: each is answered soon."""
    backends = [await subject.open() for _ in range(_WORKERS)]
    keys = [subject.key(f"{number:02}") for number in range(10)]
    for key in keys:
        await backends[0].must_write(key, None, subject.record())
    until = await in_a_minute(backends[0].backend)
    for turn in range(10):
        subject.steps[:] = [f"{_WORKERS} batches of 10 keys, each in another order"]
        found = (await backends[0].backend.load(keys)).records
        there = [record for record in found if isinstance(record, Record)]
        expect(len(there) == len(keys), "a record is gone")
        batches = []
        for backend in backends:
            writes = [
                Write(key, record.version, subject.record(b"%d" % turn, record), until)
                for key, record in zip(keys, there, strict=True)
            ]
            subject.rng.shuffle(writes)
            batches.append(backend.backend.commit(writes))
        answers = await within(together(*batches), "they wait for each other")
        for landed in answers:
            wrong = [answer for answer in landed if not isinstance(answer, bool)]
            expect(not wrong, f"an error instead of an answer: {wrong[:1]}")
        total = sum(landed.count(True) for landed in answers)
        expect(total == len(keys), f"{len(keys)} keys, {total} of the rivals landed")


async def it_never_blocks_the_event_loop(subject: Subject) -> None:
    """While it waits for an answer, others have their turn on the event loop."""
    backend = (await subject.open()).backend
    until = await in_a_minute(backend)
    waits: defaultdict[str, list[float]] = defaultdict(list)

    async def walk(able: SupportsListing, prefix: str) -> None:
        async for _ in able.list_pages(prefix, "", PAGE):
            pass

    async def load_now(able: SupportsLoadingNow, key: str) -> None:
        able.load_now([key])

    for number in range(_LOOKS):
        key = subject.key(f"{number}")
        write = Write(key, None, subject.record(), until)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "load": partial(backend.load, [key]),
            "commit": partial(backend.commit, [write]),
        }
        if isinstance(backend, SupportsListing):
            calls["walk"] = partial(walk, backend, key)
        if isinstance(backend, SupportsSweeping):
            calls["sweep"] = partial(backend.sweep, key, 1)
        if isinstance(backend, SupportsLoadingNow):
            calls["load_now"] = partial(load_now, backend, key)
        for name, call in calls.items():
            waits[name].append(await longest_wait(call()))
    for name, seconds in waits.items():
        # One may wait for much else on a busy machine, but not each of them.
        shortest = min(seconds)
        subject.steps.append(
            f"{_LOOKS} times {name}: {1000 * shortest:.2f} ms at least"
        )
        expect(shortest < _WAIT, f"each {name} keeps the event loop waiting")


async def _judge(
    subject: Subject, backend: Backend, keys: list[str], calls: list[Call]
) -> None:
    """Read all once more, and let the judges look at each key."""
    calls += await read_all(backend, keys, _WORKERS)
    judge(subject, calls)


CHECKS = (
    tasks_lose_nothing,
    threads_lose_nothing,
    processes_lose_nothing,
    reads_are_never_stale,
    batches_in_any_order_never_block,
    it_never_blocks_the_event_loop,
)
