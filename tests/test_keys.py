"""Keys as values, and their text form, which stored data depends on."""

import copy
import dataclasses
import pickle
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from botsessions.errors import InvalidKeyError
from botsessions.keys import SessionKey

LOWEST, HIGHEST = -(2**63), 2**63 - 1
FULL = SessionKey(
    chat_id=-100,
    user_id=42,
    topic_id=7,
    business_connection_id="AbC",
    guest=True,
    bot_id=123,
    name="cart",
)

# Sessions are stored under these texts: a change here orphans every one of them.
TEXTS = {
    "chat=-1001234/user=42": SessionKey(chat_id=-1001234, user_id=42),
    "chat=-100/user=42/topic=7/business=AbC/guest/bot=123/name=cart": FULL,
    "chat=0": SessionKey(chat_id=0),
    f"chat={LOWEST}/user={HIGHEST}": SessionKey(chat_id=LOWEST, user_id=HIGHEST),
    "chat=s:30": SessionKey(chat_id="30"),
    "chat=s:@channel/user=s:s%3A1": SessionKey(chat_id="@channel", user_id="s:1"),
    "topic=0/bot=-1": SessionKey(topic_id=0, bot_id=-1),
    "guest": SessionKey(guest=True),
    "business=a-b_c.d%2Fe": SessionKey(business_connection_id="a-b_c.d/e"),
    "name=a%20b%7E%2A%3F%26%25%3D%00": SessionKey(name="a b~*?&%=\0"),
    "name=caf%C3%A9%F0%9F%9B%92": SessionKey(name="café🛒"),
}

ints = st.integers(LOWEST, HIGHEST)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "chat_id": ints | texts,
    "user_id": ints | texts,
    "topic_id": ints,
    "business_connection_id": texts,
    "guest": st.just(value=True),
    "bot_id": ints,
    "name": texts,
}
some_parts = st.fixed_dictionaries({}, optional=PARTS).filter(bool)

# Pieces that real texts are made of, so that arbitrary joins of them come close to one.
PIECES = ["chat=", "user=", "topic=", "business=", "guest", "bot=", "name=", "s:"]
PIECES += ["/", "=", "0", "-", "1", "30", "+1", "%", "%41", "%2f", "%2F", "%ff", "a"]
PIECES += [" ", "~", "é", "\ud800", "٣"]
near_texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@pytest.mark.parametrize(("text", "key"), TEXTS.items(), ids=TEXTS)
def test_text_form_is_stable(text: str, key: SessionKey) -> None:
    assert str(key) == text
    assert SessionKey.parse(text) == key


@given(some_parts)
def test_text_form_reads_back_as_the_same_parts(parts: dict[str, Any]) -> None:
    text = str(SessionKey(**parts))
    key = SessionKey.parse(text)
    unset = {"guest": False} | dict.fromkeys(PARTS.keys() - {"guest"})
    assert {field: getattr(key, field) for field in PARTS} == unset | parts
    assert {type(getattr(key, field)) for field in parts} <= {int, str, bool}
    assert re.fullmatch(r"[A-Za-z0-9_.@%=:/-]+", text)


@given(some_parts, some_parts)
def test_different_parts_have_different_texts(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    same_text = str(SessionKey(**one)) == str(SessionKey(**other))
    assert same_text == (one == other)
    assert (SessionKey(**one) == SessionKey(**other)) == (one == other)


@given(st.text() | near_texts)
@example("chat=1/guest")
def test_parse_accepts_only_what_str_writes(text: str) -> None:
    try:
        key = SessionKey.parse(text)
    except InvalidKeyError:
        return
    assert str(key) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a part of a key"),
        ("chat", "not a part of a key"),
        ("guest=", "not a part of a key"),
        ("guest=1", "not a part of a key"),
        ("Chat=1", "not a part of a key"),
        ("chat=1/", "not a part of a key"),
        ("chat=1//user=2", "not a part of a key"),
        ("chat=1/chat=1", "is there twice"),
        ("chat=", "not an int of 64 bits"),
        ("chat=1.0", "not an int of 64 bits"),
        ("chat=1_0", "not an int of 64 bits"),
        ("chat=٣", "not an int of 64 bits"),  # a digit of another script
        ("chat=@channel", "marked s:"),
        ("topic=s:1", "not an int of 64 bits"),
        ("chat=9223372036854775808", "must be from -2**63"),
        ("chat=" + "9" * 5000, "only up to 1000"),
        ("user=1/chat=2", "write 'chat=2/user=1'"),
        ("chat=01", "write 'chat=1'"),
        ("chat=-0", "write 'chat=0'"),
        ("name=%41", "write 'name=A'"),
        ("name=%2f", "write 'name=%2F'"),
        ("name=a b", "write 'name=a%20b'"),
        ("name=%", "write 'name=%25'"),
        ("name=é", "write 'name=%C3%A9'"),
        ("name=%ff", "not percent-encoded UTF-8"),
        ("name=%ED%A0%80", "not percent-encoded UTF-8"),
        ("name=\ud800", "lone surrogate"),
        ("name=", "1 to 256 characters"),
        ("chat=s:", "1 to 256 characters"),
        ("name=" + "a" * 257, "1 to 256 characters"),
        ("chat=1\n", "not an int of 64 bits"),
        ("name=" + "a" * 10**6, "only up to"),
    ],
)
def test_parse_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidKeyError, match=re.escape(message)) as caught:
        SessionKey.parse(text)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isascii() or "…" in str(caught.value)


@pytest.mark.parametrize("text", [None, 5, b"chat=1", FULL])
def test_parse_takes_only_text(text: Any) -> None:
    with pytest.raises(InvalidKeyError, match="parsed from a str"):
        SessionKey.parse(text)


def test_the_text_of_a_key_is_bounded() -> None:
    long = SessionKey(chat_id="x" * 256, user_id="y" * 256, name="🛒" * 38)
    assert 950 < len(str(long)) <= 1000
    assert SessionKey.parse(str(long)) == long
    with pytest.raises(InvalidKeyError, match="1000 are allowed; hash the long parts"):
        SessionKey(chat_id="x" * 256, user_id="y" * 256, name="🛒" * 48)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "at least one part"),
        ({"guest": False}, "at least one part"),
        ({"chat_id": True}, "chat_id must be an int or a str, not bool"),
        ({"chat_id": False}, "chat_id must be an int or a str, not bool"),
        ({"user_id": 1.0}, "user_id must be an int or a str, not float"),
        ({"user_id": b"1"}, "user_id must be an int or a str, not bytes"),
        ({"topic_id": "7"}, "topic_id must be an int, not str"),
        ({"topic_id": True}, "topic_id must be an int, not bool"),
        ({"bot_id": "7"}, "bot_id must be an int, not str"),
        ({"name": 7}, "name must be a str, not int"),
        ({"business_connection_id": 7}, "business_connection_id must be a str"),
        ({"guest": 1}, "guest must be True or False, not int"),
        ({"guest": None}, "guest must be True or False, not NoneType"),
        ({"chat_id": HIGHEST + 1}, "not an int of 64 bits"),
        ({"bot_id": LOWEST - 1}, "bot_id must be from"),
        ({"chat_id": 10**5000}, "not an int of 16610 bits"),
        ({"name": ""}, "1 to 256 characters, not 0"),
        ({"chat_id": ""}, "1 to 256 characters, not 0"),
        ({"name": "a" * 257}, "1 to 256 characters, not 257"),
        ({"user_id": "a\udfff"}, "user_id holds a lone surrogate"),
    ],
)
def test_parts_out_of_range_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidKeyError, match=message):
        SessionKey(**parts)


def test_key_is_made_by_keyword_only() -> None:
    with pytest.raises(TypeError):
        SessionKey(1, 2)  # type: ignore[call-arg]


def test_key_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.chat_id = 1  # type: ignore[misc]
    assert not hasattr(FULL, "__dict__")


def test_equality_and_hash_follow_the_parts() -> None:
    assert SessionKey(chat_id=30) != SessionKey(chat_id="30")
    assert SessionKey(chat_id=30) != SessionKey(user_id=30)
    assert SessionKey(chat_id=30) != "chat=30"
    same = {SessionKey(chat_id=30), SessionKey(chat_id=30, guest=False)}
    assert same == {SessionKey.parse("chat=30")}


def test_repr_shows_the_parts_that_are_set() -> None:
    key = SessionKey(chat_id=-100, user_id=42)
    assert repr(key) == "SessionKey(chat_id=-100, user_id=42)"
    assert repr(SessionKey(chat_id="0", guest=True)) == (
        "SessionKey(chat_id='0', guest=True)"
    )


@pytest.mark.parametrize("key", TEXTS.values(), ids=TEXTS)
def test_key_survives_copying_and_pickling(key: SessionKey) -> None:
    copies = [copy.copy(key), copy.deepcopy(key), dataclasses.replace(key)]
    copies += [
        pickle.loads(pickle.dumps(key, protocol))  # noqa: S301 - our own bytes
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for other in copies:
        assert other == key
        assert hash(other) == hash(key)
        assert repr(other) == repr(key)


def test_replace_makes_another_key_and_checks_it() -> None:
    assert str(dataclasses.replace(FULL, name=None, guest=False)) == (
        "chat=-100/user=42/topic=7/business=AbC/bot=123"
    )
    with pytest.raises(InvalidKeyError):
        dataclasses.replace(FULL, name="")


@pytest.mark.parametrize("chat", [None, -1001, 7, 10**17, 2**63 - 1, "7"])
@pytest.mark.parametrize("user", [None, 42, -(2**63)])
@pytest.mark.parametrize("name", [None, "cart", "a b", "name=x"])
def test_what_is_parsed_has_each_part(
    chat: int | str | None, user: int | None, name: str | None
) -> None:
    """Keys are equal by their texts, so their parts are looked at one by one."""
    if chat is None and user is None and name is None:
        return
    key = SessionKey(chat_id=chat, user_id=user, name=name)
    parsed = SessionKey.parse(str(key))
    for part in (
        "chat_id",
        "user_id",
        "topic_id",
        "business_connection_id",
        "guest",
        "bot_id",
        "name",
    ):
        assert getattr(parsed, part) == getattr(key, part)
        assert type(getattr(parsed, part)) is type(getattr(key, part))


@pytest.mark.parametrize(
    "text",
    ["", "chat=7/", "chat=7\n", "user=1/chat=7", "chat=07", "chat=-0", "chat=+7", "/"],
)
def test_what_only_looks_like_a_usual_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeyError):
        SessionKey.parse(text)
