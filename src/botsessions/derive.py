"""Keys of updates: which session belongs to the chat, the user, the topic of an update.

Reads with ``origin``, answers with ``SessionKey``. Three rules hold for every function:

- A business connection and a guest chat are part of the key: such a chat may share its
  id with an ordinary one and is independent of it, and so is what a user does there.
- An anonymous sender is no person. Telegram puts one and the same user in place of all
  of them; where a user part is needed, the chat they speak for stands in for it.
- A part that the update does not have is an error, never left out: the chat first.
"""

from typing import TypeGuard

from botsessions.errors import MissingChatId, MissingUserId
from botsessions.keys import SessionKey
from botsessions.updates import Origin, origin

# GroupAnonymousBot (an admin of a group), Channel_Bot (writing as a channel), and
# Telegram itself (a linked channel's post, forwarded to its group).
_ANONYMOUS = frozenset({1087968824, 136817688, 777000})


def chat_key(
    x: object, /, *, bot_id: int | None = None, name: str | None = None
) -> SessionKey:
    """Name the session that all members of the update's chat share, in all its topics.

    MissingChatId: an inline query, a poll, a payment, a connection belong to no chat.
    """
    where = origin(x)
    return _key(where, bot_id, name, chat_id=_chat(where))


def user_key(
    x: object, /, *, bot_id: int | None = None, name: str | None = None
) -> SessionKey:
    """Name the session of the person who acted, in whatever chat.

    MissingUserId: nobody is named, or an anonymous sender, who is no person.
    """
    where = origin(x)
    return _key(where, bot_id, name, user_id=_person(where, "chat_key"))


def chat_user_key(
    x: object, /, *, bot_id: int | None = None, name: str | None = None
) -> SessionKey:
    """Name the session of the one who acted, in this chat only, in all its topics.

    For an anonymous sender it is that of the chat they speak for. MissingChatId,
    MissingUserId: as ``chat_key``; nobody is named.
    """
    where = origin(x)
    return _key(
        where, bot_id, name, chat_id=_chat(where), user_id=_sender(where, "chat_key")
    )


def topic_key(
    x: object, /, *, bot_id: int | None = None, name: str | None = None
) -> SessionKey:
    """Name the session of the update's topic; outside of topics, that of the chat.

    Topics are those of a forum and of a channel's direct messages, not the threads of
    replies in a group. MissingChatId: as ``chat_key``.
    """
    where = origin(x)
    return _key(where, bot_id, name, chat_id=_chat(where), topic_id=where.topic_id)


def topic_user_key(
    x: object, /, *, bot_id: int | None = None, name: str | None = None
) -> SessionKey:
    """Name the session of the one who acted in this topic; outside, in the chat.

    Anonymous senders and errors: as ``chat_user_key``.
    """
    where = origin(x)
    return _key(
        where,
        bot_id,
        name,
        chat_id=_chat(where),
        user_id=_sender(where, "topic_key"),
        topic_id=where.topic_id,
    )


def _key(  # noqa: PLR0913 - the parts of a key
    where: Origin,
    bot_id: int | None,
    name: str | None,
    *,
    chat_id: int | None = None,
    user_id: int | None = None,
    topic_id: int | None = None,
) -> SessionKey:
    return SessionKey(
        chat_id=chat_id,
        user_id=user_id,
        topic_id=topic_id,
        business_connection_id=where.business_connection_id,
        guest=where.guest,
        bot_id=bot_id,
        name=name,
    )


def _chat(where: Origin) -> int:
    if where.chat_id is not None:
        return where.chat_id
    raise MissingChatId(
        f"{_event(where)} belongs to no chat; "
        + ("user_key works for it." if _is_person(where.user_id) else _NOTHING_WORKS)
    )


def _sender(where: Origin, instead: str) -> int:
    if where.user_id in _ANONYMOUS and where.sender_chat_id is not None:
        return where.sender_chat_id
    return _person(where, instead)


def _person(where: Origin, instead: str) -> int:
    user_id = where.user_id
    if _is_person(user_id):
        return user_id
    nobody = "names no user"
    if user_id is not None:
        nobody = f"comes from an anonymous sender ({user_id}), who is no person"
        if where.sender_chat_id is not None:
            instead = "chat_user_key"
    raise MissingUserId(
        f"{_event(where)} {nobody}; "
        + (f"{instead} works for it." if where.chat_id is not None else _NOTHING_WORKS)
    )


def _is_person(user_id: int | None) -> TypeGuard[int]:
    return user_id is not None and user_id not in _ANONYMOUS


_NOTHING_WORKS = "no key function fits it, so make a SessionKey yourself."


def _event(where: Origin) -> str:
    return f"This update ({where.event or 'of an unknown type'})"
