"""The bot of a day (``day``) in pyTelegramBotAPI: awaited, and with threads."""

# mypy: allow-untyped-calls
# telebot has annotations, but not in all places.

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from typing import TYPE_CHECKING, Any

from telebot import TeleBot, apihelper, asyncio_helper
from telebot.async_telebot import AsyncTeleBot
from telebot.asyncio_filters import StateFilter as AsyncStateFilter
from telebot.custom_filters import StateFilter
from telebot.states import resolve_context
from telebot.types import CallbackQuery

import botsessions as bs
from botsessions.adapters.telebot import AsyncSessionStateStorage, SessionStateStorage
from tests.adapters.day import (
    COMMANDS,
    OWNER,
    STAYS,
    STEPS,
    Data,
    Kept,
    OnPurposeError,
    Place,
    Traits,
    act,
    split,
)
from tests.adapters.day_replay import Bot, Setting, complain_into, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Handling = Callable[[str], Callable[[Any], Any]]

# telebot keeps no data without a state.
IDLE = "idle"
THREADS = 8
# telebot promises no order among the updates that it gets at once.
_TRAITS = Traits(by_topic=True, ordered=False)


def pause() -> float:
    return random.uniform(0, 0.004)


def said(event: Any) -> str:
    return str(event.data if isinstance(event, CallbackQuery) else event.text)


def place(event: Any) -> dict[str, Any]:
    """Return what the methods for states are told, and the filter finds by itself."""
    chat, user, business, bot, topic = resolve_context(event, 1)
    return {
        "chat_id": chat,
        "user_id": user,
        "business_connection_id": business,
        "message_thread_id": topic,
        "bot_id": bot,
    }


def to(where: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return what an answer is sent with."""
    names = ("chat_id", "business_connection_id", "message_thread_id")
    return {name: where[name] for name in names} | {"text": text}


def awaited(bot: Any) -> Handling:
    def handling(rule: str) -> Callable[[Any], Any]:
        async def handle(event: Any) -> None:
            where = place(event)
            if rule != "fail" and await bot.get_state(**where) is None:
                await bot.set_state(state=IDLE, **where)
            try:
                async with bot.retrieve_data(**where) as data:
                    await asyncio.sleep(pause())
                    reply = act(rule, data, said(event))
            except OnPurposeError as failure:
                await bot.send_message(**to(where, str(failure)))
                raise
            if not data:
                await bot.delete_state(**where)
            elif reply.step != STAYS:
                await bot.set_state(state=reply.step or IDLE, **where)
            await bot.send_message(**to(where, reply.text))

        return handle

    return handling


def blocking(bot: Any) -> Handling:
    def handling(rule: str) -> Callable[[Any], Any]:
        def handle(event: Any) -> None:
            where = place(event)
            if rule != "fail" and bot.get_state(**where) is None:
                bot.set_state(state=IDLE, **where)
            try:
                with bot.retrieve_data(**where) as data:
                    time.sleep(pause())
                    reply = act(rule, data, said(event))
            except OnPurposeError as failure:
                bot.send_message(**to(where, str(failure)))
                raise
            if not data:
                bot.delete_state(**where)
            elif reply.step != STAYS:
                bot.set_state(state=reply.step or IDLE, **where)
            bot.send_message(**to(where, reply.text))

        return handle

    return handling


def register(bot: Any, handling: Handling) -> None:
    for add in (bot.register_message_handler, bot.register_business_message_handler):
        for command in COMMANDS:
            add(handling(command), commands=[command])
        for step in STEPS:
            add(handling(step), state=step)
        add(handling("talk"))
    bot.register_callback_query_handler(handling("press"), func=None)
    bot.register_edited_message_handler(handling("edit"))
    bot.register_edited_business_message_handler(handling("edit"))
    telling: list[tuple[Any, str, str]] = [
        (bot.register_poll_handler, "poll", "question"),
        (bot.register_inline_handler, "inline_query", "query"),
        (bot.register_chosen_inline_handler, "chosen_inline_result", "query"),
    ]
    for add, kind, field in telling:
        add(teller(bot, kind, field), func=None)
    bot.register_channel_post_handler(teller(bot, "channel_post", "text"))


def teller(bot: Any, kind: str, field: str) -> Callable[[Any], Any]:
    def tell(event: Any) -> Any:
        _, mark = split(getattr(event, field))
        return bot.send_message(OWNER, f"{kind} #{mark}")

    async def tell_later(event: Any) -> None:
        await tell(event)

    return tell_later if isinstance(bot, AsyncTeleBot) else tell


class Complaining:
    """Takes what handlers raise, before telebot ends its polling for it."""

    def handle(self, exception: Exception) -> bool:
        logging.getLogger(__name__).error("An error", exc_info=exception)
        return True


# telebot names two classes of its own, one for each kind of bot.
complaining: Any = Complaining()


def let_answer(bot: Any) -> None:
    """Keep telebot from cutting off whoever is answering when its polling ends."""
    close = bot.close_session
    standing = asyncio.all_tasks()

    async def close_session() -> None:
        # Not every version keeps the tasks of its handlers where one can find them.
        polling = asyncio.current_task()
        while answering := asyncio.all_tasks() - standing - {polling}:
            await asyncio.wait(answering)
        await close()

    bot.close_session = close_session


async def poll(setting: Setting) -> None:
    async with bs.open_store(setting.url, namespace=setting.namespace) as store:
        storage = AsyncSessionStateStorage(store, lease=setting.lease)
        bot = AsyncTeleBot("1:a", state_storage=storage, exception_handler=complaining)
        let_answer(bot)
        bot.add_custom_filter(AsyncStateFilter(bot))
        register(bot, awaited(bot))
        polling = asyncio.create_task(bot.polling(non_stop=True))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, polling.cancel)
        await polling


def run_awaited(setting: Setting) -> None:
    complain_into(setting.complaints)
    asyncio_helper.API_URL = setting.api + "/bot{0}/{1}"
    asyncio.run(poll(setting))


def run_blocking(setting: Setting) -> None:
    complain_into(setting.complaints)
    helper: Any = apihelper
    helper.API_URL = setting.api + "/bot{0}/{1}"
    with bs.open_sync_store(setting.url, namespace=setting.namespace) as store:
        bot = TeleBot(
            "1:a",
            state_storage=SessionStateStorage(store, lease=setting.lease),
            num_threads=THREADS,
            use_class_middlewares=True,
            exception_handler=complaining,
        )
        bot.add_custom_filter(StateFilter(bot))
        register(bot, blocking(bot))
        signal.signal(signal.SIGTERM, lambda *_: bot.stop_polling())
        bot.polling(non_stop=True)
        while not bot.worker_pool.tasks.empty():
            time.sleep(0.01)
        bot.stop_bot()


def read(records: Mapping[bs.SessionKey, Data]) -> dict[Place, Kept]:
    kept: dict[Place, Kept] = {}
    for key, record in records.items():
        assert record.keys() == {"state", "data"}
        step = None if record["state"] == IDLE else record["state"]
        where = place_of(key, bot_id=1, name="telebot")
        kept[where] = Kept(record["data"], step)
    return kept


BOTS = [
    Bot("telebot-awaited", run_awaited, read, _TRAITS),
    Bot("telebot-threads", run_blocking, read, _TRAITS),
]
