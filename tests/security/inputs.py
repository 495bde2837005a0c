"""Targets: updates, and the files and lines that the command line takes."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import pickle
import tempfile
from collections import OrderedDict, defaultdict
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from hypothesis import strategies as st

import botsessions as bs
from botsessions.cli import json_form, jsonl, routing
from botsessions.cli.imports import telebot, telegram
from botsessions.cli.imports.carry import Left, Source, Taken
from botsessions.cli.imports.plain import plain
from botsessions.cli.source import Line
from tests.security.fuzzing import (
    SECRET,
    Target,
    documents,
    json_scalars,
    mutated,
    sessions,
    words,
)
from tests.security.records import sound_keys
from tests.updates.samples import SAMPLES

# Updates.

FIELDS = [
    *("update_id", "update", "ok", "result", "chat", "from", "user", "id", "message"),
    *("callback_query", "edited_message", "inline_query", "message_id", "sender_chat"),
    *("message_thread_id", "is_topic_message", "direct_messages_topic", "topic_id"),
    *("business_connection_id", "guest_query_id", "chat_instance", "boost", "source"),
    *("api_kwargs", "model_extra", "new_reaction", "poll_id", "option_ids", "data"),
]
_errors = st.sampled_from(
    [RuntimeError, AttributeError, TypeError, RecursionError, MemoryError, OSError]
)


class Trap:
    """Raises, or answers with something odd, whatever is asked of it."""

    def __init__(self, error: type[Exception], after: int) -> None:
        object.__setattr__(self, "_trap", [error, after])

    def __getattribute__(self, name: str) -> Any:
        trap = object.__getattribute__(self, "_trap")
        trap[1] -= 1
        if trap[1] < 0:
            raise trap[0](SECRET)
        return 1 if name == "id" else self

    def __eq__(self, _: object) -> NoReturn:
        raise ValueError(SECRET)

    __hash__ = None  # type: ignore[assignment]


class Liar(dict[str, Any]):
    """A dict that raises, or says that it has everything."""

    def get(self, name: str, default: Any = None) -> Any:
        if name == "id":
            raise KeyError(SECRET)
        return super().get(name, default if name == "update_id" else self)


_traps = st.builds(Trap, _errors, st.integers(0, 6)) | st.builds(Liar)
_names = st.sampled_from(FIELDS) | st.text(max_size=3)
_things = st.sampled_from([object, len, frozenset({1}), b"x"]) | st.builds(
    pow, st.just(10), st.just(5000)
)
_trees = documents(_names, _traps | _things)
_objects = st.dictionaries(st.sampled_from(FIELDS), _trees, max_size=6).map(
    lambda fields: SimpleNamespace(
        **{f"{k}_user" if k == "from" else k: v for k, v in fields.items()}
    )
)
# By number: Hypothesis would write them all out.
_texts = st.integers(0, len(SAMPLES) - 1).map(
    lambda number: json.dumps(SAMPLES[number].update).encode()
)


@st.composite
def _nearly_sound(draw: st.DrawFn) -> Any:
    """Draw an update in which one thing, at most, is another."""
    update = copy.deepcopy(SAMPLES[draw(st.integers(0, len(SAMPLES) - 1))].update)
    inner: Any = update
    while isinstance(inner, dict) and inner:
        name = draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[name], dict) or draw(st.integers(0, 3)) == 0:
            inner[name] = draw(_traps | _things | json_scalars | st.just(inner[name]))
            break
        inner = inner[name]
    return update


updates = (
    _nearly_sound()
    | _nearly_sound()
    | _nearly_sound()
    | _trees
    | _objects
    | st.builds(SimpleNamespace, update=_trees | _objects)
    | mutated(_texts)
    | mutated(_texts).map(lambda text: text.decode("utf-8", "replace"))
    | mutated(documents(_names).map(lambda tree: json.dumps(tree).encode()))
)
_READERS = (
    bs.origin,
    bs.chat_key,
    bs.user_key,
    bs.chat_user_key,
    bs.topic_key,
    bs.topic_user_key,
)


def update(x: Any) -> str:
    """Read an update: a key, or one of the two errors, which quote nothing."""
    ends = set()
    for read in _READERS:
        try:
            found = read(x)
        except (bs.MissingKeyPart, bs.InvalidUpdateDocumentError) as exc:
            said = str(exc)
            assert SECRET not in said
            ends.add("missing" if isinstance(exc, bs.MissingKeyPart) else "refused")
        else:
            if isinstance(found, bs.SessionKey):
                assert bs.SessionKey.parse(str(found)) == found
                ends.add("key")
    return min(ends - {"missing"}, default="missing")


# Lines.

_TAGS = [
    *("$tuple", "$set", "$frozenset", "$bytes", "$bytearray", "$int", "$float"),
    *("$datetime", "$date", "$time", "$microseconds", "$decimal", "$uuid", "$dict"),
    *("$repr", "$", "$no"),
]
_odd_texts = st.sampled_from(
    [
        *("0x" + "f" * 9999, "9" * 5000, "1E+999999999", "NaN", "sNaN", "AA=", "AA=="),
        *("2026-05-04[../../etc/passwd]", "2026-05-04T06:00:00[Europe]", "[]", "-inf"),
        *("2026-05-04T06:00:00[Europe/Berlin]", "9999-12-31T23:59:59+23:59"),
    ]
)
_forms = documents(st.sampled_from(_TAGS) | st.text("ab", max_size=2), _odd_texts)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "replace")


form_texts = (
    _forms.map(_json)
    | mutated(_forms.map(_json))
    | mutated(sessions.map(lambda session: _json(json_form.shown(session))))
)


def form(text: bytes) -> str:
    """Read the JSON form: a value that can be shown again, or ValueError."""
    try:
        value = json_form.read(text)
    except ValueError:
        return "refused"
    json.dumps(json_form.shown(value))
    return "read"


_wrong = {
    "key": st.sampled_from(["chat=", "chat=1/", ""]) | words | _forms,
    "session": _forms,
    "sealed": st.sampled_from(["", "AA==", "AQ", "é", "A" * 4000]) | _forms,
    "created_at": st.sampled_from([-1, 2**63, 1.5, True, "0"]),
    "expires_at": st.sampled_from([-1, 2**63, 1.5, True, "0"]),
    "more": _forms,
}
_encoded = sessions.map(bs.Codec().encode)
_moments = st.none() | st.integers(0, 2**63 - 1)


@st.composite
def _nearly_sound_lines(draw: st.DrawFn) -> bytes:
    """Draw an exported session, in a third of the cases with one wrong field."""
    line: dict[str, Any] = {"key": draw(sound_keys)}
    if draw(st.booleans()):
        line["session"] = json_form.shown(draw(sessions))
    else:
        sealed = draw(_encoded | _encoded | mutated(_encoded))
        line["sealed"] = base64.b64encode(sealed).decode()
    for name in ("created_at", "expires_at"):
        if draw(st.booleans()):
            line[name] = draw(_moments)
    if draw(st.integers(0, 2)) == 2:
        name = draw(st.sampled_from(sorted(_wrong)))
        line[name] = draw(_wrong[name])
    return _json(line)


lines = (
    _nearly_sound_lines()
    | _nearly_sound_lines()
    | mutated(
        sessions.map(
            lambda session: _json(
                {"key": "chat=1", "session": json_form.shown(session)}
            )
        )
    )
    | form_texts
)


def imported_line(text: bytes) -> str:
    """Read an exported session: an entry, or one of two errors."""
    try:
        entry = jsonl.entry_of(Line(1, text, len(text)))
    except (ValueError, bs.CodecError):
        return "refused"
    assert str(bs.SessionKey.parse(entry.key)) == entry.key
    record = jsonl.record_of(entry, None, 1, 1)
    return "read" if isinstance(record, bs.Record) else record


recordings = (
    _texts
    | mutated(_texts)
    | documents(_names).map(_json)
    | documents(_names).map(lambda tree: _json({"update": tree}))
)


def replayed_line(text: bytes) -> str:
    """Read a recorded update: it is always told what became of it."""
    found = routing.route(Line(1, text, len(text)))
    assert isinstance(found, (routing.Step, routing.Result))
    return type(found).__name__


# Pickles.


class _Reduced:
    """Makes a pickle ask for a call."""

    def __init__(self, function: Any, arguments: Any) -> None:
        self._made = (function, arguments)

    def __reduce__(self) -> Any:
        return self._made


_calls = st.sampled_from(
    [
        (bytearray, (2**40,)),
        (bytes, (2**40,)),
        (eval, ("1/0",)),
        (getattr, (dict, "fromkeys")),
        (Decimal, ("9" * 5000,)),
        (defaultdict, (list,)),
        (OrderedDict, ()),
        (print, ()),
    ]
).map(lambda call: _Reduced(*call))
_held = st.recursive(
    sessions | st.just(SECRET) | _calls | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | inner.map(lambda shared: [shared, shared, (shared,)])
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
_ids = st.integers(-(2**70), 2**70) | st.tuples(st.integers(), st.integers())
_persisted = st.fixed_dictionaries(
    {},
    optional={
        "user_data": st.dictionaries(_ids, _held, max_size=3) | _held,
        "chat_data": st.dictionaries(_ids, _held, max_size=3) | _held,
        "bot_data": _held,
        "callback_data": st.tuples(
            st.lists(st.tuples(words, st.floats(), _held), max_size=2),
            st.dictionaries(words, words, max_size=2),
        )
        | _held,
        "conversations": st.dictionaries(
            words, st.dictionaries(_ids, _held, max_size=2), max_size=2
        )
        | _held,
    },
)
_states = st.dictionaries(
    st.builds("telebot:{}:{}:{}".format, st.integers(), st.integers(), words)
    | st.integers()
    | words,
    st.fixed_dictionaries({"state": _held, "data": _held}) | _held,
    max_size=3,
)
_protocols = st.integers(2, 5)
_pickles = st.builds(pickle.dumps, _persisted | _states | _held, _protocols)
pickles = _pickles | mutated(_pickles)


async def _all(source: Source) -> list[Taken | Left | None]:
    await source.open(lambda _what, _done: None)
    return [entry async for entry in source.entries()]


def pickled(data: bytes) -> str:
    """Read a pickle of either library: sessions, reasons, or ValueError."""
    ends = {"refused"}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "p"
        path.write_bytes(data)
        for source in (
            telegram.PicklePersistence(path),
            telebot.PickleStorage(path, telebot.Layout(bot_id=7)),
        ):
            try:
                entries = asyncio.run(_all(source))
            except ValueError:
                continue
            for entry in entries:
                if isinstance(entry, Taken):
                    taken(entry)
                ends.add("taken" if isinstance(entry, Taken) else "left")
    return max(ends)


def taken(entry: Taken) -> None:
    """Check that what is taken over is a session, or refused with its place."""
    assert bs.SessionKey.parse(str(entry.key)) == entry.key
    made = plain(entry.session, entry.place)
    if not made.refused:
        try:
            bs.Codec().encode(made.value)
        except (bs.CodecError, bs.InvalidSessionError) as exc:
            said = str(exc).rpartition("]")[2]  # behind the path, which names keys
            assert SECRET not in said


_SOUND = {"key": "chat=1", "session": {"a": 1}}
TARGETS = [
    Target(
        "updates",
        updates,
        update,
        150,
        frozenset({"key", "missing", "refused"}),
        (SAMPLES[0].update, {"update_id": 1, "poll": {"id": "1"}}),
    ),
    Target(
        "json-form", form_texts, form, 120, frozenset({"read", "refused"}), (b"{}",)
    ),
    Target(
        "import-lines",
        lines,
        imported_line,
        100,
        frozenset({"read", "refused"}),
        (_json(_SOUND),),
    ),
    Target(
        "replay-lines",
        recordings,
        replayed_line,
        150,
        frozenset({"Step", "Result"}),
        (_json(SAMPLES[0].update),),
    ),
    Target(
        "pickles",
        pickles,
        pickled,
        80,
        frozenset({"taken", "refused"}),
        (pickle.dumps({"user_data": {1: {"x": 1}}}),),
    ),
]
