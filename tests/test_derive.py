"""Keys of updates: the right session for every one, or a word on what it lacks."""

from collections.abc import Callable
from typing import Any

import pytest

from botsessions.derive import (
    chat_key,
    chat_user_key,
    topic_key,
    topic_user_key,
    user_key,
)
from botsessions.errors import (
    InvalidKeyError,
    InvalidUpdateDocumentError,
    MissingChatId,
    MissingKeyPart,
    MissingUserId,
)
from botsessions.keys import SessionKey
from botsessions.updates import Origin, origin
from tests.updates.corpus import CORPUS, expected_origin, needs_corpus
from tests.updates.samples import (
    CHANNEL_BOT,
    FORUM,
    GROUP,
    GROUP_ANONYMOUS,
    PRIVATE,
    SAMPLES,
    TOPIC,
    Expected,
    Sample,
    message,
)

KeyFunction = Callable[..., SessionKey]
FUNCTIONS: dict[str, KeyFunction] = {
    "chat_key": chat_key,
    "user_key": user_key,
    "chat_user_key": chat_user_key,
    "topic_key": topic_key,
    "topic_user_key": topic_user_key,
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def answer(name: str, x: object) -> Expected:
    try:
        return str(FUNCTIONS[name](x))
    except (MissingChatId, MissingUserId) as error:
        return type(error)


@every_function
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_sample_has_its_key(sample: Sample, name: str) -> None:
    assert answer(name, sample.update) == getattr(sample.keys, name)
    assert answer(name, sample.origin) == getattr(sample.keys, name)


@every_function
def test_bot_and_name_pass_through(name: str) -> None:
    function = FUNCTIONS[name]
    key = function(message(), bot_id=99, name="cart")
    assert str(key) == f"{function(message())}/bot=99/name=cart"
    with pytest.raises(InvalidKeyError, match="bot_id must be an int"):
        function(message(), bot_id="99")
    with pytest.raises(InvalidKeyError, match="name must have 1 to 256"):
        function(message(), name="")


@every_function
def test_malformed_update_gives_no_key(name: str) -> None:
    with pytest.raises(InvalidUpdateDocumentError):
        FUNCTIONS[name]({"update_id": 1, "message": {"chat": {"id": "5"}}})


def test_outside_of_topics_topic_keys_are_chat_keys() -> None:
    assert topic_key(message()) == chat_key(message())
    assert topic_user_key(message()) == chat_user_key(message())


@every_function
def test_apart_chats_share_no_key_with_ordinary_ones(name: str) -> None:
    function = FUNCTIONS[name]
    business = message(business_connection_id="AbC")
    other = message(business_connection_id="abc")
    keys = {
        function(x) for x in (message(), business, other, message(guest_query_id="q"))
    }
    assert len(keys) == 4


def test_strangers_never_share_a_session() -> None:
    channel = {"id": -1006, "type": "channel", "title": "One"}
    other_channel = {"id": -1008, "type": "channel", "title": "Other"}
    one, other = (
        chat_user_key(message(GROUP, CHANNEL_BOT, sender_chat=chat))
        for chat in (channel, other_channel)
    )
    assert one != other


ANONYMOUS = message(GROUP, GROUP_ANONYMOUS, sender_chat=GROUP)
UNKNOWN_ANONYMOUS = message(GROUP, GROUP_ANONYMOUS)
INLINE = {"update_id": 1, "inline_query": {"id": "1", "from": {"id": 11}, "query": ""}}
POLL = {"update_id": 1, "poll": {"id": "3"}}
VOTE = {"poll_id": "3", "user": CHANNEL_BOT, "voter_chat": GROUP, "option_ids": []}
REACTIONS = {"update_id": 1, "message_reaction_count": {"chat": GROUP}}


@pytest.mark.parametrize(
    ("function", "update", "error", "said"),
    [
        (chat_key, INLINE, MissingChatId, "(inline_query) belongs to no chat; user_"),
        (chat_user_key, INLINE, MissingChatId, "user_key works for it"),
        (chat_key, POLL, MissingChatId, "make a SessionKey yourself"),
        (chat_key, VOTE, MissingChatId, "make a SessionKey yourself"),
        (chat_key, {"update_id": 1}, MissingChatId, "(of an unknown type) belongs"),
        (user_key, POLL, MissingUserId, "names no user; no key function fits it"),
        (user_key, REACTIONS, MissingUserId, "(message_reaction_count) names no user"),
        (user_key, REACTIONS, MissingUserId, "chat_key works for it"),
        (chat_user_key, REACTIONS, MissingUserId, "; chat_key works for it"),
        (topic_user_key, REACTIONS, MissingUserId, "; topic_key works for it"),
        (user_key, ANONYMOUS, MissingUserId, "(1087968824), who is no person"),
        (user_key, ANONYMOUS, MissingUserId, "; chat_user_key works for it"),
        (user_key, UNKNOWN_ANONYMOUS, MissingUserId, "; chat_key works for it"),
        (chat_user_key, UNKNOWN_ANONYMOUS, MissingUserId, "; chat_key works for it"),
        (topic_user_key, UNKNOWN_ANONYMOUS, MissingUserId, "; topic_key works for it"),
        (user_key, VOTE, MissingUserId, "make a SessionKey yourself"),
    ],
)
def test_error_says_what_works_instead(
    function: KeyFunction, update: Any, error: type[MissingKeyPart], said: str
) -> None:
    with pytest.raises(error) as caught:
        function(update)
    assert said in str(caught.value)


@every_function
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_function_named_by_an_error_works(sample: Sample, name: str) -> None:
    try:
        FUNCTIONS[name](sample.update)
    except MissingKeyPart as error:
        named = [other for other in FUNCTIONS if f"; {other} works" in str(error)]
        fits = [
            other
            for other in FUNCTIONS
            if isinstance(answer(other, sample.update), str)
        ]
        assert len(named) == bool(fits)
        for other in named:
            assert isinstance(answer(other, sample.update), str)


# -- The corpus of other projects; what its ids must become is written anew here.


def expected_key(name: str, found: Origin) -> Expected:
    anonymous = found.user_id in {1087968824, 136817688, 777000}
    user = found.user_id
    if anonymous:
        user = None if name == "user_key" else found.sender_chat_id
    parts: dict[str, object] = {}
    if name != "user_key":
        if found.chat_id is None:
            return MissingChatId
        parts["chat"] = found.chat_id
    if "user" in name:
        if user is None:
            return MissingUserId
        parts["user"] = user
    if "topic" in name and found.topic_id is not None:
        parts["topic"] = found.topic_id
    if found.business_connection_id is not None:
        parts["business"] = found.business_connection_id
    text = "/".join(f"{tag}={value}" for tag, value in parts.items())
    return text + "/guest" * found.guest


@needs_corpus
@every_function
def test_corpus_has_the_expected_keys(name: str) -> None:
    for line in CORPUS:
        expected = expected_key(name, expected_origin(line))
        assert answer(name, line["update"]) == expected, line


def test_origin_of_one_reading_serves_several_keys() -> None:
    found = origin(message(FORUM, **TOPIC))
    assert str(chat_key(found)) == "chat=-1005"
    assert str(topic_user_key(found)) == "chat=-1005/user=11/topic=7"
    assert str(user_key(origin(message(PRIVATE)))) == "user=11"
