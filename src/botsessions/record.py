"""What a backend keeps: versioned records, and the writes that replace them.

These are plain values without behaviour of their own. The engine makes versions and
writes, a backend stores and compares them; neither a session nor a key's parts are
known here. Neighbour above: ``backend`` (the contract that speaks in these values).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botsessions.errors import BackendError

# A dead record (expired or deleted) stays for this long so that a write that was sent
# before it died, and arrives late, still finds the version it must not match.
GRACE_MS = 60_000

# How many tokens of earlier versions a record carries, newest first, beside its own.
RING_LENGTH = 7


class Version(NamedTuple):
    """Names one state of one key, and never comes back, not even after a delete.

    ``counter`` grows by one with each commit of a key; ``token`` (signed 64 bit) is
    drawn anew for each attempt to commit. A backend compares both and makes neither.
    """

    counter: int
    token: int


class Record(NamedTuple):
    """One stored state of one key.

    ``value`` is opaque; it is empty once the session was deleted. ``ring`` holds the
    tokens of the versions before this one (8 bytes each, newest first, at most
    ``RING_LENGTH``). Times are milliseconds since the epoch by the backend's clock. The
    record is dead from ``expires_at`` on (never, if None), swept or not.
    """

    version: Version
    value: bytes
    ring: bytes
    created_at: int
    expires_at: int | None

    def is_dead(self, now: int) -> bool:
        """Tell whether the record has expired or was deleted, at this moment."""
        return self.expires_at is not None and self.expires_at <= now

    def is_gone(self, now: int) -> bool:
        """Tell whether there is no session, also if the clock was set back since."""
        return not self.value or self.is_dead(now)


class Write(NamedTuple):
    """Puts ``record`` in the place of the version ``expected``, or nothing happens.

    ``expected`` None means that the key must have no record at all, not even a dead
    one. A write that the backend comes to at or after ``not_after`` (milliseconds, the
    backend's clock) must not land: what it was computed on has expired by then, or its
    caller has given up.
    """

    key: str
    expected: Version | None
    record: Record
    not_after: int


class Loaded(NamedTuple):
    """What a load saw: one record, or None, for each key asked for, in that order.

    An error in the place of a record says that this key alone could not be read.
    ``now`` is the backend's clock (milliseconds) at the time of the reading.
    """

    now: int
    records: Sequence[Record | BackendError | None]


def tokens(record: Record) -> list[int]:
    """Return the tokens that a record remembers, its own first."""
    ring = record.ring
    older = (ring[i : i + 8] for i in range(0, len(ring) - len(ring) % 8, 8))
    return [
        record.version.token,
        *(int.from_bytes(token, "big", signed=True) for token in older),
    ]


def ring_after(record: Record | None) -> bytes:
    """Return the ring of the version that follows this record."""
    if record is None:
        return b""
    token = record.version.token.to_bytes(8, "big", signed=True)
    return token + record.ring[: 8 * (RING_LENGTH - 1)]
