"""Another process that uses the backend: what is told to it, and what it tells.

It is told what to do by a pickle on standard input, and prints a line of JSON for each
call. Neighbours: ``workers`` (what it does), ``contention`` and ``endings`` (for whom).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import random
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from botsessions.conformance.histories.history import Call, Outcome, Verb, Violation
from botsessions.conformance.results import NotSupported
from botsessions.conformance.subject import takes_clock
from botsessions.conformance.workers import append
from botsessions.conformance.workers import append_in_turn as work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from botsessions.backend import Backend
    from botsessions.conformance.subject import Make

# What the process ends with if it could not make the backend.
_CANNOT_MAKE = 3
# Lets a process begin that has made its backend.
_GO = b"go\n"
_PROGRAM = "import botsessions.conformance.child as child, sys; sys.exit(child.main())"


class _Orders(NamedTuple):
    make: Make
    keys: Sequence[str]
    number: int
    times: int | None
    """How often to append; None goes on until it is killed."""


async def append_in_turn(
    make: Make,
    keys: Sequence[str],
    number: int,
    times: int,
    all_made: Callable[[], Awaitable[object]],
) -> list[Call]:
    """Let a process append to records in turn; return its calls.

    It begins when ``all_made`` says that the others are there as well.
    """
    process = await _start(_Orders(make, keys, number, times))
    await all_made()
    out, _ = await process.communicate(_GO)
    if process.returncode:
        raise Violation(f"a process ended with exit code {process.returncode}")
    return [_call(line) for line in out.splitlines()]


async def hammer(
    make: Make, keys: Sequence[str], number: int, seconds: float
) -> list[Call]:
    """Let a process append for some seconds, kill it, and return what it was told."""
    process = await _start(_Orders(make, keys, number, None))
    assert process.stdin is not None  # noqa: S101 - for mypy
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(_GO)
    lines = [await process.stdout.readline()]
    await asyncio.sleep(seconds)
    process.kill()
    lines += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    # The last line may be cut: then nobody was told of that answer. What is told of a
    # call when it is answered takes the place of what was told when it began.
    calls = [_call(line) for line in lines if line.endswith(b"\n")]
    return list({call.id: call for call in calls}.values())


async def _start(orders: _Orders) -> asyncio.subprocess.Process:
    """Start a process, and wait until it has made its backend."""
    try:
        pickled = pickle.dumps(orders)
    except Exception as exc:
        raise NotSupported(f"make cannot be sent to a process: {exc}") from exc
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdin is not None  # noqa: S101 - for mypy
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(pickled)
    if await process.stdout.readline() == b"made\n":
        return process
    if await process.wait() == _CANNOT_MAKE:
        raise NotSupported(
            "another process cannot make it; put the factory into a module"
        )
    raise Violation("another process cannot open it (its error is on standard error)")


def _call(line: bytes) -> Call:
    ident, key, verb, called, returned, outcome, saw, process = json.loads(line)
    return Call(
        ident,
        key,
        Verb(verb),
        called,
        process=process,
        outcome=Outcome(outcome),
        returned=returned,
        saw=None if saw is None else tuple(saw),
    )


# In the other process.


async def _work(orders: _Orders, backend: Backend) -> None:
    await backend.open()
    _tell("made")
    sys.stdin.buffer.readline()
    if orders.times is not None:
        for call in await work(backend, orders.keys, orders.number, orders.times):
            _tell_of(call)
        await backend.aclose()
        return
    calls: list[Call] = []
    rng = random.Random(orders.number)
    for turn in itertools.count():
        key = orders.keys[turn % len(orders.keys)]
        await append(backend, key, orders.number, calls, rng, _tell_of)


def _tell_of(call: Call) -> None:
    fields: tuple[Any, ...] = (
        *(call.id, call.key, call.verb.value, call.called, call.returned),
        *(call.outcome.value, call.saw, call.process),
    )
    _tell(json.dumps(fields))


def _tell(line: str) -> None:
    # At once: who was told something must have been told before the process is killed.
    os.write(1, line.encode() + b"\n")


def main() -> int:
    """Do as told; return the exit code."""
    try:
        orders: _Orders = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own
        make = orders.make
        backend = make(clock=time.time) if takes_clock(make) else make()
    except Exception as exc:  # noqa: BLE001 - whatever it is, it cannot be made here
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)  # noqa: T201
        return _CANNOT_MAKE
    asyncio.run(_work(orders, backend))
    return 0
