"""aiogram 3: conversation states and their data, exclusive handlers, sessions.

    storage = SessionStorage(store)
    dispatcher = Dispatcher(storage=storage, events_isolation=SessionIsolation(store))
    dispatcher.update.outer_middleware(SessionMiddleware(store))

Each of the three works without the others. The first two know a ``StorageKey``, the
last one a key of ours; none closes the store, whoever opened it does.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aiogram import BaseMiddleware
from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseEventIsolation, BaseStorage

from botsessions.derive import chat_user_key
from botsessions.errors import LockLostError, MissingKeyPart
from botsessions.kept.aiogram import data_of, state_key, state_of, state_record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from aiogram.fsm.storage.base import StateType, StorageKey
    from aiogram.types import TelegramObject

    from botsessions.keys import SessionKey
    from botsessions.lock import Lock
    from botsessions.store import SessionStore

    Session = dict[Any, Any]
    Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]

# Seconds. Longer than any lease: who waits for a process that died gets through.
_PATIENCE = 300.0
_ABSENT = object()

_log = logging.getLogger(__name__)


class SessionStorage(BaseStorage):
    """Keeps the state and the data of each ``StorageKey`` together, as one session.

    Each call is one read or one atomic ``update`` of the store: concurrent
    ``update_data`` of different names keep all of them. Values come back as what they
    were, or are refused (``UnsupportedValueError``); enum members, also as states, are
    kept by a store that was opened with ``types=[…]``. State and data expire together,
    by the store's ``ttl``. What is without both is not kept.

    Inside a handler that holds the lock of a ``SessionIsolation`` on the same store,
    changes of the locked key are made under it: once the lock was lost they raise
    ``LockLostError`` and write nothing.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    async def set_state(self, key: StorageKey, state: StateType = None) -> None:
        """Set the state and leave the data as they are; None removes it."""
        name = state.state if isinstance(state, State) else state
        await self._update(key, lambda kept: state_record(name, data_of(kept)))

    async def get_state(self, key: StorageKey) -> str | None:
        """Return the state; None if there is none."""
        state: str | None = state_of(await self._store.get(_key(key)))
        return state

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """Replace the data by any mapping; else raise ``DataNotDictLikeError``."""
        if not isinstance(data, Mapping):
            raise DataNotDictLikeError(
                f"the data of a state are a mapping, not {type(data).__name__}"
            )
        whole = dict(data)
        await self._update(key, lambda kept: state_record(state_of(kept), whole))

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """Return the data, in a dict of the caller's own; ``{}`` if there are none."""
        return data_of(await self._store.get(_key(key)))

    async def update_data(
        self, key: StorageKey, data: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Set these names, atomically, and leave others as they are; return all."""
        changes = dict(data)
        kept = await self._update(
            key, lambda kept: state_record(state_of(kept), data_of(kept) | changes)
        )
        return data_of(kept)

    async def close(self) -> None:
        """Do nothing: aiogram calls this at the end of each polling."""

    async def _update(
        self, key: StorageKey, function: Callable[[Session], Session]
    ) -> Session:
        name = _key(key)
        lock = _locks.get().get((self._store, name))
        if lock is None or lock.is_over:
            return await self._store.update(name, function)
        return await lock.held.update(function)


class SessionIsolation(BaseEventIsolation):
    """Lets the handlers of one ``StorageKey`` run one after the other, everywhere.

    Excludes other tasks, processes and machines with an isolation on the same data,
    by ``store.lock`` of the session that a ``SessionStorage`` keeps for that key: in
    order within a process, renewed while the handler runs, free again ``lease`` seconds
    after its process died. Who has waited for ``timeout`` seconds gets a
    ``LockTimeoutError``, and the update is not handled; it should be more than
    ``lease``.

    A task that asks again for what it holds gets a RuntimeError. If the lease is lost
    while a handler runs, its changes of the state and its data are refused; a handler
    that had made all of them ends as if nothing had happened, but for a warning in the
    log.
    """

    def __init__(
        self, store: SessionStore, *, lease: float = 30.0, timeout: float = _PATIENCE
    ) -> None:
        self._store = store
        self._lease = lease
        self._timeout = timeout

    @asynccontextmanager
    async def lock(self, key: StorageKey) -> AsyncGenerator[None, None]:
        """Wait for the turn of this handler, and hold the lock while it runs."""
        name = _key(key)
        place = self._store, name
        async with _lock(self._store, name, self._lease, self._timeout) as held:
            lock = _Block(held)
            _locks.set({**_locks.get(), place: lock})
            try:
                yield
            finally:
                lock.is_over = True
                # Not by a token: blocks may end in another order than they began.
                others = _locks.get().items()
                _locks.set({at: other for at, other in others if other is not lock})

    async def close(self) -> None:
        """Do nothing: aiogram calls this at the end of each polling."""


class SessionMiddleware(BaseMiddleware):
    """Gives handlers ``session``, the dict of this chat and user, and ``store``.

    The handler changes the dict; what it changed is saved once it has returned, not if
    it raised, and nothing is written if nothing changed. All the while the lock of the
    session is held, as by ``SessionIsolation``, which says what ``lease`` and
    ``timeout`` are: no other handler has that session meanwhile. ``LockLostError``
    means that the lease was lost and nothing saved.

    ``store.update`` does not wait for the lock. Where it changed the session meanwhile,
    from inside the handler or elsewhere, its changes stay, but for names that the
    handler changed too: there the handler's stand.

    ``key`` makes the key of an event; for one that it raises ``MissingKeyPart`` for
    there is no ``session``, and no lock. An event that comes through two of these
    middlewares with the same key raises RuntimeError.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        key: Callable[[TelegramObject], SessionKey] = chat_user_key,
        lease: float = 30.0,
        timeout: float = _PATIENCE,
    ) -> None:
        self._store = store
        self._key = key
        self._lease = lease
        self._timeout = timeout

    async def __call__(
        self, handler: Handler, event: TelegramObject, data: dict[str, Any]
    ) -> Any:
        """Run the handler with its session."""
        data["store"] = self._store
        try:
            key = self._key(event)
        except MissingKeyPart:
            return await handler(event, data)
        async with _lock(self._store, key, self._lease, self._timeout) as held:
            session = await held.get()
            before = copy.deepcopy(session)
            data["session"] = session
            result = await handler(event, data)
            if session or before:
                await _save(held, before, session)
            return result


class _Block:
    """A lock, and whether the block that held it is over.

    Tasks that a handler leaves behind keep its context: they write without the lock.
    """

    __slots__ = ("held", "is_over")

    def __init__(self, held: Lock) -> None:
        self.held = held
        self.is_over = False


_locks: ContextVar[Mapping[tuple[SessionStore, SessionKey], _Block]] = ContextVar(
    "_locks", default=MappingProxyType({})
)


@asynccontextmanager
async def _lock(
    store: SessionStore, key: SessionKey, lease: float, patience: float
) -> AsyncGenerator[Lock, None]:
    """Hold a lock; only warn if it turns out to be lost behind a finished block.

    What the block wrote under the lock is safe then, and its result is worth having.
    """
    finished = False
    try:
        async with store.lock(key, lease=lease, timeout=patience) as held:
            yield held
            finished = True
    except LockLostError:
        if not finished:
            raise
        _log.warning(
            "The lock of %s was lost while a handler ran; another may have run "
            "meanwhile. A process must not stand still for longer than the lease, %g s",
            key,
            lease,
        )


async def _save(held: Lock, before: Session, session: Session) -> None:
    """Write what a handler changed; what only others changed meanwhile stays."""

    def merge(stored: Session) -> Session:
        merged = dict(session)
        for name in {**before, **stored}:
            was = before.get(name, _ABSENT)
            now = stored.get(name, _ABSENT)
            if now != was and session.get(name, _ABSENT) == was:
                if now is _ABSENT:
                    del merged[name]
                else:
                    merged[name] = now
        return merged

    try:
        # Also if it looks unchanged: 1 and True are equal, and are not the same.
        await held.update(merge)
    except LockLostError:
        if session != before:
            raise


# A handler asks some five times for the same key, and making one takes microseconds.
@lru_cache(1024)
def _key(key: StorageKey) -> SessionKey:
    return state_key(
        chat_id=key.chat_id,
        user_id=key.user_id,
        topic_id=key.thread_id,
        business_connection_id=key.business_connection_id,
        bot_id=key.bot_id,
        destiny=key.destiny,
    )
