"""aiogram: what does a handler cost with our storage and isolation on SQLite?

Dispatch, read the data, change them, answer by HTTP to a Bot API server on loopback (a
process of its own), 100 chats at once; against aiogram's own storage in memory under
``SimpleEventIsolation``, which keeps nothing. Chats go on as soon as they are answered,
or say one thing each: then every handler takes a lock from the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.fsm.storage.memory import MemoryStorage, SimpleEventIsolation
from aiogram.types import Chat, Message, Update, User

from benchmarks.measure import Row, Run, alternate, ratio
from botsessions import open_store
from botsessions.adapters.aiogram import SessionIsolation, SessionStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiogram.fsm.context import FSMContext

CHATS = 100
EACH = 10
_NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
ROUNDS = 9
SERVER = """
from tests.servers.botapi import BotApi
import sys
with BotApi() as api:
    print(api.url, flush=True)
    sys.stdin.read()
"""


async def count(message: Message, state: FSMContext) -> None:
    data = await state.get_data()
    await state.update_data(seen=data.get("seen", 0) + 1)
    await message.answer("seen")


class Rival:
    """A dispatcher, and the updates that it is fed."""

    def __init__(self, bot: Bot, dispatcher: Dispatcher, *, once: bool = False) -> None:
        self._bot = bot
        self._dispatcher = dispatcher
        self._others = CHATS if once else 0
        self._ids = itertools.count(1)
        dispatcher.message.register(count)

    async def run(self) -> Run:
        started = time.perf_counter()
        await asyncio.gather(*(self._chat(number) for number in range(1, CHATS + 1)))
        return Run(CHATS * EACH, time.perf_counter() - started)

    async def _chat(self, number: int) -> None:
        for turn in range(EACH):
            number += turn and self._others
            user = User(id=number, is_bot=False, first_name="Ada")
            message = Message(
                message_id=1,
                date=_NOW,
                chat=Chat(id=number, type="private"),
                from_user=user,
                text="hello",
            )
            update = Update(update_id=next(self._ids), message=message)
            await self._dispatcher.feed_update(self._bot, update)


@contextlib.asynccontextmanager
async def _bot() -> AsyncIterator[Bot]:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    url = (await server.stdout.readline()).decode().strip()
    session = AiohttpSession(api=TelegramAPIServer.from_base(url))
    async with Bot("1:a", session=session) as bot:
        yield bot
    server.stdin.close()
    await server.wait()


async def report() -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            _bot() as bot,
            open_store(f"sqlite:///{directory}/ours.db") as store,
        ):
            full = SessionStorage(store), SessionIsolation(store)
            ours, ours_once = (
                Rival(
                    bot,
                    Dispatcher(storage=full[0], events_isolation=full[1]),
                    once=once,
                )
                for once in (False, True)
            )
            alone = Rival(bot, Dispatcher(storage=full[0]))
            stock: Any = SimpleEventIsolation()
            theirs = Rival(
                bot, Dispatcher(storage=MemoryStorage(), events_isolation=stock)
            )
            rivals = {
                "ours": ours.run,
                "once": ours_once.run,
                "alone": alone.run,
                "theirs": theirs.run,
            }
            runs = await alternate(rivals, ROUNDS)
    return [
        ratio("100 chats: storage and isolation", runs["ours"], runs["theirs"], 0.9),
        ratio("100 chats of many, each once", runs["once"], runs["theirs"], 0.9),
        ratio("100 chats: storage alone", runs["alone"], runs["theirs"], 0.9),
    ]
