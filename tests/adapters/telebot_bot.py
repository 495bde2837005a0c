"""A bot of pyTelegramBotAPI in a process of its own: it counts, and asks two questions.

    telebot_bot.py awaited|threaded URL-OF-THE-BOT-API [URL-OF-A-STORE | FILE.pkl]

Without a store it keeps its states where telebot does that was told nothing, or in
telebot's pickle.
"""

# mypy: allow-untyped-decorators, allow-untyped-calls
# telebot has annotations, but not in all places.

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from telebot import TeleBot, apihelper, asyncio_helper
from telebot.async_telebot import AsyncTeleBot
from telebot.asyncio_filters import StateFilter as AsyncStateFilter
from telebot.asyncio_storage import StatePickleStorage as AsyncStatePickleStorage
from telebot.custom_filters import StateFilter
from telebot.states import State, StatesGroup
from telebot.states.asyncio import StateMiddleware as AsyncStateMiddleware
from telebot.states.sync import StateMiddleware
from telebot.storage import StatePickleStorage

import botsessions as bs
from botsessions.adapters.telebot import AsyncSessionStateStorage, SessionStateStorage

# Seconds between reading and writing.
PAUSE = 0.01
# Seconds for which the lock of a process that died is waited for.
LEASE = 1.0
THREADS = 4
PICKLE = ".pkl"


class Form(StatesGroup):
    """What is asked, one after the other."""

    name = State()
    age = State()


def says(text: str) -> dict[str, Any]:
    """Return the filter for a text."""
    return {"func": lambda message: message.text == text}


def add_awaited(bot: Any) -> None:
    """Add what an AsyncTeleBot does."""

    @bot.message_handler(commands=["start"])
    async def start(message: Any, state: Any) -> None:
        await state.set(Form.name)
        await state.reset_data()
        await bot.send_message(message.chat.id, "Who are you?")

    @bot.message_handler(**says("count"))
    async def count(message: Any) -> None:
        async with bot.retrieve_data(message.from_user.id, message.chat.id) as data:
            n = data.get("n", 0)
            await asyncio.sleep(PAUSE)
            data["n"] = n + 1
        await bot.send_message(message.chat.id, str(n + 1))

    @bot.message_handler(**says("hang"))
    async def hang(message: Any) -> None:
        async with bot.retrieve_data(message.from_user.id, message.chat.id) as data:
            data["n"] = -1
            await bot.send_message(message.chat.id, "hanging")
            await asyncio.sleep(60)

    @bot.message_handler(state=Form.name)
    async def name(message: Any, state: Any) -> None:
        await state.add_data(name=message.text)
        await state.set(Form.age)
        await bot.send_message(message.chat.id, "How old?")

    @bot.message_handler(state=Form.age)
    async def age(message: Any, state: Any) -> None:
        async with state.data() as data:
            said = f"{data['name']}, {message.text}"
        await state.delete()
        await bot.send_message(message.chat.id, said)


def add_blocking(bot: Any) -> None:
    """Add the same of a TeleBot."""

    @bot.message_handler(commands=["start"])
    def start(message: Any, state: Any) -> None:
        state.set(Form.name)
        state.reset_data()
        bot.send_message(message.chat.id, "Who are you?")

    @bot.message_handler(**says("count"))
    def count(message: Any) -> None:
        with bot.retrieve_data(message.from_user.id, message.chat.id) as data:
            n = data.get("n", 0)
            time.sleep(PAUSE)
            data["n"] = n + 1
        bot.send_message(message.chat.id, str(n + 1))

    @bot.message_handler(**says("hang"))
    def hang(message: Any) -> None:
        with bot.retrieve_data(message.from_user.id, message.chat.id) as data:
            data["n"] = -1
            bot.send_message(message.chat.id, "hanging")
            time.sleep(60)

    @bot.message_handler(state=Form.name)
    def name(message: Any, state: Any) -> None:
        state.add_data(name=message.text)
        state.set(Form.age)
        bot.send_message(message.chat.id, "How old?")

    @bot.message_handler(state=Form.age)
    def age(message: Any, state: Any) -> None:
        with state.data() as data:
            said = f"{data['name']}, {message.text}"
        state.delete()
        bot.send_message(message.chat.id, said)


async def run_awaited(url: str | None) -> None:
    """Run an AsyncTeleBot for ever."""
    options: dict[str, Any] = {}
    if url is not None and url.endswith(PICKLE):
        options["state_storage"] = AsyncStatePickleStorage(url)
    elif url is not None:
        # It is never closed: the process is killed.
        store = bs.open_store(url)
        options["state_storage"] = AsyncSessionStateStorage(store, lease=LEASE)
    bot = AsyncTeleBot("1:a", **options)
    bot.add_custom_filter(AsyncStateFilter(bot))
    bot.setup_middleware(AsyncStateMiddleware(bot))
    add_awaited(bot)
    await bot.polling()


def run_blocking(url: str | None) -> None:
    """Run a TeleBot with threads for ever."""
    options: dict[str, Any] = {}
    if url is not None and url.endswith(PICKLE):
        options["state_storage"] = StatePickleStorage(url)
    elif url is not None:
        store = bs.open_sync_store(url)
        options["state_storage"] = SessionStateStorage(store, lease=LEASE)
    bot = TeleBot("1:a", num_threads=THREADS, use_class_middlewares=True, **options)
    bot.add_custom_filter(StateFilter(bot))
    bot.setup_middleware(StateMiddleware(bot))
    add_blocking(bot)
    bot.polling(non_stop=True)


if __name__ == "__main__":
    how, api, *stores = sys.argv[1:]
    helpers: list[Any] = [apihelper, asyncio_helper]
    for helper in helpers:
        helper.API_URL = api + "/bot{0}/{1}"
    where = stores[0] if stores else None
    if how == "awaited":
        asyncio.run(run_awaited(where))
    else:
        run_blocking(where)
