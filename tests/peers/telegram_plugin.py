"""Lets python-telegram-bot's own tests of persistence run over our adapter.

    PYTHONPATH=…/tests/peers python -m pytest -p places_plugin -p telegram_plugin \\
        tests/ext/test_basepersistence.py

Their tests keep to one class of theirs, ``TrackingPersistence``, which counts calls and
shows what it holds. Ours does the same, and what it shows is read from the store, as
another process would read it: where that takes awaiting, the loop of the test stands
still meanwhile.
"""

from __future__ import annotations

import collections
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

from botsessions import MemoryBackend, SessionStore
from botsessions.adapters.telegram import SessionPersistence
from botsessions.loop_thread import LoopThread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import pytest

places = import_module("places_plugin")
_bot: Any = import_module("telegram._bot")


# Each of hundreds of bots reads one and the same key, in a tenth of a second.
_bot.serialization.load_pem_private_key = cache(_bot.serialization.load_pem_private_key)


def pytest_collection_finish(session: pytest.Session) -> None:
    modules = {getattr(item, "module", None): None for item in session.items}
    for module in filter(
        lambda module: hasattr(module, "TrackingPersistence"), modules
    ):
        use_ours(module)


def use_ours(module: Any) -> None:
    TrackingPersistence.module = module
    TrackingPersistence.theirs = module.TrackingPersistence
    TrackingPersistence.CALLBACK_DATA = module.TrackingPersistence.CALLBACK_DATA
    module.TrackingPersistence = TrackingPersistence


class TrackingPersistence(SessionPersistence):
    """Counts what is called, as theirs does, and shows what the store holds."""

    module: ClassVar[Any]
    theirs: ClassVar[Any]
    CALLBACK_DATA: ClassVar[Any]

    def __init__(
        self,
        store_data: Any = None,
        update_interval: float = 60,
        fill_data: bool = False,  # noqa: FBT001, FBT002 - as theirs
    ) -> None:
        place = partial(places.new_place(), types=[self.module.HandlerStates])
        store = places.closed_afterwards(place())
        super().__init__(store, store_data=store_data, update_interval=update_interval)
        self.tracked = store
        self.place = place
        # What their tests put in before the application is there; then None.
        self.first: Any = self.theirs(fill_data=fill_data)
        self.reset_counters()

    def look(self, work: Callable[[SessionStore], Coroutine[Any, Any, Any]]) -> Any:
        """Look into the store for code that cannot await."""
        if isinstance(self.tracked._backend, MemoryBackend):
            return now(work(self.tracked))

        async def look_from_aside() -> Any:
            async with self.place() as other:
                return await work(other)

        return aside().run(look_from_aside())

    def reset_counters(self) -> None:
        self.updated_chat_ids: Any = collections.Counter()
        self.updated_user_ids: Any = collections.Counter()
        self.refreshed_chat_ids: Any = collections.Counter()
        self.refreshed_user_ids: Any = collections.Counter()
        self.dropped_chat_ids: Any = collections.Counter()
        self.dropped_user_ids: Any = collections.Counter()
        self.updated_conversations: Any = collections.defaultdict(collections.Counter)
        self.updated_bot_data = False
        self.refreshed_bot_data = False
        self.updated_callback_data = False
        self.flushed = False

    def reset_tracking(self) -> None:
        """Forget the counts and, as theirs does, empty the store."""
        self.reset_counters()
        if self.first is not None:
            self.first.reset_tracking()
            return
        self.look(clear)

    async def begin(self) -> None:
        """Put in what is to be there first, as another process would."""
        first, self.first = self.first, None
        if first is None:
            return
        other = SessionPersistence(self.tracked)
        for user_id, data in first.user_data.items():
            await other.update_user_data(user_id, data)
        for chat_id, data in first.chat_data.items():
            await other.update_chat_data(chat_id, data)
        await other.update_bot_data(first.bot_data)
        await other.update_callback_data(first.callback_data)
        for name, states in first.conversations.items():
            for key, state in states.items():
                await other.update_conversation(name, key, state)

    # What the store holds.

    @property
    def user_data(self) -> Any:
        if self.first is not None:
            return self.first.user_data
        return self.look(lambda store: SessionPersistence(store).get_user_data())

    @property
    def chat_data(self) -> Any:
        if self.first is not None:
            return self.first.chat_data
        return self.look(lambda store: SessionPersistence(store).get_chat_data())

    @property
    def bot_data(self) -> Any:
        if self.first is not None:
            return self.first.bot_data
        return self.look(lambda store: SessionPersistence(store).get_bot_data())

    @property
    def callback_data(self) -> Any:
        if self.first is not None:
            return self.first.callback_data
        stored = self.look(lambda store: SessionPersistence(store).get_callback_data())
        return stored if stored is not None else ([], {})

    @property
    def conversations(self) -> Any:
        if self.first is not None:
            return self.first.conversations
        # Theirs keeps None for those that have ended; ours keeps nothing.
        found: Any = {
            name: dict.fromkeys(keys)
            for name, keys in self.updated_conversations.items()
        }
        for key, session in self.look(every):
            before, mark, name = str(key.name).partition("telegram.conversation.")
            if mark and not before:
                name = unquote(name.partition("@")[0])
                found.setdefault(name, {})[session["key"]] = session["state"]
        return found

    # What the application calls.

    async def get_user_data(self) -> Any:
        await self.begin()
        return await super().get_user_data()

    async def get_chat_data(self) -> Any:
        await self.begin()
        return await super().get_chat_data()

    async def get_bot_data(self) -> Any:
        await self.begin()
        return await super().get_bot_data()

    async def get_callback_data(self) -> Any:
        await self.begin()
        return await super().get_callback_data()

    async def get_conversations(self, name: str) -> Any:
        await self.begin()
        return await super().get_conversations(name)

    async def refresh_user_data(self, user_id: int, user_data: Any) -> None:
        self.refreshed_user_ids[user_id] += 1
        await super().refresh_user_data(user_id, user_data)
        user_data["refreshed"] = True

    async def refresh_chat_data(self, chat_id: int, chat_data: Any) -> None:
        self.refreshed_chat_ids[chat_id] += 1
        await super().refresh_chat_data(chat_id, chat_data)
        chat_data["refreshed"] = True

    async def refresh_bot_data(self, bot_data: Any) -> None:
        self.refreshed_bot_data = True
        await super().refresh_bot_data(bot_data)
        bot_data["refreshed"] = True

    async def update_user_data(self, user_id: int, data: Any) -> None:
        self.updated_user_ids[user_id] += 1
        await super().update_user_data(user_id, data)

    async def update_chat_data(self, chat_id: int, data: Any) -> None:
        self.updated_chat_ids[chat_id] += 1
        await super().update_chat_data(chat_id, data)

    async def update_bot_data(self, data: Any) -> None:
        self.updated_bot_data = True
        await super().update_bot_data(data)

    async def update_callback_data(self, data: Any) -> None:
        self.updated_callback_data = True
        await super().update_callback_data(data)

    async def update_conversation(self, name: str, key: Any, new_state: Any) -> None:
        self.updated_conversations[name][key] += 1
        await super().update_conversation(name, key, new_state)

    async def drop_user_data(self, user_id: int) -> None:
        self.dropped_user_ids[user_id] += 1
        await super().drop_user_data(user_id)

    async def drop_chat_data(self, chat_id: int) -> None:
        self.dropped_chat_ids[chat_id] += 1
        await super().drop_chat_data(chat_id)

    async def flush(self) -> None:
        self.flushed = True
        await super().flush()


@cache
def aside() -> LoopThread:
    """Return an event loop beside that of the test."""
    return LoopThread()


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


async def every(store: Any) -> list[Any]:
    return [entry async for entry in store.items()]


async def clear(store: Any) -> None:
    for key, _ in await every(store):
        await store.delete(key)
