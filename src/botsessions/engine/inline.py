"""The engine for backends in this process: no future, no queue, no suspension.

An operation is a dict look-up, a decode, the function, an encode, a store. In front of
the rules stands a short cut for the usual session (small, plain, without an end): it
repeats what ``Codec.pack`` does, because each call it saves is a tenth of the whole
(``docs/adr/0003``); whatever is unusual goes the long way, which is also the reference.
Who may touch the records, and when, is said at ``backend.Home``.
"""

from __future__ import annotations

import gc
from asyncio import get_running_loop
from contextlib import nullcontext
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ormsgpack import packb, unpackb

from botsessions.codec import BIN8, EMPTY, PLAIN, SHORT, Codec, seal
from botsessions.engine import rules
from botsessions.errors import (
    BackendError,
    CorruptRecordError,
)
from botsessions.record import Record

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from botsessions.backend import Home, InlineTable, SupportsInline
    from botsessions.keys import SessionKey

# Bound once: a look-up less in the short cut. ``dict.copy`` takes nothing but a dict.
is_tracked = gc.is_tracked
copy_of = dict.copy


class InlineEngine:
    """Carries out operations at once, on the loop that opened it.

    Without a loop any thread may call it.
    """

    __slots__ = (
        "_backend",
        "_codec",
        "_home",
        "_loop",
        "_policy",
        "_records",
        "_rng",
        "_short",
    )

    def __init__(  # noqa: PLR0913 - everything it depends on is an argument
        self,
        table: InlineTable,
        codec: Codec,
        policy: rules.Policy,
        *,
        backend: SupportsInline,
        loop: asyncio.AbstractEventLoop | None,
        rng: random.Random,
    ) -> None:
        self._backend = backend
        self._home = table.home
        self._records = table.records
        self._codec = codec
        self._policy = policy
        self._loop = loop
        self._rng = rng
        endless = policy.ttl is None and policy.max_age is None
        # Up to this size the short cut may be taken; with an expiry to compute, never.
        self._short = min(SHORT, policy.max_bytes) if endless else 0

    def update(
        self,
        key: SessionKey,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]],
    ) -> dict[Any, Any]:
        """Apply a function to one session; return the session as stored."""
        if self._home.owner._thread_id != get_ident():  # noqa: SLF001 - see Home
            return self.update_in_turn(key, function)
        records = self._records
        try:
            text = key._text  # noqa: SLF001 - kept there for the engine
            seen = records[text]
            session = unpackb(seen)  # type: ignore[arg-type] # a Record: ValueError
        except (KeyError, AttributeError, ValueError):
            return self._update_carefully(key, function)
        try:
            new = function(session)
        except TypeError:
            rules.check_function(function)
            raise
        try:
            body = packb(new, None, PLAIN)
            if is_tracked(new):
                copy = unpackb(body)
                if type(copy) is not dict or copy != new:
                    return self._write(text, new, seen)
            else:
                copy = copy_of(new)  # type: ignore[arg-type] # else: TypeError
            if (
                records[text] is seen
                and 1 < len(body) <= self._short
                and BIN8 not in body
            ):
                records[text] = body
                return copy
        except (TypeError, ValueError, KeyError):
            pass
        return self._write(text, new, seen)

    def get(self, key: SessionKey) -> dict[Any, Any]:
        """Read one session."""
        with self._exclusively():
            return self._read(rules.text_of(key))

    def put(self, key: SessionKey, body: bytes) -> None:
        """Replace one session by a packed one."""
        with self._exclusively():
            self._store(rules.text_of(key), body)

    def delete(self, key: SessionKey) -> None:
        """Remove one session."""
        with self._exclusively():
            self._records.pop(rules.text_of(key), None)

    def close(self) -> None:
        """Give the records back to their backend."""
        self._backend.detach()

    def update_in_turn(
        self,
        key: SessionKey,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]],
    ) -> dict[Any, Any]:
        """Do the same for a thread that may have to wait for others."""
        with self._exclusively():
            if self._home.is_shared:
                return self.update(key, function)  # as the holder of the lock
            return self._update_carefully(key, function)

    def _update_carefully(
        self,
        key: SessionKey,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]],
    ) -> dict[Any, Any]:
        """Update the long way, on records that nobody else touches meanwhile."""
        rules.check_function(function)
        text = rules.text_of(key)
        seen = self._records.get(text)
        return self._write(text, function(self._read(text)), seen)

    def _exclusively(self) -> AbstractContextManager[object]:
        """Have the records to ourselves: as the owner's thread, or under the lock."""
        if self._loop is not None and get_running_loop() is not self._loop:
            raise BackendError(
                "this store belongs to another event loop; open one store for each loop"
            )
        owner = self._home.owner._thread_id  # noqa: SLF001 - see Home
        if self._loop is not None and owner == get_ident():
            return nullcontext()
        return _Locked(self._home)

    def _read(self, text: str) -> dict[Any, Any]:
        entry = self._records.get(text)
        try:
            if entry is None:
                return {}
            if isinstance(entry, bytes):
                return self._codec.unpack(entry)
            if entry.is_gone(self._backend.now()):
                return {}
            return self._codec.decode(entry.value)
        except CorruptRecordError as exc:
            raise rules.corrupt(text, exc) from exc

    def _write(
        self, text: str, returned: object, seen: bytes | Record | None
    ) -> dict[Any, Any]:
        """Store what a function returned; give back a copy of it."""
        body, copy = self._codec.pack(rules.check_returned(returned))
        self._policy.check_size(body)
        if self._records.get(text) is not seen:
            raise rules.called_from_inside()
        if body == EMPTY:
            # It reads like no session from now on, so nothing is kept of it.
            self._records.pop(text, None)
        else:
            self._store(text, body)
        return copy

    def _store(self, text: str, body: bytes) -> None:
        if self._policy.ttl is None and self._policy.max_age is None:
            self._records[text] = body
            return
        now = self._backend.now()
        entry = self._records.get(text)
        self._records[text] = rules.next_record(
            self._policy,
            entry if isinstance(entry, Record) else None,
            seal(body),
            now,
            rules.new_token(self._rng),
        )


class _Locked:
    """Holds the lock of shared records; refuses a function that calls the store."""

    __slots__ = ("_home",)

    def __init__(self, home: Home) -> None:
        self._home = home

    def __enter__(self) -> None:
        self._home.lock.acquire()
        if not self._home.holder.enter(get_ident()):
            self._home.lock.release()
            raise rules.called_from_inside()

    def __exit__(self, *exc_info: object) -> None:
        self._home.holder.leave()
        self._home.lock.release()
