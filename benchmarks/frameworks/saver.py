"""A process that saves one change after the other, and says so, until it is killed.

``python -m benchmarks.frameworks.saver telegram|telebot PLACE [URL-OF-THE-BOT-API]``;
the place is a pickle of the framework, or the URL of a store. Change number n is made
for user n, and told as a line when the framework says that it is saved.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import Any

from telebot.storage import StatePickleStorage
from telegram.ext import PicklePersistence

from benchmarks.measure import say
from benchmarks.telegram import application_at, change
from botsessions import open_store, open_sync_store
from botsessions.adapters.telebot import SessionStateStorage
from botsessions.adapters.telegram import SessionPersistence


async def telegram(place: str, api: str) -> None:
    if "://" in place:
        # To load all is another question, and takes its time.
        persistence = SessionPersistence(open_store(place), preload=False)
        application = application_at(f"{api}/bot", persistence)
    else:
        application = application_at(f"{api}/bot", PicklePersistence(place))
    async with application:
        for number in itertools.count(1):
            await change(application, number, number)
            await application.update_persistence()
            say(number)


def telebot_storage(place: str) -> Any:  # telebot's calls have no types
    if "://" in place:
        return SessionStateStorage(open_sync_store(place))
    return StatePickleStorage(place)


def telebot(place: str) -> None:
    storage = telebot_storage(place)
    for number in itertools.count(1):
        storage.set_state(number, number, "saved")
        storage.set_data(number, number, "seen", number)
        say(number)


if __name__ == "__main__":
    if sys.argv[1] == "telegram":
        asyncio.run(telegram(*sys.argv[2:]))
    else:
        telebot(sys.argv[2])
