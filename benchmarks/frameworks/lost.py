"""20 quick messages of one user, 10 ms between reading and writing: what is counted?

With two processes each gets 20, of one user, and they share what they can.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.frameworks import bots
from benchmarks.frameworks.table import Line, table
from tests.servers.botapi import BotApi
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGES = 20
ROUNDS = 3
# Seconds after which a bot that has said nothing is done: some handlers fail.
SILENCE = 5


class Pair(NamedTuple):
    what: str
    stock: bots.Bot
    ours: bots.Bot
    processes: int = 1


PAIRS = [
    Pair("aiogram, default", bots.AIOGRAM_MEMORY, bots.AIOGRAM_OURS),
    Pair(
        "aiogram, `SimpleEventIsolation`",
        bots.AIOGRAM_MEMORY_ISOLATED,
        bots.AIOGRAM_OURS,
    ),
    Pair(
        "python-telegram-bot, concurrent updates",
        bots.TELEGRAM_STOCK,
        bots.TELEGRAM_OURS,
    ),
    Pair(
        "python-telegram-bot, default: one update at a time",
        bots.TELEGRAM_ONE_BY_ONE,
        bots.TELEGRAM_OURS,
    ),
    Pair("AsyncTeleBot", bots.ASYNC_TELEBOT_MEMORY, bots.ASYNC_TELEBOT_OURS),
    Pair("TeleBot, 4 threads", bots.TELEBOT_MEMORY, bots.TELEBOT_OURS),
    Pair("aiogram, `RedisStorage`", bots.AIOGRAM_REDIS, bots.AIOGRAM_OURS, 2),
    Pair(
        "aiogram, `RedisStorage` and `RedisEventIsolation`",
        bots.AIOGRAM_REDIS_ISOLATED,
        bots.AIOGRAM_OURS,
        2,
    ),
    Pair(
        "python-telegram-bot, `PicklePersistence`",
        bots.TELEGRAM_STOCK,
        bots.TELEGRAM_OURS,
        2,
    ),
    Pair("AsyncTeleBot", bots.ASYNC_TELEBOT_PICKLE, bots.ASYNC_TELEBOT_OURS, 2),
    Pair("TeleBot", bots.TELEBOT_PICKLE, bots.TELEBOT_OURS, 2),
]


async def report() -> list[str]:
    return table(await asyncio.to_thread(_lines))


def _lines() -> list[Line]:
    with tempfile.TemporaryDirectory() as directory:
        redis = RedisServer(Path(directory))
        try:
            return [_line(pair, redis) for pair in PAIRS]
        finally:
            redis.stop()


def _line(pair: Pair, redis: RedisServer) -> Line:
    what = pair.what + (", two processes" if pair.processes > 1 else "")
    stock, ours = (
        _range([_counted(bot, pair.processes, redis) for _ in range(ROUNDS)])
        for bot in (pair.stock, pair.ours)
    )
    all_of_them = MESSAGES * pair.processes
    return Line(what, f"{stock} of {all_of_them}", f"{ours} of {all_of_them}")


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _counted(bot: bots.Bot, processes: int, redis: RedisServer) -> int:
    """Return the highest number that any answer told."""
    redis.empty()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        apis = [stack.enter_context(BotApi()) for _ in range(processes)]
        for api in apis:
            stack.enter_context(bot.running(api, directory, redis.url))
        # telebot has data only where it has a state.
        apis[0].say("/start")
        apis[0].wait_until(lambda: len(apis[0].sent) == 1 and not apis[0].unconfirmed)
        for _ in range(MESSAGES):
            for api in apis:
                api.say(bot.count)
        _wait(apis, MESSAGES * processes)
        return max(_numbers(apis), default=0)


def _wait(apis: Sequence[BotApi], answers: int) -> None:
    """Wait for all answers, and for no others when a while has brought none."""
    heard, since = 0, time.monotonic()
    while heard < answers and time.monotonic() < since + SILENCE:
        if len(_numbers(apis)) > heard:
            heard, since = len(_numbers(apis)), time.monotonic()
        time.sleep(0.01)


def _numbers(apis: Sequence[BotApi]) -> list[int]:
    return [int(text) for api in apis for text in api.texts() if text.isdecimal()]
