"""A day of mixed traffic, replayed fast to a bot of each framework (``day``).

Whole on SQLite, with a restart at noon; shorter on the servers, and with a kill.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from tests.adapters import day_aiogram, day_telebot, day_telegram
from tests.adapters.day import (
    Kept,
    breaths,
    check_after_a_kill,
    day,
    fold,
    halves,
    same,
)
from tests.adapters.day_replay import Replay, Setting, running
from tests.places import new_name
from tests.servers.botapi import BotApi

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.adapters.day import Data, Event, Place
    from tests.adapters.day_replay import Bot

# Another one is another day; it stands in the names of the tests.
SEED = int(os.environ.get("DAY_SEED", "4"))
WHOLE, SHORT = 600, 120

each_bot = pytest.mark.parametrize(
    "bot",
    [*day_aiogram.BOTS, *day_telegram.BOTS, *day_telebot.BOTS],
    ids=lambda bot: f"{bot.name}-seed{SEED}",
)


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sessions.db'}?durability=normal"


@pytest.fixture(params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    running = request.getfixturevalue(f"{request.param}_server")
    return str(running.dsn if request.param == "postgres" else running.url)


def setting(api: BotApi, url: str, directory: Path, **options: Any) -> Setting:
    complaints = str(directory / "complaints")
    return Setting(api.url, url, new_name(), complaints, **options)


async def everything(where: Setting) -> dict[bs.SessionKey, Data]:
    """Return all that a store holds, when nobody holds a lock there."""
    async with bs.open_store(where.url, namespace=where.namespace) as store:
        until = time.monotonic() + 10
        while held := await locks(store):
            assert time.monotonic() < until, held
            time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs here
        return {key: session async for key, session in store.items()}


async def locks(store: bs.SessionStore) -> list[str]:
    """Return the locks that are held, or were by those who were killed."""
    backend: Any = store._backend
    return [
        key
        async for page in backend.list_pages(store._prefix + "!", "", 500)
        for key, record in page.entries
        if not record.is_gone(page.now)
    ]


def check_answers(replay: Replay, bot: Bot, events: Sequence[Event]) -> None:
    # What belongs to nobody has no order.
    expected = fold(events, bot.traits).answers
    assert sorted(replay.answers.pop(None)) == sorted(expected.pop(None))
    answers = [
        {place: breaths(texts, bot.traits, events) for place, texts in its.items()}
        for its in (replay.answers, expected)
    ]
    assert answers[0] == answers[1]


def check_kept(found: dict[Place, Kept], bot: Bot, events: Sequence[Event]) -> None:
    expected = fold(events, bot.traits).kept
    wrong = [
        (place, its, expected.get(place))
        for place, its in found.items()
        if place not in expected or not same(its, expected[place], bot.traits, events)
    ]
    assert (wrong, expected.keys() - found.keys()) == ([], set())


def replay_with_a_restart(bot: Bot, api: BotApi, where: Setting, many: int) -> None:
    """Play a day, and hold answers and sessions to what they must be."""
    replay = Replay(api, bot.traits, patient=not bot.traits.ordered)
    parts = halves(day(SEED, many))
    for part in parts:
        # The second part begins while no bot runs.
        replay.begin(part)
        with running(bot, where, api) as process:
            process.wait_until(replay.is_over)
            process.stop()
        assert replay.is_over()
    events = [event for part in parts for event in part]
    check_answers(replay, bot, events)
    records = asyncio.run(everything(where))
    counts = bot.counts(events)
    assert {key: records.pop(key, {}) for key in counts} == counts
    check_kept(bot.read(records), bot, events)


@each_bot
def test_a_day(bot: Bot, api: BotApi, file: str, tmp_path: Path) -> None:
    replay_with_a_restart(bot, api, setting(api, file, tmp_path), WHOLE)


@each_bot
def test_a_short_day_on_a_server(
    bot: Bot, api: BotApi, server: str, tmp_path: Path
) -> None:
    replay_with_a_restart(bot, api, setting(api, server, tmp_path), SHORT)


@each_bot
def test_a_day_with_a_kill(bot: Bot, api: BotApi, file: str, tmp_path: Path) -> None:
    """What was answered is not lost, and who was not served just then lost nothing."""
    where = setting(api, file, tmp_path)
    # Who forgets everything cannot tell what was lost.
    events = day(SEED, SHORT, forgetting=False)
    replay = Replay(api, bot.traits, patient=True)
    replay.begin(events)
    # The locks of who is killed end soon.
    with running(bot, where._replace(lease=1.5), api) as process:
        process.wait_until(lambda: replay.has_heard(len(events) // 2))
        process.kill()
    unsure = last_answers(replay) if bot.traits.answers_first else {}
    # The next takes what comes again; people go on when it, too, has ended.
    with running(bot, where, api) as process:
        process.wait_until(lambda: api.unconfirmed == 0)
        process.stop()
    replay.go_on()
    with running(bot, where, api) as process:
        process.wait_until(replay.is_over)
        process.stop()
    records = asyncio.run(everything(where))
    for key in bot.counts(events):
        records.pop(key, None)
    kept = bot.read(records)
    answered = replay.marks()
    places = {bot.traits.place(event) for event in events} - {None}
    unhurt = [
        check_after_a_kill(
            kept.pop(place, Kept()),
            [event for event in events if bot.traits.place(event) == place],
            answered.get(place, []),
            unsure.get(place),
            bot.traits,
        )
        for place in places
        if place is not None
    ]
    assert not kept
    assert any(unhurt)


def last_answers(replay: Replay) -> dict[Place, int]:
    """Return what was answered last in each place, and perhaps not saved any more."""
    return {
        place: marks[-1] for place, marks in replay.marks().items() if place is not None
    }
