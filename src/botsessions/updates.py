"""What an update says about where it came from.

One table of paths, a row for each update type of Bot API 10.3, is read from raw dicts,
from their JSON text, and from the objects of aiogram, python-telegram-bot and telebot
alike; no framework is imported. ``derive`` turns the answer into keys.

The rule throughout: what is not there is None, what is there but malformed is an
InvalidUpdateDocumentError that names its path. No id is ever guessed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from botsessions.errors import InvalidUpdateDocumentError

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_MAX_BYTES = 256
_surrogate = re.compile("[\ud800-\udfff]").search
_MAX_CARRIERS = 4  # a context in a context is plausible, a fifth one is a loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an update came from, word for word; None is what it does not say.

    ``event`` is the field that the update arrived in. A bare event does not know it:
    every kind of message is "message" then, both kinds of member update
    "chat_member". It is None for an update type that is not known yet.

    ``user_id`` is who acted, not who is concerned: who pressed the button, changed the
    member, gave the boost. It may be the id that Telegram puts in place of an anonymous
    sender; ``sender_chat_id`` is then the chat that acted. ``topic_id`` is set only for
    a real topic, not for every thread of replies. ``guest`` chats and those of a
    ``business_connection_id`` are no ordinary chats, even with an id of one.
    """

    event: str | None = None
    update_id: int | None = None
    chat_id: int | None = None
    user_id: int | None = None
    topic_id: int | None = None
    business_connection_id: str | None = None
    guest_query_id: str | None = None
    guest: bool = False
    sender_chat_id: int | None = None


def origin(x: object, /) -> Origin:
    """Read where an update came from.

    Takes an update or a bare event, as a dict, as JSON text (a webhook's body) or as a
    framework's object; a context that carries one as ``.update``; an Origin, which
    comes back as it is. Whatever is wrong with it is an InvalidUpdateDocumentError.
    """
    try:
        return _origin(x)
    except InvalidUpdateDocumentError:
        raise
    except Exception as exc:
        # Only a foreign object can get here: its attributes may run any code.
        raise InvalidUpdateDocumentError(
            "Reading the update raised an exception of its own; see its cause."
        ) from exc


_Path = tuple[str, ...]


class _Row(NamedTuple):
    """Where one update type keeps what an Origin holds; () is nowhere."""

    chat: _Path = ()
    user: _Path = ()
    sender_chat: _Path = ()
    business: _Path = ()
    guest_query: _Path = ()
    direct_topic: _Path = ()
    thread: _Path = ()
    thread_flag: _Path = ()  # a thread counts as a topic only where this says so


def _row(**columns: str) -> _Row:
    return _Row(**{name: tuple(path.split(".")) for name, path in columns.items()})


_MESSAGE = _row(
    chat="chat.id",
    user="from.id",
    sender_chat="sender_chat.id",
    business="business_connection_id",
    guest_query="guest_query_id",
    direct_topic="direct_messages_topic.topic_id",
    thread="message_thread_id",
    thread_flag="is_topic_message",
)
_PERSON_ONLY = _row(user="from.id")
_MEMBER = _row(chat="chat.id", user="from.id")

# In the order of the Bot API, which decides if one document holds several events.
_ROWS = {
    "message": _MESSAGE,
    "edited_message": _MESSAGE,
    "channel_post": _MESSAGE,
    "edited_channel_post": _MESSAGE,
    # user_chat_id is the bot's own chat with the owner, not one of the connection.
    "business_connection": _row(user="user.id", business="id"),
    "business_message": _MESSAGE,
    "edited_business_message": _MESSAGE,
    "deleted_business_messages": _row(
        chat="chat.id", business="business_connection_id"
    ),
    "guest_message": _MESSAGE,
    "message_reaction": _row(
        chat="chat.id", user="user.id", sender_chat="actor_chat.id"
    ),
    "message_reaction_count": _row(chat="chat.id"),
    "inline_query": _PERSON_ONLY,
    "chosen_inline_result": _PERSON_ONLY,
    # The message is the bot's own: it says where, only ``from`` says who.
    "callback_query": _row(
        chat="message.chat.id",
        user="from.id",
        business="message.business_connection_id",
        guest_query="message.guest_query_id",
        direct_topic="message.direct_messages_topic.topic_id",
        thread="message.message_thread_id",
        thread_flag="message.is_topic_message",
    ),
    "shipping_query": _PERSON_ONLY,
    "pre_checkout_query": _PERSON_ONLY,
    "purchased_paid_media": _PERSON_ONLY,
    "poll": _row(),
    # voter_chat voted; it is not where the poll stands.
    "poll_answer": _row(user="user.id", sender_chat="voter_chat.id"),
    "my_chat_member": _MEMBER,
    "chat_member": _MEMBER,
    "chat_join_request": _MEMBER,
    "chat_boost": _row(chat="chat.id", user="boost.source.user.id"),
    "removed_chat_boost": _row(chat="chat.id", user="source.user.id"),
    "managed_bot": _row(user="user.id"),
    "subscription": _row(user="user.id"),
    # The one thread without a flag: it is always a topic.
    "stopped_message_generation": _row(chat="chat.id", thread="message_thread_id"),
}

# For types that are not known yet: whatever the known ones have in common.
_COMMON = _MESSAGE
_COMMON_WITH_USER = _MESSAGE._replace(user=("user", "id"))
_UNKNOWN = "(unknown event)"  # in messages, where its name could be anything

# What tells a bare event; the first row whose fields are all there. Reactions have all
# that a message must have, so they come before it.
_MARKS = (
    ("message_reaction", ("new_reaction", "chat")),
    ("message_reaction_count", ("reactions", "chat")),
    ("message", ("message_id", "chat")),
    ("callback_query", ("message", "from", "id")),
    ("callback_query", ("chat_instance", "from")),
    ("chosen_inline_result", ("result_id", "from")),
    ("inline_query", ("query", "from")),
    ("chat_member", ("new_chat_member", "chat")),
    ("chat_join_request", ("user_chat_id", "chat")),
    ("business_connection", ("user_chat_id", "user", "id")),
    ("deleted_business_messages", ("message_ids", "chat")),
    ("shipping_query", ("shipping_address", "from")),
    ("pre_checkout_query", ("total_amount", "from")),
    ("purchased_paid_media", ("paid_media_payload", "from")),
    ("poll_answer", ("poll_id", "option_ids")),
    ("poll", ("question", "options")),
    ("chat_boost", ("boost", "chat")),
    ("removed_chat_boost", ("boost_id", "chat")),
    ("subscription", ("invoice_payload", "user")),
    ("stopped_message_generation", ("draft_id", "chat")),
    # Last: every object of aiogram has the bot that received it as .bot, and therefore
    # calls the managed one .bot_user.
    ("managed_bot", ("bot_user", "user")),
    ("managed_bot", ("bot", "user")),
)


def _origin(x: Any) -> Origin:
    for _ in range(_MAX_CARRIERS):
        if isinstance(x, Origin):
            return x
        if isinstance(x, _TEXTS):
            x = _parse(x)
        if not _is_node(x):
            raise InvalidUpdateDocumentError(f"{_WANTED}, not {_kind(x)}.")
        if _field(x, "update_id") is not None:
            return _read_update(x)
        # Before the fields: a context may offer some of the update's as its own.
        carried = None if isinstance(x, dict) else getattr(x, "update", None)
        if carried is None or callable(carried):
            return _read_bare(x)
        x = carried
    raise InvalidUpdateDocumentError(
        f"{_WANTED}; this one carries others as .update {_MAX_CARRIERS} deep."
    )


def _read_update(doc: Any) -> Origin:
    update_id = _field(doc, "update_id")
    if type(update_id) is not int or not _LOWEST <= update_id <= _HIGHEST:
        update_id = None  # part of no key, so no reason to refuse the update
    for event, row in _ROWS.items():
        node = _field(doc, event)
        if node is not None:
            return _read(row, node, event, event=event, update_id=update_id)
    for node in _all_fields(doc).values():
        if isinstance(node, dict):
            return _read(_common_row(node), node, _UNKNOWN, update_id=update_id)
    return Origin(update_id=update_id)


def _read_bare(doc: Any) -> Origin:
    for event, marks in _MARKS:
        if _has_all(doc, marks):
            return _read(_ROWS[event], doc, event, event=event)
    if any(_field(doc, event) is not None for event in _ROWS):
        return _read_update(doc)  # one that lost its update_id
    found = _read(_common_row(doc), doc, "")
    if found != Origin():
        return found
    raise InvalidUpdateDocumentError(
        f"{_WANTED}; this {_kind(doc)} has no field of either."
        + (_ENVELOPE if _field(doc, "ok") is not None else "")
    )


def _has_all(doc: Any, names: _Path) -> bool:
    for name in names:  # noqa: SIM110 - all() would cost a generator a row
        if _field(doc, name) is None:
            return False
    return True


def _common_row(node: Any) -> _Row:
    return _COMMON if _field(node, "from") is not None else _COMMON_WITH_USER


def _read(
    row: _Row,
    node: Any,
    where: str,
    *,
    event: str | None = None,
    update_id: int | None = None,
) -> Origin:
    if not _is_node(node):
        _refuse(where, (), "an object", node)
    topic_id = _id(node, row.direct_topic, where)
    if topic_id is None and _is_topic(node, row, where):
        topic_id = _id(node, row.thread, where)
    guest_query_id = _text(node, row.guest_query, where)
    return Origin(
        event=event,
        update_id=update_id,
        chat_id=_id(node, row.chat, where),
        user_id=_id(node, row.user, where),
        topic_id=topic_id,
        business_connection_id=_text(node, row.business, where),
        guest_query_id=guest_query_id,
        guest=guest_query_id is not None or event == "guest_message",
        sender_chat_id=_id(node, row.sender_chat, where),
    )


def _is_topic(node: Any, row: _Row, where: str) -> bool:
    return not row.thread_flag or _value(node, row.thread_flag, where) is True


def _id(node: Any, path: _Path, where: str) -> int | None:
    value = _value(node, path, where)
    if value is None:
        return None
    # Not isinstance: True would be the user 1.
    if type(value) is int and _LOWEST <= value <= _HIGHEST:
        return value
    return _refuse(where, path, "an int from -2**63 to 2**63 - 1", value)


def _text(node: Any, path: _Path, where: str) -> str | None:
    value = _value(node, path, where)
    if value is None:
        return None
    if type(value) is str and _is_text(value):
        return value
    wanted = f"text of 1 to {_MAX_BYTES} bytes, without lone surrogates"
    return _refuse(where, path, wanted, value)


def _is_text(value: str) -> bool:
    return not _surrogate(value) and 0 < len(value.encode()) <= _MAX_BYTES


def _value(node: Any, path: _Path, where: str) -> Any:
    if not path:
        return None
    for depth, name in enumerate(path):
        if isinstance(node, dict):  # _field, without the price of a call
            node = node.get(name)
        elif node is None:
            return None
        elif _is_node(node):
            node = _field(node, name)
        else:
            _refuse(where, path[:depth], "an object", node)
    return node


# -- The one place that knows dicts from objects, and one framework from another.

# These hold nothing by name, and a class only describes what its objects hold; any
# other object may have attributes of use.
_NO_NODES = (str, bytes, bytearray, int, float, list, tuple, set, frozenset, type)


def _is_node(x: object) -> bool:
    return x is not None and not isinstance(x, _NO_NODES)


def _field(node: Any, name: str) -> Any:
    """Read one field of a dict or an object; absent and null are both None."""
    if isinstance(node, dict):
        return node.get(name)
    # ``from`` is a keyword, so all three frameworks say from_user.
    value = getattr(node, "from_user" if name == "from" else name, _ABSENT)
    if value is _ABSENT:
        # python-telegram-bot keeps here what is newer than itself.
        return getattr(node, "api_kwargs", _NOTHING).get(name)
    return value


def _all_fields(doc: Any) -> Mapping[str, Any]:
    if isinstance(doc, dict):
        return doc
    # What is newer than python-telegram-bot, than aiogram; telebot drops it.
    return getattr(doc, "api_kwargs", None) or getattr(doc, "model_extra", None) or {}


_ABSENT = object()
_NOTHING: Mapping[str, Any] = {}


# -- JSON text.

_TEXTS = (str, bytes, bytearray)


def _parse(text: str | bytes | bytearray) -> dict[str, Any]:
    try:
        characters = text if isinstance(text, str) else text.decode()
        document = _decode(characters.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as exc:
        raise InvalidUpdateDocumentError(f"The text is no update: {exc}.") from exc
    if not isinstance(document, dict):
        raise InvalidUpdateDocumentError(
            f"{_WANTED}; the text is JSON of another kind: {_kind(document)}."
        )
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        # Others would take the first or the last, and one of them the wrong chat.
        raise ValueError("an object has the same key twice")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant
).decode


# -- What is said when it is none.

_WANTED = "An update must be a dict, its JSON text or a framework's Update or event"
_ENVELOPE = " It is an answer of the Bot API: take the updates out of its `result`."


def _refuse(where: str, path: _Path, wanted: str, value: object) -> NoReturn:
    place = ".".join(name for name in (where, *path) if name)
    raise InvalidUpdateDocumentError(f"{place} must be {wanted}, not {_kind(value)}.")


def _kind(value: object) -> str:
    """Describe a value without its contents, which may be private or endless."""
    kind = type(value).__name__
    if type(value) is int and not _LOWEST <= value <= _HIGHEST:
        return f"{kind} of {value.bit_length()} bits"
    if type(value) is str:
        return f"{kind} of length {len(value)}"
    return kind
