"""The async face: four verbs over one backend, and what goes with them.

The store checks what it is given, opens its backend at first use, and hands the work to
an engine: inline for a backend in this process, batched for all others. It knows no
particular backend; ``open`` (above) makes one from a URL.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from botsessions.backend import (
    Backend,
    SupportsInline,
    SupportsListing,
    SupportsSweeping,
)
from botsessions.codec import Codec, seal
from botsessions.engine import rules
from botsessions.engine.batched import BatchedEngine
from botsessions.engine.inline import InlineEngine
from botsessions.errors import (
    BackendError,
    CorruptRecordError,
    InvalidKeyError,
    StoreClosedError,
)
from botsessions.keys import SessionKey
from botsessions.lock import BEHIND_LOCKS, Locking, Locks
from botsessions.record import GRACE_MS

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from botsessions.lock import Claim, Lock
    from botsessions.record import Record

Session = dict[Any, Any]
UpdateFunction = Callable[[Session], Mapping[Any, Any]]

_PAGE = 500
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class SessionStore:
    """Reads and atomically changes the sessions of a bot.

    Made without a running loop; ``async with`` opens it and gives it back, or it opens
    itself at first use. It belongs to the event loop it was opened on. Stores see each
    other's sessions only when they share a backend's data and a ``namespace`` (letters,
    digits, ``_``, ``.``, ``-``; at most 64).

    ``ttl`` is how long a session lives after its last change, ``max_age`` how long
    after it was made: seconds or a timedelta, at least 1 ms. The end by ``ttl`` is
    moved once a tenth of it has passed, so a session lives for at least nine tenths of
    it. ``max_session_bytes`` bounds one encoded session, ``max_pending`` how many calls
    may wait (``OverloadedError`` past it), ``timeout`` (seconds, below 60) how long
    each of them: it is answered within a third more, whatever hangs. ``types`` are
    enums, dataclasses and NamedTuples that sessions may hold; a ``codec`` with
    registered types takes its place.
    """

    def __init__(  # noqa: PLR0913 - all but the backend have a default
        self,
        backend: Backend,
        *,
        namespace: str = "sessions",
        ttl: float | timedelta | None = None,
        max_age: float | timedelta | None = None,
        max_session_bytes: int = 1024 * 1024,
        max_pending: int = 20_000,
        timeout: float = 10.0,
        types: Iterable[type] = (),
        codec: Codec | None = None,
        rng: random.Random | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        if isinstance(backend, type) or not isinstance(backend, Backend):
            raise TypeError(
                f"{type(backend).__name__} is no backend; "
                "give a MemoryBackend(), a SQLiteBackend(path), or use open_store(url)"
            )
        _check_number(
            "concurrent_batches of a backend", backend.concurrent_batches, int
        )
        if backend.concurrent_batches < 1:
            raise ValueError("concurrent_batches of a backend must be 1 or more")
        if _NAMESPACE.fullmatch(namespace) is None:
            raise ValueError(
                f"namespace {namespace[:80]!r}: use 1 to 64 of letters, digits, _ . -"
            )
        _check_number("timeout", timeout, (int, float))
        if not 0 < timeout < GRACE_MS / 1000:
            raise ValueError("timeout must be above 0 and below 60 seconds")
        _check_number("max_pending", max_pending, int)
        _check_number("max_session_bytes", max_session_bytes, int)
        if max_pending < 1 or max_session_bytes < 1:
            raise ValueError("max_pending and max_session_bytes must be 1 or more")
        if codec is not None and not isinstance(codec, Codec):
            raise TypeError("codec= takes a Codec object: Codec().register(…)")
        if codec is not None and tuple(types):
            raise ValueError(
                "give types= or codec=, not both: Codec(types).register(…)"
            )
        self._backend = backend
        self._prefix = namespace + "/"
        self._policy = rules.Policy(
            _milliseconds("ttl", ttl),
            _milliseconds("max_age", max_age),
            max_session_bytes,
        )
        self._codec = codec if codec is not None else Codec(types)
        self._max_pending = max_pending
        self._timeout = timeout
        self._rng = rng if rng is not None else random.Random()
        self._timer = timer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._inline: InlineEngine | None = None
        self._batched: BatchedEngine | None = None
        self._locks: Locks | None = None
        self._closed = False

    async def get(self, key: SessionKey) -> Session:
        """Read a session; a missing or expired one is ``{}``.

        The dict is the caller's: changing it changes nothing stored. The answer is at
        least as new as any change that was acknowledged, to anybody, before the call.
        To change what was read use ``update``: between ``get`` and ``put`` others
        write.
        """
        if self._inline is None and self._batched is None:
            await self._open()
        if self._inline is not None:
            return self._inline.get(key)
        engine, text = self._engine(), rules.text_of(key)
        session = engine.get_now(text)
        return await engine.get(text) if session is None else session

    async def put(self, key: SessionKey, session: Mapping[Any, Any]) -> None:
        """Replace the whole session, whatever was there, readable or not.

        The mapping is encoded before this first waits, and may be changed afterwards.
        """
        text = rules.text_of(key)
        body = self._pack(session)
        if self._inline is None and self._batched is None:
            await self._open()
        if self._inline is not None:
            self._inline.put(key, body)
        else:
            await self._engine().put(text, body)

    async def update(self, key: SessionKey, function: UpdateFunction) -> Session:
        """Change a session atomically; return it as committed, in a dict of its own.

        ``function`` gets a fresh dict (``{}`` when missing or expired) and returns the
        whole new session. It is called synchronously, on the event loop, and again when
        another process changed the session meanwhile: keep it short, deterministic, and
        without I/O. What it raises reaches the caller as it is, and nothing is written.
        Updates of one key, from whatever task, thread, process or machine, are applied
        one after the other, each exactly once; one that changes nothing may write
        nothing, and one that comes to ``{}`` removes the session. A cancelled call may
        still be applied.
        """
        inline = self._inline
        if inline is not None:
            return inline.update(key, function)
        rules.check_function(function)
        text = rules.text_of(key)
        if self._batched is None:
            await self._open()
            if self._inline is not None:
                return self._inline.update(key, function)
        return await self._engine().update(text, function)

    async def delete(self, key: SessionKey) -> None:
        """Remove a session, whatever it holds; a missing one is no error."""
        text = rules.text_of(key)
        if self._inline is None and self._batched is None:
            await self._open()
        if self._inline is not None:
            self._inline.delete(key)
        else:
            await self._engine().delete(text)

    def lock(
        self,
        key: SessionKey,
        *,
        lease: float = 30.0,
        timeout: float = 10.0,
    ) -> AbstractAsyncContextManager[Lock]:
        """Hold the lock of a key, to the exclusion of everybody else who asks for it.

        For work that takes longer than a function given to ``update`` may: the block
        may await what it likes. Excludes tasks, threads, processes and machines; in one
        process those who wait are served in order. The lock is renewed while it is held
        and ends by itself ``lease`` seconds (0.1 to 3,600) after its process died.

        ``async with store.lock(key) as held`` gives a ``Lock``: what is changed through
        it is refused (``LockLostError``, nothing is written) once the lock was lost.
        Waits at most ``timeout`` seconds, else ``LockTimeoutError``. Leaving the block
        raises ``LockLostError`` if its lease is over, unless the block raises itself. A
        task that asks again for what it holds gets a RuntimeError. Plain calls of the
        store know nothing of locks, and are not kept out.

        The process gives the lock back some 20 ms after the last of its callers has
        left, or when the store is closed.
        """
        return Locking(
            lambda: self._acquire(key, lease, timeout, asyncio.current_task()),
            self._have_locks,
        )

    async def _acquire(
        self,
        key: SessionKey,
        lease: float,
        timeout: float,  # noqa: ASYNC109 - as above
        owner: object,
    ) -> Claim:
        text = rules.text_of(key)
        _check_number("lease", lease, (int, float))
        _check_number("timeout", timeout, (int, float))
        if not 0.1 <= lease <= 3600:
            raise ValueError("lease is a number of seconds from 0.1 to 3,600")
        if not timeout > 0:
            raise ValueError("timeout is a number of seconds above 0")
        if self._locks is None or self._closed:
            await self._open()
        locks = self._have_locks()
        return await locks.acquire(text, lease=lease, timeout=timeout, owner=owner)

    def _have_locks(self) -> Locks:
        if self._locks is None:
            if self._batched is None:
                # Locks have to be waited for, also in memory; what is stored there is
                # the same, whichever engine changes it.
                self._batched = self._batched_engine()
            self._locks = Locks(
                self._batched,
                self._backend,
                self._codec,
                self._pack,
                prefix=self._prefix,
                rng=self._rng,
            )
        return self._locks

    async def _release(self, claim: Claim) -> None:
        await self._have_locks().release(claim)

    def _pack(self, session: Mapping[Any, Any]) -> bytes:
        """Return the body of a session, or refuse it."""
        body, _ = self._codec.pack(session)
        self._policy.check_size(body)
        return body

    async def keys(
        self,
        *,
        after: SessionKey | None = None,
        before: SessionKey | None = None,
        **parts: Any,
    ) -> AsyncGenerator[SessionKey]:
        """Walk the keys of the live sessions that have all the given parts.

        ``parts`` are those of ``SessionKey`` (``chat_id=…``, ``user_id=…``, …). Keys
        come in the order of their text, in bounded pages, beginning behind ``after``
        and ending ahead of ``before``.
        It is no snapshot: what is written meanwhile may be among them or not; what
        exists all the time is, once.
        """
        async for key, _ in self._walk(after, before, parts):
            yield key

    async def items(
        self,
        *,
        after: SessionKey | None = None,
        before: SessionKey | None = None,
        **parts: Any,
    ) -> AsyncGenerator[tuple[SessionKey, Session]]:
        """Walk the live sessions like ``keys``, each with its dict.

        Raises ``CorruptRecordError`` at a session that cannot be read; to go on behind
        it, start again with ``after`` set to its key.
        """
        async for key, record in self._walk(after, before, parts):
            try:
                session = self._codec.decode(record.value)
            except CorruptRecordError as exc:
                raise rules.corrupt(str(key), exc) from exc
            yield key, session

    async def delete_expired(self) -> int:
        """Remove what has been dead for over a minute; return how many records.

        Only frees space: what has expired is never returned, swept or not. Works in
        small batches, so that other calls go on meanwhile; run it now and then.
        """
        await self._open()
        if not isinstance(self._backend, SupportsSweeping):
            raise self._lacks("delete_expired", "SupportsSweeping")
        total = 0
        while count := await self._backend.sweep(self._prefix, _PAGE):
            total += count
            await asyncio.sleep(0)
        return total

    async def aclose(self) -> None:
        """Finish what is under way and close; closing twice is fine.

        Takes no new calls from now on (``StoreClosedError``). What cannot finish within
        ``timeout`` fails. A client that the caller made stays open.
        """
        if self._loop not in (None, asyncio.get_running_loop()):
            raise _other_loop()
        self._closed = True
        if self._loop is None or self._opening is None:
            return
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(self._opening))
        # Shielded: what was begun is finished, also when this call is cancelled.
        await asyncio.shield(self._closing)

    async def _close(self, opening: asyncio.Task[None]) -> None:
        await asyncio.wait([opening])
        if self._opening_failed(opening):
            return
        inline, self._inline = self._inline, None
        if inline is not None:
            inline.close()
        if self._locks is not None:
            await self._locks.aclose()
        if self._batched is not None:
            await self._batched.aclose()
        await self._backend.aclose()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._loop else "not open"
        return f"<SessionStore {self._prefix[:-1]!r} on {self._backend!r}, {state}>"

    async def _open(self) -> None:
        """Open the backend once, whoever comes first; check the loop of the others."""
        if self._closed:
            raise StoreClosedError("the store is closed; open a new one")
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise _other_loop()
        if self._opening is None or (
            self._opening.done() and self._opening_failed(self._opening)
        ):
            self._loop = loop
            self._opening = loop.create_task(self._start(loop))
        # Shielded: who is cancelled here leaves the opening to the others.
        await asyncio.shield(self._opening)

    @staticmethod
    def _opening_failed(opening: asyncio.Task[None]) -> bool:
        return opening.cancelled() or opening.exception() is not None

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        await self._backend.open()
        if isinstance(self._backend, SupportsInline):
            self._inline = self._inline_engine(self._backend, loop)
        else:
            self._batched = self._batched_engine()

    def _inline_engine(
        self, backend: SupportsInline, loop: asyncio.AbstractEventLoop | None
    ) -> InlineEngine:
        return InlineEngine(
            backend.attach(self._prefix, loop, seal),
            self._codec,
            self._policy,
            backend=backend,
            loop=loop,
            rng=self._rng,
        )

    def _inline_for_threads(self) -> InlineEngine | None:
        """Return one more engine, for any thread, if the backend is in this process."""
        if isinstance(self._backend, SupportsInline):
            return self._inline_engine(self._backend, None)
        return None

    def _batched_engine(self) -> BatchedEngine:
        return BatchedEngine(
            self._backend,
            self._codec,
            self._policy,
            prefix=self._prefix,
            timeout=self._timeout,
            max_pending=self._max_pending,
            rng=self._rng,
            timer=self._timer,
        )

    def _engine(self) -> BatchedEngine:
        if self._batched is None:
            raise StoreClosedError("the store is closed; open a new one")
        if self._loop is not asyncio.get_running_loop():
            raise _other_loop()
        return self._batched

    async def _walk(
        self,
        after: SessionKey | None,
        before: SessionKey | None,
        parts: Mapping[str, Any],
    ) -> AsyncIterator[tuple[SessionKey, Record]]:
        wanted = _wanted(parts)
        await self._open()
        backend = self._backend
        if not isinstance(backend, SupportsListing):
            raise self._lacks("keys and items", "SupportsListing")
        prefix = self._prefix + _narrowest(wanted)
        # The name comes last in a key, so that it can be told without parsing.
        name = wanted.pop("name", None)
        ending = "" if name is None else str(SessionKey(name=name))
        begin = self._prefix + (
            rules.text_of(after) if after is not None else BEHIND_LOCKS
        )
        end = None if before is None else self._prefix + rules.text_of(before)
        async for page in backend.list_pages(prefix, begin, _PAGE):
            for text, record in page.entries:
                if end is not None and text >= end:
                    return
                if record.is_gone(page.now) or not text.endswith(ending):
                    continue
                key = _key(text.removeprefix(self._prefix))
                if not wanted or _has(key, wanted):
                    yield key, record

    def _lacks(self, what: str, ability: str) -> BackendError:
        name = type(self._backend).__name__
        return BackendError(f"{name} cannot do {what}: it lacks {ability}")


def _key(text: str) -> SessionKey:
    try:
        return SessionKey.parse(text)
    except InvalidKeyError as exc:
        raise CorruptRecordError(f"a stored key cannot be read: {exc}") from exc


def _other_loop() -> BackendError:
    return BackendError(
        "this store belongs to another event loop; open one store for each loop"
    )


def _wanted(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parts of a filter as a key would; leave out what is not given."""
    try:
        SessionKey(**{"name": "any", **parts})
    except TypeError as exc:
        names = ", ".join(inspect.signature(SessionKey).parameters)
        raise TypeError(f"filter by the parts of a key, {names}: {exc}") from None
    return {name: value for name, value in parts.items() if value is not None}


def _has(key: SessionKey, parts: Mapping[str, Any]) -> bool:
    return all(getattr(key, name) == value for name, value in parts.items())


def _narrowest(wanted: Mapping[str, Any]) -> str:
    """Return the text with which all keys of a chat begin, if a chat is asked for."""
    chat_id = wanted.get("chat_id")
    return "" if chat_id is None else str(SessionKey(chat_id=chat_id))


def _check_number(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} is a number, not {type(value).__name__}")


def _milliseconds(name: str, value: float | timedelta | None) -> int | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} is a number of seconds, a timedelta, or None")
    if not 0.001 <= seconds <= 10**10:
        raise ValueError(
            f"{name} must be between 0.001 and 10,000,000,000 seconds, "
            "or None for no end"
        )
    return int(seconds * 1000)
