"""A bot of aiogram in a process of its own, over one SQLite file.

    python tests/adapters/aiogram_bot.py URL_OF_THE_BOT_API FILE LEASE
    python tests/adapters/aiogram_bot.py URL_OF_THE_BOT_API stock alone|isolated [REDIS]

It counts what it is told to count, and asks for a name and an age. ``test_aiogram``
lets two of them run at once, and kills one. A stock one has aiogram's own storage, in
memory or on Redis, and its own isolation or, as by default, none.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from aiogram import Bot, Dispatcher, F, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.filters import CommandStart
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.memory import (
    DisabledEventIsolation,
    MemoryStorage,
    SimpleEventIsolation,
)
from aiogram.fsm.storage.redis import RedisStorage

from botsessions import SessionStore, SQLiteBackend
from botsessions.adapters.aiogram import SessionIsolation, SessionStorage

if TYPE_CHECKING:
    from aiogram.fsm.context import FSMContext
    from aiogram.fsm.storage.base import BaseEventIsolation
    from aiogram.types import Message


class Form(StatesGroup):
    name = State()
    age = State()


def bot_at(url: str) -> Bot:
    """Return a bot that talks to a Bot API server of ours."""
    server = TelegramAPIServer.from_base(url)
    return Bot("1:a", session=AiohttpSession(api=server))


async def count(message: Message, state: FSMContext) -> None:
    """Count up, with the gap between reading and writing that handlers have."""
    seen = 1 + (await state.get_data()).get("seen", 0)
    await asyncio.sleep(0.01)
    await state.update_data(seen=seen)
    await message.answer(str(seen))


async def start(message: Message, state: FSMContext) -> None:
    await state.set_state(Form.name)
    await message.answer("name?")


async def take_name(message: Message, state: FSMContext) -> None:
    await state.update_data(name=message.text)
    await state.set_state(Form.age)
    await message.answer("age?")


async def think(message: Message) -> None:
    """Be killed in here."""
    await message.answer("hm")
    await asyncio.sleep(60)


async def take_age(message: Message, state: FSMContext) -> None:
    data = await state.get_data()
    await state.clear()
    await message.answer(f"{data['name']} is {message.text}")


def routes() -> Router:
    router = Router()
    router.message.register(count, F.text == "count")
    router.message.register(start, CommandStart())
    router.message.register(take_name, Form.name)
    router.message.register(think, Form.age, F.text == "think")
    router.message.register(take_age, Form.age)
    return router


async def main(url: str, file: str, lease: float) -> None:
    # Killed processes lose nothing here that "normal" could lose.
    async with SessionStore(SQLiteBackend(file, durability="normal")) as store:
        dispatcher = Dispatcher(
            storage=SessionStorage(store),
            events_isolation=SessionIsolation(store, lease=lease),
        )
        await poll(url, dispatcher)


def stock(how: str, *redis: str) -> Dispatcher:
    """Return a dispatcher with nothing of ours."""
    storage = RedisStorage.from_url(redis[0]) if redis else MemoryStorage()
    isolation: BaseEventIsolation = DisabledEventIsolation()
    if how == "isolated":
        isolation = SimpleEventIsolation()
        if isinstance(storage, RedisStorage):
            isolation = storage.create_isolation()
    return Dispatcher(storage=storage, events_isolation=isolation)


async def poll(url: str, dispatcher: Dispatcher) -> None:
    dispatcher.include_router(routes())
    await dispatcher.start_polling(bot_at(url))


if __name__ == "__main__":
    api, where, *how = sys.argv[1:]
    if where == "stock":
        asyncio.run(poll(api, stock(*how)))
    else:
        asyncio.run(main(api, where, float(how[0])))
