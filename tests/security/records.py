"""Targets: whatever may lie in a database, and the texts of keys."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import zlib

import ormsgpack
from hypothesis import strategies as st

import botsessions as bs
from botsessions.backends.redis_record import _packed, unpacked
from botsessions.codec import RICH, seal
from botsessions.record import RING_LENGTH, ring_after, tokens
from tests.places import OnlyContract
from tests.security.fuzzing import (
    SECRET,
    Target,
    mutated,
    sessions,
    tells_nothing,
    words,
)


class Step(enum.Enum):
    NAME = 1


class Right(enum.Flag):
    READ = 1


@dataclasses.dataclass
class Form:
    step: Step
    text: str = ""


CODEC = bs.Codec([Step, Right, Form])
KEY, OTHER = bs.SessionKey(chat_id=1), bs.SessionKey(chat_id=2)

# MessagePack by its grammar, with lengths and types that may be wrong.

_wrong = st.sampled_from([0, 0, 0, 0, 1, -1, 2**16, 2**32 - 1])


def _array(items: list[bytes], wrong: int) -> bytes:
    length = max(0, min(len(items) + wrong, 2**32 - 1))
    return b"\xdd" + length.to_bytes(4, "big") + b"".join(items)


def _map(items: list[bytes], wrong: int) -> bytes:
    length = max(0, min(len(items) // 2 + wrong, 2**32 - 1))
    return b"\xdf" + length.to_bytes(4, "big") + b"".join(items)


def _ext(tag: int, data: bytes, wrong: int) -> bytes:
    length = max(0, min(len(data) + wrong, 2**32 - 1))
    return b"\xc9" + length.to_bytes(4, "big") + bytes([tag % 256]) + data


def _deep(inner: bytes, depth: int, tag: int) -> bytes:
    for _ in range(depth):
        inner = _ext(tag, _array([inner], 0), 0)
    return inner


_leaves = (
    st.sampled_from([b"\xc0", b"\xc1", b"\xc2", b"\xca\x7f\xc0\x00\x00", b"\xd4"])
    | st.sampled_from(
        [SECRET, "Step", "Right", "Form", "NAME", "text", "1E+99999999", "2026-01-01"]
    ).map(ormsgpack.packb)
    | st.integers(-(2**63), 2**64 - 1).map(ormsgpack.packb)
    | st.text(max_size=6).filter(lambda text: text.isprintable()).map(ormsgpack.packb)
    | st.binary(max_size=6).map(ormsgpack.packb)
    | st.binary(max_size=6)
)
_tags = st.integers(1, 13) | st.integers(0, 255)
messages = st.recursive(
    _leaves,
    lambda inner: (
        st.builds(_array, st.lists(inner, max_size=4), _wrong)
        | st.builds(_map, st.lists(inner, max_size=6), _wrong)
        | st.builds(_ext, _tags, inner, _wrong)
        | st.builds(_deep, inner, st.integers(0, 300), st.integers(1, 13))
    ),
    max_leaves=10,
)


# What each type nearly is: with a text, where another has a date, say.
_nearly = st.builds(
    lambda tag, content: _ext(tag, ormsgpack.packb(content), 0),
    st.integers(1, 13),
    st.recursive(
        st.just(SECRET) | st.sampled_from(["Step", "2026-01-01", 0, 1, None, 2**40]),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ),
)


def _resealed(data: bytes) -> bytes:
    """Give damaged bytes a checksum that is right."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


_sealed = sessions.map(CODEC.encode)
_rich = messages.map(lambda body: seal(RICH + b"\x81\xa1a" + body))
types = _nearly.map(lambda ext: seal(RICH + b"\x81\xa1a" + ext))
records = (
    mutated(_sealed)
    | mutated(_sealed).map(_resealed)
    | _rich
    | messages.map(seal)
    | messages.map(lambda body: seal(RICH + body))
    | mutated(_rich).map(_resealed)
)


def decode(data: bytes) -> str:
    """Decode: one session, or a CorruptRecordError that quotes nothing."""
    try:
        session = CODEC.decode(data)
    except bs.CorruptRecordError as exc:
        if exc.unknown_type is None:
            tells_nothing(exc)
            return "corrupt"
        # The name of a type that is not registered is to be told.
        said = str(exc).replace(repr(exc.unknown_type), "")
        assert SECRET not in said
        assert len(said) < 200
        return "unknown"
    assert type(session) is dict
    return "read"


# Keys.

_numbers = st.integers(-(2**64), 2**64).map(str) | st.sampled_from(
    ["-0", "007", "+1", "1_0", "\u0661", "²", " 1", "9" * 5000, ""]
)
_parts = st.builds(
    "{}{}".format,
    st.sampled_from(
        ["chat=", "user=", "topic=", "business=", "guest", "bot=", "name=", "Chat=", ""]
    ),
    st.builds("{}{}".format, st.sampled_from(["", "s:", "S:"]), words) | _numbers,
)
_ids = st.integers(-(2**63), 2**63 - 1)
_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
sound_keys = st.builds(
    bs.SessionKey,
    chat_id=_ids | _names,
    user_id=st.none() | _ids | _names,
    topic_id=st.none() | _ids,
    guest=st.booleans(),
    bot_id=st.none() | _ids,
    name=st.none() | _names,
).map(str)


@st.composite
def _changed(draw: st.DrawFn) -> str:
    """Draw the text of a key in which one thing is another, perhaps."""
    text = draw(sound_keys)
    begin = draw(st.integers(0, len(text)))
    end = begin + draw(st.integers(0, 3))
    return text[:begin] + draw(words | st.just(text[begin:end])) + text[end:]


key_texts = (
    _changed()
    | sound_keys
    | st.lists(_parts, max_size=5).map("/".join)
    | words
    | st.builds("chat={}/user={}".format, _numbers, _numbers)
    | st.builds(lambda text, n: text * n, words, st.integers(1, 4000))
)


def parse(text: str) -> str:
    """Parse: a key that is written just so, or InvalidKeyError."""
    try:
        key = bs.SessionKey.parse(text)
    except bs.InvalidKeyError:
        return "refused"
    assert str(key) == text
    assert bs.SessionKey.parse(str(key)) == key
    assert len(text) <= 1000
    assert all("!" <= sign <= "~" for sign in text)
    assert not set(text) & set("'\"$;`\\<>|&*?[]{}()!~#^ ")
    return "read"


# What a database may hold of a record.

_int64 = st.integers(-(2**63), 2**63 - 1)
_NOW = 1_800_000_000_000
_moments = st.sampled_from([0, -1, _NOW, _NOW + 9, 2**62, 2**63 - 1]) | _int64
stored = st.builds(
    bs.Record,
    st.builds(bs.Version, st.integers(0, 2**62), _int64),
    st.binary(max_size=9) | _sealed | records | st.just(b""),
    st.binary(max_size=80),
    _moments,
    st.none() | _moments,
)


def ring(record: bs.Record) -> str:
    """Read and write on a ring of any bytes."""
    remembered = tokens(record)
    assert remembered[0] == record.version.token
    assert len(remembered) == 1 + len(record.ring) // 8
    following = ring_after(record)
    assert len(following) <= 8 * RING_LENGTH
    after = record._replace(ring=following)
    assert tokens(after)[1 : RING_LENGTH + 1] == remembered[:RING_LENGTH]
    return "read"


def redis_string(data: bytes) -> str:
    """Read what Redis may have under a key."""
    found = unpacked("sessions/chat=1", data)
    if isinstance(found, bs.Record):
        tokens(found)
        ring_after(found)
        return "read"
    assert isinstance(found, bs.BackendError)
    tells_nothing(found)
    return "not ours"


async def _over(record: bs.Record, key: str) -> bs.SessionStore:
    """Return a store over what a hostile hand has left under a key."""
    backend = OnlyContract(bs.MemoryBackend(clock=lambda: _NOW / 1000))
    assert await backend.commit([bs.Write(key, None, record, _NOW + 1)]) == [True]
    return bs.SessionStore(backend, timeout=0.3, ttl=60)


async def _replaced(record: bs.Record) -> None:
    for verb in ("get", "update", "put", "delete"):
        async with await _over(record, f"sessions/{KEY}") as store:
            try:
                if verb == "get":
                    await store.get(KEY)
                elif verb == "update":
                    assert await store.update(KEY, lambda s: {**s, 1: 2})
                elif verb == "put":
                    await store.put(KEY, {"n": 1})
                    assert await store.get(KEY) == {"n": 1}
                else:
                    await store.delete(KEY)
                    assert await store.get(KEY) == {}
            except bs.CorruptRecordError:
                assert verb in ("get", "update")
            await store.put(OTHER, {"n": 2})
            assert await store.get(OTHER) == {"n": 2}


def store(record: bs.Record) -> str:
    """Use a session whose record somebody else wrote, and another beside it."""
    asyncio.run(_replaced(record))
    return "used"


async def _locked(record: bs.Record) -> None:
    async with await _over(record, f"!{{sessions/{KEY}}}") as one:
        try:
            async with one.lock(KEY, timeout=0.01) as lock:
                await lock.put({"n": 1})
        except (bs.LockTimeoutError, bs.CorruptRecordError):
            await one.put(KEY, {"n": 1})
        assert await one.get(KEY) == {"n": 1}


def lock(record: bs.Record) -> str:
    """Ask for a lock of which somebody else wrote the record."""
    asyncio.run(_locked(record))
    return "used"


_strings = stored.map(
    lambda record: _packed(
        record._replace(ring=record.ring[: len(record.ring) // 8 * 8])
    )
)
redis_strings = (
    _strings | mutated(_strings) | st.binary(max_size=60).map(b"\xb5\x01%b".__mod__)
)

TARGETS = [
    Target(
        "codec",
        records,
        decode,
        150,
        frozenset({"read", "corrupt"}),
        (CODEC.encode({"a": Form(Step.NAME)}),),
    ),
    Target("codec-types", types, decode, 200, frozenset({"read", "corrupt"})),
    Target("keys", key_texts, parse, 200, frozenset({"read", "refused"})),
    Target("rings", stored, ring, 100, frozenset({"read"})),
    Target(
        "redis-strings",
        redis_strings,
        redis_string,
        100,
        frozenset({"read", "not ours"}),
    ),
    Target("records-in-a-store", stored, store, 60),
    Target("locks", stored, lock, 40),
]
