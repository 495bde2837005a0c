"""100,000 users: how long to start, how long to save one change?

aiogram's storages and telebot's load nothing at the start, nor do ours for them; but
telebot's pickle is read and written whole at each call.
"""

from __future__ import annotations

import asyncio
import pickle
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from telebot.storage import StatePickleStorage

from benchmarks.frameworks.table import Line, table
from benchmarks.sessions import FLAT
from benchmarks.telegram import USERS, measured
from botsessions import open_store, open_sync_store
from botsessions.adapters.telebot import AsyncSessionStateStorage, SessionStateStorage

if TYPE_CHECKING:
    from collections.abc import Callable

STOCK_CALLS = 5
OUR_CALLS = 300


async def report() -> list[str]:
    return table([*await _telegram(), await _telebot()])


async def _telegram() -> list[Line]:
    runs = await measured()
    start = [f"{statistics.median(run.start for run in each):.2f} s" for each in runs]
    save = [f"{statistics.median(run.save for run in each):.1f} ms" for each in runs]
    name = f"python-telegram-bot, {USERS:,} users"
    return [
        Line(f"{name}: start", start[0], _both(*start[1:])),
        Line(f"{name}: save a change", save[0], _both(*save[1:])),
    ]


def _both(lazy: str, eager: str) -> str:
    return f"{eager}; {lazy} with `preload=False`"


async def _telebot() -> Line:
    with tempfile.TemporaryDirectory() as directory:
        file, url = Path(directory, "states.pkl"), f"sqlite:///{directory}/sessions.db"
        users = range(1, USERS)
        fill_pickle(file, users)
        await fill_store(url, users)
        stock = StatePickleStorage(str(file))
        with open_sync_store(url) as store:
            ours = SessionStateStorage(store)
            return Line(
                f"TeleBot, `StatePickleStorage`, {USERS:,} users: save a change",
                await asyncio.to_thread(_milliseconds, stock.set_data, STOCK_CALLS),
                await asyncio.to_thread(_milliseconds, ours.set_data, OUR_CALLS),
            )


def fill_pickle(file: Path, users: range) -> None:
    """Write what telebot would have after a state and data of each user."""
    record = {"state": "state", "data": FLAT}
    file.write_bytes(pickle.dumps({f"telebot:{n}:{n}": record for n in users}))


async def fill_store(url: str, users: range) -> None:
    """Let each user have a state."""
    async with open_store(url, max_pending=len(users)) as store:
        storage = AsyncSessionStateStorage(store)
        for begin in range(0, len(users), 5_000):
            chunk = users[begin : begin + 5_000]
            await asyncio.gather(*(storage.set_state(n, n, "state") for n in chunk))


def _milliseconds(set_data: Callable[..., object], calls: int) -> str:
    seconds = []
    for number in range(1, calls + 1):
        begun = time.perf_counter()
        set_data(number, number, "seen", number)
        seconds.append(time.perf_counter() - begun)
    return f"{statistics.median(seconds) * 1000:.1f} ms"
