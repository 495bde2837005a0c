"""Record what a store or a backend answers in a run, and hand the record over.

``Recorded`` stands before a store and leaves ids or counts in its sessions, for
``check_calls``. ``RecordedBackend`` stands before a backend, also under a store, and
notes versions, for ``check_versions``. As lines of JSON a record goes from process to
process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions.conformance.histories.history import (
    NEVER,
    Call,
    History,
    Ids,
    Outcome,
    Shape,
    Verb,
    Violation,
    ids_of,
)
from botsessions.conformance.histories.registers import Kind, Operation
from botsessions.errors import BackendError, OutcomeUnknownError, SessionError
from botsessions.record import Loaded, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from botsessions.backend import Backend
    from botsessions.backend import Outcome as Landed
    from botsessions.keys import SessionKey
    from botsessions.record import Write
    from botsessions.store import SessionStore

_One = TypeVar("_One", Call, Operation)

# What may be ``NEVER``, and is a word then.
_MOMENTS = ("returned", "returned_at")


class Recorded:
    """The verbs of a store, each of them noted with its answer.

    A session is either a list of the ids of its changes (``get``, ``update``, ``put``,
    ``delete``) or a counter (``count``, ``increment``); keep a key to one of the two.
    ``worker`` is who is shown as the caller. Each method returns the call as noted. An
    error of the store is noted, not raised: after ``OutcomeUnknownError`` the outcome
    is unknown, after all others the call has failed. Whatever else is raised, also when
    the call is cancelled, leaves it unknown and goes on to the caller.
    """

    def __init__(self, store: SessionStore, history: History, worker: str) -> None:
        self._store = store
        self._history = history
        self._worker = worker
        self._shape = Shape(flat=False)

    async def get(self, key: SessionKey) -> Call:
        """Read the ids."""
        return await self._note(key, Verb.GET)

    async def update(self, key: SessionKey) -> Call:
        """Append the id of this call."""
        return await self._note(key, Verb.UPDATE)

    async def put(self, key: SessionKey) -> Call:
        """Leave the id of this call alone in the session."""
        return await self._note(key, Verb.PUT)

    async def delete(self, key: SessionKey) -> Call:
        """Remove the session."""
        return await self._note(key, Verb.DELETE)

    async def count(self, key: SessionKey) -> Call:
        """Read the counter."""
        return await self._note(key, Verb.GET, counting=True)

    async def increment(self, key: SessionKey) -> Call:
        """Add one to the counter."""
        return await self._note(key, Verb.UPDATE, counting=True)

    async def _note(
        self, key: SessionKey, verb: Verb, *, counting: bool = False
    ) -> Call:
        call = self._history.begin(str(key), verb, self._worker)
        perform = self._count if counting else self._list
        saw: Ids | None = None
        count: int | None = None
        try:
            answer = await perform(key, call)
        except OutcomeUnknownError as exc:
            self._history.end(call, Outcome.UNKNOWN, note=repr(exc))
        except SessionError as exc:
            self._history.end(call, Outcome.FAILED, note=repr(exc))
        except (Exception, asyncio.CancelledError) as exc:
            self._history.end(call, Outcome.UNKNOWN, note=repr(exc))
            raise
        else:
            if isinstance(answer, int):
                count = answer
            else:
                saw = answer
            self._history.end(call, Outcome.DONE, saw, count=count)
        return call

    async def _list(self, key: SessionKey, call: Call) -> Ids | None:
        match call.verb:
            case Verb.GET:
                return ids_of(await self._store.get(key))
            case Verb.PUT:
                await self._store.put(key, self._shape.session(call.id))
            case Verb.DELETE:
                await self._store.delete(key)
            case _:
                function = self._shape.function(call)
                return ids_of(await self._store.update(key, function))
        return None

    async def _count(self, key: SessionKey, call: Call) -> int:
        if call.verb is Verb.GET:
            return _count_of(await self._store.get(key))
        return _count_of(await self._store.update(key, _increment))


def _increment(session: dict[Any, Any]) -> dict[Any, Any]:
    return {**session, "count": _count_of(session) + 1}


def _count_of(session: Mapping[Any, Any]) -> int:
    count = session.get("count", 0)
    if session.keys() - {"count"} or type(count) is not int:
        raise Violation(f"a counter holds what nobody wrote: {dict(session)!r}")
    return count


# Operations that begin at one time, on two threads, are not put in each other's place.
_BEGINNING = threading.Lock()


class RecordedBackend:
    """A backend that notes the versions which it loads and commits.

    It goes wherever a backend does, also into a ``SessionStore``, which then shows its
    engine at work; further abilities of ``backend`` are not passed on. ``operations``
    fills while it is used: an operation is there from its beginning, of unknown outcome
    until it ends. Several may fill one list, also on several threads.

    ``tick`` tells the moments. ``now`` is a clock in milliseconds; how far that of the
    backend is ahead of it shows in each load. False for a write whose ``not_after`` may
    have passed there says nothing about versions.
    """

    def __init__(
        self,
        backend: Backend,
        operations: list[Operation],
        worker: str = "",
        *,
        tick: Callable[[], int] = time.monotonic_ns,
        now: Callable[[], float] = lambda: time.time() * 1000,
    ) -> None:
        self.concurrent_batches = backend.concurrent_batches
        self._backend = backend
        self._operations = operations
        self._worker = worker
        self._tick = tick
        self._now = now
        # How far the backend's clock is ahead of ``now``, at most.
        self._ahead = 0.0

    async def open(self) -> None:
        """Open the backend."""
        await self._backend.open()

    async def aclose(self) -> None:
        """Undo one ``open``."""
        await self._backend.aclose()

    async def load(self, keys: Sequence[str]) -> Loaded:
        """Load, and note the versions."""
        first = self._begin(
            [
                Operation(key, self._worker, Kind.LOAD, called=self._tick())
                for key in keys
            ]
        )
        asked = self._now()
        loaded = await self._backend.load(keys)
        # It may have been read as soon as it was asked for, in whole milliseconds.
        self._ahead = loaded.now + 1 - asked
        for index, record in enumerate(loaded.records, first):
            if not isinstance(record, BackendError):
                version = None if record is None else record.version
                self._end(index, True, version=version)
        return loaded

    async def commit(self, writes: Sequence[Write]) -> Sequence[Landed]:
        """Commit, and note what became of each write."""
        first = self._begin(
            [
                Operation(
                    write.key,
                    self._worker,
                    Kind.COMMIT,
                    write.expected,
                    write.record.version,
                    called=self._tick(),
                )
                for write in writes
            ]
        )
        try:
            outcomes = await self._backend.commit(writes)
        except BackendError:
            for index in range(first, first + len(writes)):
                self._end(index, False, excused=True)
            raise
        for index, (write, outcome) in enumerate(
            zip(writes, outcomes, strict=True), first
        ):
            if isinstance(outcome, BackendError):
                self._end(index, False, excused=True)
            elif not isinstance(outcome, OutcomeUnknownError):
                late = self._now() + self._ahead >= write.not_after
                self._end(index, outcome, excused=not outcome and late)
        return outcomes

    def _begin(self, operations: Sequence[Operation]) -> int:
        with _BEGINNING:
            first = len(self._operations)
            self._operations += operations
        return first

    def _end(
        self,
        index: int,
        outcome: bool,  # noqa: FBT001 - it is the answer itself
        **changes: Any,
    ) -> None:
        self._operations[index] = dataclasses.replace(
            self._operations[index], outcome=outcome, returned=self._tick(), **changes
        )


def dumps(calls: Iterable[Call] | Iterable[Operation]) -> str:
    """Return calls or operations as lines of JSON.

    Versions and values may be ``Version``, text, numbers, booleans and None.
    """
    return "".join(
        json.dumps({name: _plain(name, value) for name, value in _fields(call)}) + "\n"
        for call in calls
    )


def loads(text: str, of: type[_One]) -> list[_One]:
    """Return the calls (``of`` is ``Call``) or operations from lines of JSON.

    Where one id of a ``Call`` comes again the later line counts, and a last line that
    was not finished does not: a process that was killed has begun what it noted last.
    """
    lines = text.split("\n")
    rows = [json.loads(line) for line in lines[:-1] if line]
    if issubclass(of, Operation):
        return [of(**_operation(row)) for row in rows]
    return list({row["id"]: of(**_call(row)) for row in rows}.values())


def _fields(call: Call | Operation) -> Iterable[tuple[str, Any]]:
    return (
        (field.name, getattr(call, field.name)) for field in dataclasses.fields(call)
    )


def _plain(name: str, value: Any) -> Any:
    if name in _MOMENTS and value == NEVER:
        return "never"
    return value.value if isinstance(value, Outcome) else value


def _call(row: dict[str, Any]) -> dict[str, Any]:
    saw = row["saw"]
    return _moments(row) | {
        "verb": Verb(row["verb"]),
        "outcome": Outcome(row["outcome"]),
        "saw": None if saw is None else tuple(saw),
    }


def _operation(row: dict[str, Any]) -> dict[str, Any]:
    return _moments(row) | {
        "kind": Kind(row["kind"]),
        "expected": _version(row["expected"]),
        "version": _version(row["version"]),
    }


def _moments(row: dict[str, Any]) -> dict[str, Any]:
    never = {name: NEVER for name in _MOMENTS if row.get(name) == "never"}
    return row | never


def _version(value: Any) -> Any:
    return Version(*value) if isinstance(value, list) else value
