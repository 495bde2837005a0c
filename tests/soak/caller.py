"""What one caller does, again and again: some verb, some session, and writes it down.

The same code runs as a task on ``SessionStore`` and on a thread of its own on
``SyncSessionStore``, whose verbs ``Blocking`` makes look awaitable. Neighbours:
``journal`` (below), ``worker`` (above).
"""

from __future__ import annotations

import time
import traceback
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import botsessions as bs
from botsessions.conformance.histories.history import (
    Ids,
    Outcome,
    Refused,
    Shape,
    Verb,
    ids_of,
)
from tests.soak.journal import Kind

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping

    from botsessions.conformance.histories.history import Call
    from tests.soak.journal import Journal

T = TypeVar("T")

# How many sessions of each kind there are, and how often each kind is used. Of the
# registers most are used seldom: their histories are short enough for the exact judge.
# So are the brief ones, and each must be left alone for a while to come to its end.
_MANY = {
    Kind.LEDGER: 4,
    Kind.REGISTER: 40,
    Kind.COUNTER: 3,
    Kind.LOCKED: 4,
    Kind.BRIEF: 60,
}
_OFTEN = {
    Kind.LEDGER: 18,
    Kind.REGISTER: 42,
    Kind.COUNTER: 12,
    Kind.LOCKED: 10,
    Kind.BRIEF: 18,
}
_BUSY_REGISTERS = 8
_VERBS = {
    Kind.LEDGER: {Verb.UPDATE: 70, Verb.GET: 20, Verb.OBSERVE: 5, Verb.REFUSE: 5},
    Kind.REGISTER: {
        Verb.UPDATE: 45,
        Verb.GET: 25,
        Verb.PUT: 10,
        Verb.DELETE: 10,
        Verb.OBSERVE: 6,
        Verb.REFUSE: 4,
    },
    Kind.COUNTER: {Verb.UPDATE: 75, Verb.GET: 25},
    Kind.LOCKED: {Verb.UPDATE: 65, Verb.PUT: 10, Verb.DELETE: 10, Verb.GET: 15},
    Kind.BRIEF: {
        Verb.UPDATE: 40,
        Verb.GET: 40,
        Verb.PUT: 10,
        Verb.DELETE: 5,
        Verb.OBSERVE: 5,
    },
}
# So long a ledger is left, and the next begun in its place, as each answer holds all.
_FULL_LEDGER = 200
_GENERATION = 100
# Seconds: a lock whose process was killed must come free within a round.
_LEASE, _LOCK_PATIENCE = 1.0, 1.5
# Seconds for which a refused caller leaves the servers alone.
_AFTER_REFUSAL = 0.03


class Held(Protocol):
    """A lock that is held."""

    @property
    def is_held(self) -> bool: ...
    async def get(self) -> dict[Any, Any]: ...
    async def put(self, session: Mapping[Any, Any]) -> None: ...
    async def delete(self) -> None: ...


class Store(Protocol):
    """A store, whichever face it shows."""

    async def get(self, key: bs.SessionKey) -> dict[Any, Any]: ...
    async def put(self, key: bs.SessionKey, session: Mapping[Any, Any]) -> None: ...
    async def update(
        self,
        key: bs.SessionKey,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]],
    ) -> dict[Any, Any]: ...
    async def delete(self, key: bs.SessionKey) -> None: ...
    def lock(
        self, key: bs.SessionKey, *, lease: float = ..., timeout: float = ...
    ) -> AbstractAsyncContextManager[Held]: ...


class Blocking:
    """A blocking store, to be used by ``run_blocking``: no call of it suspends."""

    def __init__(self, store: bs.SyncSessionStore) -> None:
        self._store = store

    async def get(self, key: bs.SessionKey) -> dict[Any, Any]:
        return self._store.get(key)

    async def put(self, key: bs.SessionKey, session: Mapping[Any, Any]) -> None:
        self._store.put(key, session)

    async def update(
        self,
        key: bs.SessionKey,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]],
    ) -> dict[Any, Any]:
        return self._store.update(key, function)

    async def delete(self, key: bs.SessionKey) -> None:
        self._store.delete(key)

    @asynccontextmanager
    async def lock(
        self,
        key: bs.SessionKey,
        *,
        lease: float = 30.0,
        timeout: float = 10.0,  # noqa: ASYNC109 - what a store takes
    ) -> AsyncIterator[Held]:
        with self._store.lock(key, lease=lease, timeout=timeout) as held:
            yield _BlockingLock(held)


class _BlockingLock:
    def __init__(self, held: bs.SyncLock) -> None:
        self._held = held

    @property
    def is_held(self) -> bool:
        return self._held.is_held

    async def get(self) -> dict[Any, Any]:
        return self._held.get()

    async def put(self, session: Mapping[Any, Any]) -> None:
        self._held.put(session)

    async def delete(self) -> None:
        self._held.delete()


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as over:
        result: T = over.value
        return result
    raise AssertionError("it suspended")


async def pause_blocking(seconds: float) -> None:
    """Let other threads run."""
    time.sleep(seconds)  # noqa: ASYNC251 - on a thread, see Blocking


class Means(NamedTuple):
    """What the callers of one process have in common."""

    endless: Store
    brief: Store
    """The store with the short ``ttl``."""
    journal: Journal
    pause: Callable[[float], Awaitable[None]]
    generations: dict[int, int]
    """How often each ledger was full."""


class Caller:
    """One of them, with dice of its own; thinks for up to so many seconds each time."""

    def __init__(self, means: Means, rng: random.Random, think: float) -> None:
        self._means = means
        self._rng = rng
        self._think = think

    async def run(self, over: Callable[[], bool]) -> None:
        """Call until it is over."""
        while not over():
            kind = self._pick(_OFTEN)
            (number, key), verb = self._key(kind), self._pick(_VERBS[kind])
            try:
                done = await self._use(kind, number, key, verb)
            except Exception:  # noqa: BLE001 - whatever it is, it is to be reported
                self._means.journal.oddity(str(key), traceback.format_exc())
                done = False
            seconds = self._rng.random() * self._think
            await self._means.pause(seconds if done else seconds + _AFTER_REFUSAL)

    def _pick(self, weights: Mapping[T, int]) -> T:
        return self._rng.choices(list(weights), list(weights.values()))[0]

    def _key(self, kind: Kind) -> tuple[int, bs.SessionKey]:
        number = self._rng.randrange(_MANY[kind])
        if kind is Kind.REGISTER and self._rng.random() < 0.8:
            number = self._rng.randrange(_BUSY_REGISTERS)
        if kind is Kind.LEDGER:
            number += _GENERATION * self._means.generations.get(number, 0)
        return number, bs.SessionKey(chat_id=number, name=kind.value)

    async def _use(
        self, kind: Kind, number: int, key: bs.SessionKey, verb: Verb
    ) -> bool:
        shape = Shape(flat=number % 2 == 1)
        if kind is Kind.LOCKED and verb is not Verb.GET:
            return await self._use_locked(key, verb, shape)
        if kind is Kind.COUNTER:
            return await self._call(key, verb, self._count)
        store = self._means.brief if kind is Kind.BRIEF else self._means.endless

        async def work(call: Call) -> Ids | None:
            if verb is Verb.GET:
                return ids_of(await store.get(key))
            if verb is Verb.PUT:
                await store.put(key, shape.session(call.id))
                return None
            if verb is Verb.DELETE:
                await store.delete(key)
                return None
            ids = ids_of(await store.update(key, shape.function(call)))
            if kind is Kind.LEDGER and len(ids) > _FULL_LEDGER:
                generation, ledger = divmod(number, _GENERATION)
                self._means.generations[ledger] = generation + 1
            return ids

        return await self._call(key, verb, work)

    async def _count(self, call: Call) -> Ids:
        key, store = bs.SessionKey.parse(call.key), self._means.endless
        if call.verb is Verb.GET:
            return (counted(await store.get(key)),)
        return (counted(await store.update(key, _one_more)),)

    async def _use_locked(self, key: bs.SessionKey, verb: Verb, shape: Shape) -> bool:
        """Do under a lock in several steps what an update does in one."""
        journal, pause = self._means.journal, self._means.pause
        asked, got, until = time.monotonic_ns(), None, None
        done, note = False, ""
        try:
            async with self._means.endless.lock(
                key, lease=_LEASE, timeout=_LOCK_PATIENCE
            ) as held:
                got = time.monotonic_ns()

                async def work(call: Call) -> Ids | None:
                    if verb is Verb.DELETE:
                        await held.delete()
                        return None
                    if verb is Verb.PUT:
                        await held.put(shape.session(call.id))
                        return None
                    ids = (*ids_of(await held.get()), call.id)
                    await pause(self._rng.random() * 0.003)
                    await held.put(shape.session(*ids))
                    return ids

                done = await self._call(key, verb, work)
                moment = time.monotonic_ns()
                until = moment if held.is_held else None
        except bs.SessionError as exc:
            note = type(exc).__name__
        journal.hold(str(key), asked, got, until, note)
        return done

    async def _call(
        self,
        key: bs.SessionKey,
        verb: Verb,
        work: Callable[[Call], Awaitable[Ids | None]],
    ) -> bool:
        """Write down a call and its answer; return whether it took effect for sure."""
        journal = self._means.journal
        call = journal.begin(str(key), verb)
        try:
            saw = await work(call)
        except Refused as refused:
            journal.end(call, Outcome.DONE, refused.ids)
        except bs.OutcomeUnknownError as exc:
            journal.end(call, Outcome.UNKNOWN, note=_said(exc))
            return False
        except bs.SessionError as exc:
            journal.end(call, Outcome.FAILED, note=_said(exc))
            return False
        else:
            journal.end(call, Outcome.DONE, saw)
        return True


def usual_keys() -> list[str]:
    """Return the keys that callers use from the start."""
    return [
        str(bs.SessionKey(chat_id=number, name=kind.value))
        for kind, many in _MANY.items()
        for number in range(many)
    ]


def content(kind: Kind, session: Mapping[Any, Any]) -> Ids:
    """Return what a session holds, as a call that reads it would note it."""
    return (counted(session),) if kind is Kind.COUNTER else ids_of(session)


def counted(session: Mapping[Any, Any]) -> int:
    """Return the number in a counter; a missing one is at 0."""
    number: int = session.get("n", 0)
    return number


def _one_more(session: dict[Any, Any]) -> dict[Any, Any]:
    session["n"] = counted(session) + 1
    return session


def _said(exc: bs.SessionError) -> str:
    return f"{type(exc).__name__}: {exc}"[:160]
