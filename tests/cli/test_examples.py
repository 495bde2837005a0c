"""The examples: the recording is what its script writes, and the bots work."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from botsessions import InvalidUpdateDocumentError, origin
from examples import make_updates
from examples.signup_bot import handle
from tests.cli.tool import ENVIRONMENT, PATIENCE, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli, Sessions

RECORDING = ROOT / "examples" / "updates.jsonl"
ADA = "chat=512406937/user=512406937"


def updates() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDING.read_text().splitlines()]


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_script_writes_the_recording_byte_for_byte(hash_seed: str) -> None:
    written = subprocess.run(
        [sys.executable, make_updates.__file__],
        env=ENVIRONMENT | {"PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert written.stdout == RECORDING.read_bytes()


def test_the_recording_has_all_update_types() -> None:
    kinds = Counter(name for update in updates() for name in update)
    assert kinds.pop("update_id") == len(updates()) >= 400
    assert len(kinds) == 27
    for update in updates():
        event = (update.keys() - {"update_id"}).pop()
        assert origin(update).event == event


def test_the_recording_is_in_order() -> None:
    recorded = updates()
    ids = [update["update_id"] for update in recorded]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    dates = [update["message"]["date"] for update in recorded if "message" in update]
    assert dates == sorted(dates)
    numbers: dict[int, list[int]] = {}
    for update in recorded:
        for kind in ("message", "channel_post", "business_message"):
            if kind in update:
                chat = update[kind]["chat"]["id"]
                numbers.setdefault(chat, []).append(update[kind]["message_id"])
    assert all(found == sorted(set(found)) for found in numbers.values())


def test_a_bot_presses_no_buttons() -> None:
    pressed = [x["callback_query"] for x in updates() if "callback_query" in x]
    assert len(pressed) > 20
    for query in pressed:
        assert not query["from"]["is_bot"]
        assert "inline_message_id" in query or query["message"]["from"]["is_bot"]


def test_the_demo_signs_people_up_and_goes_on_the_second_time(
    cli: Cli, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["replay", str(RECORDING), "--handler", "examples.signup_bot:handle"]
    first = cli(*command, "--json")
    assert first.code == 0
    assert first.document["applied"] + first.document["no_key"] == len(updates())
    found = sessions.read()
    line = [("croissant", Decimal("2.40"))] * 2 + [("cake", Decimal("24.50"))]
    assert found[ADA] == {
        "step": "done",
        "name": "Ada",
        "email": "ada@example.com",
        "language": "en",
        "mistakes": 0,
        "visits": 1,
        "cart": (),
        "orders": ((dt.date(2026, 5, 4), Decimal("29.30"), tuple(line)),),
        "favourites": frozenset({"croissant", "cake"}),
        "updates": 9,
        "last_seen": found[ADA]["last_seen"],
    }
    steps = Counter(session.get("step") for session in found.values())
    assert steps["done"] == 5
    assert steps["email"] == 1  # who gave up
    assert sum(session.get("mistakes", 0) for session in found.values()) == 3

    assert cli(*command, "--json").document["pass"] == 2
    again = sessions.read()
    assert again.keys() == found.keys()
    assert again[ADA]["visits"] == 2
    assert len(again[ADA]["orders"]) == 2
    for key, session in again.items():
        assert session["updates"] == 2 * found[key]["updates"]
    assert ADA in cli("list", "--limit", "100").out
    assert "Decimal('29.30')" in cli("show", ADA).out


def test_the_example_bot_is_pure() -> None:
    sessions: dict[Any, dict[str, Any]] = {}
    for update in updates():
        try:
            where = origin(update)
        except InvalidUpdateDocumentError:
            continue
        key = where.chat_id, where.user_id
        before = sessions.get(key, {})
        copy = json.dumps(update), repr(before)
        sessions[key] = handle(before, update)
        assert (json.dumps(update), repr(before)) == copy
        assert sessions[key] == handle(before, update)


def test_the_quickstart_runs_and_remembers(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "quickstart.py")],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout == f"chat=1111/user=1111 was seen {count} times\n"
    assert os.listdir(tmp_path)  # noqa: PTH208 - names are enough
