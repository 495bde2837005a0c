"""Five values are put in, and read back after a restart: which come back as they were?

Each is put by itself through the framework's own calls, and read by a storage that is
made anew on the same file or server.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.base import BaseStorage, StorageKey
from aiogram.fsm.storage.memory import MemoryStorage
from aiogram.fsm.storage.redis import RedisStorage
from telebot import asyncio_storage as telebot_storage
from telegram.ext import BasePersistence, PicklePersistence

from benchmarks.frameworks.table import Line, table
from benchmarks.telegram import application_at, bot_api
from botsessions import open_store
from botsessions.adapters.aiogram import SessionStorage
from botsessions.adapters.telebot import AsyncSessionStateStorage
from botsessions.adapters.telegram import SessionPersistence
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from botsessions import SessionStore

    Trip = Callable[[Any], Awaitable[Any]]

VALUES: dict[str, Any] = {
    '`{1: "a", "1": "b"}`': {1: "a", "1": "b"},
    "tuple": (1, 2),
    "set": {1, 2},
    "bytes": b"\x00\xff",
    "datetime": dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC),
}
KEY = StorageKey(bot_id=1, chat_id=7, user_id=7)
GONE = object()


async def report() -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        redis = await asyncio.to_thread(RedisServer, Path(name, "redis"))
        try:
            async with bot_api() as api:
                trips = Trips(Path(name), redis.url, f"{api.url}/bot")
                return table([await line for line in trips.lines()])
        finally:
            await asyncio.to_thread(redis.stop)


class Trips:
    """A way to there and back for each storage."""

    def __init__(self, directory: Path, redis: str, api: str) -> None:
        self._directory = directory
        self._redis = redis
        self._api = api

    def lines(self) -> list[Awaitable[Line]]:
        memory, redis = MemoryStorage, lambda: RedisStorage.from_url(self._redis)
        at_redis = {"redis_url": self._redis}
        file = {"file_path": str(self._directory / "states.pkl")}
        return [
            self._line("aiogram, default", self._aiogram(memory), self._our_aiogram),
            self._line(
                "aiogram, `RedisStorage`", self._aiogram(redis), self._our_aiogram
            ),
            self._line(
                "python-telegram-bot, `PicklePersistence`",
                self._telegram,
                self._our_telegram,
            ),
            self._line(
                "AsyncTeleBot, default",
                self._telebot(telebot_storage.StateMemoryStorage),
                self._our_telebot,
            ),
            self._line(
                "AsyncTeleBot, `StateRedisStorage`",
                self._telebot(telebot_storage.StateRedisStorage, **at_redis),
                self._our_telebot,
            ),
            self._line(
                "AsyncTeleBot, `StatePickleStorage`",
                self._telebot(telebot_storage.StatePickleStorage, **file),
                self._our_telebot,
            ),
        ]

    async def _line(self, what: str, stock: Trip, ours: Trip) -> Line:
        return Line(what, await _returned(stock), await _returned(ours))

    def _store(self) -> SessionStore:
        return open_store(f"sqlite:///{self._directory}/sessions.db")

    def _aiogram(self, storage: Callable[[], BaseStorage]) -> Trip:
        async def trip(value: Any) -> Any:
            return await _to_aiogram_and_back(storage(), storage(), value)

        return trip

    async def _our_aiogram(self, value: Any) -> Any:
        async with self._store() as one, self._store() as other:
            there, back = SessionStorage(one), SessionStorage(other)
            return await _to_aiogram_and_back(there, back, value)

    async def _telegram(self, value: Any) -> Any:
        file = self._directory / "bot.pickle"
        one, other = PicklePersistence(file), PicklePersistence(file)
        return await self._to_telegram_and_back(one, other, value)

    async def _our_telegram(self, value: Any) -> Any:
        async with self._store() as one, self._store() as other:
            there, back = SessionPersistence(one), SessionPersistence(other)
            return await self._to_telegram_and_back(there, back, value)

    async def _to_telegram_and_back(
        self,
        there: BasePersistence[Any, Any, Any],
        back: BasePersistence[Any, Any, Any],
        value: Any,
    ) -> Any:
        async with application_at(self._api, there) as application:
            application.user_data[7]["value"] = value
            application.mark_data_for_update_persistence(user_ids=7)
            await application.update_persistence()
        async with application_at(self._api, back) as application:
            return application.user_data[7].get("value", GONE)

    def _telebot(self, kind: Callable[..., Any], **options: Any) -> Trip:
        async def trip(value: Any) -> Any:
            return await _to_telebot_and_back(kind(**options), kind(**options), value)

        return trip

    async def _our_telebot(self, value: Any) -> Any:
        async with self._store() as one, self._store() as other:
            there = AsyncSessionStateStorage(one)
            back = AsyncSessionStateStorage(other)
            return await _to_telebot_and_back(there, back, value)


async def _to_aiogram_and_back(
    there: BaseStorage, back: BaseStorage, value: Any
) -> Any:
    try:
        await FSMContext(there, KEY).update_data(value=value)
        return (await FSMContext(back, KEY).get_data()).get("value", GONE)
    finally:
        await there.close()
        await back.close()


async def _to_telebot_and_back(there: Any, back: Any, value: Any) -> Any:
    await there.set_state(7, 7, "state")
    await there.set_data(7, 7, "value", value)
    return (await back.get_data(7, 7) or {}).get("value", GONE)


async def _returned(trip: Trip) -> str:
    """Tell of all values what became of them."""
    found = {name: await _fate(trip, value) for name, value in VALUES.items()}
    if len(set(found.values())) == 1:
        return f"all {len(found)}: {next(iter(found.values()))}"
    return "; ".join(f"{name} {fate}" for name, fate in found.items())


async def _fate(trip: Trip, value: Any) -> str:
    try:
        back = await trip(value)
    except Exception as exc:  # noqa: BLE001 - whatever a storage raises
        return f"raises {type(exc).__name__}"
    if back is GONE:
        return "gone"
    same = type(back) is type(value) and back == value
    return "the same" if same else f"becomes `{back!r}`"
