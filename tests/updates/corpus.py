"""The corpus of updates from other projects' tests, where it is checked out beside us.

It is ../shared/updates, with its own README; what needs it is skipped without it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from botsessions.updates import Origin

_FOLDER = Path(__file__).parents[3] / "shared" / "updates"

needs_corpus = pytest.mark.skipif(
    not _FOLDER.is_dir(), reason="the corpus is not checked out beside this repository"
)


def _lines(name: str) -> list[dict[str, Any]]:
    path = _FOLDER / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


CORPUS = _lines("corpus.jsonl")
MALFORMED = _lines("malformed.jsonl")


def overlooks_a_booster(line: dict[str, Any]) -> bool:
    """Tell the lines whose ``expected`` is at odds with the table of the README.

    A boost names who gave it, for every source but an unclaimed giveaway. `expected` of
    these lines is what aiogram and python-telegram-bot agree on, and neither looks.
    """
    return line["expected"]["user_id"] is None and _booster(line) is not None


def expected_origin(line: dict[str, Any]) -> Origin:
    says = line["expected"]
    direct, thread = says["direct_messages_topic_id"], says["thread_id"]
    update_id = line["update"].get("update_id")
    return Origin(
        event=says["event"],
        update_id=update_id if isinstance(update_id, int) else None,
        chat_id=says["chat_id"],
        user_id=_booster(line) if overlooks_a_booster(line) else says["user_id"],
        topic_id=thread if direct is None else direct,
        business_connection_id=says["business_connection_id"],
        guest_query_id=says["guest_query_id"],
        guest=says["guest_query_id"] is not None or says["event"] == "guest_message",
        sender_chat_id=says["sender_chat_id"],
    )


def _booster(line: dict[str, Any]) -> int | None:
    event = line["expected"]["event"]
    if event not in {"chat_boost", "removed_chat_boost"}:
        return None
    node = line["update"][event]
    user = node.get("boost", node)["source"].get("user")
    return user["id"] if user else None
