"""python-telegram-bot: the data of users, chats and the bot, keyboards, conversations.

Each dict of ``user_data`` and ``chat_data``, and ``bot_data``, is a session as it is.
Each keyboard with callback data is one, and each conversation. Which is which is said
by the names of the keys: all of one kind are found by how these begin.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote

from botsessions.keys import SessionKey

USER_NAME, CHAT_NAME = "telegram.user", "telegram.chat"
BOT_KEY = SessionKey(name="telegram.bot")
KEYBOARD_NAMES = "telegram.keyboard@"


def user_key(user_id: int) -> SessionKey:
    """Return the key of a user's dict."""
    return SessionKey(user_id=user_id, name=USER_NAME)


def chat_key(chat_id: int) -> SessionKey:
    """Return the key of a chat's dict."""
    return SessionKey(chat_id=chat_id, name=CHAT_NAME)


def keyboard_key(uuid: str) -> SessionKey:
    """Return the key of a keyboard, by the id that the framework gave it."""
    return SessionKey(name=KEYBOARD_NAMES + uuid)


def conversation_names(handler: str) -> str:
    """Return how the names of all conversations of one handler begin."""
    return f"telegram.conversation.{quote(handler, safe='')}@"


def conversation_key(handler: str, ids: tuple[int | str, ...]) -> SessionKey:
    """Return the key of a conversation, by the ids that the handler tells it by."""
    return SessionKey(name=conversation_names(handler) + "@".join(map(_written, ids)))


class Keyboard(NamedTuple):
    """The buttons of a keyboard, and the queries that came from them.

    ``used`` is a time. It and the buttons are None where only queries are known.
    """

    uuid: str
    used: float | None
    queries: list[str]
    buttons: dict[str, Any] | None

    @classmethod
    def of(cls, kept: dict[Any, Any]) -> Keyboard:
        """Read what is kept."""
        return cls(kept["keyboard"], kept["used"], kept["queries"], kept["buttons"])

    def record(self) -> dict[Any, Any]:
        """Return what is kept."""
        return {
            "keyboard": self.uuid,
            "used": self.used,
            "queries": self.queries,
            "buttons": self.buttons,
        }


class Conversation(NamedTuple):
    """The state of a conversation that has not ended."""

    ids: tuple[int | str, ...]
    state: object

    @classmethod
    def of(cls, kept: dict[Any, Any]) -> Conversation:
        """Read what is kept."""
        return cls(kept["key"], kept["state"])

    def record(self) -> dict[Any, Any]:
        """Return what is kept."""
        return {"key": self.ids, "state": self.state}


def _written(part: int | str) -> str:
    return str(part) if isinstance(part, int) else "s" + quote(part, safe="")
