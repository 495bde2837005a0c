"""How a record lies in Redis, and the scripts that swap and read; used by ``redis``.

One string for each record: a head that names its version, then the other fields. The
server compares heads, so a session travels once for each change and is never taken
apart there. Times are the server's; it removes a record by itself once it has been dead
for the grace period.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from botsessions.errors import BackendError
from botsessions.record import GRACE_MS, Record, Version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botsessions.record import Write

Argument: TypeAlias = str | bytes

# What it is and in which format: anything else under a key of ours is not ours.
_MARK = b"\xb5\x01"
# Mark, counter, token: the head that is compared. Then created, dead from, ring length.
_HEAD = struct.Struct(">2sQq")
_FIELDS = struct.Struct(">2sQqqqB")
_NEVER = -1

# A server of a Cluster takes keys of several slots only if they are not declared as
# keys; of those that it does not serve, the script gets an error each.
_SWAP = """\
local time = {clock}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local keys, skipped, count = KEYS, 0, #KEYS
if count == 0 then
  count = #ARGV / 5
  keys, skipped = ARGV, count
end
local results = {{}}
for i = 1, count do
  local key, at = keys[i], skipped + 4 * i
  local expected, record = ARGV[at - 3], ARGV[at - 2]
  local not_after, ends = ARGV[at - 1], ARGV[at]
  local head = redis.pcall('GETRANGE', key, 0, {last})
  local result = 0
  if type(head) == 'table' then
    result = head
  elseif head == string.sub(record, 1, {last} + 1) then
    result = 1
  elseif head == expected and now < tonumber(not_after) then
    local done
    if ends == '' then
      done = redis.pcall('SET', key, record)
    else
      local left = tonumber(ends) + {grace} - now
      done = redis.pcall('SET', key, record, 'PX', math.max(left, 1))
    end
    result = done.err and done or 1
  end
  results[i] = result
end
return results
"""
_READ = """\
local results = {}
for i, key in ipairs(ARGV) do
  local found = redis.pcall('MGET', key)
  results[i] = found.err and found or found[1]
end
return results
"""


class Clock(NamedTuple):
    """Says what time it is, as the server does: in seconds and microseconds."""

    command: tuple[str, ...] = ("TIME",)
    expression: str = "redis.call('TIME')"
    """The same within a script."""

    @staticmethod
    def milliseconds(answer: Sequence[bytes]) -> int:
        """Return what the command answered as milliseconds since the epoch."""
        seconds, microseconds = answer
        return int(seconds) * 1000 + int(microseconds) // 1000


class Script:
    """A script on the server, called by its name once the server knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        # What Redis names it by; no secret is kept by it.
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(
        self, keys: int, arguments: Sequence[Argument], *, anew: bool
    ) -> tuple[Argument, ...]:
        """Return the command; ``keys`` tells how many arguments are declared as keys.

        ``anew`` is for a server that does not know the script yet.
        """
        if anew:
            return ("EVAL", self.text, str(keys), *arguments)
        return ("EVALSHA", self._sha, str(keys), *arguments)


def swapping(clock: Clock) -> Script:
    """Return the compare-and-swap: for each key 1 (landed), 0 (did not), or an error.

    A record that is already there counts as landed: this very write was sent before.
    """
    return Script(
        _SWAP.format(clock=clock.expression, last=_HEAD.size - 1, grace=GRACE_MS)
    )


def reading() -> Script:
    """Return what reads keys of several slots: of each its string, nil, or an error."""
    return Script(_READ)


def swap_arguments(writes: Sequence[Write]) -> list[Argument]:
    """Return what the swap takes: all keys, then four arguments for each."""
    arguments: list[Argument] = [write.key for write in writes]
    for _, expected, record, not_after in writes:
        head = b"" if expected is None else _HEAD.pack(_MARK, *expected)
        ends = "" if record.expires_at is None else str(record.expires_at)
        arguments += (head, _packed(record), str(not_after), ends)
    return arguments


def _packed(record: Record) -> bytes:
    (counter, token), value, ring, created, ends = record
    fields = _FIELDS.pack(
        _MARK, counter, token, created, _NEVER if ends is None else ends, len(ring)
    )
    return b"%b%b%b" % (fields, ring, value)


def unpacked(key: str, stored: Any) -> Record | BackendError | None:
    """Return the record that was stored, None if nothing was, an error if not by us."""
    if stored is None:
        return None
    if not stored.startswith(_MARK) or len(stored) < _FIELDS.size:
        return _foreign(key)
    _, counter, token, created, ends, length = _FIELDS.unpack_from(stored)
    begin = _FIELDS.size + length
    if length % 8 or begin > len(stored):
        return _foreign(key)
    return Record(
        Version(counter, token),
        stored[begin:],
        stored[_FIELDS.size : begin],
        created,
        None if ends == _NEVER else ends,
    )


def _foreign(key: str) -> BackendError:
    return BackendError(
        f"Redis holds something under {key!r} that is not ours, or of a newer "
        "botsessions; it was left as it is. Choose another namespace, or remove it"
    )
