"""The decisions of the engine as plain functions: no clock, no waiting, no state.

When a session expires, whether a doubtful write landed, how long to back off, what a
function may be and may return: each rule stands here once, for both engines.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

from botsessions.errors import (
    CorruptRecordError,
    InvalidKeyError,
    InvalidSessionError,
    InvalidUpdateError,
    LockLostError,
    SessionTooLargeError,
)
from botsessions.keys import SessionKey
from botsessions.record import RING_LENGTH, Record, Version, Write, ring_after, tokens

if TYPE_CHECKING:
    import random

_IS_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_MAX_BACKOFF = 0.050
_FIRST_BACKOFF = 0.001


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What a store allows its sessions: milliseconds of life, and bytes."""

    ttl: int | None
    max_age: int | None
    max_bytes: int

    def expires_at(
        self, record: Record | None, created_at: int, now: int
    ) -> int | None:
        """Return when a session written now expires.

        The end moves lazily: as long as less than a tenth of the ttl has passed since
        it was last moved it stays, which spares an index and most refreshing writes.
        """
        if self.ttl is None:
            return None if self.max_age is None else created_at + self.max_age
        end = now + self.ttl
        if self.max_age is not None:
            end = min(end, created_at + self.max_age)
        if record is None or record.expires_at is None or record.is_gone(now):
            return end
        moved = end - record.expires_at
        return record.expires_at if 0 <= moved <= self.ttl // 10 else end

    def is_too_old(self, record: Record, now: int) -> bool:
        """Tell whether it should have ended, had it always been under this policy."""
        return self.max_age is not None and record.created_at + self.max_age <= now

    def check_size(self, body: bytes) -> None:
        """Refuse a session that is too large for the store."""
        if len(body) > self.max_bytes:
            raise SessionTooLargeError(
                f"the session takes {len(body):,} bytes, {self.max_bytes:,} are "
                "allowed; keep less in it, or open the store with a larger "
                "max_session_bytes"
            )


def next_record(  # noqa: PLR0913 - what a record is made of
    policy: Policy,
    record: Record | None,
    value: bytes,
    now: int,
    token: int,
    *,
    anew: bool = False,
) -> Record:
    """Return the record that takes the place of this one (of none, if None).

    An empty value deletes: the record is dead from now on. ``anew`` says that the
    session was deleted before it came to this value: it is not as old as its record.
    """
    if record is None:
        end = policy.expires_at(None, now, now) if value else now
        return Record(Version(1, token), value, b"", now, end)
    # One that is too old was written without max_age: what is put in its place must not
    # be dead from the beginning.
    anew = anew or record.is_gone(now) or policy.is_too_old(record, now)
    created_at = now if anew else record.created_at
    return Record(
        Version(record.version.counter + 1, token),
        value,
        ring_after(record),
        created_at,
        policy.expires_at(None if anew else record, created_at, now) if value else now,
    )


def not_after(record: Record | None, now: int, window: int) -> int:
    """Return the moment from which a write computed on this record must not land.

    It bounds what a lost and late request can do, and it keeps an update from reviving
    a session that expires between its load and its commit.
    """
    end = now + window
    if record is None or record.expires_at is None or record.is_gone(now):
        return end
    return min(end, record.expires_at)


class Verdict(enum.Enum):
    """What a reload says about a write of which no answer came."""

    LANDED = enum.auto()
    NOT_YET = enum.auto()
    """It may still land, so only the very same record may be sent again."""
    LOST = enum.auto()
    """Another took its place for good: the functions may run again."""
    UNKNOWN = enum.auto()


def settle(write: Write, found: Record | None, now: int) -> Verdict:
    """Decide what became of a write by the tokens of the record that is there now.

    That its ``not_after`` is over decides nothing: the backend's clock may be set back
    while a copy is still on its way.
    """
    remembered = tokens(found) if found is not None else []
    if write.record.version.token in remembered:
        return Verdict.LANDED
    if (found.version if found is not None else None) == write.expected:
        revives = _would_revive(write, found, now)
        return Verdict.UNKNOWN if revives else Verdict.NOT_YET
    if found is None:
        return Verdict.UNKNOWN
    if write.expected is None:
        # Someone else created it, if its tokens reach back to its creation.
        whole = found.version.counter <= min(len(remembered), RING_LENGTH + 1)
        return Verdict.LOST if whole else Verdict.UNKNOWN
    if write.expected.token in remembered:
        return Verdict.LOST
    return Verdict.UNKNOWN


def _would_revive(write: Write, found: Record | None, now: int) -> bool:
    """Tell whether a write, sent again, would go on with what has expired."""
    return (
        found is not None
        and bool(found.value)
        and found.is_dead(now)
        and found.created_at == write.record.created_at
    )


def backoff(attempt: int, rng: random.Random) -> float:
    """Return the seconds to wait after the given conflict (1 for the first)."""
    return rng.random() * min(_MAX_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(attempt, 10))


def new_token(rng: random.Random) -> int:
    """Draw a signed 64-bit token."""
    return rng.getrandbits(64) - (1 << 63)


def check_key(key: object) -> SessionKey:
    """Refuse what is no key, before anything happens."""
    if isinstance(key, SessionKey):
        return key
    raise InvalidKeyError(
        f"a key is a SessionKey, not {type(key).__name__}; "
        "use chat_user_key(update), or SessionKey(chat_id=…, user_id=…)"
    )


def text_of(key: object) -> str:
    """Return what a key is stored under; refuse what is no key."""
    return check_key(key)._text  # noqa: SLF001 - kept there for the engine


def check_function(function: object) -> None:
    """Refuse what ``update`` cannot call, before anything happens."""
    if type(function) is FunctionType and not function.__code__.co_flags & _IS_ASYNC:
        return  # the usual case, without the cost of asking further
    if not callable(function):
        raise InvalidUpdateError(
            f"update needs a function of one argument, not {type(function).__name__}; "
            "to replace the session use put"
        )
    called = function if inspect.isroutine(function) else type(function).__call__
    for candidate in (function, called):
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(
            candidate
        ):
            raise InvalidUpdateError(_NO_COROUTINES)


def check_returned(returned: object) -> Mapping[Any, Any]:
    """Return what a function returned if it is a mapping, else say what to do."""
    if isinstance(returned, Mapping):
        return returned
    if inspect.iscoroutine(returned) or inspect.isasyncgen(returned):
        if inspect.iscoroutine(returned):
            returned.close()  # it has not begun, and is not forgotten either
        raise InvalidUpdateError(_NO_COROUTINES)
    if returned is None:
        raise InvalidSessionError(
            "the function given to update returned None; return the whole session, "
            "for example: lambda s: {**s, 'seen': 1}"
        )
    raise InvalidSessionError(
        f"the function given to update returned {type(returned).__name__}; "
        "return the whole session as a dict"
    )


def corrupt(key: str, exc: CorruptRecordError) -> CorruptRecordError:
    """Say which session cannot be read, and what the way out is."""
    return CorruptRecordError(
        f"the session {key} cannot be read: {exc}. It was left as it is; "
        "put or delete replaces it",
        unknown_type=exc.unknown_type,
    )


def called_from_inside() -> InvalidUpdateError:
    """Say that a function called the store that called it."""
    return InvalidUpdateError(
        "a function given to update called the store itself; read before, or write "
        "after, the update"
    )


def lock_lost(key: str) -> LockLostError:
    """Say that who held a lock does so no more."""
    return LockLostError(
        f"the lock of {key} is not held any more: its lease ran out, or its block is "
        "over. Nothing was written under it"
    )


_NO_COROUTINES = (
    "the function given to update must be a plain one: it may run again after a "
    "conflict, so await what it needs before calling update"
)
