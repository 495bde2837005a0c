"""From what a source holds to what a session can hold, or why not, and where.

Dates, decimals, UUIDs and the like are made of their names in a pickle (``Foreign``);
any other name is refused with its path. A refused value takes the dict entry with it in
which it is, and nothing else: a list never gets shorter. ``carry`` decides whether what
is left is carried over.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

from botsessions.cli.imports.pickles import Foreign, mapping
from botsessions.codec.rich import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# A session may weigh so much at most, about its bytes in memory. A small pickle can
# have one list twice in another, that one twice in a third, and so on without end.
LIMIT = 16 * 1024 * 1024
_WEIGHS, _COLLECTION_WEIGHS, _REFUSAL_WEIGHS = 8, 64, 256
_LONGEST_STEP = 60
# So many steps of a path are told; the middle of a longer one is left out.
_LONGEST_PATH = 12


class Refusal(NamedTuple):
    """A value that cannot be carried over: where it is, and what."""

    path: str
    what: str
    """What to count it under: a name, or the reason."""
    why: str


class Result(NamedTuple):
    """``value`` has nothing of what was refused; it is None if nothing is left."""

    value: Any
    refused: list[Refusal]
    changed: list[str]
    weight: int


def plain(value: Any, place: str, room: int = LIMIT) -> Result:
    """Return a value as plain data that shares nothing with it.

    ``room`` is what it may weigh, if there is less than ``LIMIT``.
    """
    walk = _Walk(place, room)
    try:
        made = walk.make(value, 0)
    except _RefusedError:
        made = None
    return Result(made, walk.refused, walk.changed, walk.weight)


def written(key: Any) -> str:
    """Return how a key of a dict is written, or the beginning of it."""
    try:
        text = repr(key)
    except (ValueError, RecursionError):  # an int of more digits than Python prints
        return f"<{type(key).__name__}>"
    return text if len(text) <= _LONGEST_STEP else text[:_LONGEST_STEP] + "…"


class _RefusedError(Exception):
    """It is noted already; the entry of a dict that it is in is left out."""


class _TooLargeError(_RefusedError):
    """Nothing is left: it may well have no end."""


class _Walk:
    def __init__(self, place: str, room: int) -> None:
        self.refused: list[Refusal] = []
        self.changed: list[str] = []
        self.weight = 0
        self._path = [place]
        self._room = room

    def make(self, value: Any, depth: int) -> Any:
        """Return the value, or note why not and raise."""
        cls = type(value)
        self._weigh(value, cls)
        if depth > MAX_DEPTH:
            why = f"is nested deeper than {MAX_DEPTH} levels"
            raise self._refusal("nested too deeply", why)
        if cls is str:
            return self._text(value)
        if cls in _SCALARS:
            return value
        if cls is bytearray:
            return bytearray(value)
        if cls is dict:
            return self._dict(value, depth)
        if cls in _SEQUENCES:
            return self._hashed(cls, self._each(value, depth))
        if cls is Foreign:
            return self._foreign(value, depth)
        raise self._refusal(cls.__name__, f"is a {cls.__name__}")

    def _weigh(self, value: Any, cls: type) -> None:
        self.weight += _weight(value, cls)
        if self.weight > min(LIMIT, self._room):
            del self._path[1:]
            why = f"is larger than {LIMIT:,} bytes, or contains itself"
            if self._room < LIMIT:
                why = "is too much: its source has the same values again and again"
            self._refusal("too large", why)
            raise _TooLargeError

    def _text(self, value: str) -> str:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                why = "has a lone surrogate, which no text format can keep"
                raise self._refusal("lone surrogate", why) from None
        return value

    def _each(self, values: Iterable[Any], depth: int) -> list[Any]:
        made = []
        failed = False
        for index, value in enumerate(values):
            self._path.append(f"[{index}]")
            try:
                made.append(self.make(value, depth + 1))
            except _TooLargeError:
                raise
            except _RefusedError:
                failed = True  # the others are looked at all the same
            self._path.pop()
        if failed:
            raise _RefusedError
        return made

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[Any, Any]:
        made = {}
        for key, item in value.items():
            self._path.append(f"[{written(key)}]")
            try:
                name = self.make(key, depth + 1)
                self._hashed(frozenset, [name])
                made[name] = self.make(item, depth + 1)
            except _TooLargeError:
                raise
            except _RefusedError:
                pass
            self._path.pop()
        return made

    def _foreign(self, value: Foreign, depth: int) -> Any:
        pairs = mapping(value)
        if pairs is not None:
            cls = value.name.rpartition(".")[2]
            self.changed.append(f"{self._where()} was a {cls}, and is a dict now")
            return self._dict(pairs, depth)
        make = _MAKE.get(value.name) if value.was_called else None
        if make is None or value.items or value.pairs:
            raise self._refusal(value.what, f"is {value.what}, which is no plain data")
        parts = [*value.arguments, *([] if value.state is None else [value.state])]
        arguments = [self.make(part, depth + 1) for part in parts]
        try:
            return make(*arguments)
        except (TypeError, ValueError, ArithmeticError, LookupError, OSError) as exc:
            why = f"is {value.name} of what makes none: {exc}"
            raise self._refusal(value.name, why) from exc

    def _hashed(self, cls: Any, values: list[Any]) -> Any:
        """Make a collection; a set takes nothing that can change, also no bytearray."""
        try:
            return cls(values)
        except TypeError as exc:
            raise self._refusal("no key", f"holds what can be no key: {exc}") from exc

    def _refusal(self, what: str, why: str) -> _RefusedError:
        self.weight += _REFUSAL_WEIGHS
        self.refused.append(Refusal(self._where(), what, why))
        return _RefusedError()

    def _where(self) -> str:
        path = self._path
        if len(path) > _LONGEST_PATH:
            path = [*path[: _LONGEST_PATH // 2], "…", *path[-_LONGEST_PATH // 2 :]]
        return "".join(path)


def _weight(value: Any, cls: type) -> int:
    if cls in _LONG:
        return _WEIGHS + len(value)
    return _WEIGHS if cls in _SCALARS else _COLLECTION_WEIGHS


# Each takes what the pickle of such a value has, and nothing else: a bytearray of an
# int, for one, would be as many bytes.


def _bytes_of(text: str, encoding: str) -> bytes:
    """Protocols before 3 write bytes as an encoded text."""
    if encoding != "latin1":
        raise ValueError("bytes are written in latin1")
    content: bytes = _exactly(str, text).encode("latin1")
    return content


def _bytearray_of(content: Any = b"", encoding: str = "") -> bytearray:
    if encoding:
        return bytearray(_bytes_of(content, encoding))
    return bytearray(_exactly(bytes, content))


def _moment(cls: Any) -> Callable[..., Any]:
    def make(packed: bytes, zone: Any = None) -> Any:
        made = cls(_exactly(bytes, packed), *([] if zone is None else [zone]))
        return made.replace()  # which checks what the bytes said

    return make


def _date(packed: bytes) -> dt.date:
    return dt.date(_exactly(bytes, packed)).replace()  # type: ignore[call-arg]


def _decimal(text: str) -> Decimal:
    return Decimal(_exactly(str, text))


def _uuid(state: dict[str, Any]) -> UUID:
    safety = SafeUUID(state.get("is_safe", SafeUUID.unknown.value))
    return UUID(int=_exactly(int, state["int"]), is_safe=safety)


def _zone(key: str, _: Any = None) -> ZoneInfo:
    return ZoneInfo(_exactly(str, key))


def _exactly(cls: type, value: Any) -> Any:
    if type(value) is not cls:
        raise TypeError(f"it takes {cls.__name__}, not {type(value).__name__}")
    return value


_SCALARS = frozenset({str, int, float, bool, type(None), bytes})
_LONG = frozenset({str, bytes, bytearray})
_SEQUENCES: frozenset[Any] = frozenset({list, tuple, set, frozenset})
_MAKE: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _bytes_of,
    "builtins.bytes": lambda: b"",
    "builtins.bytearray": _bytearray_of,
    "builtins.set": lambda items: set(_exactly(list, items)),
    "builtins.frozenset": lambda items: frozenset(_exactly(list, items)),
    "datetime.date": _date,
    "datetime.datetime": _moment(dt.datetime),
    "datetime.time": _moment(dt.time),
    "datetime.timedelta": dt.timedelta,
    "datetime.timezone": dt.timezone,
    "decimal.Decimal": _decimal,
    "uuid.UUID": _uuid,
    "zoneinfo.ZoneInfo._unpickle": _zone,
}
