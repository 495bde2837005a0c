"""What is to be done about a key, by what can be proven of two records. No waiting.

What a copy writes it *signs*: the ring of the record gets one more token, made of the
record's own token and of a name that the source has been given. As long as it fits,
nobody has changed the record since, so whatever the source has now may take its place,
and what the source has no longer may go. Any change in the destination draws a token
that the signature does not fit. Without a signature the rings of tokens decide.
docs/adr/0010 has the reasons; ``transfer`` is the user.
"""

from __future__ import annotations

import enum
from hashlib import blake2b

from botsessions.record import RING_LENGTH, Record, Version, ring_after, tokens


class Decision(enum.StrEnum):
    """What is to be done about a key in the destination."""

    NOTHING = "nothing"
    """There is no session on either side."""
    SAME = "same"
    COPY = "copied"
    REPLACE = "replaced"
    REMOVE = "removed"
    AHEAD = "ahead"
    """The destination has changed what the source still has: leave it."""
    OWN = "own"
    """Neither comes of the other: leave it."""
    EXTRA = "extra"
    """The source has never had it, as far as is known: leave it."""


WRITES = frozenset({Decision.COPY, Decision.REPLACE, Decision.REMOVE})


class Signature:
    """Knows the records that were copied from one source, and not changed since."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def signs(self, record: Record) -> bool:
        """Tell whether this is a copy from the source, just as it was made."""
        return bool(record.ring) and self._mark(record) in tokens(record)

    def signed(self, record: Record) -> Record:
        """Return the record as a copy."""
        mark = self._mark(record).to_bytes(8, "big", signed=True)
        # Last, where the oldest token stands: the next change drops that one anyway.
        return record._replace(ring=record.ring[: 8 * (RING_LENGTH - 1)] + mark)

    def _mark(self, record: Record) -> int:
        token = record.version.token.to_bytes(8, "big", signed=True)
        digest = blake2b(token, key=self._name, digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)


def decide(  # noqa: PLR0911 - one answer after the other
    found: Record | None, there: Record | None, signature: Signature, now: int
) -> Decision:
    """Decide about a key, given what the source and the destination have."""
    alive = found is not None and not found.is_gone(now)
    if there is None:
        return Decision.COPY if alive else Decision.NOTHING
    if not alive and there.is_gone(now):
        return Decision.NOTHING
    if found is None:
        return Decision.REMOVE if signature.signs(there) else Decision.EXTRA
    if found.version == there.version:
        # With other contents one of the two is damaged, and it is not known which.
        same = found._replace(ring=b"") == there._replace(ring=b"")
        return Decision.SAME if same else Decision.OWN
    if found.version.token in tokens(there):
        return Decision.AHEAD
    if signature.signs(there) or there.version.token in tokens(found):
        return Decision.REPLACE if alive else Decision.REMOVE
    return Decision.OWN


def tombstone(there: Record | None, now: int, token: int) -> Record:
    """Return the record of a session that is gone from the source altogether."""
    if there is None:
        return Record(Version(1, token), b"", b"", now, now)
    version = Version(there.version.counter + 1, token)
    return Record(version, b"", ring_after(there), there.created_at, now)
