"""Turn a session into bytes and back, type for type, and refuse what cannot come back.

Most sessions are *plain*: dicts with str keys that hold str, int, float, bool, None,
bytes, lists, and more such dicts. MessagePack keeps these exactly, at C speed. All else
is *rich*: a Python walk replaces each tuple, set, datetime, big int, dict with other
keys or registered type by an extension type, and names the path of what it must refuse.

A **body** is the MessagePack of one session; a rich one starts with ``RICH``, a byte
that MessagePack never uses. The memory engine keeps bodies. What leaves the process is
**sealed**: a format byte, ``[session, checksum]`` as MessagePack, the checksum last, so
that a flipped, missing or surplus byte is noticed. Nothing stored is ever executed; only
the classes that the application registered are built again.

Imports ``errors`` alone; the engine is the user.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import gc
import zlib
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import SafeUUID, UUID
from zoneinfo import ZoneInfo

import ormsgpack

from botsessions.errors import (
    CorruptRecordError,
    InvalidSessionError,
    UnsupportedValueError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

# Makes ormsgpack raise TypeError on whatever it would otherwise change in silence. Keys
# other than exact str raise as well, because OPT_NON_STR_KEYS is not set. What passes all
# the same and must not: bytearray and memoryview (they become bytes), Ext and Fragment.
PLAIN = (
    ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_BIG_INT
)

# The marker of short binary values. A body of at most SHORT bytes without it holds no
# bytes, bytearray or memoryview.
BIN8 = 0xC4
SHORT = 255
_BIN16, _BIN32 = 0xC5, 0xC6

RICH = b"\xc1"
EMPTY = b"\x80"

MAX_DEPTH = 100

_PLAIN_FORMAT, _RICH_FORMAT = b"\x01\x92", b"\x02\x92"
_CHECKSUM_HEAD = b"\xc4\x04"
# The CRC-32 of any message followed by its own CRC, lowest byte first.
_CRC_RESIDUE = 0x2144DF1C

_SCALARS = frozenset({str, int, float, bool, type(None), bytes})
_SAFETY = (SafeUUID.unknown, SafeUUID.safe, SafeUUID.unsafe)

# Extension types of format 2. Numbers are never given a second meaning.
_DICT, _TUPLE, _SET, _FROZENSET, _BYTEARRAY, _INT = 1, 2, 3, 4, 5, 6
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _REGISTERED = range(7, 14)


class Codec:
    """Encodes sessions, and knows the application's own types.

    ``types`` are enums, dataclasses and NamedTuples, stored under their class name: an
    enum member by its name (a ``Flag`` by its value), the others by their fields, so
    that ``__init__`` and ``__post_init__`` do not run again. Renaming such a class makes
    what was stored unreadable (``CorruptRecordError``); ``register`` it under its old
    name instead. A field that was added since takes its default.
    """

    __slots__ = ("_by_tag", "_by_type")

    def __init__(self, types: Iterable[type] = ()) -> None:
        self._by_type: dict[type, tuple[str, Callable[[Any], Any]]] = {}
        self._by_tag: dict[str, Callable[[Any], Any]] = {}
        for cls in types:
            self.register(cls, cls.__name__, *_adapters(cls))

    def register(
        self,
        type: type[T],  # noqa: A002 - the word for it, fixed by the design
        tag: str,
        encode: Callable[[T], Any],
        decode: Callable[[Any], T],
    ) -> Self:
        """Store values of exactly this type as what ``encode`` makes of them.

        ``encode`` returns anything that a session may hold; ``decode`` gets it back.
        ``tag`` names the type in the stored bytes: keep it for ever. A type or a tag
        that is taken raises ValueError. Returns the codec itself.
        """
        if type in self._by_type or tag in self._by_tag:
            raise ValueError(
                f"{type.__name__} or the tag {tag!r} is registered already; "
                "give each type a tag of its own: Codec().register(type, tag, …)"
            )
        self._by_type[type] = (tag, encode)
        self._by_tag[tag] = decode
        return self

    def encode(self, session: Mapping[Any, Any]) -> bytes:
        """Return sealed bytes; raise ``UnsupportedValueError`` with the path."""
        return seal(self.pack(session)[0])

    def decode(self, data: bytes) -> dict[Any, Any]:
        """Return the session in sealed bytes, or raise ``CorruptRecordError``."""
        if zlib.crc32(data) != _CRC_RESIDUE:
            raise CorruptRecordError("the checksum does not match: the bytes changed")
        if data.startswith(_PLAIN_FORMAT):
            content = _read(data[1:], None)
        elif data.startswith(_RICH_FORMAT):
            content = _read(data[1:], _Raising(self._by_tag))
        else:
            raise CorruptRecordError(
                f"unknown record format {data[0]}: written by a newer botsessions?"
            )
        if type(content) is list and len(content) == 2:
            session, checksum = content
            if type(session) is dict and checksum == data[-4:]:
                return session
        raise CorruptRecordError("the bytes hold something other than one session")

    def pack(self, session: Mapping[Any, Any]) -> tuple[bytes, dict[Any, Any]]:
        """Return the body of a session, and an equal dict that shares nothing with it.

        ``engine.inline`` repeats the plain case in line, where a call costs too much.
        """
        if type(session) is not dict:
            if not isinstance(session, Mapping):
                raise InvalidSessionError(
                    f"a session is a mapping, not {type(session).__name__}"
                )
            session = dict(session)
        try:
            body = ormsgpack.packb(session, None, PLAIN)
        except TypeError:
            return self._pack_carefully(session)
        if BIN8 not in body and (
            len(body) <= SHORT or (_BIN16 not in body and _BIN32 not in body)
        ):
            # The garbage collector leaves a dict alone that holds nothing it could
            # follow: then ormsgpack took only immutable scalars from it.
            if not gc.is_tracked(session):
                return body, session.copy()
            # An Ext does not survive the reading, a Fragment not the comparison. NaN
            # does not either, and takes the careful way.
            with contextlib.suppress(ValueError):
                copy: dict[Any, Any] = ormsgpack.unpackb(body)
                if copy == session:
                    return body, copy
        return self._pack_carefully(session)

    def unpack(self, body: bytes) -> dict[Any, Any]:
        """Return a fresh session from a body, or raise ``CorruptRecordError``."""
        if body.startswith(RICH):
            session = _read(body[1:], _Raising(self._by_tag))
        else:
            session = _read(body, None)
        if type(session) is not dict:
            raise CorruptRecordError("the bytes hold something other than a session")
        return session

    def _pack_carefully(self, session: dict[Any, Any]) -> tuple[bytes, dict[Any, Any]]:
        lowering = _Lowering(self._by_type)
        try:
            lowered = lowering.lower(session, 0)
            body = ormsgpack.packb(lowered, None, PLAIN)
        except RecursionError:
            raise UnsupportedValueError("session is nested too deeply") from None
        if lowering.rich:
            body = RICH + body
        try:
            return body, self.unpack(body)
        except CorruptRecordError as exc:
            raise UnsupportedValueError(f"session would not come back: {exc}") from exc


def _read(data: bytes, raising: _Raising | None) -> Any:
    """Read MessagePack; whatever goes wrong is a ``CorruptRecordError``."""
    try:
        return ormsgpack.unpackb(data, ext_hook=raising)
    except (ValueError, TypeError, RecursionError) as exc:
        # ormsgpack does not pass on what its hook raised.
        reason = exc if raising is None else raising.failure or exc
        if isinstance(reason, CorruptRecordError) or not isinstance(reason, Exception):
            raise reason from None
        raise CorruptRecordError(f"not readable: {reason!r}") from reason


def seal(body: bytes) -> bytes:
    """Add format and checksum to a body, for the way out of the process."""
    if body.startswith(RICH):
        data = _RICH_FORMAT + body[1:] + _CHECKSUM_HEAD
    else:
        data = _PLAIN_FORMAT + body + _CHECKSUM_HEAD
    return data + zlib.crc32(data).to_bytes(4, "little")


class _Lowering:
    """One walk over one session: what MessagePack knows, and where we are in it."""

    __slots__ = ("_by_type", "_path", "rich")

    def __init__(
        self, by_type: Mapping[type, tuple[str, Callable[[Any], Any]]]
    ) -> None:
        self._by_type = by_type
        self._path: list[str] = ["session"]
        self.rich = False

    def lower(self, value: Any, depth: int) -> Any:
        """Return the value as plain data and extension types, or refuse it."""
        if depth > MAX_DEPTH:
            raise self._refusal(f"is nested deeper than {MAX_DEPTH} levels")
        cls = type(value)
        if cls is str:
            return self._text(value)
        if cls is int:
            return self._int(value)
        if cls in _SCALARS:
            return value
        if cls is list:
            return self._each(value, depth)
        if cls is dict:
            return self._dict(value, depth)
        return self._extension(cls, value, depth)

    def _text(self, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._refusal(
                "has a lone surrogate, which no text format can keep"
            ) from None
        return value

    def _int(self, value: int) -> int | ormsgpack.Ext:
        if -(1 << 63) <= value < 1 << 64:
            return value
        size = value.bit_length() // 8 + 1
        return self._ext(_INT, value.to_bytes(size, "big", signed=True))

    def _each(self, values: Iterable[Any], depth: int) -> list[Any]:
        lowered = []
        for index, value in enumerate(values):
            self._path.append(f"[{index}]")
            lowered.append(self.lower(value, depth + 1))
            self._path.pop()
        return lowered

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        pairs = []
        for key, item in value.items():
            name = repr(key) if type(key) in _SCALARS else type(key).__name__
            self._path.append(f"[{name[:40]}]")
            pairs.append((self.lower(key, depth + 1), self.lower(item, depth + 1)))
            self._path.pop()
        if all(type(key) is str for key in value):
            return dict(pairs)
        return self._nest(_DICT, [part for pair in pairs for part in pair])

    def _extension(self, cls: type, value: Any, depth: int) -> ormsgpack.Ext:
        if cls is tuple:
            return self._nest(_TUPLE, self._each(value, depth))
        if cls in (set, frozenset):
            tag = _SET if cls is set else _FROZENSET
            return self._nest(tag, self._each(value, depth))
        if cls is bytearray:
            return self._ext(_BYTEARRAY, bytes(value))
        if cls is UUID:
            safety = _SAFETY.index(value.is_safe)
            return self._ext(_UUID, value.bytes + bytes([safety] * (safety > 0)))
        if cls in _LOWER:
            tag, lower = _LOWER[cls]
            try:
                return self._nest(tag, lower(value))
            except _UnknownZoneError as exc:
                raise self._refusal(str(exc)) from None
        if cls in self._by_type:
            name, encode = self._by_type[cls]
            try:
                content = encode(value)
            except Exception as exc:
                raise self._refusal(f"could not be encoded: {exc!r}") from exc
            return self._nest(_REGISTERED, [name, self.lower(content, depth + 1)])
        raise self._refusal(_why_not(cls))

    def _nest(self, tag: int, content: Any) -> ormsgpack.Ext:
        return self._ext(tag, ormsgpack.packb(content, None, PLAIN))

    def _ext(self, tag: int, data: bytes) -> ormsgpack.Ext:
        self.rich = True
        return ormsgpack.Ext(tag, data)

    def _refusal(self, why: str) -> UnsupportedValueError:
        return UnsupportedValueError(f"{''.join(self._path)} {why}")


class _Raising:
    """The hook of one reading: makes values of extension types, the inverse of the walk.

    ``failure`` keeps what went wrong first.
    """

    __slots__ = ("_by_tag", "failure")

    def __init__(self, by_tag: Mapping[str, Callable[[Any], Any]]) -> None:
        self._by_tag = by_tag
        self.failure: BaseException | None = None

    def __call__(self, tag: int, data: bytes) -> Any:
        """Return the value of one extension type."""
        try:
            return self._raise(tag, data)
        except BaseException as exc:
            self.failure = self.failure or exc
            raise

    def _raise(self, tag: int, data: bytes) -> Any:
        if tag == _BYTEARRAY:
            return bytearray(data)
        if tag == _INT:
            return int.from_bytes(data, "big", signed=True)
        if tag == _UUID:
            safety = _SAFETY[int.from_bytes(data[16:], "big")]
            return UUID(bytes=data[:16], is_safe=safety)
        content = ormsgpack.unpackb(data, ext_hook=self)
        if tag == _REGISTERED:
            return self._rebuild(*content)
        return _RAISE[tag](content)

    def _rebuild(self, tag: str, content: Any) -> Any:
        decode = self._by_tag.get(tag)
        if decode is None:
            raise CorruptRecordError(
                f"it holds a {tag!r}, a type that this store does not know; "
                "register it: open_store(…, types=[…]) or Codec().register(…)"
            )
        try:
            return decode(content)
        except Exception as exc:
            raise CorruptRecordError(f"no {tag!r} can be made of it: {exc!r}") from exc


def _why_not(cls: type) -> str:
    name = cls.__name__
    if issubclass(cls, enum.Enum) or dataclasses.is_dataclass(cls) or _is_named(cls):
        return (
            f"is a {name}, which this store does not know; "
            f"register it: open_store(…, types=[{name}])"
        )
    return (
        f"is a {name}, which would not come back as one; convert it to plain data, or "
        f"register it: Codec().register({name}, tag, encode, decode)"
    )


def _is_named(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _adapters(cls: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return how to store one of ``types=`` and how to make it again."""
    if issubclass(cls, enum.Flag):
        return (lambda member: member.value), cls
    if issubclass(cls, enum.Enum):
        return (lambda member: member.name), lambda name: cls[name]
    if _is_named(cls):
        return list, cls._make  # type: ignore[attr-defined]
    builtin = (dict, list, set, frozenset, tuple, str, bytes, bytearray, int, float)
    if dataclasses.is_dataclass(cls) and not issubclass(cls, builtin):
        return _fields_of, lambda content: _from_fields(cls, content)
    raise TypeError(
        f"types= takes enums, dataclasses and NamedTuples; for {cls.__name__} use "
        "codec=Codec().register(type, tag, encode, decode)"
    )


def _fields_of(instance: Any) -> dict[str, Any]:
    content = {
        field.name: getattr(instance, field.name)
        for field in dataclasses.fields(instance)
    }
    surplus = set(getattr(instance, "__dict__", ())) - set(content)
    if surplus:
        raise ValueError(f"attributes that are no fields: {sorted(surplus)}")
    return content


def _from_fields(cls: type, content: dict[str, Any]) -> Any:
    instance = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in content:
            value = content.pop(field.name)
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise ValueError(f"the field {field.name} is missing and has no default")
        object.__setattr__(instance, field.name, value)
    if content:
        raise ValueError(f"fields that the class lost: {sorted(content)}")
    return instance


class _UnknownZoneError(Exception):
    """A tzinfo of a kind that has no exact stored form."""


def _zone(zone: dt.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [_timedelta(offset), *name]
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise _UnknownZoneError(
        f"has a time zone of type {type(zone).__name__}; "
        "use datetime.timezone, zoneinfo.ZoneInfo(key), or no zone"
    )


def _zone_from(content: Any) -> dt.tzinfo | None:
    if content is None:
        return None
    if isinstance(content, str):
        return ZoneInfo(content)
    offset, *name = content
    return dt.timezone(_timedelta_from(offset), *name)


def _datetime(value: dt.datetime) -> Any:
    naive = value.replace(tzinfo=None)
    return [naive.isoformat(), value.fold, _zone(value.tzinfo)]


def _datetime_from(content: Any) -> dt.datetime:
    text, fold, zone = content
    naive = dt.datetime.fromisoformat(text)
    return naive.replace(fold=fold, tzinfo=_zone_from(zone))


def _time(value: dt.time) -> Any:
    naive = value.replace(tzinfo=None)
    return [naive.isoformat(), value.fold, _zone(value.tzinfo)]


def _time_from(content: Any) -> dt.time:
    text, fold, zone = content
    return dt.time.fromisoformat(text).replace(fold=fold, tzinfo=_zone_from(zone))


def _timedelta(value: dt.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _timedelta_from(content: Any) -> dt.timedelta:
    return dt.timedelta(*content)


def _dict_from(content: Any) -> dict[Any, Any]:
    return dict(zip(content[::2], content[1::2], strict=True))


# Exact type → tag and how to make plain data of it; tag → how to make it again.
_LOWER: dict[type, tuple[int, Callable[[Any], Any]]] = {
    dt.datetime: (_DATETIME, _datetime),
    dt.date: (_DATE, dt.date.isoformat),
    dt.time: (_TIME, _time),
    dt.timedelta: (_TIMEDELTA, _timedelta),
    Decimal: (_DECIMAL, str),
}
_RAISE: dict[int, Callable[[Any], Any]] = {
    _DICT: _dict_from,
    _TUPLE: tuple,
    _SET: set,
    _FROZENSET: frozenset,
    _DATETIME: _datetime_from,
    _DATE: dt.date.fromisoformat,
    _TIME: _time_from,
    _TIMEDELTA: _timedelta_from,
    _DECIMAL: Decimal,
}
