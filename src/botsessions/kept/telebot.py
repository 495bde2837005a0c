"""pyTelegramBotAPI (telebot): a state and its data are one session.

It is ``{"state": …, "data": …}``, always both, under a key with the name ``telebot``.
"""

from __future__ import annotations

from typing import Any

from botsessions.keys import SessionKey


def state_key(
    chat_id: int | str | None,
    user_id: int | str | None,
    business_connection_id: str | None = None,
    message_thread_id: int | None = None,
    bot_id: int | None = None,
) -> SessionKey:
    """Return the key of a state and its data, of the ids as telebot passes them."""
    return SessionKey(
        chat_id=chat_id,
        user_id=user_id,
        topic_id=message_thread_id,
        business_connection_id=business_connection_id,
        bot_id=bot_id,
        name="telebot",
    )


def state_record(state: Any, data: Any) -> dict[Any, Any]:
    """Return what is kept."""
    return {"state": state, "data": data}


# A record that is missing is {}.


def state_of(kept: dict[Any, Any]) -> Any:
    """Return the state; None if there is none."""
    return kept.get("state")


def data_of(kept: dict[Any, Any]) -> dict[Any, Any]:
    """Return the data; ``{}`` if there are none."""
    data: dict[Any, Any] = kept.get("data", {})
    return data
