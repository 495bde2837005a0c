"""In memory: what does the store add to the work that nobody can leave out?

The *floor* is a coroutine that looks up, decodes, calls, encodes, stores: no checks, no
copies, no isolation, with the options of ormsgpack that law 6 needs (ENGINE 7.5).
Beside it aiogram's MemoryStorage under SimpleEventIsolation, which decodes nothing and
copies shallowly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import ormsgpack
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.memory import MemoryStorage, SimpleEventIsolation

from benchmarks.measure import Row, Run, alternate, ratio, timed
from benchmarks.sessions import SESSIONS, increment
from botsessions import MemoryBackend, SessionKey, SessionStore
from botsessions.codec import PLAIN

KEYS = 10_000
TASKS = 1_000
ROUNDS = 9

Function = Callable[[dict[str, Any]], dict[str, Any]]
Update = Callable[[Any, Function], Awaitable[object]]


def _refuse(value: object) -> object:
    raise TypeError(type(value).__name__)


def _unknown(tag: int, data: bytes) -> object:
    raise TypeError(tag, data)


class Floor:
    """The bare work, in a coroutine."""

    options = PLAIN | ormsgpack.OPT_NON_STR_KEYS

    def __init__(self, keys: Sequence[str], session: dict[str, Any]) -> None:
        self.stored = dict.fromkeys(keys, ormsgpack.packb(session))

    async def update(self, key: str, function: Function) -> object:
        session = function(
            ormsgpack.unpackb(
                self.stored[key], ext_hook=_unknown, option=ormsgpack.OPT_NON_STR_KEYS
            )
        )
        self.stored[key] = ormsgpack.packb(session, _refuse, self.options)
        return session


class Aiogram:
    """Read, change, write under the lock, as its documentation has it."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.isolation = SimpleEventIsolation()

    async def update(self, key: StorageKey, function: Function) -> object:
        async with self.isolation.lock(key):
            data = function(await self.storage.get_data(key))
            await self.storage.set_data(key, data)
            return data


async def one_caller(update: Update, keys: Sequence[Any]) -> None:
    for key in keys:
        await update(key, increment)


async def many_tasks(update: Update, keys: Sequence[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for start in range(TASKS):
            group.create_task(one_caller(update, keys[start::TASKS]))


async def report() -> list[Row]:
    rows = []
    for name, session in SESSIONS.items():
        store, aiogram = SessionStore(MemoryBackend()), Aiogram()
        ours = [SessionKey(chat_id=n, user_id=n) for n in range(KEYS)]
        theirs = [StorageKey(1, n, n) for n in range(KEYS)]
        for key, other in zip(ours, theirs, strict=True):
            await store.put(key, session)
            await aiogram.storage.set_data(other, session)
        floor = Floor(list(map(str, ours)), session)
        for drive, title in ((one_caller, "one caller"), (many_tasks, "1,000 tasks")):
            runs = await alternate(
                {
                    "floor": _run(drive, floor.update, list(floor.stored)),
                    "ours": _run(drive, store.update, ours),
                    "aiogram": _run(drive, aiogram.update, theirs),
                },
                ROUNDS,
            )
            rows += [
                ratio(
                    f"{name}, {title}: of the floor", runs["ours"], runs["floor"], 0.75
                ),
                ratio(
                    f"{name}, {title}: of aiogram's MemoryStorage",
                    runs["ours"],
                    runs["aiogram"],
                    2.0 if name == "counter" else 1.1,
                ),
            ]
    return rows


def _run(drive: Any, update: Any, keys: Sequence[Any]) -> Callable[[], Awaitable[Run]]:
    return lambda: timed(KEYS, drive(update, keys))
