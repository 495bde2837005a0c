"""What origin() reads: every update type, in every form, and nothing that is broken."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from botsessions.errors import InvalidUpdateDocumentError
from botsessions.updates import Origin, origin
from tests.updates.corpus import (
    CORPUS,
    MALFORMED,
    expected_origin,
    needs_corpus,
    overlooks_a_booster,
)
from tests.updates.samples import (
    DIRECT,
    DIRECT_TOPIC,
    GROUP,
    PRIVATE,
    SAMPLES,
    TOPIC,
    UPDATE_TYPES,
    USER,
    Document,
    Sample,
    callback,
    message,
    of_bare_event,
)

every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
every_known_sample = pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if s.origin.event], ids=lambda s: s.name
)
every_type = pytest.mark.parametrize("event", UPDATE_TYPES)

# -- The samples, in every form.


def test_samples_cover_every_update_type() -> None:
    assert {s.origin.event for s in SAMPLES} == {*UPDATE_TYPES, None}


@every_sample
def test_update_is_read_as_dict_and_as_text(sample: Sample) -> None:
    text = json.dumps(sample.update, ensure_ascii=False)
    for form in (sample.update, text, text.encode(), bytearray(text.encode())):
        assert origin(form) == sample.origin


@every_sample
def test_origin_comes_back_as_it_is(sample: Sample) -> None:
    assert origin(sample.origin) is sample.origin


@every_known_sample
def test_bare_event_says_the_same_as_its_update(sample: Sample) -> None:
    event = sample.update[sample.origin.event or ""]
    assert origin(event) == of_bare_event(sample.origin)
    assert origin(json.dumps(event)) == of_bare_event(sample.origin)


@every_known_sample
def test_update_may_lack_its_id(sample: Sample) -> None:
    document = {k: v for k, v in sample.update.items() if k != "update_id"}
    assert origin(document) == dataclasses.replace(sample.origin, update_id=None)


@every_sample
def test_object_says_the_same_as_its_document(sample: Sample) -> None:
    # A plain object does not tell its unknown fields; the frameworks' objects do.
    expected = sample.origin if sample.origin.event else Origin(update_id=70)
    assert origin(as_object(sample.update)) == expected


def as_object(document: Any) -> Any:
    if type(document) is not dict:  # not isinstance: it asks a harmful object
        return document
    fields = {("from_user" if k == "from" else k): v for k, v in document.items()}
    return SimpleNamespace(**{k: as_object(v) for k, v in fields.items()})


@every_type
def test_null_event_is_absent(event: str) -> None:
    assert origin({"update_id": 70, event: None}) == Origin(update_id=70)


@every_type
def test_empty_event_names_nobody(event: str) -> None:
    guest = event == "guest_message"
    found = Origin(event=event, update_id=70, guest=guest)
    assert origin({"update_id": 70, event: {}}) == found


@every_type
@pytest.mark.parametrize("node", ["x", 5, 1.5, True, [], [{}], ""])
def test_event_must_be_an_object(event: str, node: Any) -> None:
    with pytest.raises(InvalidUpdateDocumentError, match=f"^{event} must be an obj"):
        origin({"update_id": 70, event: node})


@pytest.mark.parametrize("first", range(len(UPDATE_TYPES) - 1))
def test_first_of_several_events_wins(first: int) -> None:
    document: Document = {name: {} for name in reversed(UPDATE_TYPES[first:])}
    assert origin(document).event == UPDATE_TYPES[first]


def test_known_event_wins_over_an_unknown_one() -> None:
    document = {"update_id": 1, "future": message(PRIVATE), "message": message()}
    assert origin(document).chat_id == -1005


def test_guest_message_is_a_guest_even_without_its_query() -> None:
    found = origin({"update_id": 70, "guest_message": message()})
    assert found.guest
    assert found.guest_query_id is None


def test_poll_in_a_message_is_a_message() -> None:
    assert origin(message(poll={"id": "3", "question": "Tea?"})).event == "message"


def test_bare_callback_query_needs_little_to_be_told() -> None:
    found = origin({"id": "1", "from": USER, "message": message(sender=None)})
    assert found == Origin(event="callback_query", chat_id=-1005, user_id=11)


def test_bare_event_of_an_unknown_type_is_read_by_common_fields() -> None:
    assert origin({"chat": GROUP, "user": USER}) == Origin(chat_id=-1005, user_id=11)
    assert origin({"from": USER, "user": {"id": 12}}) == Origin(user_id=11)


@pytest.mark.parametrize("update_id", ["12", 1.5, True, [], {}, 2**63])
def test_odd_update_id_is_left_out(update_id: Any) -> None:
    found = origin({"update_id": update_id, "message": message()})
    assert found == Origin(event="message", chat_id=-1005, user_id=11)


# -- Malformed ids and nodes.

ID_PATHS = [
    ("message", "chat.id"),
    ("message", "from.id"),
    ("message", "sender_chat.id"),
    ("message", "direct_messages_topic.topic_id"),
    ("edited_channel_post", "chat.id"),
    ("business_connection", "user.id"),
    ("deleted_business_messages", "chat.id"),
    ("message_reaction", "user.id"),
    ("message_reaction", "actor_chat.id"),
    ("message_reaction_count", "chat.id"),
    ("inline_query", "from.id"),
    ("callback_query", "from.id"),
    ("callback_query", "message.chat.id"),
    ("callback_query", "message.direct_messages_topic.topic_id"),
    ("poll_answer", "user.id"),
    ("poll_answer", "voter_chat.id"),
    ("chat_boost", "chat.id"),
    ("chat_boost", "boost.source.user.id"),
    ("removed_chat_boost", "source.user.id"),
    ("managed_bot", "user.id"),
    ("stopped_message_generation", "chat.id"),
    ("stopped_message_generation", "message_thread_id"),
    ("future_event", "chat.id"),
    ("future_event", "user.id"),
]
TEXT_PATHS = [
    ("message", "business_connection_id"),
    ("message", "guest_query_id"),
    ("business_connection", "id"),
    ("deleted_business_messages", "business_connection_id"),
    ("callback_query", "message.business_connection_id"),
    ("callback_query", "message.guest_query_id"),
]


def place(event: str, path: str) -> str:
    return f"{event if event in UPDATE_TYPES else '(unknown event)'}.{path}"


def document_with(event: str, path: str, value: Any) -> Document:
    for name in reversed(path.split(".")):
        value = {name: value}
    return {"update_id": 70, event: value}


@pytest.mark.parametrize(("event", "path"), ID_PATHS)
@pytest.mark.parametrize("value", [0, -1, 1, 2**52 - 1, 2**63 - 1, -(2**63)])
def test_ids_of_64_bits_are_read(event: str, path: str, value: int) -> None:
    found = origin(document_with(event, path, value))
    ids = (found.chat_id, found.user_id, found.topic_id, found.sender_chat_id)
    assert [x for x in ids if x is not None] == [value]


@pytest.mark.parametrize(("event", "path"), ID_PATHS)
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("42", "str of length 2"),
        ("@channel", "str of length 8"),
        (True, "bool"),
        (False, "bool"),
        (1000.0, "float"),
        ([1], "list"),
        ({}, "dict"),
        (2**63, "int of 64 bits"),
        (-(2**63) - 1, "int of 64 bits"),
        (10**5000, "int of 16610 bits"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_malformed_id_is_named(event: str, path: str, value: Any, kind: str) -> None:
    with pytest.raises(InvalidUpdateDocumentError) as caught:
        origin(document_with(event, path, value))
    assert str(caught.value) == (
        f"{place(event, path)} must be an int from -2**63 to 2**63 - 1, not {kind}."
    )


@pytest.mark.parametrize(("event", "path"), TEXT_PATHS)
@pytest.mark.parametrize("value", ["a", "a:b/c", "\0\n", "é🛒", "x" * 256, "é" * 128])
def test_text_ids_are_read_as_they_are(event: str, path: str, value: str) -> None:
    found = origin(document_with(event, path, value))
    assert value in (found.business_connection_id, found.guest_query_id)


@pytest.mark.parametrize(("event", "path"), TEXT_PATHS)
@pytest.mark.parametrize("value", ["", "x" * 257, "a\ud800", 5, True, [], {}])
def test_malformed_text_id_is_named(event: str, path: str, value: Any) -> None:
    with pytest.raises(InvalidUpdateDocumentError) as caught:
        origin(document_with(event, path, value))
    said = str(caught.value)
    assert said.startswith(f"{event}.{path} must be text of 1 to 256 bytes")
    assert said.isascii()
    assert len(said) < 200


@pytest.mark.parametrize(
    ("event", "path"), [place for place in ID_PATHS + TEXT_PATHS if "." in place[1]]
)
@pytest.mark.parametrize("value", ["42", 42, True, [{"id": 1}], 0.5])
def test_malformed_node_is_named(event: str, path: str, value: Any) -> None:
    node = path.rpartition(".")[0]
    with pytest.raises(InvalidUpdateDocumentError) as caught:
        origin(document_with(event, node, value))
    assert str(caught.value).startswith(f"{place(event, node)} must be an object, not ")


@pytest.mark.parametrize(("event", "path"), ID_PATHS + TEXT_PATHS)
def test_null_is_absent_at_every_step(event: str, path: str) -> None:
    names = path.split(".")
    for depth in range(1, len(names) + 1):
        document = document_with(event, ".".join(names[:depth]), None)
        known = event if event in UPDATE_TYPES else None
        assert origin(document) == Origin(event=known, update_id=70)


@pytest.mark.parametrize("flag", ["true", 1, False, None, "", {}])
def test_only_true_makes_a_thread_a_topic(flag: Any) -> None:
    thread = message(message_thread_id=7, is_topic_message=flag)
    assert origin(thread).topic_id is None
    assert origin(callback(thread)).topic_id is None


def test_topic_of_direct_messages_comes_before_a_thread() -> None:
    both = message(DIRECT, **DIRECT_TOPIC, **TOPIC)
    assert origin(both).topic_id == origin(callback(both)).topic_id == 2**52 - 1


def test_topic_id_must_be_an_int() -> None:
    with pytest.raises(InvalidUpdateDocumentError, match=r"^message\.message_thread_i"):
        origin(message(message_thread_id="7", is_topic_message=True))


# -- What is no update.


@pytest.mark.parametrize(
    "x",
    [
        None,
        True,
        42,
        1.5,
        (),
        [],
        [{"update_id": 1}],
        set(),
        dict,
        SimpleNamespace,
        Sample,
        object(),
        len,
        origin,
        json,
        iter([]),
        {},
        {"update_id": None},
        {"message": None},
        USER,
        GROUP,
        {1: 2},
        {"ok": True, "result": [{"update_id": 1}]},
        "update",
        '"update"',
        '"{}"',
        "null",
        "42",
        "[]",
        "{}",
        "",
    ],
    ids=lambda x: repr(x).partition(" at 0x")[0],
)
def test_what_is_no_update_is_refused(x: Any) -> None:
    with pytest.raises(InvalidUpdateDocumentError):
        origin(x)


@pytest.mark.parametrize("x", [None, 42, [], b"[]", dict, {}, Ellipsis], ids=repr)
def test_refusal_says_what_is_wanted_and_what_it_was(x: Any) -> None:
    with pytest.raises(InvalidUpdateDocumentError) as caught:
        origin(x)
    kind = "list" if isinstance(x, bytes) else type(x).__name__
    assert str(caught.value).startswith("An update must be a dict, its JSON text or a")
    assert re.search(rf"(not|this|kind:) {kind}\b", str(caught.value))


def test_class_of_an_event_is_no_event() -> None:
    class Message:
        __slots__ = ("chat", "message_id")  # which makes them attributes of the class

    with pytest.raises(InvalidUpdateDocumentError, match="not type"):
        origin(Message)


def test_envelope_is_recognised() -> None:
    for answer in (
        {"ok": True, "result": [{"update_id": 1, "message": message()}]},
        {"ok": True, "result": {"id": 99}},
        {"ok": False, "error_code": 400, "parameters": {"migrate_to_chat_id": -1}},
    ):
        with pytest.raises(InvalidUpdateDocumentError, match="out of its `result`"):
            origin(answer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"update_id": 1,}', "line 1 column"),
        ('{"update_id": 1} x', "Extra data"),
        ("{'update_id': 1}", "Expecting property name"),
        ('{"update_id": 1, "update_id": 2}', "same key twice"),
        ('{"message": {"chat": {"id": 1, "id": 2}}}', "same key twice"),
        ('{"update_id": NaN}', "NaN is not JSON"),
        ('{"update_id": -Infinity}', "-Infinity is not JSON"),
        ('{"update_id": ' + "9" * 5000 + "}", "4300 digits"),
        ('{"message": ' + "[" * 20000 + "]" * 20000 + "}", "recursion"),
        (b'{"update_id": "\xff"}', "can't decode byte 0xff"),
        ('{"update_id": 1}'.encode("utf-16"), "can't decode byte"),
        (b'{"message": "\xed\xa0\x80"}', "can't decode byte"),
        ("[1, 2]", "JSON of another kind: list"),
    ],
)
def test_broken_text_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidUpdateDocumentError, match=re.escape(said)) as caught:
        origin(text)
    assert len(str(caught.value)) < 300


def test_byte_order_mark_is_read_over() -> None:
    text = "\ufeff" + json.dumps({"update_id": 1})
    assert origin(text) == origin(text.encode()) == Origin(update_id=1)


# -- Contexts, and objects that mean harm.


@every_sample
def test_context_carries_an_update(sample: Sample) -> None:
    inner = SimpleNamespace(update=sample.update)
    assert origin(inner) == sample.origin
    assert origin(SimpleNamespace(update=inner, chat=5)) == sample.origin
    assert origin(SimpleNamespace(update=sample.origin)) is sample.origin
    assert origin(SimpleNamespace(update=json.dumps(sample.update))) == sample.origin


def test_fields_of_a_context_do_not_hide_its_update() -> None:
    update: Document = {"update_id": 70}
    update["callback_query"] = callback(message(sender=None))
    pressed = update["callback_query"]["message"]
    context = SimpleNamespace(update=update, message=pressed, chat=GROUP, user=None)
    assert origin(context).user_id == 11


def test_method_called_update_carries_none() -> None:
    event = SimpleNamespace(message_id=5, chat=as_object(GROUP), update=print)
    assert origin(event) == Origin(event="message", chat_id=-1005)


@pytest.mark.parametrize("carried", [None, dict, {}, 5, "x"])
def test_context_without_an_update_is_refused(carried: Any) -> None:
    with pytest.raises(InvalidUpdateDocumentError):
        origin(SimpleNamespace(update=carried))


def test_context_that_carries_itself_is_refused() -> None:
    context = SimpleNamespace()
    context.update = context
    with pytest.raises(InvalidUpdateDocumentError, match=r"as \.update 4 deep"):
        origin(context)


class Raises:
    """Raises on every attribute that is asked for."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattribute__(self, name: str) -> Any:
        raise object.__getattribute__(self, "_error")


class Endless:
    """Has every attribute, and each of them too."""

    def __getattr__(self, name: str) -> "Endless":
        return Endless()


class DictThatRaises(dict[str, Any]):
    def get(self, *_: object) -> Any:
        raise KeyError("no")


# Makers, because pytest looks at the attributes of what it is given.
HARMFUL: dict[str, Callable[[], Any]] = {
    "raises": lambda: Raises(RuntimeError("no")),
    "recurses": lambda: Raises(RecursionError("no")),
    "endless": Endless,
    "mock": MagicMock,
    "dict": lambda: DictThatRaises(update_id=1),
}


@pytest.mark.parametrize("make", HARMFUL.values(), ids=HARMFUL)
def test_no_exception_of_an_object_escapes(make: Callable[[], Any]) -> None:
    harmful = make()
    node = document_with("message", "chat", harmful)
    for x in (harmful, SimpleNamespace(update=harmful), node):
        with pytest.raises(InvalidUpdateDocumentError):
            origin(x)


def test_exception_of_an_object_is_the_cause() -> None:
    error = RuntimeError("no session")
    with pytest.raises(InvalidUpdateDocumentError) as caught:
        origin(Raises(error))
    assert caught.value.__cause__ is error


def test_interrupt_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        origin(Raises(KeyboardInterrupt()))


# -- Anything at all.

NAMES = [*UPDATE_TYPES, "update_id", "update", "ok", "chat", "from", "user", "id"]
NAMES += ["message_id", "sender_chat", "boost", "source", "api_kwargs", "model_extra"]
NAMES += ["message_thread_id", "is_topic_message", "topic_id", "new_reaction"]
NAMES += ["business_connection_id", "guest_query_id", "chat_instance", "poll_id"]
names = st.sampled_from(NAMES)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.sampled_from([object(), dict, len])
    | st.one_of([st.builds(make) for make in HARMFUL.values()])
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names | st.text(max_size=3), inner, max_size=5)
        | st.dictionaries(names, inner, max_size=5).map(as_object)
    ),
)


@given(anything)
def test_anything_is_read_or_refused(x: Any) -> None:
    try:
        found = origin(x)
    except InvalidUpdateDocumentError:
        return
    for field in ("chat_id", "user_id", "topic_id", "sender_chat_id"):
        assert type(getattr(found, field)) in {int, type(None)}
    for field in ("event", "business_connection_id", "guest_query_id"):
        assert type(getattr(found, field)) in {str, type(None)}


@given(st.text() | st.binary() | anything.map(repr))
def test_any_text_is_read_or_refused(x: str | bytes) -> None:
    try:
        origin(x)
    except InvalidUpdateDocumentError:
        return


# -- The corpus of other projects.


@needs_corpus
def test_corpus_is_read_as_expected() -> None:
    wrong = [line for line in CORPUS if origin(line["update"]) != expected_origin(line)]
    assert not wrong
    assert len(CORPUS) >= 559


@needs_corpus
def test_lines_where_the_corpus_is_wrong_are_still_wrong() -> None:
    wrong = [line for line in CORPUS if overlooks_a_booster(line)]
    assert len(wrong) == 8
    assert all(
        origin(line["update"]).user_id != line["expected"]["user_id"] for line in wrong
    )


# Broken in a way that takes nothing from the ids: the rest of the document stands.
READABLE = {
    *("chat-is-null", "chat-without-id", "chat-id-zero"),
    *("from-without-id", "from-missing", "from-id-null"),
    *("user-without-id", "user-missing", "user-id-null"),
    *("topic-flag-without-thread", "thread-without-topic-flag", "topic-flag-string"),
    *("thread-zero", "bc-colon", "bc-nul-and-newline"),
    *("migrate-self", "migrate-both", "migrate-string", "migrate-zero"),
    *("no-update-id", "update-id-string", "event-is-null", "event-is-empty"),
    *("bom", "minus-zero", "deep-reply-500"),
}

# Where an id of a field may stand in a document, below the event.
PLAUSIBLE = {
    "update_id": r"",
    "chat_id": r"(message\.)?chat\.id",
    "user_id": r"(from|user|(boost\.)?source\.user)\.id",
    "sender_chat_id": r"(sender_chat|actor_chat|voter_chat)\.id",
    "topic_id": r"(message\.)?(message_thread_id|direct_messages_topic\.topic_id)",
    "business_connection_id": r"id|(message\.)?business_connection_id",
    "guest_query_id": r"(message\.)?guest_query_id",
}


def places(document: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    yield path, document
    if isinstance(document, dict) and depth < 6:
        for name, value in document.items():
            yield from places(value, f"{path}.{name}".lstrip("."), depth + 1)


@needs_corpus
@pytest.mark.parametrize(
    "line", MALFORMED, ids=[f"{i}-{line['kind']}" for i, line in enumerate(MALFORMED)]
)
def test_malformed_body_is_refused_or_read_as_it_stands(line: dict[str, Any]) -> None:
    if line["kind"] not in READABLE:
        with pytest.raises(InvalidUpdateDocumentError):
            origin(line["text"])
        return
    found = origin(line["text"])
    document = json.loads(line["text"].removeprefix("\ufeff"))
    event = found.event or ""
    assert document.get(event) is not None or found == Origin(update_id=1)
    for field, pattern in PLAUSIBLE.items():
        value = getattr(found, field)
        where = "update_id" if field == "update_id" else rf"{event}\.({pattern})"
        there = [x for path, x in places(document) if re.fullmatch(where, path)]
        # Nothing is made up, and nothing that stands there well-formed is missed,
        # but for threads that no flag calls a topic.
        well_formed = [x for x in there if type(x) in {int, str}]
        if value is not None:
            assert value in well_formed
        elif field not in {"update_id", "topic_id", "business_connection_id"}:
            assert not well_formed
