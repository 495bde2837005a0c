"""One update of every type and of every variant that libraries are known to get wrong.

Each comes with the origin and the five keys that it must give, written out by hand.
User 11 acts and 99 is the bot; -1005 is a group, -1006 a channel, -1007 the chat of a
channel's direct messages, 11 also a private chat.
"""

from dataclasses import dataclass, replace
from typing import Any

from botsessions.errors import MissingChatId, MissingUserId
from botsessions.updates import Origin

Document = dict[str, Any]
# The text of a key, or the error that says which part is missing.
Expected = str | type[MissingChatId] | type[MissingUserId]


@dataclass(frozen=True, slots=True)
class Keys:
    """What the five functions answer, in the order of their names here."""

    chat_key: Expected
    user_key: Expected
    chat_user_key: Expected
    topic_key: Expected
    topic_user_key: Expected


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    update: Document
    origin: Origin
    keys: Keys


# -- Parts of documents.

DATE = 1700000000
GROUP: Document = {"id": -1005, "type": "supergroup", "title": "Group"}
FORUM: Document = GROUP | {"is_forum": True}
CHANNEL: Document = {"id": -1006, "type": "channel", "title": "Channel"}
DIRECT: Document = {
    "id": -1007,
    "type": "supergroup",
    "title": "Channel",
    "is_direct_messages": True,
}
PRIVATE: Document = {"id": 11, "type": "private", "first_name": "Ada"}
USER: Document = {"id": 11, "is_bot": False, "first_name": "Ada"}
BOT: Document = {"id": 99, "is_bot": True, "first_name": "Bot", "username": "a_bot"}
GROUP_ANONYMOUS: Document = {"id": 1087968824, "is_bot": True, "first_name": "Group"}
CHANNEL_BOT: Document = {"id": 136817688, "is_bot": True, "first_name": "Channel"}
TELEGRAM: Document = {"id": 777000, "is_bot": False, "first_name": "Telegram"}
EMOJI: Document = {"type": "emoji", "emoji": "👍"}


def message(chat: Document = GROUP, sender: Document | None = USER, **more: Any) -> Any:
    given = {"from": sender} if sender else {}
    return {"message_id": 5, "date": DATE, "chat": chat, **given, "text": "hi", **more}


def query(sender: Document = USER, **more: Any) -> Document:
    return {"id": "4382", "from": sender, **more}


def callback(message: Document) -> Document:
    return query(chat_instance="8", data="buy", message=message)


def member(chat: Document = GROUP) -> Document:
    return {
        "chat": chat,
        "from": USER,
        "date": DATE,
        "old_chat_member": {"user": BOT, "status": "left"},
        "new_chat_member": {"user": BOT, "status": "member"},
    }


def boost(source: Document) -> Document:
    times = {"add_date": DATE, "expiration_date": DATE + 9}
    return {"chat": GROUP, "boost": {"boost_id": "b", **times, "source": source}}


def removed_boost(source: Document) -> Document:
    return {"chat": GROUP, "boost_id": "b", "remove_date": DATE, "source": source}


PREMIUM: Document = {"source": "premium", "user": USER}
GIFT_CODE: Document = {"source": "gift_code", "user": USER}
GIVEAWAY: Document = {"source": "giveaway", "giveaway_message_id": 4}

# -- Keys that many updates share.

IN_GROUP = Keys(
    "chat=-1005", "user=11", "chat=-1005/user=11", "chat=-1005", "chat=-1005/user=11"
)
IN_TOPIC = Keys(
    "chat=-1005",
    "user=11",
    "chat=-1005/user=11",
    "chat=-1005/topic=7",
    "chat=-1005/user=11/topic=7",
)
IN_DIRECT = Keys(
    "chat=-1007",
    "user=11",
    "chat=-1007/user=11",
    "chat=-1007/topic=4503599627370495",
    "chat=-1007/user=11/topic=4503599627370495",
)
IN_BUSINESS = Keys(
    "chat=11/business=AbC",
    "user=11/business=AbC",
    "chat=11/user=11/business=AbC",
    "chat=11/business=AbC",
    "chat=11/user=11/business=AbC",
)
AS_GUEST = Keys(
    "chat=-1005/guest",
    "user=11/guest",
    "chat=-1005/user=11/guest",
    "chat=-1005/guest",
    "chat=-1005/user=11/guest",
)
ANONYMOUS_IN_GROUP = Keys(
    "chat=-1005",
    MissingUserId,
    "chat=-1005/user=-1005",
    "chat=-1005",
    "chat=-1005/user=-1005",
)
CHANNEL_IN_GROUP = Keys(
    "chat=-1005",
    MissingUserId,
    "chat=-1005/user=-1006",
    "chat=-1005",
    "chat=-1005/user=-1006",
)
PERSON_IN_CHANNEL = Keys(
    "chat=-1006", "user=11", "chat=-1006/user=11", "chat=-1006", "chat=-1006/user=11"
)
PERSON = Keys(MissingChatId, "user=11", MissingChatId, MissingChatId, MissingChatId)
NOWHERE = Keys(
    MissingChatId, MissingUserId, MissingChatId, MissingChatId, MissingChatId
)


def nobody_in(chat: str) -> Keys:
    return Keys(chat, MissingUserId, MissingUserId, chat, MissingUserId)


# -- The samples.


def sample(name: str, event: str, node: Any, keys: Keys, **found: Any) -> Sample:
    update = {"update_id": 70, event: node}
    return Sample(name, update, Origin(event=event, update_id=70, **found), keys)


IN_GROUP_ORIGIN = {"chat_id": -1005, "user_id": 11}
IN_TOPIC_ORIGIN = IN_GROUP_ORIGIN | {"topic_id": 7}
IN_DIRECT_ORIGIN = {"chat_id": -1007, "user_id": 11, "topic_id": 2**52 - 1}
IN_BUSINESS_ORIGIN: Document = {
    "chat_id": 11,
    "user_id": 11,
    "business_connection_id": "AbC",
}
AS_GUEST_ORIGIN: Document = IN_GROUP_ORIGIN | {"guest_query_id": "q1", "guest": True}

TOPIC: Document = {"message_thread_id": 7, "is_topic_message": True}
DIRECT_TOPIC: Document = {
    "direct_messages_topic": {"topic_id": 2**52 - 1, "user": USER}
}

SAMPLES = (
    sample("message", "message", message(), IN_GROUP, **IN_GROUP_ORIGIN),
    sample(
        "message in a private chat",
        "message",
        message(PRIVATE),
        Keys("chat=11", "user=11", "chat=11/user=11", "chat=11", "chat=11/user=11"),
        chat_id=11,
        user_id=11,
    ),
    sample(
        "message in a topic",
        "message",
        message(FORUM, **TOPIC),
        IN_TOPIC,
        **IN_TOPIC_ORIGIN,
    ),
    sample(
        "message in a thread of replies",
        "message",
        message(message_thread_id=7),
        IN_GROUP,
        **IN_GROUP_ORIGIN,
    ),
    sample(
        "message in a topic of a channel's direct messages",
        "message",
        message(DIRECT, **DIRECT_TOPIC),
        IN_DIRECT,
        **IN_DIRECT_ORIGIN,
    ),
    sample(
        "message of an anonymous admin",
        "message",
        message(GROUP, GROUP_ANONYMOUS, sender_chat=GROUP),
        ANONYMOUS_IN_GROUP,
        chat_id=-1005,
        user_id=1087968824,
        sender_chat_id=-1005,
    ),
    sample(
        "message of an anonymous admin without sender_chat",
        "message",
        message(GROUP, GROUP_ANONYMOUS),
        nobody_in("chat=-1005"),
        chat_id=-1005,
        user_id=1087968824,
    ),
    sample(
        "message of an anonymous admin in a topic",
        "message",
        message(FORUM, GROUP_ANONYMOUS, sender_chat=GROUP, **TOPIC),
        Keys(
            "chat=-1005",
            MissingUserId,
            "chat=-1005/user=-1005",
            "chat=-1005/topic=7",
            "chat=-1005/user=-1005/topic=7",
        ),
        chat_id=-1005,
        user_id=1087968824,
        topic_id=7,
        sender_chat_id=-1005,
    ),
    sample(
        "message as a channel",
        "message",
        message(GROUP, CHANNEL_BOT, sender_chat=CHANNEL),
        CHANNEL_IN_GROUP,
        chat_id=-1005,
        user_id=136817688,
        sender_chat_id=-1006,
    ),
    sample(
        "message forwarded from the linked channel",
        "message",
        message(GROUP, TELEGRAM, sender_chat=CHANNEL, is_automatic_forward=True),
        CHANNEL_IN_GROUP,
        chat_id=-1005,
        user_id=777000,
        sender_chat_id=-1006,
    ),
    sample(
        "message with a business connection",
        "message",
        message(PRIVATE, business_connection_id="AbC"),
        IN_BUSINESS,
        **IN_BUSINESS_ORIGIN,
    ),
    sample(
        "message that a guest query came with",
        "message",
        message(guest_query_id="q1"),
        AS_GUEST,
        **AS_GUEST_ORIGIN,
    ),
    sample(
        "message about a migration, in the old group",
        "message",
        message({"id": -5, "type": "group", "title": "Group"}, migrate_to_chat_id=-9),
        Keys("chat=-5", "user=11", "chat=-5/user=11", "chat=-5", "chat=-5/user=11"),
        chat_id=-5,
        user_id=11,
    ),
    sample(
        "message about a migration, in the new supergroup",
        "message",
        message(GROUP, GROUP_ANONYMOUS, sender_chat=GROUP, migrate_from_chat_id=-5),
        ANONYMOUS_IN_GROUP,
        chat_id=-1005,
        user_id=1087968824,
        sender_chat_id=-1005,
    ),
    sample("edited_message", "edited_message", message(), IN_GROUP, **IN_GROUP_ORIGIN),
    sample(
        "channel_post",
        "channel_post",
        message(CHANNEL, None, sender_chat=CHANNEL),
        nobody_in("chat=-1006"),
        chat_id=-1006,
        sender_chat_id=-1006,
    ),
    sample(
        "channel_post with an author",
        "channel_post",
        message(CHANNEL, USER, sender_chat=CHANNEL),
        PERSON_IN_CHANNEL,
        chat_id=-1006,
        user_id=11,
        sender_chat_id=-1006,
    ),
    sample(
        "edited_channel_post with an author",
        "edited_channel_post",
        message(CHANNEL, USER, sender_chat=CHANNEL, edit_date=DATE),
        PERSON_IN_CHANNEL,
        chat_id=-1006,
        user_id=11,
        sender_chat_id=-1006,
    ),
    sample(
        "business_connection",
        "business_connection",
        {
            "id": "AbC",
            "user": USER,
            "user_chat_id": 11,
            "date": DATE,
            "is_enabled": True,
        },
        Keys(
            MissingChatId,
            "user=11/business=AbC",
            MissingChatId,
            MissingChatId,
            MissingChatId,
        ),
        user_id=11,
        business_connection_id="AbC",
    ),
    sample(
        "business_message",
        "business_message",
        message(PRIVATE, business_connection_id="AbC"),
        IN_BUSINESS,
        **IN_BUSINESS_ORIGIN,
    ),
    sample(
        "edited_business_message",
        "edited_business_message",
        message(PRIVATE, business_connection_id="AbC", edit_date=DATE),
        IN_BUSINESS,
        **IN_BUSINESS_ORIGIN,
    ),
    sample(
        "deleted_business_messages",
        "deleted_business_messages",
        {"business_connection_id": "AbC", "chat": PRIVATE, "message_ids": [1, 2]},
        nobody_in("chat=11/business=AbC"),
        chat_id=11,
        business_connection_id="AbC",
    ),
    sample(
        "guest_message",
        "guest_message",
        message(guest_query_id="q1", guest_bot_caller_user=USER),
        AS_GUEST,
        **AS_GUEST_ORIGIN,
    ),
    sample(
        "message_reaction of a user",
        "message_reaction",
        {
            "chat": GROUP,
            "message_id": 5,
            "user": USER,
            "date": DATE,
            "old_reaction": [],
            "new_reaction": [EMOJI],
        },
        IN_GROUP,
        **IN_GROUP_ORIGIN,
    ),
    sample(
        "message_reaction of a chat, taken back",
        "message_reaction",
        {
            "chat": GROUP,
            "message_id": 5,
            "actor_chat": CHANNEL,
            "date": DATE,
            "old_reaction": [EMOJI],
            "new_reaction": [],
        },
        nobody_in("chat=-1005"),
        chat_id=-1005,
        sender_chat_id=-1006,
    ),
    sample(
        "message_reaction_count",
        "message_reaction_count",
        {
            "chat": CHANNEL,
            "message_id": 5,
            "date": DATE,
            "reactions": [{"type": EMOJI, "total_count": 2}],
        },
        nobody_in("chat=-1006"),
        chat_id=-1006,
    ),
    sample(
        "inline_query",
        "inline_query",
        query(query="cats", offset="", chat_type="supergroup"),
        PERSON,
        user_id=11,
    ),
    sample(
        "chosen_inline_result",
        "chosen_inline_result",
        {"result_id": "r", "from": USER, "query": "cats", "inline_message_id": "i"},
        PERSON,
        user_id=11,
    ),
    sample(
        "callback_query",
        "callback_query",
        callback(message(GROUP, BOT)),
        IN_GROUP,
        **IN_GROUP_ORIGIN,
    ),
    sample(
        "callback_query in a topic",
        "callback_query",
        callback(message(FORUM, BOT, **TOPIC)),
        IN_TOPIC,
        **IN_TOPIC_ORIGIN,
    ),
    sample(
        "callback_query in a topic of a channel's direct messages",
        "callback_query",
        callback(message(DIRECT, BOT, **DIRECT_TOPIC)),
        IN_DIRECT,
        **IN_DIRECT_ORIGIN,
    ),
    sample(
        "callback_query under a channel's post",
        "callback_query",
        callback(message(CHANNEL, None, sender_chat=CHANNEL)),
        PERSON_IN_CHANNEL,
        chat_id=-1006,
        user_id=11,
    ),
    sample(
        "callback_query in a business chat",
        "callback_query",
        callback(message(PRIVATE, BOT, business_connection_id="AbC")),
        IN_BUSINESS,
        **IN_BUSINESS_ORIGIN,
    ),
    sample(
        "callback_query in a guest chat",
        "callback_query",
        callback(message(GROUP, BOT, guest_query_id="q1")),
        AS_GUEST,
        **AS_GUEST_ORIGIN,
    ),
    sample(
        "callback_query under an inaccessible message",
        "callback_query",
        callback({"chat": GROUP, "message_id": 5, "date": 0}),
        IN_GROUP,
        **IN_GROUP_ORIGIN,
    ),
    sample(
        "callback_query under an inline message",
        "callback_query",
        query(chat_instance="8", data="buy", inline_message_id="i"),
        PERSON,
        user_id=11,
    ),
    sample(
        "shipping_query",
        "shipping_query",
        query(
            invoice_payload="p",
            shipping_address={
                "country_code": "DE",
                "state": "",
                "city": "Bonn",
                "street_line1": "1 Sample Street",
                "street_line2": "",
                "post_code": "53111",
            },
        ),
        PERSON,
        user_id=11,
    ),
    sample(
        "pre_checkout_query",
        "pre_checkout_query",
        query(currency="EUR", total_amount=5, invoice_payload="p"),
        PERSON,
        user_id=11,
    ),
    sample(
        "purchased_paid_media",
        "purchased_paid_media",
        {"from": USER, "paid_media_payload": "p"},
        PERSON,
        user_id=11,
    ),
    sample(
        "poll",
        "poll",
        {
            "id": "3",
            "question": "Tea?",
            "options": [
                {"persistent_id": "y", "text": "Yes", "voter_count": 1},
                {"persistent_id": "n", "text": "No", "voter_count": 0},
            ],
            "total_voter_count": 1,
            "is_closed": False,
            "is_anonymous": True,
            "type": "regular",
            "allows_multiple_answers": False,
            "allows_revoting": True,
            "members_only": False,
        },
        NOWHERE,
    ),
    sample(
        "poll_answer of a user",
        "poll_answer",
        {
            "poll_id": "3",
            "user": USER,
            "option_ids": [0],
            "option_persistent_ids": ["y"],
        },
        PERSON,
        user_id=11,
    ),
    sample(
        "poll_answer of a chat, taken back",
        "poll_answer",
        {
            "poll_id": "3",
            "user": CHANNEL_BOT,
            "voter_chat": CHANNEL,
            "option_ids": [],
            "option_persistent_ids": [],
        },
        NOWHERE,
        user_id=136817688,
        sender_chat_id=-1006,
    ),
    sample("my_chat_member", "my_chat_member", member(), IN_GROUP, **IN_GROUP_ORIGIN),
    sample(
        "chat_member",
        "chat_member",
        member(CHANNEL),
        PERSON_IN_CHANNEL,
        chat_id=-1006,
        user_id=11,
    ),
    sample(
        "chat_join_request",
        "chat_join_request",
        {"chat": GROUP, "from": USER, "user_chat_id": 12, "date": DATE},
        IN_GROUP,
        **IN_GROUP_ORIGIN,
    ),
    *(
        sample(f"{event}, {name}", event, node(source), keys, chat_id=-1005, **found)
        for event, node in (
            ("chat_boost", boost),
            ("removed_chat_boost", removed_boost),
        )
        for name, source, keys, found in (
            ("premium", PREMIUM, IN_GROUP, {"user_id": 11}),
            ("gift code", GIFT_CODE, IN_GROUP, {"user_id": 11}),
            ("giveaway, claimed", GIVEAWAY | {"user": USER}, IN_GROUP, {"user_id": 11}),
            (
                "giveaway, unclaimed",
                GIVEAWAY | {"is_unclaimed": True},
                nobody_in("chat=-1005"),
                {},
            ),
        )
    ),
    sample(
        "managed_bot", "managed_bot", {"user": USER, "bot": BOT}, PERSON, user_id=11
    ),
    sample(
        "subscription",
        "subscription",
        {"user": USER, "invoice_payload": "p", "state": "active"},
        PERSON,
        user_id=11,
    ),
    sample(
        "stopped_message_generation",
        "stopped_message_generation",
        {"chat": PRIVATE, "draft_id": 3, "message_thread_id": 7},
        Keys("chat=11", MissingUserId, MissingUserId, "chat=11/topic=7", MissingUserId),
        chat_id=11,
        topic_id=7,
    ),
    Sample(
        "future type with the fields of a message",
        {"update_id": 70, "future_message": message(FORUM, **TOPIC)},
        Origin(update_id=70, chat_id=-1005, user_id=11, topic_id=7),
        IN_TOPIC,
    ),
    Sample(
        "future type with a user",
        {"update_id": 70, "future_event": {"chat": GROUP, "user": USER}},
        Origin(update_id=70, chat_id=-1005, user_id=11),
        IN_GROUP,
    ),
    Sample(
        "future type with nothing that is known",
        {"update_id": 70, "future_event": {"spam": 1}, "future_flag": True},
        Origin(update_id=70),
        NOWHERE,
    ),
    Sample("no event at all", {"update_id": 70}, Origin(update_id=70), NOWHERE),
)

# The fields of an update in Bot API 10.3, in its order.
UPDATE_TYPES = (
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "business_connection",
    "business_message",
    "edited_business_message",
    "deleted_business_messages",
    "guest_message",
    "message_reaction",
    "message_reaction_count",
    "inline_query",
    "chosen_inline_result",
    "callback_query",
    "shipping_query",
    "pre_checkout_query",
    "purchased_paid_media",
    "poll",
    "poll_answer",
    "my_chat_member",
    "chat_member",
    "chat_join_request",
    "chat_boost",
    "removed_chat_boost",
    "managed_bot",
    "subscription",
    "stopped_message_generation",
)

# A bare event does not know the field it came in: its kind is known by its fields.
_KIND_OF = {
    "edited_message": "message",
    "channel_post": "message",
    "edited_channel_post": "message",
    "business_message": "message",
    "edited_business_message": "message",
    "guest_message": "message",
    "my_chat_member": "chat_member",
}


def of_bare_event(found: Origin) -> Origin:
    """Say what the event of an update must give where the update is not at hand."""
    return replace(
        found,
        event=_KIND_OF.get(found.event or "", found.event),
        update_id=None,
        guest=found.guest_query_id is not None,
    )
