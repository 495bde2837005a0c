"""Bots of pyTelegramBotAPI, whole and in processes of their own, on our storages."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import botsessions as bs
from tests.servers.botapi import BotApi

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 20
PROGRAM = Path(__file__).with_name("telebot_bot.py")

each_kind = pytest.mark.parametrize("kind", ["awaited", "threaded"])


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sessions.db'}"


@contextmanager
def running(kind: str, api: BotApi, *store: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a bot, and kill it at last."""
    source = Path(bs.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, PROGRAM, kind, api.url, *store],
        env={**os.environ, "PYTHONPATH": str(source)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def begin(api: BotApi) -> None:
    """Get an empty record, so that there is where to count."""
    answered = len(api.sent) + 1
    api.say("/start")
    wait_for_answers(api, answered)


def wait_for_answers(api: BotApi, many: int) -> None:
    """Wait for all answers, and until telebot, which does it late, confirmed."""
    api.wait_until(lambda: len(api.sent) >= many)
    api.wait_until(lambda: api.unconfirmed == 0)


def counts(*apis: BotApi) -> list[int]:
    return sorted(int(t) for api in apis for t in api.texts() if t.isdecimal())


def count(many: int, *apis: BotApi) -> list[int]:
    """Say "count" so often to each, and return all that they ever counted."""
    expected = len(counts(*apis)) + many * len(apis)
    for _ in range(many):
        for api in apis:
            api.say("count")
    apis[0].wait_until(lambda: len(counts(*apis)) == expected)
    return counts(*apis)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def any_url(request: pytest.FixtureRequest, url: str) -> str:
    if request.param == "sqlite":
        return url
    server = request.getfixturevalue(f"{request.param}_server")
    return str(server.dsn if request.param == "postgres" else server.url)


@each_kind
def test_quick_messages_are_all_counted(kind: str, any_url: str) -> None:
    with BotApi() as api, running(kind, api, any_url):
        begin(api)
        assert count(MANY, api) == list(range(1, MANY + 1))


@each_kind
def test_quick_messages_are_not_all_counted_without_us(kind: str) -> None:
    with BotApi() as api, running(kind, api):
        begin(api)
        reached = max(count(MANY, api))
    print(f"telebot, {kind}, by itself: {MANY} messages count to {reached}")  # noqa: T201
    assert reached < MANY


@pytest.mark.parametrize(
    ("kind", "other_kind"),
    [("awaited", "awaited"), ("threaded", "threaded"), ("awaited", "threaded")],
)
def test_two_processes_share_a_store(kind: str, other_kind: str, url: str) -> None:
    with (
        BotApi() as one,
        BotApi() as other,
        running(kind, one, url),
        running(other_kind, other, url),
    ):
        begin(one)
        assert count(MANY, one, other) == list(range(1, 2 * MANY + 1))


@each_kind
def test_a_conversation_goes_on_after_a_kill(kind: str, url: str) -> None:
    with BotApi() as api:
        for answered, text in enumerate(["/start", "Ada", "36"], 1):
            with running(kind, api, url):
                api.say(text)
                wait_for_answers(api, answered)
        assert api.texts() == ["Who are you?", "How old?", "Ada, 36"]


@each_kind
def test_a_kill_within_a_block_saves_nothing_and_locks_no_one_out(
    kind: str, url: str
) -> None:
    with BotApi() as api:
        with running(kind, api, url):
            begin(api)
            assert count(1, api) == [1]
            api.say("hang")
            wait_for_answers(api, 3)
            assert api.texts()[-1] == "hanging"
        with running(kind, api, url):
            assert count(2, api) == [1, 2, 3]
