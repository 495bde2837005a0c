"""Plays a day to a bot in a process of its own, and hears what it answers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
from collections import Counter, defaultdict, deque
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import botsessions as bs
from tests.adapters.day import OWNER, Event, OnPurposeError, Place, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from multiprocessing.process import BaseProcess

    from tests.adapters.day import Data, Kept, Traits
    from tests.servers.botapi import BotApi

# Each bot is a copy of a process that has what takes time to import: these where they
# are found, from the root of the project.
_COPIES = multiprocessing.get_context("forkserver")
_COPIES.set_forkserver_preload(
    [f"tests.adapters.day_{name}" for name in ("aiogram", "telegram", "telebot")]
    + ["asyncpg", "redis.asyncio"]
)
# Seconds; for a machine that is busy with something else.
_PATIENCE = 60.0


class Setting(NamedTuple):
    """What a bot is told when its process begins."""

    api: str
    url: str
    namespace: str
    complaints: str
    lease: float = 30.0


@dataclass(frozen=True)
class Bot:
    """One framework on one of our adapters."""

    name: str
    run: Callable[[Setting], None]
    """Poll until SIGTERM comes, then end what is under way."""
    read: Callable[[Mapping[bs.SessionKey, Data]], dict[Place, Kept]]
    """Take what a store holds for what is kept of each place; refuse all else."""
    traits: Traits
    counts: Callable[[Iterable[Event]], dict[bs.SessionKey, Data]] = lambda events: {}
    """Say which records there are beside those, of such a day."""


def complain_into(file: str) -> None:
    """Write down what goes wrong in a bot, but for what its handlers do on purpose."""

    def is_serious(record: logging.LogRecord) -> bool:
        cause = record.exc_info[1] if record.exc_info else None
        return not isinstance(cause, OnPurposeError)

    handler = logging.FileHandler(file, delay=True)
    handler.setLevel(logging.WARNING)
    handler.addFilter(is_serious)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def place_of(
    key: bs.SessionKey, *, bot_id: int | None = None, name: str | None = None
) -> Place:
    """Return the place of a key that has such parts, and no other."""
    chat, user = key.chat_id, key.user_id
    assert isinstance(chat, int)
    assert isinstance(user, int)
    place = Place(chat, user, key.business_connection_id, key.topic_id)
    assert key == bs.SessionKey(
        chat_id=place.chat,
        user_id=place.user,
        topic_id=place.topic,
        business_connection_id=place.business,
        bot_id=bot_id,
        name=name,
    )
    return place


async def ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait for all tasks of a set that they leave when they end."""
    while tasks:
        await asyncio.wait(list(tasks))


class Running:
    """A bot in a process of its own."""

    def __init__(self, process: BaseProcess, complaints: Path, api: BotApi) -> None:
        self._process = process
        self._complaints = complaints
        self._api = api

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait as long as it runs and nothing goes wrong."""
        self._api.wait_until(lambda: self._is_well() and reached(), _PATIENCE)

    def stop(self) -> None:
        """Let it end by itself, which it does without complaints."""
        self._process.terminate()
        self._process.join(_PATIENCE)
        assert self._process.exitcode == 0
        assert self._is_silent()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _is_well(self) -> bool:
        assert self._process.is_alive()
        return self._is_silent()

    def _is_silent(self) -> bool:
        assert not self._complaints.exists(), self._complaints.read_text()
        return True


@contextmanager
def running(bot: Bot, setting: Setting, api: BotApi) -> Iterator[Running]:
    """Run a bot from its first question for updates on, and kill it at last."""
    polls = api.calls.get("getUpdates", 0)
    process = _COPIES.Process(target=bot.run, args=(setting,))
    process.start()
    it = Running(process, Path(setting.complaints), api)
    try:
        it.wait_until(lambda: api.calls.get("getUpdates", 0) > polls)
        yield it
    finally:
        it.kill()


class Replay:
    """Pushes events to a server as fast as its bot takes them.

    If it is patient, nobody takes their next turn before the bot has answered the last.
    """

    def __init__(self, api: BotApi, traits: Traits, *, patient: bool) -> None:
        self.answers: dict[Place | None, list[str]] = defaultdict(list)
        """What the bot answered in each place."""
        self._api = api
        self._traits = traits
        self._patient = patient
        self._events: dict[int, Event] = {}
        self._update_ids: dict[int, int] = {}
        self._turns: dict[Place | None, deque[list[Event]]] = defaultdict(deque)
        # How many answers are still to come, by what they are to.
        self._owed: dict[Place | None, Counter[int]] = defaultdict(Counter)
        self._heard = 0

    def begin(self, events: Iterable[Event]) -> None:
        """Push what need not wait; of what was pushed before it is a repetition."""
        lines: dict[Place | None, list[Event]] = defaultdict(list)
        for event in events:
            lines[self._line(event)].append(event)
        for line, its in lines.items():
            turns = itertools.groupby(its, lambda e: e.turn if self._patient else 0)
            self._turns[line].extend([*turn] for _, turn in turns)
        self._push_next()

    def is_over(self) -> bool:
        """Push whoever's turn it is; tell whether all is answered, and confirmed."""
        self.listen()
        self._push_next()
        owed = any(self._owed.values()) or any(self._turns.values())
        return not owed and self._api.unconfirmed == 0

    def has_heard(self, many: int) -> bool:
        """Push whoever's turn it is; tell whether there were so many answers."""
        self.listen()
        self._push_next()
        return self._heard >= many

    def go_on(self) -> None:
        """Wait no longer for what has not been answered yet."""
        self.listen()
        self._owed.clear()
        self._push_next()

    def listen(self) -> None:
        """Take what the bot has answered, and push nothing."""
        news = self._api.sent[self._heard :]
        self._heard += len(news)
        for fields in news:
            self._hear(fields)

    def marks(self) -> dict[Place | None, list[int]]:
        """Return which events were answered so far, in the order of the answers."""
        self.listen()
        return {
            place: [split(text)[1] for text in texts]
            for place, texts in self.answers.items()
        }

    def _line(self, event: Event) -> Place | None:
        return self._traits.place(event) if self._patient else None

    def _push_next(self) -> None:
        for line, turns in self._turns.items():
            if turns and not self._owed[line]:
                for event in turns.popleft():
                    self._push(event, line)

    def _push(self, event: Event, line: Place | None) -> None:
        # By its number we know an update again; by this one Telegram counts.
        number = self._update_ids.setdefault(event.mark, len(self._update_ids) + 1)
        self._events[event.mark] = event
        self._owed[line][event.mark] += 1
        self._api.push(event.update(number))

    def _hear(self, fields: Mapping[str, str]) -> None:
        event = self._events[split(fields["text"])[1]]
        assert _addressee(fields) == _origin(event), (fields, event)
        self.answers[self._traits.place(event)].append(fields["text"])
        owed = self._owed[self._line(event)]
        owed -= Counter([event.mark])


def _addressee(fields: Mapping[str, str]) -> tuple[str, str, str]:
    return (
        fields["chat_id"],
        fields.get("business_connection_id", "None"),
        fields.get("message_thread_id", "None"),
    )


def _origin(event: Event) -> tuple[str, str, str]:
    place = event.place or Place(OWNER, OWNER)
    return str(place.chat), str(place.business), str(place.topic)
