"""Another process that uses the backend: what is told to it, and what it tells.

It is told what to do by a pickle on standard input, and answers on what was its
standard output, in lines of JSON: an empty list when the backend is open, a list for
each call, and a string, the last one, if something went wrong. It is gone when the one
who started it is, or has no more use for it. Neighbours: ``workers`` (what it does),
``contention`` and ``endings`` (for whom).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import random
import signal
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from botsessions.blame import described
from botsessions.conformance import workers
from botsessions.conformance.histories.history import Call, Outcome, Verb, Violation
from botsessions.conformance.results import NotSupported
from botsessions.conformance.steps import Moment, killed_at
from botsessions.conformance.subject import made_by, takes_clock, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from botsessions.backend import Backend
    from botsessions.conformance.subject import Make
    from botsessions.record import Write

# What the process ends with if it could not read its orders.
_CANNOT_RECEIVE = 3
# Lets a process begin that has made its backend.
_GO = b"go\n"
_PROGRAM = "import botsessions.conformance.child as child, sys; sys.exit(child.main())"


class _Orders(NamedTuple):
    make: Make
    work: Callable[[Backend, _Teller], Awaitable[None]]
    """What to do with an open backend."""


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
    work = partial(_append_in_turn, keys, number, times)
    async with _started(_Orders(make, work)) as process:
        await all_made()
        process.write(_GO)
        calls = await process.all_calls()
        await process.must_have_ended_with(0)
    return calls


async def hammer(
    make: Make, keys: Sequence[str], number: int, seconds: float
) -> list[Call]:
    """Let a process append, and kill it; return what it was told.

    It is killed some seconds after it was told that something had landed.
    """
    work = partial(_append_for_ever, keys, number)
    async with _started(_Orders(make, work)) as process:
        process.write(_GO)
        landed = process.calls_until_one_landed()
        calls = await within(landed, "a process appends, and nothing lands")
        await asyncio.sleep(seconds)
        process.kill()
        calls += await process.all_calls()
        await process.must_have_ended_with(-signal.SIGKILL)
    # What is told of a call when it is answered takes the place of what was told when
    # it began.
    return list({call.id: call for call in calls}.values())


async def commit_and_die(
    make: Make, writes: Sequence[Write], at: int, moment: Moment
) -> bool:
    """Let a process commit, and be killed at its so many-th await from there on.

    Tell whether it got there.
    """
    work = partial(_commit_and_die, writes, at, moment)
    async with _started(_Orders(make, work)) as process:
        process.write(_GO)
        await within(process.all_calls(), "a process commits, and is not over")
        if await process.end() == 0:
            return False
        await process.must_have_ended_with(-signal.SIGKILL)
        return True


class _Process:
    """The process, as it looks from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101 - for mypy
        assert process.stdout is not None  # noqa: S101
        self._process = process
        self._in = process.stdin
        self._out = process.stdout
        self.error = ""
        """What it said of itself before it ended."""

    def write(self, data: bytes) -> None:
        self._in.write(data)

    async def told(self) -> list[Any] | None:
        """Return the next line that it tells; None when it has ended."""
        line = await self._out.readline()
        # The last one may be cut: then nobody was told of that answer.
        told = json.loads(line) if line.endswith(b"\n") else None
        if isinstance(told, str):
            self.error = told
            return None
        return told

    async def all_calls(self) -> list[Call]:
        calls = []
        while told := await self.told():
            calls.append(_call(told))
        return calls

    async def calls_until_one_landed(self) -> list[Call]:
        calls = []
        while told := await self.told():
            calls.append(_call(told))
            if calls[-1].verb is Verb.UPDATE and calls[-1].outcome is Outcome.DONE:
                break
        return calls

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            self._process.kill()

    async def end(self) -> int:
        """Wait until it has ended; return its exit code."""
        return await self._process.wait()

    async def must_have_ended_with(self, expected: int) -> None:
        code = await self.end()
        # One that is killed while it fails has failed.
        if self.error or code != expected:
            how = self.error or f"exit code {code}"
            raise Violation(f"a process ended by itself: {how}")


@asynccontextmanager
async def _started(orders: _Orders) -> AsyncIterator[_Process]:
    """Start a process that has opened its backend; afterwards it is gone."""
    try:
        pickled = pickle.dumps(orders)
    except Exception as exc:
        raise NotSupported(f"make cannot be sent to a process: {exc}") from exc
    process = _Process(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    )
    try:
        process.write(pickled)
        if await process.told() is None:
            raise await _unopened(process)
        yield process
    finally:
        process.kill()
        await process.end()


async def _unopened(process: _Process) -> NotSupported | Violation:
    code = await process.end()
    if code == _CANNOT_RECEIVE:
        return NotSupported(
            f"another process cannot import make, put it into a module: {process.error}"
        )
    how = process.error or f"exit code {code}"
    return Violation(f"another process cannot open it: {how}")


def _call(fields: Sequence[Any]) -> Call:
    ident, key, verb, called, returned, outcome, saw, process = fields
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


class _Teller:
    """Tells the process that started this one, a line of JSON at a time."""

    def __init__(self) -> None:
        # What the user's code prints, even as it is imported, goes to standard error.
        self._out = os.dup(1)
        os.dup2(2, 1)

    def __call__(self, message: object) -> None:
        # At once: who was told something must have been told before it is killed.
        os.write(self._out, json.dumps(message).encode() + b"\n")

    def tell_of(self, call: Call) -> None:
        fields: tuple[Any, ...] = (
            *(call.id, call.key, call.verb.value, call.called, call.returned),
            *(call.outcome.value, call.saw, call.process),
        )
        self(fields)


async def _work(orders: _Orders, tell: _Teller, may_begin: threading.Event) -> None:
    backend = made_by(orders.make, time.time if takes_clock(orders.make) else None)
    await backend.open()
    tell([])
    may_begin.wait()
    await orders.work(backend, tell)
    await backend.aclose()


async def _append_in_turn(
    keys: Sequence[str], number: int, times: int, backend: Backend, tell: _Teller
) -> None:
    for call in await workers.append_in_turn(backend, keys, number, times):
        tell.tell_of(call)


async def _append_for_ever(
    keys: Sequence[str], number: int, backend: Backend, tell: _Teller
) -> None:
    calls: list[Call] = []
    rng = random.Random(number)
    for key in itertools.cycle(keys):
        await workers.append(backend, key, number, calls, rng, tell.tell_of)


async def _commit_and_die(
    writes: Sequence[Write], at: int, moment: Moment, backend: Backend, _: _Teller
) -> None:
    await killed_at(at, partial(backend.commit, writes), moment)


def _listen(may_begin: threading.Event) -> None:
    """Let the work begin when told; end when nobody is there to end this process."""
    # Not by sys.stdin: Python could not end while somebody reads it.
    if os.read(0, len(_GO)):
        may_begin.set()
        os.read(0, 1)
    os._exit(1)


def main() -> int:
    """Do as told; return the exit code."""
    tell = _Teller()
    try:
        orders: _Orders = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own
    except Exception as exc:  # noqa: BLE001 - whatever it is, it cannot be had here
        tell(described(exc))
        return _CANNOT_RECEIVE
    may_begin = threading.Event()
    # Whatever the backend hangs in.
    threading.Thread(target=_listen, args=[may_begin], daemon=True).start()
    try:
        asyncio.run(_work(orders, tell, may_begin))
    except BaseException as exc:
        tell(described(exc))
        raise
    return 0
