"""The examples without a framework: run for real, killed, told to stop."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.testclient import TestClient

import botsessions as bs
from examples.raw_polling import RefusedError, call
from examples.webhook_starlette import make_app
from tests.servers.botapi import BotApi

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SECRET = "a-secret_1"  # noqa: S105
NAME = "X-Telegram-Bot-Api-Secret-Token"


class Step(enum.Enum):
    A = 1


# The webhook.


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sessions.db'}"


@contextlib.contextmanager
def webhook(
    url: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Iterator[TestClient]:
    monkeypatch.setenv("SESSIONS", url)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    with TestClient(make_app(), headers={NAME: SECRET}, **options) as client:
        yield client


def message(update_id: int, text: str = "hello", user_id: int = 42) -> dict[str, Any]:
    return {
        "update_id": update_id,
        "message": {
            "message_id": update_id,
            "date": 1777874400,
            "chat": {"id": user_id, "type": "private", "first_name": "Ada"},
            "from": {"id": user_id, "is_bot": False, "first_name": "Ada"},
            "text": text,
        },
    }


def test_webhook_counts_for_each_and_on_after_a_restart(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for first in (1, 3):
        with webhook(url, monkeypatch) as client:
            for number in (first, first + 1):
                answer = client.post("/telegram", json=message(number))
                assert answer.status_code == 200
                said.append(answer.json())
    assert said == [
        {"method": "sendMessage", "chat_id": 42, "text": f"That makes {n}."}
        for n in (1, 2, 3, 4)
    ]
    with webhook(url, monkeypatch) as client:
        other = client.post("/telegram", json=message(5, user_id=43))
    assert other.json()["text"] == "That makes 1."


def test_webhook_counts_an_update_that_comes_again_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(url, monkeypatch) as client:
        for number in (*range(10, 60), 10, 59):
            answer = client.post("/telegram", json=message(number))
        assert answer.json()["text"] == "That makes 50."


@pytest.mark.parametrize("given", [None, "", "a-secret_", "a-secret_12", "é"])
def test_webhook_takes_nothing_without_the_secret(
    url: str, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    with webhook(url, monkeypatch) as client:
        del client.headers[NAME]
        headers = [] if given is None else [(NAME.encode(), given.encode())]
        answer = client.post("/telegram", json=message(1), headers=headers)
        assert answer.status_code == 403
        client.headers[NAME] = SECRET
        answer = client.post("/telegram", json=message(1))
        assert answer.json()["text"] == "That makes 1."


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 400),
        ("[", 400),
        ("[]", 400),
        (json.dumps({"update_id": 1, "message": {"chat": 7}}), 400),
        (json.dumps({"update_id": 1, "poll": {"id": "1", "question": "?"}}), 200),
        (json.dumps({"update_id": 1, "a_new_one": {}}), 200),
    ],
)
def test_webhook_answers_what_it_cannot_count(
    url: str, monkeypatch: pytest.MonkeyPatch, body: str, status: int
) -> None:
    with webhook(url, monkeypatch) as client:
        answer = client.post("/telegram", content=body)
        assert (answer.status_code, answer.content) == (status, b"")


async def test_webhook_leaves_to_telegram_what_failed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent again after anything but a 200."""
    async with bs.open_store(url, types=[Step]) as store:
        await store.put(
            bs.chat_user_key(message(1)), {"what the app knows not": Step.A}
        )
    with webhook(url, monkeypatch, raise_server_exceptions=False) as client:
        assert client.post("/telegram", json=message(1)).status_code == 500


# Polling.


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as api:
        yield api


@contextlib.contextmanager
def polling(api: BotApi, url: str) -> Iterator[subprocess.Popen[str]]:
    source = Path(bs.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, ROOT / "examples" / "raw_polling.py"],
        env={
            **os.environ,
            "PYTHONPATH": str(source),
            "BOT_API": api.url,
            "BOT_TOKEN": api.token,
            "SESSIONS": url,
        },
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_polling_ends_when_told_to_with_all_it_answered_confirmed(
    api: BotApi, url: str, number: signal.Signals
) -> None:
    with polling(api, url) as process:
        for text in ("bread", "milk", "/list"):
            api.say(text)
        api.wait_until(lambda: len(api.sent) == 3)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) == (0, "")
    assert api.texts() == ["1", "2", "bread\nmilk"]
    assert api.unconfirmed == 0


def test_polling_goes_on_after_a_kill_and_takes_nothing_twice(
    api: BotApi, url: str
) -> None:
    with polling(api, url) as process:
        for number in range(30):
            api.say(f"thing {number}")
        api.wait_until(lambda: len(api.sent) >= 10)
        process.kill()
        process.wait()
    before = len(api.sent)
    with polling(api, url):
        api.wait_until(lambda: api.unconfirmed == 0)
        api.say("the last")
        api.wait_until(lambda: "31" in api.texts()[before:])
        api.say("/list")
        api.wait_until(lambda: "\n" in api.texts()[-1])
    listed = api.texts()[-1].split("\n")
    assert listed == [*(f"thing {number}" for number in range(30)), "the last"]


def test_polling_outlasts_a_server_that_is_away(url: str) -> None:
    with BotApi() as gone:
        pass
    with polling(gone, url) as process:
        assert process.stderr is not None
        complaint = "getUpdates: ConnectError, trying again\n"
        assert [process.stderr.readline() for _ in range(2)] == [complaint] * 2
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("answers", "gives"),
    [
        ([(200, {"ok": True, "result": 5})], 5),
        ([(502, None), (200, {"ok": True, "result": 5})], 5),
        (
            [
                (429, {"parameters": {"retry_after": 0.01}}),
                (200, {"ok": True, "result": 5}),
            ],
            5,
        ),
        ([(403, {"error_code": 403, "description": "blocked"})], "m: blocked"),
    ],
)
async def test_polling_tells_what_to_try_again_from_what_is_refused(
    answers: list[tuple[int, Any]], gives: object
) -> None:
    left = iter([httpx.Response(status, json=body) for status, body in answers])
    transport = httpx.MockTransport(lambda _: next(left))
    async with httpx.AsyncClient(transport=transport, base_url="http://a/") as api:
        try:
            result = await call(api, "m")
        except RefusedError as exc:
            result = str(exc)
    assert result == gives
    assert next(left, None) is None
