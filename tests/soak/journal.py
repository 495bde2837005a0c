"""What the callers of one process did and were told, in a file that survives kills.

Each line is written before the call goes out, or after its answer came, by one write of
its own: a call of which there is a beginning only has an unknown outcome. Moments are
the machine's monotonic clock in nanoseconds, which all its processes share.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import json
import os
import time
from typing import TYPE_CHECKING, Any

from botsessions.conformance.histories.history import Call, Ids, Outcome, Verb

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND


class Kind(enum.StrEnum):
    """What a session is used for; it is the name in its key."""

    LEDGER = "ledger"
    """Only appended to, so that its end shows all that was acknowledged."""
    REGISTER = "register"
    """Changed, replaced and removed."""
    COUNTER = "counter"
    """Holds a number only; what a call saw of it is that number."""
    LOCKED = "locked"
    """Read and put back under its lock, by everybody."""
    BRIEF = "brief"
    """Like a register, but it ends by itself after a moment (``ttl``)."""


def kind_of(key: str) -> Kind:
    """Return what the session of a key is used for."""
    return Kind(key.rpartition("=")[2])


@dataclasses.dataclass(frozen=True, slots=True)
class Hold:
    """An attempt to get a lock: when it was asked for, and when held for certain."""

    key: str
    process: str
    asked: int | None
    got: int | None
    until: int | None
    """The last moment of certainty; None if it was lost before."""
    note: str


@dataclasses.dataclass(frozen=True, slots=True)
class Oddity:
    """Something that no caller should meet: an exception that is none of ours."""

    key: str
    process: str
    what: str


@dataclasses.dataclass(slots=True)
class Told:
    """All that the processes of one round wrote down."""

    calls: dict[str, list[Call]] = dataclasses.field(default_factory=dict)
    """By key, in the order in which they began."""
    holds: list[Hold] = dataclasses.field(default_factory=list)
    oddities: list[Oddity] = dataclasses.field(default_factory=list)


class Journal:
    """Writes; any thread may. ``first`` keeps the ids of several processes apart."""

    def __init__(self, path: Path, first: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._ids = itertools.count(first)
        self._name = path.stem

    def begin(self, key: str, verb: Verb, called: int | None = None) -> Call:
        """Note that a call begins now, or began then."""
        called = time.monotonic_ns() if called is None else called
        call = Call(next(self._ids), key, verb, called, process=self._name)
        self._write("begin", call.id, key, verb, called)
        return call

    def end(
        self, call: Call, outcome: Outcome, saw: Ids | None = None, note: str = ""
    ) -> None:
        """Note the answer to a call."""
        self._write("end", call.id, outcome.value, time.monotonic_ns(), saw, note)

    def hold(
        self, key: str, asked: int, got: int | None, until: int | None, note: str = ""
    ) -> None:
        """Note how it went with a lock."""
        self._write("hold", key, asked, got, until, note)

    def oddity(self, key: str, what: str) -> None:
        """Note what should not have come up."""
        self._write("oddity", key, what)

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)

    def _write(self, *what: Any) -> None:
        os.write(self._file, json.dumps(what, ensure_ascii=True).encode() + b"\n")


def read(paths: Iterable[Path], since: int = 0) -> Told:
    """Put the journals of one round together; its moments are counted from that one."""
    told = Told()
    calls: list[Call] = []
    for path in paths:
        _read(path, calls, told, since)
    calls.sort(key=lambda call: call.called)
    for call in calls:
        told.calls.setdefault(call.key, []).append(call)
    return told


def _read(path: Path, calls: list[Call], told: Told, since: int) -> None:
    process = path.stem
    begun: dict[int, Call] = {}
    with path.open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                break  # a kill cut it off
            word, *rest = json.loads(line)
            if word == "begin":
                number, key, verb, called = rest
                call = Call(number, key, Verb(verb), called - since, process=process)
                begun[number] = call
            elif word == "end":
                number, outcome, returned, saw, note = rest
                call = begun[number]
                call.outcome, call.returned = Outcome(outcome), returned - since
                call.note = note
                call.saw = None if saw is None else tuple(saw)
            elif word == "hold":
                key, *moments, note = rest
                asked, got, until = (
                    None if moment is None else moment - since for moment in moments
                )
                told.holds.append(Hold(key, process, asked, got, until, note))
            else:
                told.oddities.append(Oddity(rest[0], process, rest[1]))
    calls += begun.values()
