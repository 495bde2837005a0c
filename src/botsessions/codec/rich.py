"""Rich sessions: extension types in the place of what MessagePack does not know.

``Lowering`` walks a session down to plain data and refuses, by its path, what could not
come back; ``Raising`` is the way up. Numbers of extension types are never reused.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import ormsgpack

from botsessions.codec.own_types import MismatchError, is_named_tuple
from botsessions.codec.plain import PLAIN
from botsessions.errors import CorruptRecordError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_DEPTH = 100

_SCALARS = frozenset({str, int, float, bool, type(None), bytes})
_SAFETY = (SafeUUID.unknown, SafeUUID.safe, SafeUUID.unsafe)

# Extension types of format 2.
_DICT, _TUPLE, _SET, _FROZENSET, _BYTEARRAY, _INT = 1, 2, 3, 4, 5, 6
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _REGISTERED = range(7, 14)

# So many steps of a path are told; the middle of a longer one is left out.
_LONGEST_PATH = 12
# So many characters are told of the name of a type, which may be no name.
_LONGEST_TAG = 80


class Lowering:
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
                raise self._refusal(f"could not be encoded: {_told(exc)}") from exc
            return self._nest(_REGISTERED, [name, self.lower(content, depth + 1)])
        raise self._refusal(_why_not(cls))

    def _nest(self, tag: int, content: Any) -> ormsgpack.Ext:
        return self._ext(tag, ormsgpack.packb(content, None, PLAIN))

    def _ext(self, tag: int, data: bytes) -> ormsgpack.Ext:
        self.rich = True
        return ormsgpack.Ext(tag, data)

    def _refusal(self, why: str) -> UnsupportedValueError:
        path = self._path
        if len(path) > _LONGEST_PATH:
            path = [*path[: _LONGEST_PATH // 2], "…", *path[-_LONGEST_PATH // 2 :]]
        return UnsupportedValueError(f"{''.join(path)} {why}")


class Raising:
    """The hook of one reading: the inverse of the walk, extension type by type.

    ``failure`` keeps what went wrong first. Each level holds a copy of all that is in
    it, so no more levels are read than were ever written: what somebody else wrote must
    not take its size times a thousand.
    """

    __slots__ = ("_by_tag", "_depth", "failure")

    def __init__(self, by_tag: Mapping[str, Callable[[Any], Any]]) -> None:
        self._by_tag = by_tag
        self._depth = 0
        self.failure: BaseException | None = None

    def __call__(self, tag: int, data: bytes) -> Any:
        """Return the value of one extension type."""
        self._depth += 1
        try:
            return self._raise(tag, data)
        except BaseException as exc:
            self.failure = self.failure or exc
            raise
        finally:
            self._depth -= 1

    def _raise(self, tag: int, data: bytes) -> Any:
        if self._depth > MAX_DEPTH + 1:
            raise CorruptRecordError(f"it is nested deeper than {MAX_DEPTH} levels")
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
            tag = tag[:_LONGEST_TAG]
            raise CorruptRecordError(
                f"it holds a {tag!r}, a type that this store does not know; "
                "register it: open_store(…, types=[…]) or Codec().register(…)",
                unknown_type=tag,
            )
        try:
            return decode(content)
        except MemoryError:
            raise
        except Exception as exc:
            raise CorruptRecordError(
                f"no {tag!r} can be made of it: {_told(exc)}"
            ) from exc


def _told(exc: Exception) -> str:
    """Tell of an error what certainly quotes nothing of the session."""
    return str(exc) if isinstance(exc, MismatchError) else type(exc).__name__


def _why_not(cls: type) -> str:
    name = cls.__name__
    if (
        issubclass(cls, enum.Enum)
        or dataclasses.is_dataclass(cls)
        or is_named_tuple(cls)
    ):
        return (
            f"is a {name}, which this store does not know; "
            f"register it: open_store(…, types=[{name}])"
        )
    return (
        f"is a {name}, which would not come back as one; convert it to plain data, or "
        f"register it: Codec().register({name}, tag, encode, decode)"
    )


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
