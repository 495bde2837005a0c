"""Handlers for the tests of replay, good and bad ones."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Session = dict[Any, Any]


def record(session: Session, update: dict[str, Any]) -> Session:
    """Keep the ids of all updates, so that each loss and each repetition shows."""
    return {**session, "ids": [*session.get("ids", ()), update["update_id"]]}


def pace(session: Session, update: dict[str, Any]) -> Session:
    """Record, and let the test that watches the file PACE know how far this is."""
    with Path(os.environ["PACE"]).open("ab", buffering=0) as file:
        file.write(b".")
    return record(session, update)


def slow_pace(session: Session, update: dict[str, Any]) -> Session:
    """Do the same, and take time."""
    time.sleep(0.0002)
    return pace(session, update)


def obey(session: Session, update: dict[str, Any]) -> Any:
    """Do what the text of the message says."""
    return ORDERS[update["message"]["text"]](session, update)


def _raise(session: Session, update: dict[str, Any]) -> Any:
    raise LookupError("as told\nto do")


def _change_and_raise(session: Session, update: dict[str, Any]) -> Any:
    session.setdefault("ids", []).append("never")
    raise LookupError("as told")


def _change_and_return(session: Session, update: dict[str, Any]) -> Any:
    session.setdefault("ids", []).append(update["update_id"])
    return session


def _leave(session: Session, update: dict[str, Any]) -> Any:
    raise SystemExit


async def _coroutine(session: Session) -> Session:
    return session


# Most of this a bot must not do.
ORDERS: dict[str, Callable[[Session, dict[str, Any]], Any]] = {
    "record": record,
    "raise": _raise,
    "change and raise": _change_and_raise,
    "change and return": _change_and_return,
    "leave": _leave,
    "fail in a library": lambda session, _: json.loads("nonsense"),
    "return nothing": lambda session, _: None,
    "return a coroutine": lambda session, _: _coroutine(session),
    "return an object": lambda session, _: {**session, "object": object()},
    "return too much": lambda session, _: {**session, "much": "x" * 2**20},
    "return a marker": lambda session, _: {**session, "botsessions.replay": {}},
    "show keys": lambda session, _: {
        **session,
        "keys": [*session.get("keys", ()), list(session)],
    },
    "clear": lambda session, _: {},
}


class Interrupted:
    """Records some updates, then is interrupted as by Ctrl-C, once."""

    left = 0

    @classmethod
    def record(cls, session: Session, update: dict[str, Any]) -> Session:
        cls.left -= 1
        if cls.left == 0:
            raise KeyboardInterrupt
        return record(session, update)
