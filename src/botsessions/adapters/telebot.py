"""pyTelegramBotAPI (telebot): states and their data, kept in a store.

    bot = AsyncTeleBot(token, state_storage=AsyncSessionStateStorage(store))
    bot = TeleBot(token, state_storage=SessionStateStorage(sync_store))

How each call changes a record is a plain function, below; the two storages and the two
blocks only await, or do not. The answers are those of telebot's memory storage, with
two repairs: what was read belongs to the caller, and ``retrieve_data`` is a
transaction.
"""

# ruff: noqa: PLR0913, PLR0917 - the storages take what telebot passes

from __future__ import annotations

import copy
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from telebot.asyncio_storage import StateStorageBase as AsyncStateStorageBase
from telebot.states import State
from telebot.storage import StateStorageBase

from botsessions.kept.telebot import data_of, state_of, state_record
from botsessions.kept.telebot import state_key as _key
from botsessions.store import SessionStore
from botsessions.sync_store import SyncSessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType

    from botsessions.lock import Lock
    from botsessions.sync_store import SyncLock

_Id = int | str | None
_Data = dict[Any, Any]

_ABSENT = object()


# A record that is missing is {}, and so is one that a change leaves missing.


def _setting_state(state: Any) -> Callable[[_Data], _Data]:
    name = state.name if isinstance(state, State) else state
    return lambda record: state_record(name, data_of(record))


class _Removing:
    """Leaves nothing of a record; ``found`` says whether there was one."""

    found = False

    def __call__(self, record: _Data) -> _Data:
        # It runs again after a conflict: the last time counts.
        self.found = bool(record)
        return {}


def _setting_value(name: Any, value: Any) -> Callable[[_Data], _Data]:
    def change(record: _Data) -> _Data:
        if not record:
            raise RuntimeError(
                f"there is no state here to add {name!r} to: set_state comes first"
            )
        return {**record, "data": {**data_of(record), name: value}}

    return change


def _replacing_data(data: Any) -> Callable[[_Data], _Data]:
    return lambda record: {**record, "data": data} if record else {}


def _merging_data(before: _Data, after: _Data) -> Callable[[_Data], _Data]:
    """Make of data that was ``before`` what a block left ``after`` itself.

    What others did meanwhile to a name that the block left alone stays.
    """

    def change(record: _Data) -> _Data:
        if not record:
            return {}
        found = data_of(record)
        data = dict(after)
        for name in before.keys() | found.keys():
            was, now = before.get(name, _ABSENT), found.get(name, _ABSENT)
            if _same(now, was) or not _same(after.get(name, _ABSENT), was):
                continue
            if now is _ABSENT:
                del data[name]
            else:
                data[name] = now
        return {**record, "data": data}

    return change


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays, for example, have no single answer
        return False


class AsyncSessionStateStorage(AsyncStateStorageBase):
    """Keeps the states of an ``AsyncTeleBot`` in a store, which it never closes.

    ``retrieve_data`` holds a lock of the store from its beginning to its end: whoever
    else begins such a block for the same chat and user, in whatever process, waits for
    up to ``timeout`` seconds (``LockTimeoutError``). It is renewed while the block
    runs; if the process dies it ends after ``lease`` seconds. A block that begins
    within another one of the same chat and user, in the same task, is a RuntimeError.
    A block that raises saves nothing, nor does one whose record was deleted in it, or
    whose lock was lost (``LockLostError``). The other methods wait for no block: what
    they set meanwhile stays, unless the block changed the same name of the data.
    """

    def __init__(
        self, store: SessionStore, *, lease: float = 30.0, timeout: float = 60.0
    ) -> None:
        super().__init__()
        if not isinstance(store, SessionStore):
            raise TypeError("an AsyncTeleBot needs a SessionStore: open_store(url)")
        self._store = store
        self._lease = lease
        self._timeout = timeout

    async def set_state(
        self,
        chat_id: _Id,
        user_id: _Id,
        state: Any,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Set the state; the data stay. A ``State`` is kept as its name."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        await self._store.update(key, _setting_state(state))
        return True

    async def get_state(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> Any:
        """Return the state; None when there is none."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return state_of(await self._store.get(key))

    async def delete_state(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Remove the state and the data; False when there were none."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        removing = _Removing()
        await self._store.update(key, removing)
        return removing.found

    async def set_data(
        self,
        chat_id: _Id,
        user_id: _Id,
        key: Any,
        value: Any,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Set one name of the data; a RuntimeError when no state was set."""
        where = _key(
            chat_id, user_id, business_connection_id, message_thread_id, bot_id
        )
        await self._store.update(where, _setting_value(key, value))
        return True

    async def get_data(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> _Data:
        """Return the data, which are the caller's own; ``{}`` when there are none."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return data_of(await self._store.get(key))

    async def reset_data(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Empty the data; the state stays. False when there was no record."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return bool(await self._store.update(key, _replacing_data({})))

    async def save(
        self,
        chat_id: _Id,
        user_id: _Id,
        data: Any,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Replace the data; False, and nothing made, when there was no record."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return bool(await self._store.update(key, _replacing_data(data)))

    def get_interactive_data(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> AsyncDataBlock:
        """Return what ``async with bot.retrieve_data(…) as data`` enters."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return AsyncDataBlock(
            self._store.lock(key, lease=self._lease, timeout=self._timeout)
        )


class AsyncDataBlock:
    """One transaction on the data of a chat and user; to be entered once."""

    data: Any = None
    """What the block may change; None before."""

    def __init__(self, locking: AbstractAsyncContextManager[Lock]) -> None:
        self._transaction = self._transact(locking)

    async def __aenter__(self) -> _Data:
        return await self._transaction.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._transaction.__aexit__(exc_type, exc, traceback)

    @asynccontextmanager
    async def _transact(
        self, locking: AbstractAsyncContextManager[Lock]
    ) -> AsyncIterator[_Data]:
        async with locking as lock:
            before = data_of(await lock.get())
            self.data = copy.deepcopy(before)
            yield self.data
            await lock.update(_merging_data(before, self.data))


class SessionStateStorage(StateStorageBase):
    """Keeps the states of a ``TeleBot`` in a store, which it never closes.

    ``retrieve_data`` is exclusive as with ``AsyncSessionStateStorage``, where a thread
    is what a task is there.
    """

    def __init__(
        self, store: SyncSessionStore, *, lease: float = 30.0, timeout: float = 60.0
    ) -> None:
        super().__init__()
        if not isinstance(store, SyncSessionStore):
            raise TypeError("a TeleBot needs a SyncSessionStore: open_sync_store(url)")
        self._store = store
        self._lease = lease
        self._timeout = timeout

    def set_state(
        self,
        chat_id: _Id,
        user_id: _Id,
        state: Any,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Set the state; the data stay. A ``State`` is kept as its name."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        self._store.update(key, _setting_state(state))
        return True

    def get_state(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> Any:
        """Return the state; None when there is none."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return state_of(self._store.get(key))

    def delete_state(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Remove the state and the data; False when there were none."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        removing = _Removing()
        self._store.update(key, removing)
        return removing.found

    def set_data(
        self,
        chat_id: _Id,
        user_id: _Id,
        key: Any,
        value: Any,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Set one name of the data; a RuntimeError when no state was set."""
        where = _key(
            chat_id, user_id, business_connection_id, message_thread_id, bot_id
        )
        self._store.update(where, _setting_value(key, value))
        return True

    def get_data(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> _Data:
        """Return the data, which are the caller's own; ``{}`` when there are none."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return data_of(self._store.get(key))

    def reset_data(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Empty the data; the state stays. False when there was no record."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return bool(self._store.update(key, _replacing_data({})))

    def save(
        self,
        chat_id: _Id,
        user_id: _Id,
        data: Any,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> bool:
        """Replace the data; False, and nothing made, when there was no record."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return bool(self._store.update(key, _replacing_data(data)))

    def get_interactive_data(
        self,
        chat_id: _Id,
        user_id: _Id,
        business_connection_id: str | None = None,
        message_thread_id: int | None = None,
        bot_id: int | None = None,
    ) -> DataBlock:
        """Return what ``with bot.retrieve_data(…) as data`` enters."""
        key = _key(chat_id, user_id, business_connection_id, message_thread_id, bot_id)
        return DataBlock(
            self._store.lock(key, lease=self._lease, timeout=self._timeout),
            lambda: data_of(self._store.get(key)),
        )


class DataBlock:
    """One transaction on the data of a chat and user; to be entered once."""

    def __init__(
        self, locking: AbstractContextManager[SyncLock], read: Callable[[], _Data]
    ) -> None:
        self._transaction = self._transact(locking)
        self._read = read

    @cached_property
    def data(self) -> Any:
        """What the block may change; before, what was found when first asked for."""
        return self._read()

    def __enter__(self) -> _Data:
        return self._transaction.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._transaction.__exit__(exc_type, exc, traceback)

    @contextmanager
    def _transact(self, locking: AbstractContextManager[SyncLock]) -> Iterator[_Data]:
        with locking as lock:
            before = data_of(lock.get())
            self.data = copy.deepcopy(before)
            yield self.data
            lock.update(_merging_data(before, self.data))
