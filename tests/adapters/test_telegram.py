"""python-telegram-bot: real applications, and a real server beside them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import enum
import gc
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CallbackQueryHandler,
    CommandHandler,
    ConversationHandler,
    InvalidCallbackData,
    MessageHandler,
    PersistenceInput,
    TypeHandler,
    filters,
)

import botsessions as bs
from botsessions.adapters.telegram import SessionPersistence, SessionUpdateProcessor
from tests.places import OnlyContract, Place, Postgres, Redis, SQLite
from tests.servers.botapi import BotApi
from tests.updates.samples import SAMPLES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    Callback = Callable[[Update, Any], Coroutine[Any, Any, Any]]

BOT = Path(__file__).with_name("telegram_bot.py")
each_place = pytest.mark.parametrize("place", [SQLite, Postgres, Redis], indirect=True)
in_a_file = pytest.mark.parametrize("place", [SQLite], indirect=True)


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as api:
        yield api


class Bot:
    """An application that is told its updates one by one, and what went wrong in it."""

    def __init__(
        self,
        api: BotApi,
        persistence: SessionPersistence,
        *handlers: Any,
        **options: Any,
    ) -> None:
        processor = options.pop("processor", None) or SessionUpdateProcessor()
        builder = ApplicationBuilder().token(api.token).base_url(f"{api.url}/bot")
        for name, value in options.items():
            builder = getattr(builder, name)(value)
        self.application: Application[Any, Any, Any, Any, Any, Any] = (
            builder.updater(None)
            .persistence(persistence)
            .concurrent_updates(processor)
            .build()
        )
        self.application.add_handlers(handlers)
        self.errors: list[Exception] = []

        async def keep(_: object, context: Any) -> None:
            self.errors.append(context.error)

        self.application.add_error_handler(keep)
        self._number = 0

    async def __aenter__(self) -> Self:
        await self.application.initialize()
        await self.application.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.application.stop()
        await self.application.shutdown()

    async def hear(self, text: str = "hi", *, chat: int = 7, user: int = 7) -> None:
        """Let it handle a message, to the end."""
        self.put(text, chat=chat, user=user)
        await self.application.update_queue.join()

    def put(self, text: str = "hi", *, chat: int = 7, user: int = 7) -> None:
        kind = "private" if chat == user else "supergroup"
        message: dict[str, Any] = {
            "chat": {"id": chat, "type": kind},
            "from": {"id": user, "is_bot": False, "first_name": "Ada"},
            "text": text,
        }
        if text.startswith("/"):
            length = len(text.split(maxsplit=1)[0])
            command = {"type": "bot_command", "offset": 0, "length": length}
            message["entities"] = [command]
        self.push({"message": message})

    def push(self, document: dict[str, Any]) -> None:
        self._number += 1
        for event in document.values():
            event.setdefault("message_id", self._number)
            event.setdefault("date", 1_700_000_000)
        update = Update.de_json(
            {"update_id": self._number, **document}, self.application.bot
        )
        self.application.bot.insert_callback_data(update)
        self.application.update_queue.put_nowait(update)


class Watched(OnlyContract):
    """Tells what it was asked for, and can be told to fail or to wait."""

    concurrent_batches = 4

    def __init__(self) -> None:
        super().__init__(bs.MemoryBackend())
        self.loaded: list[str] = []
        self.listed = 0
        self.written: list[str] = []
        self.is_away = False
        self.answer: asyncio.Event | None = None
        """What the next load is to wait for before it answers."""
        self.asked = asyncio.Event()

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        self.loaded += keys
        loaded = await super().load(keys)
        answer, self.answer = self.answer, None
        if answer is not None:
            self.asked.set()
            await answer.wait()
        return loaded

    async def commit(self, writes: Sequence[bs.Write]) -> Sequence[bool]:
        if self.is_away:
            raise bs.BackendUnavailableError("it is said to be away")
        self.written += [write.key for write in writes]
        return await super().commit(writes)

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[bs.Page]:
        async for page in super().list_pages(prefix, after, limit):
            self.listed += len(page.entries)
            yield page


def on_message(callback: Callback, **options: Any) -> Any:
    return MessageHandler(filters.ALL, callback, **options)


def doing(function: Callable[[Any], Any]) -> Any:
    """Return a handler that calls a function with the context."""

    async def callback(update: Update, context: Any) -> None:
        result = function(context)
        if isinstance(result, asyncio.Future):
            await result

    return on_message(callback)


# Lost updates.


async def count_of_twenty(api: BotApi, **options: Any) -> int:
    async def count(update: Update, context: Any) -> None:
        number = context.user_data.get("n", 0)
        await asyncio.sleep(0.01)
        context.user_data["n"] = number + 1

    builder = ApplicationBuilder().token(api.token).base_url(f"{api.url}/bot")
    for name, value in options.items():
        builder = getattr(builder, name)(value)
    application = builder.build()
    application.add_handler(on_message(count))
    for _ in range(20):
        api.say("hi")
    async with application:
        assert application.updater is not None
        await application.updater.start_polling(timeout=1)
        await application.start()
        await asyncio.to_thread(api.wait_until, lambda: api.unconfirmed == 0)
        await application.updater.stop()
        await application.stop()
        return int(application.user_data[7]["n"])


async def test_stock_application_loses_quick_messages(api: BotApi) -> None:
    # 1 on a machine that has started all twenty handlers after 10 ms.
    assert await count_of_twenty(api, concurrent_updates=True) < 5


@each_place
async def test_twenty_quick_messages_count_to_twenty(api: BotApi, place: Place) -> None:
    async with place.store() as store:
        options = {
            "persistence": SessionPersistence(store),
            "concurrent_updates": SessionUpdateProcessor(),
        }
        assert await count_of_twenty(api, **options) == 20
        key = bs.SessionKey(user_id=7, name="telegram.user")
        assert await store.get(key) == {"n": 20}


# What is kept.


class Step(enum.Enum):
    NAME = 1


@each_place
@pytest.mark.parametrize("preload", [True, False])
async def test_next_start_finds_everything(
    api: BotApi, place: Place, *, preload: bool
) -> None:
    async def begin(update: Update, context: Any) -> Step:
        context.user_data["u"] = {"when": (1, {2})}
        context.chat_data["c"] = 1
        context.bot_data["b"] = [Step.NAME]
        return Step.NAME

    async def go_on(update: Update, context: Any) -> int:
        found.append((context.user_data, context.chat_data, context.bot_data))
        return ConversationHandler.END

    def bot() -> Bot:
        conversation: Any = ConversationHandler(
            [CommandHandler("start", begin)],
            {Step.NAME: [on_message(go_on)]},
            [],
            name="ein/form@",
            persistent=True,
        )
        return Bot(api, SessionPersistence(store, preload=preload), conversation)

    found: list[Any] = []
    async with place.store(types=[Step]) as store:
        async with bot() as first:
            await first.hear("/start", chat=-5)
        async with bot() as second:
            await second.hear("Ada", chat=-5)
        assert found == [({"u": {"when": (1, {2})}}, {"c": 1}, {"b": [Step.NAME]})]
        # The conversation has ended.
        assert sorted([str(key) async for key in store.keys()]) == [
            "chat=-5/name=telegram.chat",
            "name=telegram.bot",
            "user=7/name=telegram.user",
        ]
        assert (first.errors, second.errors) == ([], [])
        # A bot's own sessions are others.
        message = {"chat": {"id": -5}, "from": {"id": 7}}
        assert await store.get(bs.chat_user_key({"message": message})) == {}


async def test_buttons_keep_their_data(api: BotApi) -> None:
    pytest.importorskip("cachetools", reason="python-telegram-bot[callback-data]")

    async def offer(update: Update, context: Any) -> None:
        for number in (1, 2):
            button = InlineKeyboardButton("buy", callback_data=("buy", number))
            markup = InlineKeyboardMarkup([[button]])
            await update.effective_message.reply_text("?", reply_markup=markup)  # type: ignore[union-attr]

    async def press(update: Update, context: Any) -> None:
        assert update.callback_query is not None
        pressed.append(update.callback_query.data)
        if len(pressed) == 5:
            context.drop_callback_data(update.callback_query)

    def bot() -> Bot:
        handlers = [CallbackQueryHandler(press), on_message(offer)]
        persistence = SessionPersistence(store)
        return Bot(api, persistence, *handlers, arbitrary_callback_data=4)

    async def push(bot: Bot, number: int) -> None:
        markup = json.loads(api.sent[number]["reply_markup"])
        query = {
            "id": f"q{len(pressed)}",
            "chat_instance": "i",
            "from": {"id": 7, "is_bot": False, "first_name": "Ada"},
            "data": markup["inline_keyboard"][0][0]["callback_data"],
        }
        bot.push({"callback_query": query})
        await bot.application.update_queue.join()

    async def keyboards() -> int:
        stored = await SessionPersistence(store).get_callback_data()
        assert stored is not None
        return len(stored[0])

    pressed: list[Any] = []
    backend = Watched()
    async with bs.SessionStore(backend) as store:
        async with bot() as first:
            await first.hear()
            await push(first, 1)
            await push(first, 0)
            assert await keyboards() == 2
        backend.written.clear()
        async with bot() as second:
            await push(second, 0)
            assert len(backend.written) == 1
            # These take the places of the two that were not used for longest.
            await second.hear()
            await second.hear()
            assert await keyboards() == 4
            await push(second, 1)
            await push(second, 3)
            assert await keyboards() == 3
    buy_1, buy_2 = ("buy", 1), ("buy", 2)
    assert pressed[:3] + pressed[4:] == [buy_2, buy_1, buy_1, buy_2]
    assert isinstance(pressed[3], InvalidCallbackData)
    assert (first.errors, second.errors) == ([], [])


async def test_only_what_changed_is_written(api: BotApi) -> None:
    backend = Watched()
    async with bs.SessionStore(backend) as store:
        persistence = SessionPersistence(store)
        seen = doing(lambda context: len(context.user_data))
        async with Bot(api, persistence, seen) as bot:
            await bot.hear(user=1)
            await bot.hear(user=2)
        assert [key async for key in store.keys()] == []
        assert backend.written == []
        write = doing(lambda context: context.user_data.update(a=1, b=[1]))
        async with Bot(api, persistence, write) as bot:
            await bot.hear(user=1)
            await bot.hear(user=1)
        assert backend.written == ["sessions/user=1/name=telegram.user"]


async def test_a_value_of_another_type_is_another_value(api: BotApi) -> None:
    values = iter([1, True, 1.0, 0.0, -0.0])
    async with bs.open_store("memory://") as store:
        write = doing(lambda context: context.user_data.update(v=next(values)))
        async with Bot(api, SessionPersistence(store), write) as bot:
            for expected in ["1", "True", "1.0", "0.0", "-0.0"]:
                await bot.hear()
                stored = await store.get(bs.SessionKey(user_id=7, name="telegram.user"))
                assert repr(stored["v"]) == expected


@pytest.mark.parametrize("preload", [True, False])
async def test_removed_names_and_nested_changes_are_written(
    api: BotApi, *, preload: bool
) -> None:
    steps: Iterator[Callable[[dict[str, Any]], object]] = iter(
        [
            lambda data: data.update(gone=1, stays=2, cart=[]),
            lambda data: data.pop("gone"),
            lambda data: data["cart"].append("book"),
            lambda data: data["cart"].append("pen"),
        ]
    )
    async with bs.open_store("memory://") as store:
        change = doing(lambda context: next(steps)(context.user_data))
        for _ in range(2):
            # The second one changes what it has loaded.
            persistence = SessionPersistence(store, preload=preload)
            async with Bot(api, persistence, change) as bot:
                await bot.hear()
                await bot.hear()
        stored = await store.get(bs.SessionKey(user_id=7, name="telegram.user"))
        assert stored == {"stays": 2, "cart": ["book", "pen"]}


async def test_conversations_are_kept_apart() -> None:
    async with bs.open_store("memory://") as store:
        persistence = SessionPersistence(store)
        keys: list[tuple[int | str, ...]] = [
            (1, 1),
            (1, "1"),
            (11,),
            ("s1",),
            ("1@1",),
            (-1, 1, "a/b@ü"),
        ]
        for name in ("form", "form@1", "for", "ä b"):
            for key in keys:
                await persistence.update_conversation(name, key, (name, key))
            found = await persistence.get_conversations(name)
            assert found == {key: (name, key) for key in keys}
        assert len([key async for key in store.keys()]) == 24


async def test_what_was_changed_before_a_handler_failed_is_kept_as_ever(
    api: BotApi,
) -> None:
    async def fail(update: Update, context: Any) -> None:
        context.user_data["a"] = 1
        raise LookupError

    async with bs.open_store("memory://") as store:
        async with Bot(api, SessionPersistence(store), on_message(fail)) as bot:
            await bot.hear()
            assert await store.get(bs.SessionKey(user_id=7, name="telegram.user"))
        assert [type(error) for error in bot.errors] == [LookupError]


async def test_dropped_data_are_gone(api: BotApi) -> None:
    def step(context: Any) -> None:
        if "a" not in context.user_data:
            context.user_data["a"] = context.chat_data["a"] = 1
        else:
            context.application.drop_user_data(7)
            context.application.drop_chat_data(7)

    async with (
        bs.open_store("memory://") as store,
        Bot(api, SessionPersistence(store), doing(step)) as bot,
    ):
        await bot.hear()
        assert len([key async for key in store.keys()]) == 2
        await bot.hear()
        assert [key async for key in store.keys()] == []
        # Somebody may come back.
        bot.application.user_data[7]["a"] = 1
        bot.application.mark_data_for_update_persistence(user_ids=7)
        await bot.application.update_persistence()
        assert await store.get(bs.SessionKey(user_id=7, name="telegram.user"))


async def test_nothing_is_kept_that_is_not_to_be_kept(api: BotApi) -> None:
    def step(context: Any) -> None:
        for data in (context.user_data, context.chat_data, context.bot_data):
            data["a"] = 1

    async with bs.open_store("memory://") as store:
        only_users = PersistenceInput(
            bot_data=False, chat_data=False, callback_data=False
        )
        persistence = SessionPersistence(store, store_data=only_users)
        async with Bot(api, persistence, doing(step)) as bot:
            await bot.hear()
        keys = [str(key) async for key in store.keys()]
        assert keys == ["user=7/name=telegram.user"]


async def test_store_stays_open_and_the_application_starts_again(api: BotApi) -> None:
    def step(context: Any) -> None:
        context.user_data["n"] = context.user_data.get("n", 0) + 1

    async with bs.open_store("memory://") as store:
        for preload in (True, False):
            bot = Bot(api, SessionPersistence(store, preload=preload), doing(step))
            for _ in range(2):
                async with bot:
                    await bot.hear()
        assert await store.get(bs.SessionKey(user_id=7, name="telegram.user")) == {
            "n": 4
        }


@in_a_file
async def test_every_kind_of_update_passes(api: BotApi, place: Place) -> None:
    seen: list[int] = []

    async def note(update: Update, context: Any) -> None:
        seen.append(update.update_id)
        for data in (context.user_data, context.chat_data):
            if data is not None:
                data["n"] = data.get("n", 0) + 1

    async with place.store() as store:
        handled = 0
        async with Bot(
            api, SessionPersistence(store), TypeHandler(Update, note)
        ) as bot:
            for sample in SAMPLES:
                document: Any = copy.deepcopy(sample.update)
                # Old versions need fields that Telegram gives no longer.
                with contextlib.suppress(TypeError):
                    update = Update.de_json(document, bot.application.bot)
                    bot.application.update_queue.put_nowait(update)
                    handled += 1
            await bot.application.update_queue.join()
        assert (len(seen), bot.errors) == (handled, [])
        assert handled > len(SAMPLES) * 0.9


# Other processes.


@each_place
async def test_changes_of_other_processes_are_seen_and_kept(
    api: BotApi, place: Place
) -> None:
    async def do(update: Update, context: Any) -> None:
        steps[update.effective_message.text](context.user_data)  # type: ignore[union-attr]
        seen.append(dict(context.user_data))

    steps: dict[str | None, Callable[[dict[str, Any]], object]] = {
        "set a": lambda data: data.update(a=1),
        "set b": lambda data: data.update(b=2),
        "set a again": lambda data: data.update(a=[3]),
        "remove b": lambda data: data.pop("b"),
        "look": len,
    }
    seen: list[dict[str, Any]] = []
    async with place.store() as one_store, place.store() as other_store:
        one = Bot(api, SessionPersistence(one_store), on_message(do))
        other = Bot(api, SessionPersistence(other_store, preload=False), on_message(do))
        async with one, other:
            await one.hear("set a")
            await other.hear("set b")
            await other.hear("set a again")
            await one.hear("remove b")
            await other.hear("look")
        assert seen == [
            {"a": 1},
            {"a": 1, "b": 2},
            {"a": [3], "b": 2},
            {"a": [3]},
            {"a": [3]},
        ]


async def test_what_a_handler_has_not_saved_yet_survives_the_next_update(
    api: BotApi,
) -> None:
    may_end = asyncio.Event()

    async def do(update: Update, context: Any) -> None:
        data = context.chat_data
        if update.effective_user.id == 1:  # type: ignore[union-attr]
            data.setdefault("list", [])
            mine = data["list"]
            data["set"] = "mine"
            await may_end.wait()
            mine.append("mine")
        else:
            data["other"] = 1

    backend = bs.MemoryBackend()
    key = bs.SessionKey(chat_id=-5, name="telegram.chat")
    async with bs.SessionStore(backend) as store, bs.SessionStore(backend) as elsewhere:
        await store.put(key, {"list": [], "set": "old", "theirs": 1})
        async with Bot(api, SessionPersistence(store), on_message(do)) as bot:
            bot.put(chat=-5, user=1)
            await asyncio.sleep(0.01)
            await elsewhere.update(key, lambda s: {**s, "set": "theirs", "theirs": 2})
            bot.put(chat=-5, user=2)
            await asyncio.sleep(0.01)
            may_end.set()
            await bot.application.update_queue.join()
        assert await store.get(key) == {
            "list": ["mine"],
            "set": "mine",
            "theirs": 2,
            "other": 1,
        }


async def test_reading_and_saving_at_the_same_time_take_nothing_back() -> None:
    """Each step of the two that may be interleaved, at its worst moment."""
    backend = Watched()
    key = bs.SessionKey(user_id=1, name="telegram.user")
    async with bs.SessionStore(backend) as store:
        await store.put(key, {"n": 1, "m": 1})
        persistence = SessionPersistence(store)
        live = (await persistence.get_user_data())[1]

        # It is read, then saved, and then the answer to the reading comes.
        backend.answer = answer = asyncio.Event()
        reading = asyncio.create_task(persistence.refresh_user_data(1, live))
        await backend.asked.wait()
        live["n"] = 2
        await persistence.update_user_data(1, copy.deepcopy(live))
        answer.set()
        await reading
        assert live == {"n": 2, "m": 1}

        # It is copied, then another process' change is taken over, then it is saved.
        live["n"] = 3
        copied = copy.deepcopy(live)
        await store.update(key, lambda s: {**s, "m": 2, "new": 1})
        await persistence.refresh_user_data(1, live)
        await persistence.update_user_data(1, copied)
        assert live == {"n": 3, "m": 2, "new": 1} == await store.get(key)


# A bot with many users.


async def fill(store: bs.SessionStore, users: int) -> None:
    for number in range(1, users + 1):
        key = bs.SessionKey(user_id=number, name="telegram.user")
        await store.put(key, {"n": number})
        await store.put(bs.SessionKey(chat_id=-number, name="telegram.chat"), {"c": 1})


async def test_without_preloading_nothing_is_loaded_before_it_is_used(
    api: BotApi,
) -> None:
    backend = Watched()
    seen: list[Any] = []

    def look(context: Any) -> None:
        seen.append((dict(context.user_data), dict(context.chat_data)))

    async with bs.SessionStore(backend) as store:
        await fill(store, 1000)
        backend.loaded.clear()
        persistence = SessionPersistence(store, preload=False)
        conversation: Any = ConversationHandler([], {}, [], name="f", persistent=True)
        async with Bot(api, persistence, conversation, doing(look)) as bot:
            assert set(backend.loaded) == {"sessions/name=telegram.bot"}
            assert backend.listed <= 500  # a page behind the conversations
            assert not bot.application.user_data
            await bot.hear(chat=-3, user=42)
            assert set(backend.loaded) == {
                "sessions/name=telegram.bot",
                "sessions/chat=-3/name=telegram.chat",
                "sessions/user=42/name=telegram.user",
            }
        assert seen == [({"n": 42}, {"c": 1})]


async def test_preloading_loads_everything(api: BotApi) -> None:
    async with bs.SessionStore(bs.MemoryBackend()) as store:
        await fill(store, 100)
        await store.put(bs.SessionKey(chat_id=5, user_id=7), {"a bot's own": 1})
        await store.put(bs.SessionKey(user_id=7, name="a bot's own"), {"a": 1})
        async with Bot(api, SessionPersistence(store)) as bot:
            application = bot.application
            assert dict(application.user_data) == {n: {"n": n} for n in range(1, 101)}
            assert dict(application.chat_data) == {-n: {"c": 1} for n in range(1, 101)}


@pytest.mark.parametrize("was_on", [True, False])
async def test_preloading_leaves_the_garbage_collector_as_it_was(
    *, was_on: bool
) -> None:
    async with bs.open_store("memory://") as store:
        await store.put(bs.SessionKey(user_id=7, name="telegram.user"), {"n": 1})
        persistence = SessionPersistence(store)
        try:
            if not was_on:
                gc.disable()
            assert await persistence.get_user_data() == {7: {"n": 1}}
            assert await persistence.get_chat_data() == {}
            assert gc.isenabled() is was_on
        finally:
            gc.enable()


async def test_data_that_were_never_loaded_are_not_overwritten(api: BotApi) -> None:
    def write(context: Any) -> None:
        context.application.user_data[42]["new"] = 1
        context.application.mark_data_for_update_persistence(user_ids=42)

    async with bs.SessionStore(bs.MemoryBackend()) as store:
        await fill(store, 50)
        persistence = SessionPersistence(store, preload=False)
        async with Bot(api, persistence, doing(write)) as bot:
            await bot.hear()
        stored = await store.get(bs.SessionKey(user_id=42, name="telegram.user"))
        assert stored == {"n": 42, "new": 1}


# Failures.


async def test_a_failed_write_is_told_and_repeated(api: BotApi) -> None:
    async def begin(update: Update, context: Any) -> int:
        context.user_data["n"] = 1
        context.application.drop_chat_data(-9)
        return 5

    backend = Watched()
    async with bs.SessionStore(backend, timeout=0.5) as store:
        key = bs.SessionKey(chat_id=-9, name="telegram.chat")
        await store.put(key, {"a": 1})
        conversation: Any = ConversationHandler(
            [CommandHandler("start", begin)], {5: []}, [], name="f", persistent=True
        )
        persistence = SessionPersistence(store)
        async with Bot(api, persistence, conversation, on_message(nothing)) as bot:
            backend.is_away = True
            await bot.hear("/start")
            assert {type(error) for error in bot.errors} == {bs.BackendUnavailableError}
            backend.is_away = False
            # Somebody else's update is enough.
            await bot.hear(user=8, chat=8)
            assert sorted([str(key) async for key in store.keys()]) == [
                "name=telegram.conversation.f@7@7",
                "user=7/name=telegram.user",
            ]
            assert persistence._writes == {}


async def nothing(update: Update, context: Any) -> None:
    """Handle an update."""


async def test_a_failed_write_is_repeated_at_the_end(api: BotApi) -> None:
    backend = Watched()
    async with bs.SessionStore(backend, timeout=0.5) as store:
        write = doing(lambda context: context.user_data.update(n=1))
        async with Bot(api, SessionPersistence(store), write) as bot:
            backend.is_away = True
            await bot.hear()
            backend.is_away = False
        assert await store.get(bs.SessionKey(user_id=7, name="telegram.user"))


async def test_a_later_write_is_not_undone_by_repeating_an_earlier_one() -> None:
    backend = Watched()
    async with bs.SessionStore(backend, timeout=0.5) as store:
        persistence = SessionPersistence(store)
        backend.is_away = True
        with pytest.raises(bs.BackendUnavailableError):
            await persistence.update_conversation("f", (1, 1), 1)
        with pytest.raises(bs.BackendUnavailableError):
            await persistence.update_user_data(1, {"a": 1, "b": 1})
        backend.is_away = False
        # What is always saved repeats the others, at the same time as they are saved.
        await asyncio.gather(
            persistence.update_bot_data({}),
            persistence.update_conversation("f", (1, 1), None),
            persistence.update_user_data(1, {"a": 2, "b": 1}),
        )
        await persistence.flush()
        assert [key async for key in store.keys()] == [
            bs.SessionKey(user_id=1, name="telegram.user")
        ]
        assert await persistence.get_user_data() == {1: {"a": 2, "b": 1}}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("where", ["user_data", "chat_data", "bot_data"])
async def test_a_value_that_cannot_be_copied_stops_nothing(
    api: BotApi, where: str
) -> None:
    def write(context: Any) -> None:
        if context._user_id == 666:
            getattr(context, where)["bad"] = [threading.Lock()]
        else:
            context.user_data["n"] = 1

    async with bs.open_store("memory://") as store:
        persistence = SessionPersistence(store, update_interval=0.05)
        async with Bot(api, persistence, doing(write)) as bot:
            bot.put(user=1)
            bot.put(user=666, chat=666)
            bot.put(user=2)
            await bot.application.update_queue.join()
            told = [error for error in bot.errors if "['bad'][0]" in str(error)]
            assert told == bot.errors
            assert told
            assert isinstance(told[0], bs.UnsupportedValueError)
            # The application's own loop goes on, which saves this one.
            await asyncio.sleep(0.1)
            bot.application.user_data[3]["n"] = 1
            bot.application.mark_data_for_update_persistence(user_ids=3)
            await asyncio.sleep(0.1)
            for user in (1, 2, 3):
                key = bs.SessionKey(user_id=user, name="telegram.user")
                assert await store.get(key) == {"n": 1}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_one_update_at_a_time_goes_on_after_a_failure_to_save(
    api: BotApi,
) -> None:
    backend = Watched()
    values: Iterator[Any] = iter([threading.Lock(), 2, 3])
    async with bs.SessionStore(backend, timeout=0.5) as store:
        write = doing(lambda context: context.user_data.update(a=next(values)))
        processor = SessionUpdateProcessor(1)
        persistence = SessionPersistence(store)
        async with Bot(api, persistence, write, processor=processor) as bot:
            await bot.hear()
            backend.is_away = True
            await bot.hear()
            backend.is_away = False
            await bot.hear()
            key = bs.SessionKey(user_id=7, name="telegram.user")
            assert await store.get(key) == {"a": 3}
        assert [type(error) for error in bot.errors] == [
            bs.UnsupportedValueError,
            bs.BackendUnavailableError,
        ]


async def test_an_enum_as_state_is_refused_by_name_unless_it_was_named(
    api: BotApi,
) -> None:
    async def begin(update: Update, context: Any) -> Step:
        return Step.NAME

    conversation: Any = ConversationHandler(
        [CommandHandler("start", begin)],
        {Step.NAME: []},
        [],
        name="f",
        persistent=True,
    )
    async with bs.open_store("memory://") as store:
        async with Bot(api, SessionPersistence(store), conversation) as bot:
            await bot.hear("/start")
        assert [type(error) for error in bot.errors] == [bs.UnsupportedValueError]
        assert "session['state']" in str(bot.errors[0])
        assert "types=[Step]" in str(bot.errors[0])


@pytest.mark.parametrize("preload", [True, False])
async def test_migration_keeps_the_data_also_when_told_twice(
    api: BotApi, *, preload: bool
) -> None:
    async def migrate(update: Update, context: Any) -> None:
        context.application.migrate_chat_data(message=update.effective_message)

    async with bs.open_store("memory://") as store:
        old = bs.SessionKey(chat_id=-5, name="telegram.chat")
        new = bs.SessionKey(chat_id=-1005, name="telegram.chat")
        await store.put(old, {"a": 1})
        messages = [
            {"chat": {"id": -5, "type": "group"}, "migrate_to_chat_id": -1005},
            {"chat": {"id": -1005, "type": "group"}, "migrate_from_chat_id": -5},
        ]
        seen: list[Any] = []
        look = doing(lambda context: seen.append(dict(context.chat_data)))
        handler = MessageHandler(filters.StatusUpdate.MIGRATE, migrate)

        async def handle(bot: Bot, message: dict[str, Any]) -> None:
            bot.push({"message": message})
            await bot.application.update_queue.join()
            assert await store.get(new) == {"a": 1}
            assert await store.get(old) == {}

        first, second = (
            Bot(api, SessionPersistence(store, preload=preload), handler, look)
            for _ in range(2)
        )
        async with first:
            await handle(first, messages[0])
            await handle(first, messages[1])
        async with second:
            await handle(second, messages[1])
            await second.hear(chat=-1005)
            assert await store.get(new) == {"a": 1}
        assert seen == [{"a": 1}]
        assert first.errors == second.errors == []


# The processor.


def message(chat: int, user: int) -> dict[str, Any]:
    return {"message": {"chat": {"id": chat}, "from": {"id": user}}}


async def test_updates_of_a_key_run_in_order_and_others_meanwhile() -> None:
    processor = SessionUpdateProcessor()
    events: list[str] = []

    async def handle(name: str) -> None:
        events.append(f"{name} begins")
        for _ in range(5):
            await asyncio.sleep(0)
        events.append(f"{name} ends")

    async with processor, asyncio.TaskGroup() as group:
        for name, update in [
            ("a1", message(1, 1)),
            ("a2", message(1, 1)),
            ("b1", message(1, 2)),
            ("a3", message(1, 1)),
            ("free1", {"update_id": 1, "poll": {}}),
            ("free2", "no update at all"),
            ("free3", None),
        ]:
            group.create_task(processor.process_update(update, handle(name)))
    assert events[:5] == [
        f"{n} begins" for n in ["a1", "b1", "free1", "free2", "free3"]
    ]
    assert [event for event in events if event.startswith("a")] == [
        f"a{n} {what}" for n in (1, 2, 3) for what in ("begins", "ends")
    ]
    assert len(processor._lanes) == 0


async def test_one_who_is_cancelled_while_waiting_holds_up_nobody() -> None:
    processor = SessionUpdateProcessor()
    may_end = asyncio.Event()
    done: list[int] = []

    async def handle(number: int) -> None:
        await may_end.wait()
        done.append(number)

    coroutines: list[Any] = [handle(number) for number in range(3)]
    tasks = [
        asyncio.create_task(processor.process_update(message(1, 1), coroutine))
        for coroutine in coroutines
    ]
    await asyncio.sleep(0.01)
    tasks[1].cancel()
    await asyncio.sleep(0.01)
    # A coroutine that nobody awaited would be a warning, and fail this test.
    assert coroutines[1].cr_frame is None
    may_end.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert done == [0, 2]


async def test_failure_of_one_reaches_its_caller_and_frees_its_key() -> None:
    processor = SessionUpdateProcessor(1)

    async def fail() -> None:
        raise LookupError

    for _ in range(2):
        async with processor:
            with pytest.raises(LookupError):
                await processor.process_update(message(1, 1), fail())
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    await processor.process_update(message(1, 1), done)  # any awaitable will do


async def test_no_more_than_so_many_run_at_once() -> None:
    with pytest.raises(ValueError, match="positive"):
        SessionUpdateProcessor(0)
    processor = SessionUpdateProcessor(2)
    may_end = asyncio.Event()
    running: list[int] = []

    async def handle(number: int) -> None:
        running.append(number)
        await may_end.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            update = message(number, 1)
            group.create_task(processor.process_update(update, handle(number)))
        await asyncio.sleep(0.01)
        assert (running, processor.current_concurrent_updates) == ([0, 1], 2)
        may_end.set()
    assert processor.current_concurrent_updates == 0


async def test_key_is_the_bots_choice() -> None:
    processor = SessionUpdateProcessor(key=bs.chat_key)
    running = 0

    async def handle() -> None:
        nonlocal running
        running += 1
        await asyncio.sleep(0.01)
        assert running == 1
        running -= 1

    async with asyncio.TaskGroup() as group:
        for user in range(4):
            group.create_task(processor.process_update(message(-5, user), handle()))


async def test_many_updates_at_once_share_what_is_written(api: BotApi) -> None:
    backend = Watched()
    runs = 0

    class Counting(SessionPersistence):
        async def update_bot_data(self, data: dict[Any, Any]) -> None:
            nonlocal runs
            runs += 1
            await super().update_bot_data(data)

    async with bs.SessionStore(backend) as store:
        write = doing(lambda context: context.user_data.update(n=1))
        async with Bot(api, Counting(store), write) as bot:
            for user in range(1, 101):
                bot.put(user=user)
            await bot.application.update_queue.join()
            assert len(backend.written) == 100
            assert runs < 20


# Other processes, and their end.


@contextlib.contextmanager
def child(api: BotApi, url: str, how: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, BOT, api.url, url, how])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ask(api: BotApi, text: str, *, chat: int = 7, user: int = 7) -> str:
    """Send a message and return the answer, when it has come."""
    before = len(api.texts(chat))
    api.say(text, chat_id=chat, user_id=user)
    api.wait_until(lambda: len(api.texts(chat)) > before)
    return api.texts(chat)[before]


@pytest.mark.parametrize("how", ["preload", "lazy"])
def test_a_conversation_goes_on_after_the_bot_was_killed(
    api: BotApi, how: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    with child(api, url, how):
        assert ask(api, "/start") == "Who are you?"
        assert ask(api, "Ada") == "How old?"
        # Each answer tells that the update before is saved.
        assert ask(api, "/count") == "1"
        assert ask(api, "/count") == "2"
    with child(api, url, how):
        assert ask(api, "36") == "Ada is 36"
        number = int(ask(api, "/count"))
        # The last update of the first bot may be lost, or be there once more.
        assert number in (2, 3, 4)


def test_two_processes_see_what_the_other_wrote(api: BotApi, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    with BotApi() as other, child(api, url, "preload"), child(other, url, "lazy"):
        assert ask(api, "/set a 1", chat=-5) == "ok"
        assert ask(other, "/set b 2", chat=-5) == "ok"
        assert ask(api, "/set a 3", chat=-5) == "ok"
        # An answer is sent before its update is saved; the next one is handled after.
        for each in (api, other):
            ask(each, "/show", chat=-5)
        for each in (other, api):
            assert ask(each, "/show", chat=-5) == "[('a', '3'), ('b', '2')]"
