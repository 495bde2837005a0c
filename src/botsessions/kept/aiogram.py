"""aiogram: the state and the data of a ``StorageKey`` are one session.

It is ``{"state": …, "data": …}``, of which what is not there is left out, under a key
with the name ``aiogram``, or ``aiogram:<destiny>``.
"""

from __future__ import annotations

from typing import Any

from botsessions.keys import SessionKey

DEFAULT_DESTINY = "default"  # aiogram's own word
# Keeps our keys apart from a bot's own: no other session has a name that begins so.
_NAME = "aiogram"


def state_key(  # noqa: PLR0913 - the parts of a StorageKey
    *,
    chat_id: int,
    user_id: int,
    topic_id: int | None = None,
    business_connection_id: str | None = None,
    bot_id: int,
    destiny: str = DEFAULT_DESTINY,
) -> SessionKey:
    """Return the key of a state and its data."""
    return SessionKey(
        chat_id=chat_id,
        user_id=user_id,
        topic_id=topic_id,
        business_connection_id=business_connection_id,
        bot_id=bot_id,
        name=_NAME if destiny == DEFAULT_DESTINY else f"{_NAME}:{destiny}",
    )


def state_record(state: object, data: dict[str, Any]) -> dict[Any, Any]:
    """Return what is kept; ``{}`` without a state and data."""
    kept: dict[Any, Any] = {} if state is None else {"state": state}
    return {**kept, "data": data} if data else kept


def state_of(kept: dict[Any, Any]) -> Any:
    """Return the state; None if there is none."""
    return kept.get("state")


def data_of(kept: dict[Any, Any]) -> dict[str, Any]:
    """Return the data; ``{}`` if there are none."""
    data: dict[str, Any] = kept.get("data", {})
    return data
