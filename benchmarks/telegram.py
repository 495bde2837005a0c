"""python-telegram-bot with 100,000 users: how long to start, how long to save a change?

Beside its own ``PicklePersistence``, which reads and writes one file with everything,
and holds up the event loop as long as it does. Ours is on SQLite at full durability.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from telegram.ext import (
    ApplicationBuilder,
    BasePersistence,
    ConversationHandler,
    PicklePersistence,
)

from benchmarks.measure import Row, figure
from benchmarks.sessions import FLAT
from botsessions import SessionKey, open_store
from botsessions.adapters.telegram import SessionPersistence
from tests.servers.botapi import BotApi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

USERS = 100_000
CONVERSATIONS = 1_000
ROUNDS = 5
SAVES = 300


class Run(NamedTuple):
    """Seconds to start, and milliseconds to save the change of one user."""

    start: float
    save: float


class Runs(NamedTuple):
    """What stock did in each round, and ours without and with preloading."""

    stock: list[Run]
    lazy: list[Run]
    eager: list[Run]


async def report() -> list[Row]:
    stock, lazy, eager = await measured()
    start = f"[stock: {statistics.median(run.start for run in stock):.2f} s]"
    save = f"[stock: {statistics.median(run.save for run in stock):.0f} ms]"
    return [
        _row("start, preload=False", [run.start for run in lazy], 0.2, "s", start),
        _row("start, preload=True", [run.start for run in eager], 2, "s", start),
        _row("save a change, preload=False", [run.save for run in lazy], 2, "ms", save),
        _row("save a change, preload=True", [run.save for run in eager], 2, "ms", save),
    ]


async def measured() -> Runs:
    with tempfile.TemporaryDirectory() as directory:
        async with bot_api() as api:
            return await _measured(api, directory)


@contextlib.asynccontextmanager
async def bot_api() -> AsyncIterator[BotApi]:
    """Run a server; its event loop takes another thread to begin and to end."""
    api = BotApi()
    await asyncio.to_thread(api.__enter__)
    try:
        yield api
    finally:
        await asyncio.to_thread(api.__exit__)


async def _measured(api: BotApi, directory: str) -> Runs:
    url = f"sqlite:///{directory}/sessions.db"
    pickle = Path(directory, "stock.pickle")
    await fill(url)
    await fill_stock(pickle)
    return Runs(
        [await _measure(api, PicklePersistence(pickle), 3) for _ in range(ROUNDS)],
        [await _ours(api, url, preload=False) for _ in range(ROUNDS)],
        [await _ours(api, url, preload=True) for _ in range(ROUNDS)],
    )


def _row(what: str, values: list[float], target: float, unit: str, note: str) -> Row:
    return dataclasses.replace(figure(what, values, target, unit), note=note)


async def fill(url: str) -> None:
    async with open_store(url, max_pending=USERS) as store:
        persistence = SessionPersistence(store)
        for begin in range(1, USERS, 5_000):
            await asyncio.gather(
                *(store.put(key_of(user), FLAT) for user in range(begin, begin + 5_000))
            )
        await asyncio.gather(
            *(
                persistence.update_conversation("form", (user, user), 1)
                for user in range(1, CONVERSATIONS)
            )
        )


def key_of(user: int) -> SessionKey:
    """Return where the adapter keeps the data of a user."""
    return SessionKey(user_id=user, name="telegram.user")


async def fill_stock(path: Path) -> None:
    persistence: PicklePersistence[Any, Any, Any] = PicklePersistence(
        path, on_flush=True
    )
    await persistence.get_user_data()
    for user in range(1, USERS):
        await persistence.update_user_data(user, dict(FLAT))
    await persistence.flush()


async def _ours(api: BotApi, url: str, *, preload: bool) -> Run:
    store = open_store(url)
    persistence = SessionPersistence(store, preload=preload)
    try:
        return await _measure(api, persistence, SAVES)
    finally:
        await store.aclose()


async def _measure(
    api: BotApi, persistence: BasePersistence[Any, Any, Any], saves: int
) -> Run:
    """Start, and change one user after the other, as handlers would."""
    application = application_at(f"{api.url}/bot", persistence)
    gc.collect()
    begun = time.perf_counter()
    async with application:
        start = time.perf_counter() - begun
        seconds = []
        for _ in range(saves):
            user = random.randrange(1, USERS)
            await change(application, user, random.random())
            begun = time.perf_counter()
            await application.update_persistence()
            seconds.append(time.perf_counter() - begun)
    return Run(start, statistics.median(seconds) * 1000)


def application_at(url: str, persistence: BasePersistence[Any, Any, Any]) -> Any:
    """Return a bot that asks for no updates, with a conversation that is kept."""
    application = (
        ApplicationBuilder()
        .token(BotApi.token)
        .base_url(url)
        .updater(None)
        .persistence(persistence)
        .build()
    )
    application.add_handler(
        ConversationHandler([], {}, [], name="form", persistent=True)
    )
    return application


async def change(application: Any, user: int, seen: float) -> None:
    """Change the data of one user, and mark them to be saved."""
    data = application.user_data[user]
    await application.persistence.refresh_user_data(user, data)
    data["seen"] = seen
    application.mark_data_for_update_persistence(user_ids=user)
