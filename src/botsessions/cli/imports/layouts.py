"""Key texts of other libraries taken apart: in every way that they can be read.

The libraries join ids to a text, and leave out what is not there, so ``7:2:3`` can be
chat, topic and user, or bot, chat and user. A text that can be read in two ways is
refused: a session must not be given to somebody else. Used by ``aiogram``, ``telebot``.

One thing is taken for granted: a business connection has a letter in its id (Telegram's
are long and random), so a number is none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

from botsessions.errors import InvalidKeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from botsessions.keys import SessionKey

P = ParamSpec("P")

Reading = dict[str, Any]

# As they are written by str(); none is 0, and 64 bits have 19 digits.
_is_id = re.compile(r"-?[1-9][0-9]{0,18}").fullmatch
_is_number = re.compile(r"[1-9][0-9]{0,18}").fullmatch
_is_business = re.compile(r"[0-9_-]*[A-Za-z][A-Za-z0-9_-]*").fullmatch
_is_name = re.compile(r"[^0-9-].*", re.DOTALL).fullmatch
_LONGEST = 80


class Field(NamedTuple):
    """One part of a key text; ``part`` is that of a ``SessionKey``.

    A chat or a user is any id, a bot or a topic a positive number; the name takes all
    that is left, separators too, and begins with no digit.
    """

    part: str
    optional: bool = False


BOT, BUSINESS = Field("bot_id"), Field("business_connection_id", optional=True)
CHAT, TOPIC, USER = Field("chat_id"), Field("topic_id", optional=True), Field("user_id")
NAME = Field("name")


def readings(text: str, separator: str, fields: Sequence[Field]) -> list[Reading]:
    """Return all that a key text can mean."""
    return list(_readings(text.split(separator), separator, fields))


def is_separator(text: str) -> bool:
    """Tell whether no id holds this text."""
    return re.search(r"[0-9A-Za-z-]", text) is None and text != ""


def the_one(found: Sequence[Reading], advice: str) -> Reading:
    """Return the one reading there is, or raise ValueError with the advice."""
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"its key cannot be read so; {advice}")
    several = ", and as ".join(sorted(_written(reading) for reading in found))
    raise ValueError(f"its key can be read as {several}; {advice}")


def key(make: Callable[P, SessionKey], *args: P.args, **kwargs: P.kwargs) -> SessionKey:
    """Make a key of ours, or raise ValueError."""
    try:
        return make(*args, **kwargs)
    except InvalidKeyError as exc:
        raise ValueError(f"it has no key here: {exc}") from exc


def shown(text: str) -> str:
    """Return a text of unknown length, or the beginning of it."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _readings(
    tokens: Sequence[str], separator: str, fields: Sequence[Field]
) -> Iterator[Reading]:
    if not fields:
        if not tokens:
            yield {}
        return
    field, *others = fields
    if field.optional:
        yield from _readings(tokens, separator, others)
    if not tokens:
        return
    if field is NAME:
        name = separator.join(tokens)
        if _is_name(name):
            yield {"name": name}
        return
    value = _value(tokens[0], field)
    if value:
        for rest in _readings(tokens[1:], separator, others):
            yield {field.part: value, **rest}


def _value(token: str, field: Field) -> int | str | None:
    if field is BUSINESS:
        return token if _is_business(token) else None
    is_it = _is_id if field in (CHAT, USER) else _is_number
    return int(token) if is_it(token) else None


def _written(reading: Reading) -> str:
    return " ".join(
        f"{part.removesuffix('_id').removesuffix('_connection')}={value}"
        for part, value in reading.items()
    )
