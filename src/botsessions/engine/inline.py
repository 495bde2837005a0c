"""The engine for backends in this process: no future, no queue, no suspension.

An operation is a dict look-up, a decode, the function, an encode, a store. In front of
the rules stands a short cut for the usual session (a small flat dict without an end):
it repeats ``Codec.pack``'s flat case, because each call it saves is a tenth of the whole
(``docs/adr/0003``); whatever is unusual goes the long way, which is also the reference.
Between claim and release (``backend.Home``) nobody else touches the records.
"""

from __future__ import annotations

import gc
from asyncio import get_running_loop
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ormsgpack import packb, unpackb

from botsessions.codec import BIN8, EMPTY, FLAT_LIMIT, PLAIN, Codec, seal
from botsessions.engine import rules
from botsessions.errors import (
    CorruptRecordError,
    InvalidUpdateError,
    BackendError,
)
from botsessions.record import Record

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable, Iterator, Mapping

    from botsessions.backend import InlineTable, SupportsInline
    from botsessions.keys import SessionKey

_is_tracked = gc.is_tracked


class InlineEngine:
    """Carries out operations at once, on the loop that opened it."""

    __slots__ = (
        "_backend",
        "_codec",
        "_flat_limit",
        "_home",
        "_loop",
        "_policy",
        "_records",
        "_rng",
    )

    def __init__(  # noqa: PLR0913 - everything it depends on is an argument
        self,
        table: InlineTable,
        codec: Codec,
        policy: rules.Policy,
        *,
        backend: SupportsInline,
        loop: asyncio.AbstractEventLoop,
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
        # Up to here the short cut may go; with an expiry to compute, nowhere.
        self._flat_limit = min(FLAT_LIMIT, policy.max_bytes) if endless else 0

    def update(
        self,
        key: SessionKey,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]],
    ) -> dict[Any, Any]:
        """Apply a function to one session; return the session as stored."""
        home = self._home
        loop = home.loop
        if loop is not get_running_loop():
            return self._update_shared(key, function)
        home.loop = None
        try:
            if not home.shared:
                try:
                    session = unpackb(self._records[key._text])  # type: ignore[arg-type]  # noqa: SLF001
                except KeyError:
                    session = {}
                except (AttributeError, ValueError):
                    session = self._read(_text_of(key))
                try:
                    new = function(session)
                except TypeError:
                    rules.check_function(function)
                    raise
                if type(new) is dict and not _is_tracked(new):
                    try:
                        body = packb(new, None, PLAIN)
                    except TypeError:
                        return self._write(key._text, new)  # noqa: SLF001
                    if 1 < len(body) <= self._flat_limit and BIN8 not in body:
                        self._records[key._text] = body  # noqa: SLF001
                        return new.copy()
                return self._write(key._text, new)  # noqa: SLF001
        finally:
            home.loop = loop
        return self._update_shared(key, function)

    def get(self, key: SessionKey) -> dict[Any, Any]:
        """Read one session."""
        with self._claimed():
            return self._read(_text_of(key))

    def put(self, key: SessionKey, body: bytes) -> None:
        """Replace one session by a packed one."""
        with self._claimed():
            self._store(_text_of(key), body)

    def delete(self, key: SessionKey) -> None:
        """Remove one session."""
        with self._claimed():
            self._records.pop(_text_of(key), None)

    def close(self) -> None:
        """Give the records back to their backend."""
        self._backend.detach()

    def _update_shared(
        self,
        key: SessionKey,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]],
    ) -> dict[Any, Any]:
        rules.check_function(function)
        with self._claimed():
            text = _text_of(key)
            return self._write(text, function(self._read(text)))

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Have the records to ourselves, as the loop they belong to or under the lock."""
        home = self._home
        if get_running_loop() is not self._loop:
            raise BackendError(
                "this store belongs to another event loop; open one store for each loop"
            )
        if home.loop is self._loop:
            home.loop = None
            try:
                if not home.shared:
                    yield
                    return
            finally:
                home.loop = self._loop
        elif not home.shared:
            raise _called_from_inside()
        with home.lock:
            if home.busy:
                raise _called_from_inside()
            home.busy = True
            try:
                yield
            finally:
                home.busy = False

    def _read(self, text: str) -> dict[Any, Any]:
        entry = self._records.get(text)
        try:
            if entry is None:
                return {}
            if isinstance(entry, bytes):
                return self._codec.unpack(entry)
            if entry.is_dead(self._backend.now()):
                return {}
            return self._codec.decode(entry.value)
        except CorruptRecordError as exc:
            raise rules.corrupt(text, exc) from exc

    def _write(self, text: str, returned: object) -> dict[Any, Any]:
        """Store what a function returned; give back a copy of it."""
        body, copy = self._codec.pack(rules.check_returned(returned))
        self._policy.check_size(body)
        if body != EMPTY or self._is_alive(text):
            self._store(text, body)
        return copy

    def _is_alive(self, text: str) -> bool:
        entry = self._records.get(text)
        return isinstance(entry, bytes) or (
            entry is not None and not entry.is_dead(self._backend.now())
        )

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
            alive=True,
        )


def _text_of(key: object) -> str:
    return rules.check_key(key)._text  # noqa: SLF001 - kept there for the engine


def _called_from_inside() -> InvalidUpdateError:
    return InvalidUpdateError(
        "a function given to update called the store itself; read before, or write "
        "after, the update"
    )
