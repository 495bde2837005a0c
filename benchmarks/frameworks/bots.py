"""The bots that are compared: those of the tests, in processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.botapi import BotApi

PROGRAMS = Path(__file__).parents[2] / "tests" / "adapters"


@dataclasses.dataclass(frozen=True, slots=True)
class Bot:
    """How a bot is started: ``{api}``, ``{directory}``, ``{redis}`` are filled in."""

    program: str
    arguments: str
    count: str = "count"
    """What a user says to be counted."""

    @contextlib.contextmanager
    def running(self, api: BotApi, directory: str, redis: str) -> Iterator[None]:
        """Run it until it polls, and kill it at last, as ``kill -9`` would."""
        polled = api.calls.get("getUpdates", 0)
        words = self.arguments.format(api=api.url, directory=directory, redis=redis)
        with subprocess.Popen(  # noqa: S603 - ours
            [sys.executable, PROGRAMS / self.program, *words.split()],
            stderr=subprocess.DEVNULL,  # what a framework says of handlers that fail
        ) as process:
            try:
                api.wait_until(lambda: api.calls.get("getUpdates", 0) > polled)
                yield
            finally:
                process.kill()


STORE = "sqlite:///{directory}/sessions.db"

AIOGRAM_MEMORY = Bot("aiogram_bot.py", "{api} stock alone")
AIOGRAM_MEMORY_ISOLATED = Bot("aiogram_bot.py", "{api} stock isolated")
AIOGRAM_REDIS = Bot("aiogram_bot.py", "{api} stock alone {redis}")
AIOGRAM_REDIS_ISOLATED = Bot("aiogram_bot.py", "{api} stock isolated {redis}")
AIOGRAM_OURS = Bot("aiogram_bot.py", "{api} {directory}/sessions.db 30")

_PICKLE = "{directory}/bot.pickle"
TELEGRAM_STOCK = Bot("telegram_bot.py", f"{{api}} {_PICKLE} stock", "/count")
TELEGRAM_ONE_BY_ONE = Bot("telegram_bot.py", f"{{api}} {_PICKLE} one-by-one", "/count")
TELEGRAM_OURS = Bot("telegram_bot.py", f"{{api}} {STORE} preload", "/count")

ASYNC_TELEBOT_MEMORY = Bot("telebot_bot.py", "awaited {api}")
ASYNC_TELEBOT_PICKLE = Bot("telebot_bot.py", "awaited {api} {directory}/states.pkl")
ASYNC_TELEBOT_OURS = Bot("telebot_bot.py", f"awaited {{api}} {STORE}")
TELEBOT_MEMORY = Bot("telebot_bot.py", "threaded {api}")
TELEBOT_PICKLE = Bot("telebot_bot.py", "threaded {api} {directory}/states.pkl")
TELEBOT_OURS = Bot("telebot_bot.py", f"threaded {{api}} {STORE}")
