"""The name of a session: a value, its text form, and nothing else.

``derive`` makes keys from updates; the engine, the backends and the command line carry
them about as text, which is stable across releases: stored sessions are found by it.

    chat=-100/user=42/topic=7/business=AbC/guest/bot=123/name=cart

Parts come in this order, those that are not set are left out. An id that is a string is
marked ``s:``; strings are percent-encoded wherever a shell, a URL or a log could mind.
"""

import re
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final
from urllib.parse import unquote

from botsessions.errors import InvalidKeyError

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_MAX_CHARACTERS = 256
# An index row of PostgreSQL ends near 2,700 bytes, and a namespace comes before this.
_MAX_TEXT = 1000

_SAFE = frozenset(string.ascii_letters + string.digits + "_.-@")
_ENCODED = tuple(chr(b) if chr(b) in _SAFE else f"%{b:02X}" for b in range(256))
_is_plain = re.compile(r"[A-Za-z0-9_.@-]+").fullmatch
_is_int = re.compile(r"-?[0-9]{1,19}").fullmatch
# Most keys: plain ids, at most a plain name, each written in the one way there is.
_is_usual = re.compile(
    r"(?:chat=(-?[1-9][0-9]{0,17})(?:/(?=.)|\Z))?"
    r"(?:user=(-?[1-9][0-9]{0,17})(?:/(?=.)|\Z))?"
    r"(?:name=([A-Za-z0-9_.@-]{1,256}))?"
).fullmatch


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SessionKey:
    """Names one session; different parts are different keys, and 30 is not "30".

    Ids are plain ints of 64 bits or plain strings of 1 to 256 characters; at least one
    part must be set, and the text of all may have 1,000 characters.
    ``business_connection_id`` and ``guest`` set a chat apart that may share its id with
    an ordinary one, ``bot_id`` one bot from another in a common store, ``name`` one
    session from another of the same chat or user.
    """

    chat_id: int | str | None = None
    user_id: int | str | None = None
    topic_id: int | None = None
    business_connection_id: str | None = None
    guest: bool = False
    bot_id: int | None = None
    name: str | None = None
    # The text says all there is to say, so it also compares and hashes for the parts.
    _text: str = field(init=False)

    def __post_init__(self) -> None:
        text = "/".join(
            [
                part.tag + part.write(part.field, value)
                for part in _PARTS
                if (value := getattr(self, part.field)) is not part.unset
            ]
        )
        if not text:
            raise InvalidKeyError(
                "A key needs at least one part, for example SessionKey(chat_id=…)."
            )
        if len(text) > _MAX_TEXT:
            raise InvalidKeyError(
                f"The text of this key has {len(text)} characters, {_MAX_TEXT} are "
                "allowed; hash the long parts, or name them otherwise."
            )
        object.__setattr__(self, "_text", text)

    @classmethod
    def parse(cls, text: str) -> "SessionKey":
        """Read what ``str(key)`` wrote; any other spelling is an InvalidKeyError."""
        if not isinstance(text, str):
            raise InvalidKeyError(
                f"A key is parsed from a str, not from {type(text).__name__}."
            )
        if text and (usual := _is_usual(text)):
            return cls._of_usual(text, *usual.groups())
        # First of all, so that hostile text costs no more than honest text.
        if len(text) > _MAX_TEXT:
            raise InvalidKeyError(
                f"No key has a text of {len(text)} characters, only up to {_MAX_TEXT}."
            )
        parts: dict[str, Any] = {}
        for segment in text.split("/"):
            tag, equals, value = segment.partition("=")
            part = _PART_BY_TAG.get(tag + equals)
            if part is None or part.field in parts:
                raise InvalidKeyError(
                    f"{_shown(segment)} is not a part of a key, or is there twice; "
                    f"a key looks like chat=-100/user=42, with the parts {_TAGS}."
                )
            parts[part.field] = part.read(value)
        key = cls(**parts)
        if key._text != text:
            raise InvalidKeyError(
                f"{_shown(text)} is not how a key is written; write {key._text!r}."
            )
        return key

    @classmethod
    def _of_usual(
        cls, text: str, chat: str | None, user: str | None, name: str | None
    ) -> "SessionKey":
        """Make the key of a text that needs no further look: walks parse millions."""
        key = object.__new__(cls)
        put = object.__setattr__
        put(key, "chat_id", None if chat is None else int(chat))
        put(key, "user_id", None if user is None else int(user))
        put(key, "topic_id", None)
        put(key, "business_connection_id", None)
        put(key, "guest", False)
        put(key, "bot_id", None)
        put(key, "name", name)
        put(key, "_text", text)
        return key

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        values = ((part, getattr(self, part.field)) for part in _PARTS)
        shown = (f"{p.field}={v!r}" for p, v in values if v is not p.unset)
        return f"SessionKey({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SessionKey):
            return NotImplemented
        return self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Callable[[str], "SessionKey"], tuple[str]]:
        # Only the text is pickled: it is stable across releases, our slots are not.
        return SessionKey.parse, (self._text,)


def _write_int(name: str, value: object) -> str:
    if type(value) is not int:  # not isinstance: True would be 1
        raise InvalidKeyError(f"{name} must be an int, not {type(value).__name__}.")
    if not _LOWEST <= value <= _HIGHEST:
        raise InvalidKeyError(
            f"{name} must be from -2**63 to 2**63 - 1, not an int of "
            f"{value.bit_length()} bits."
        )
    return str(value)


def _write_text(name: str, value: object) -> str:
    if type(value) is not str:
        raise InvalidKeyError(f"{name} must be a str, not {type(value).__name__}.")
    if not 0 < len(value) <= _MAX_CHARACTERS:
        raise InvalidKeyError(
            f"{name} must have 1 to {_MAX_CHARACTERS} characters, not {len(value)}; "
            "leave out an empty one, hash a long one."
        )
    if _is_plain(value):
        return value
    try:
        return "".join([_ENCODED[byte] for byte in value.encode()])
    except UnicodeEncodeError as exc:
        raise InvalidKeyError(
            f"{name} holds a lone surrogate, which no store can keep; "
            "decode the text properly before it becomes part of a key."
        ) from exc


def _write_id(name: str, value: object) -> str:
    if type(value) is int:
        return _write_int(name, value)
    if type(value) is str:
        return "s:" + _write_text(name, value)
    raise InvalidKeyError(
        f"{name} must be an int or a str, not {type(value).__name__}."
    )


def _write_flag(name: str, value: object) -> str:
    if value is not True:
        raise InvalidKeyError(
            f"{name} must be True or False, not {type(value).__name__}."
        )
    return ""


# Reading is lenient where writing again shows the difference: ``parse`` compares.
def _read_int(value: str) -> int:
    if not _is_int(value):
        raise InvalidKeyError(
            f"{_shown(value)} is not an int of 64 bits; a str id is marked s:, "
            "as in chat=s:30."
        )
    return int(value)


def _read_text(value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as exc:
        raise InvalidKeyError(f"{_shown(value)} is not percent-encoded UTF-8.") from exc


def _read_id(value: str) -> int | str:
    if value.startswith("s:"):
        return _read_text(value[2:])
    return _read_int(value)


def _read_flag(_: str) -> bool:
    return True


class _Part(NamedTuple):
    """How one field of a key is written, and read back."""

    tag: str
    field: str
    unset: bool | None
    write: Callable[[str, object], str]
    read: Callable[[str], int | str | bool]


_PARTS = (
    _Part("chat=", "chat_id", None, _write_id, _read_id),
    _Part("user=", "user_id", None, _write_id, _read_id),
    _Part("topic=", "topic_id", None, _write_int, _read_int),
    _Part("business=", "business_connection_id", None, _write_text, _read_text),
    _Part("guest", "guest", False, _write_flag, _read_flag),
    _Part("bot=", "bot_id", None, _write_int, _read_int),
    _Part("name=", "name", None, _write_text, _read_text),
)
_PART_BY_TAG = {part.tag: part for part in _PARTS}
_TAGS = ", ".join(part.tag.rstrip("=") for part in _PARTS)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "…")
