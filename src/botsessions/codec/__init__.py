"""Turn a session into bytes and back, type for type, and refuse what cannot come back.

Most sessions are *plain*: dicts with str keys that hold str, int, float, bool, None,
bytes, lists, and more such dicts. MessagePack keeps these exactly, at C speed. All else
is *rich*: a Python walk replaces each tuple, set, datetime, big int, dict with other
keys or registered type by an extension type, and names the path of what it must refuse.

A **body** is the MessagePack of one session; a rich one starts with ``RICH``, a byte
that MessagePack never uses. The memory engine keeps bodies. What leaves the process is
**sealed**: a format byte, ``[session, checksum]`` as MessagePack, the checksum last, so
that a flipped, missing or surplus byte is noticed. Nothing stored is ever executed;
only the classes that the application registered are built again.

Rooms: ``plain`` (what MessagePack keeps by itself), ``rich`` (the walk, both ways),
``own_types`` (enums, dataclasses, NamedTuples). The engine is the user.
"""

from __future__ import annotations

import contextlib
import gc
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

import ormsgpack

from botsessions.codec.own_types import adapters
from botsessions.codec.plain import BIN8, BIN16, BIN32, EMPTY, PLAIN, SHORT
from botsessions.codec.rich import Lowering, Raising
from botsessions.errors import (
    CorruptRecordError,
    InvalidSessionError,
    UnsupportedValueError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["BIN8", "EMPTY", "PLAIN", "RICH", "SHORT", "Codec", "holds", "seal"]

T = TypeVar("T")

# The first byte of a rich body, one that MessagePack never uses.
RICH = b"\xc1"

_PLAIN_FORMAT, _RICH_FORMAT = b"\x01\x92", b"\x02\x92"
_CHECKSUM_HEAD = b"\xc4\x04"
# The CRC-32 of any message followed by its own CRC, lowest byte first.
_CRC_RESIDUE = 0x2144DF1C


class Codec:
    """Encodes sessions, and knows the application's own types.

    ``types`` are enums, dataclasses and NamedTuples, stored under their class name: an
    enum member by its name (a ``Flag`` by its value), the others by their fields, so
    that ``__init__`` and ``__post_init__`` do not run again. Renaming such a class
    makes what was stored unreadable (``CorruptRecordError``); ``register`` it under its
    old name instead. A field that was added since takes its default.
    """

    __slots__ = ("_by_tag", "_by_type")

    def __init__(self, types: Iterable[type] = ()) -> None:
        self._by_type: dict[type, tuple[str, Callable[[Any], Any]]] = {}
        self._by_tag: dict[str, Callable[[Any], Any]] = {}
        for cls in types:
            encode, decode = adapters(cls)
            self.register(cls, cls.__name__, encode, decode)

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
            content = _read(data[1:], Raising(self._by_tag))
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
                    f"a session is a mapping, not {type(session).__name__}; "
                    "to remove one use delete"
                )
            session = dict(session)
        try:
            body = ormsgpack.packb(session, None, PLAIN)
        except TypeError:
            return self._pack_carefully(session)
        if BIN8 not in body and (
            len(body) <= SHORT or (BIN16 not in body and BIN32 not in body)
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
            session = _read(body[1:], Raising(self._by_tag))
        else:
            session = _read(body, None)
        if type(session) is not dict:
            raise CorruptRecordError("the bytes hold something other than a session")
        return session

    def _pack_carefully(self, session: dict[Any, Any]) -> tuple[bytes, dict[Any, Any]]:
        lowering = Lowering(self._by_type)
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


def _read(data: bytes, raising: Raising | None) -> Any:
    """Read MessagePack; whatever goes wrong is a ``CorruptRecordError``."""
    try:
        return ormsgpack.unpackb(data, ext_hook=raising)
    except (ValueError, TypeError, RecursionError) as exc:
        # ormsgpack does not pass on what its hook raised.
        reason = exc if raising is None else raising.failure or exc
        # What led to it holds the bytes, level by level, and texts that were no dates.
        reason.__cause__ = reason.__context__ = reason.__traceback__ = None
    # The record is not to blame for a want of memory.
    if isinstance(reason, Exception) and not isinstance(
        reason, (CorruptRecordError, MemoryError)
    ):
        reason = CorruptRecordError(f"not readable: {type(reason).__name__}")
    raise reason


def seal(body: bytes) -> bytes:
    """Add format and checksum to a body, for the way out of the process."""
    if body.startswith(RICH):
        data = _RICH_FORMAT + body[1:] + _CHECKSUM_HEAD
    else:
        data = _PLAIN_FORMAT + body + _CHECKSUM_HEAD
    return data + zlib.crc32(data).to_bytes(4, "little")


def holds(data: bytes, body: bytes) -> bool:
    """Tell whether sealed bytes are those of this body, without sealing it."""
    rich = body.startswith(RICH)
    begins = _RICH_FORMAT if rich else _PLAIN_FORMAT
    added = len(begins) + len(_CHECKSUM_HEAD) + 4 - rich
    return (
        len(data) == len(body) + added
        and data.startswith(begins)
        and data.startswith(body[1:] if rich else body, len(begins))
    )
