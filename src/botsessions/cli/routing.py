"""Which session a line of a recording belongs to, or why it belongs to none.

Pure: from a line's text to a key and an update. ``replay`` is the user; ``source``
gives the lines.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from botsessions import chat_key, chat_user_key, user_key
from botsessions.cli.json_form import parse
from botsessions.errors import MissingChatId, MissingUserId

if TYPE_CHECKING:
    from botsessions.cli.handlers import Update
    from botsessions.cli.source import Line
    from botsessions.keys import SessionKey


class Outcome(enum.StrEnum):
    """What became of a line; each line has exactly one."""

    APPLIED = "applied"
    EARLIER = "earlier"
    NO_KEY = "no_key"
    MALFORMED = "malformed"
    FAILED = "failed"
    BLANK = "blank"


class Result(NamedTuple):
    """A line that is done with; one that is malformed or failed has a reason."""

    number: int
    outcome: Outcome
    reason: str = ""


class Step(NamedTuple):
    """An update on its way to its session."""

    number: int
    key: SessionKey
    update: Update


def route(line: Line) -> Step | Result:
    """Find the session of a line."""
    if not line.text.strip():
        return Result(line.number, Outcome.BLANK)
    try:
        update = _update_in(parse(line.text))
        key = key_of(update)
    except ValueError as exc:
        return Result(line.number, Outcome.MALFORMED, str(exc))
    if key is None:
        return Result(line.number, Outcome.NO_KEY)
    return Step(line.number, key, update)


def key_of(update: Update) -> SessionKey | None:
    """Return the key of chat and user, or of the one of them that there is.

    None if there is neither; ValueError if this is no update.
    """
    try:
        return chat_user_key(update)
    except MissingUserId:
        return chat_key(update)
    except MissingChatId:
        pass
    try:
        return user_key(update)
    except MissingUserId:
        return None


def _update_in(document: Any) -> Update:
    if not isinstance(document, dict):
        raise ValueError(  # noqa: TRY004 - of the text, not of an argument
            f"an update is a JSON object, not {type(document).__name__}"
        )
    inner = document.get("update")
    if isinstance(inner, dict) and "update_id" not in document:
        return inner
    return document
