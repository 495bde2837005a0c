"""The JSON in which sessions are shown and taken: exact, and readable by a person.

What JSON has stands for itself. Anything else is an object with one key that begins
with ``$`` and names its type: ``{"$tuple": [1, 2]}``, ``{"$date": "2026-05-01"}``. A
dict whose own keys are no strings, or begin with ``$``, is ``{"$dict": [[key, value],
…]}``, so nothing can be mistaken. What ``shown`` returns ``read`` takes back; the one
exception is ``$repr``, for the rare value that has no standard text: a date with such a
time zone, a UUID that knows whether it was made safely.

``output`` and ``app`` show sessions in it, ``jsonl`` keeps them in it; ``source`` uses
only ``parse``.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_BITS = 64
_MICROSECOND = dt.timedelta(microseconds=1)


def parse(text: bytes) -> Any:
    """Parse strict JSON in UTF-8, with or without a byte order mark, or ValueError.

    Two equal keys, NaN and a number that is too large for a float are refused: readers
    differ in what they make of them.
    """
    try:
        # Without the end of a line, behind which an error would be on the next one.
        return _decode(text.decode("utf-8-sig").rstrip(" \t\r\n"))
    except json.JSONDecodeError as exc:
        line = f"line {exc.lineno}, " if "\n" in exc.doc else ""
        raise ValueError(
            f"it is no JSON: {exc.msg} ({line}column {exc.colno})"
        ) from exc
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read(text: bytes) -> Any:
    """Return the value that a JSON text shows, or raise ValueError."""
    try:
        return _raised(parse(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def shown(value: Any) -> Any:
    """Return any value that a session may hold as something that JSON can hold."""
    kind = type(value)
    if kind is dict:
        return _shown_dict(value)
    if kind is list:
        return [shown(item) for item in value]
    if kind in {dt.datetime, dt.time}:
        return _shown_moment(value)
    if kind is UUID and value.is_safe is not SafeUUID.unknown:
        return {"$repr": repr(value)}
    if kind not in _LOWER or (kind in {int, float} and _is_common(value)):
        return value
    tag, lower = _LOWER[kind]
    return {tag: lower(value)}


def _is_common(number: float) -> bool:
    """Tell whether every reader of JSON can be trusted with an int or a float."""
    if type(number) is int:
        return number.bit_length() <= _MAX_BITS
    return math.isfinite(number)


def _shown_dict(value: dict[Any, Any]) -> dict[str, Any]:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: shown(item) for key, item in value.items()}
    return {"$dict": [[shown(key), shown(item)] for key, item in value.items()]}


def _shown_moment(value: dt.datetime | dt.time) -> dict[str, str]:
    tag = f"${type(value).__name__}"
    text = value.isoformat()
    if isinstance(value.tzinfo, ZoneInfo):
        text = f"{value.replace(tzinfo=None).isoformat()}[{value.tzinfo.key}]"
    # Two names of one offset, or the second of two equal hours, have no such text.
    if repr(_RAISE[tag](text)) != repr(value):
        return {"$repr": repr(value)}
    return {tag: text}


def _raised(value: Any) -> Any:
    if type(value) is list:
        return [_raised(item) for item in value]
    if type(value) is not dict:
        return value
    tags = [key for key in value if key.startswith("$")]
    if not tags:
        return {key: _raised(item) for key, item in value.items()}
    tag = tags[0]
    if len(value) > 1 or tag not in _RAISE:
        raise ValueError(
            f"{tag[:40]!r} stands for no type that can be read here; "
            'a dict with such a key is written {"$dict": [[key, value]]}'
        )
    try:
        return _RAISE[tag](_raised(value[tag]))
    except (TypeError, ValueError, ArithmeticError, LookupError, OSError) as exc:
        raise ValueError(f"{tag}: {exc}") from exc


def _of(kind: type, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def checked(content: Any) -> Any:
        if type(content) is not kind:
            raise TypeError(f"it takes {kind.__name__}, not {type(content).__name__}")
        return make(content)

    return checked


def _moment(kind: type[Any]) -> Callable[[str], Any]:
    def read_moment(text: str) -> Any:
        naive, bracket, zone = text.partition("[")
        moment = kind.fromisoformat(naive)
        if bracket:
            return moment.replace(tzinfo=ZoneInfo(zone.removesuffix("]")))
        return moment

    return read_moment


def _refuse(_: Any) -> NoReturn:
    raise ValueError("it can be shown, not read")


def _float_text(number: float) -> str:
    sign = "-" if math.isnan(number) and math.copysign(1, number) < 0 else ""
    return f"{sign}{number}"


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _ordered(values: set[Any] | frozenset[Any]) -> list[Any]:
    return sorted(map(shown, values), key=json.dumps)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ValueError(
            f"an int of {len(digits):,} digits is too long to be read; "
            'write it {"$int": "0x…"}'
        ) from None


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(
            f"{digits[:40]} is too large for a float; "
            f'write {{"$float": "{number}"}} if infinity is meant'
        )
    return number


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ValueError(f"{text[:40]!r} is no decimal number") from None


_decode = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_constant=_no_constant,
    parse_int=_int,
    parse_float=_float,
).decode

_LOWER: dict[type, tuple[str, Callable[[Any], Any]]] = {
    tuple: ("$tuple", lambda value: [shown(item) for item in value]),
    set: ("$set", _ordered),
    frozenset: ("$frozenset", _ordered),
    int: ("$int", hex),
    float: ("$float", _float_text),
    bytes: ("$bytes", _base64),
    bytearray: ("$bytearray", _base64),
    dt.date: ("$date", dt.date.isoformat),
    dt.timedelta: ("$microseconds", lambda value: value // _MICROSECOND),
    Decimal: ("$decimal", str),
    UUID: ("$uuid", str),
}
_RAISE: dict[str, Callable[[Any], Any]] = {
    "$dict": _of(list, dict),
    "$tuple": _of(list, tuple),
    "$set": _of(list, set),
    "$frozenset": _of(list, frozenset),
    "$bytes": _of(str, _unbase64),
    "$bytearray": _of(str, lambda text: bytearray(_unbase64(text))),
    "$int": _of(str, lambda text: int(text, 16)),
    "$float": _of(str, float),
    "$datetime": _of(str, _moment(dt.datetime)),
    "$date": _of(str, dt.date.fromisoformat),
    "$time": _of(str, _moment(dt.time)),
    "$microseconds": _of(int, lambda count: count * _MICROSECOND),
    "$decimal": _of(str, _decimal),
    "$uuid": _of(str, UUID),
    "$repr": _refuse,
}
