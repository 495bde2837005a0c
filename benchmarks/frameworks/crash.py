"""``kill -9``: does a conversation go on, and can what was being saved be read?

A bot is killed a second after its second question, started again, and told the answer.
Then: a process that saves one change after the other is killed at any moment, and what
it left is opened. Stock writes its whole file anew: with 100,000 users of
python-telegram-bot, 10,000 states of TeleBot. It does so every 60 seconds (the former),
or at each call (the latter); here it does nothing else.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telebot.storage import StatePickleStorage
from telegram.ext import PicklePersistence

from benchmarks.frameworks import bots
from benchmarks.frameworks.start import fill_pickle, fill_store
from benchmarks.frameworks.table import Line, table
from benchmarks.telegram import USERS, bot_api, fill, fill_stock, key_of
from botsessions import open_store
from botsessions.adapters.telebot import AsyncSessionStateStorage
from tests.servers.botapi import BotApi
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Read = Callable[[range], Awaitable[list[Any]]]

# Seconds between the last answer and the kill, and for an answer that may never come.
REST = 1.0
PATIENCE = 3.0
KILLS = 10
STATES = 10_000

PAIRS = [
    ("aiogram, default", bots.AIOGRAM_MEMORY, bots.AIOGRAM_OURS),
    ("aiogram, `RedisStorage`", bots.AIOGRAM_REDIS, bots.AIOGRAM_OURS),
    (
        "python-telegram-bot, `PicklePersistence`",
        bots.TELEGRAM_STOCK,
        bots.TELEGRAM_OURS,
    ),
    ("AsyncTeleBot, default", bots.ASYNC_TELEBOT_MEMORY, bots.ASYNC_TELEBOT_OURS),
    (
        "AsyncTeleBot, `StatePickleStorage`",
        bots.ASYNC_TELEBOT_PICKLE,
        bots.ASYNC_TELEBOT_OURS,
    ),
    ("TeleBot, default", bots.TELEBOT_MEMORY, bots.TELEBOT_OURS),
    ("TeleBot, `StatePickleStorage`", bots.TELEBOT_PICKLE, bots.TELEBOT_OURS),
]


async def report() -> list[str]:
    talks = await asyncio.to_thread(_talks)
    return table([*talks, await _telegram_saves(), await _telebot_saves()])


# A conversation.


def _talks() -> list[Line]:
    with tempfile.TemporaryDirectory() as directory:
        redis = RedisServer(Path(directory))
        try:
            return [
                Line(
                    f"{what}: a conversation",
                    _after_a_kill(stock, redis),
                    _after_a_kill(ours, redis),
                )
                for what, stock, ours in PAIRS
            ]
        finally:
            redis.stop()


def _after_a_kill(bot: bots.Bot, redis: RedisServer) -> str:
    redis.empty()
    with tempfile.TemporaryDirectory() as directory, BotApi() as api:
        with bot.running(api, directory, redis.url):
            for answered, text in enumerate(("/start", "Ada"), 1):
                api.say(text)
                if not _answers(api, answered):
                    return f"no answer to {text}, without any kill"
            time.sleep(REST)
        with bot.running(api, directory, redis.url):
            api.say("36")
            goes_on = _answers(api, 3) and "Ada" in api.texts()[-1]
            return "goes on" if goes_on else "is lost"


def _answers(api: BotApi, count: int) -> bool:
    """Wait for so many answers, and until the bot has confirmed; tell if they came."""
    try:
        api.wait_until(lambda: len(api.sent) >= count, PATIENCE)
    except AssertionError:
        return False
    api.wait_until(lambda: not api.unconfirmed)
    return True


# Saving.


async def _telegram_saves() -> Line:
    with tempfile.TemporaryDirectory() as directory:
        whole, file = Path(directory, "whole.pickle"), Path(directory, "bot.pickle")
        await fill_stock(whole)
        url = f"sqlite:///{directory}/sessions.db"
        await fill(url)

        async def read_stock(users: range) -> list[Any]:
            pickled: PicklePersistence[Any, Any, Any] = PicklePersistence(file)
            data = await pickled.get_user_data()
            return [data[user]["seen"] for user in users]

        async def read_ours(users: range) -> list[Any]:
            async with open_store(url) as store:
                return [(await store.get(key_of(user)))["seen"] for user in users]

        stock, ours = [], []
        async with bot_api() as api:
            for _ in range(KILLS):
                shutil.copyfile(whole, file)
                stock.append(await _left(read_stock, "telegram", str(file), api.url))
                ours.append(await _left(read_ours, "telegram", url, api.url))
    what = f"python-telegram-bot, {USERS:,} users: {KILLS} kills while saving"
    return Line(what, _summary(stock), _summary(ours))


async def _telebot_saves() -> Line:
    with tempfile.TemporaryDirectory() as directory:
        whole, file = Path(directory, "whole.pkl"), Path(directory, "states.pkl")
        others = range(-STATES, 0)
        fill_pickle(whole, others)
        url = f"sqlite:///{directory}/sessions.db"
        await fill_store(url, others)

        async def read_stock(users: range) -> list[Any]:
            storage = StatePickleStorage(str(file))
            return [storage.get_data(n, n)["seen"] for n in users]

        async def read_ours(users: range) -> list[Any]:
            async with open_store(url) as store:
                storage = AsyncSessionStateStorage(store)
                return [(await storage.get_data(n, n))["seen"] for n in users]

        stock, ours = [], []
        for _ in range(KILLS):
            shutil.copyfile(whole, file)
            stock.append(await _left(read_stock, "telebot", str(file)))
            ours.append(await _left(read_ours, "telebot", url))
    what = f"TeleBot, {STATES:,} states: {KILLS} kills while saving"
    return Line(what, _summary(stock), _summary(ours))


async def _left(read: Read, *saver: str) -> str:
    """Kill a process that saves; tell what is left of all that it told was saved."""
    told = await asyncio.to_thread(_kill_one_that_saves, *saver)
    saved = range(1, told + 1)
    try:
        found = await read(saved)
    except Exception as exc:  # noqa: BLE001 - whatever reading a torn file raises
        return f"unreadable ({type(exc).__name__})"
    return "kept all that was saved" if found == [*saved] else "lost what was saved"


def _kill_one_that_saves(*arguments: str) -> int:
    with subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, "-m", "benchmarks.frameworks.saver", *arguments],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(random.random())
        process.kill()
        told = [first, *process.stdout]
    # A line that was cut was not told.
    return max(int(line) for line in told if line.endswith(b"\n"))


def _summary(left: list[str]) -> str:
    return ", ".join(
        f"{left.count(each)} of {len(left)} {each}" for each in sorted(set(left))
    )
