"""What all processes of a simulation share: the data, its clock, and the truth.

The data is a ``MemoryBackend``, used by its contract (``load``, ``commit``, ``sweep``).
With a ``Disk`` a write is applied first and durable later, and a crash takes back what
was not: a right server answers when what the answer rests on is durable, and shows
nothing else. The journal keeps every write from the moment at which it was durable: the
truth that ``moments`` and ``fences`` hold answers against. ``faulty`` is how a process
reaches the server.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from botsessions.backends.memory import MemoryBackend
from botsessions.codec import Codec, seal
from botsessions.conformance.histories.history import Ids, Shape, ids_of
from botsessions.lock import MARK
from botsessions.record import GRACE_MS, Loaded, Record, Version, Write, ring_after
from tests.simulation.road import Road

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable, Coroutine, Sequence

    from botsessions.backend import InlineTable
    from tests.simulation.loop import SimulatedLoop

T = TypeVar("T")

NAMESPACE = "sessions"
_PREFIX = NAMESPACE + "/"

# A change of this id was made by nobody: it must not show up.
STRAY_ID = 0
# Behind every moment that a clock shows.
_FOREVER = 1 << 62

_codec = Codec()


def place_of(key: object) -> str:
    """Return the name by which a backend knows a key."""
    return f"{_PREFIX}{key}"


def lock_of(key: object) -> str:
    """Return the key under which the lock of a session is kept."""
    return f"{MARK}{{{_PREFIX}{key}}}"


def is_lock(place: str) -> bool:
    """Tell whether that is the name of a lock's record."""
    return place.startswith(_PREFIX + MARK)


class Clock:
    """The server's clock, in seconds: virtual time, which may be stepped, or drift."""

    def __init__(self, loop: SimulatedLoop, rate: float = 1.0) -> None:
        self._loop = loop
        self._rate = rate
        self._offset = 1_000_000.0

    def __call__(self) -> float:
        return self._loop.true_time * self._rate + self._offset

    def now(self) -> int:
        """Return the time in milliseconds, as a backend does."""
        return int(self() * 1000)

    def step(self, seconds: float) -> None:
        """Let it jump."""
        self._offset += seconds


class Landing(NamedTuple):
    """One write that landed: when (tick, and the server's clock in ms), and what.

    That is when it could be seen first; its conditions were tested ``lag`` earlier.
    """

    tick: int
    now: int
    key: str
    record: Record
    ids: Ids
    lag: int = 0

    @property
    def applied(self) -> int:
        """The server's clock when its conditions were tested."""
        return self.now - self.lag

    def has_ended(self, now: int) -> bool:
        """Tell whether the session is gone by then; a deleted one is for good."""
        end = self.record.expires_at
        return not self.ids or (end is not None and end <= now)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Makes durable, all at once, what was applied when it began to.

    It takes up to ``flush`` seconds. Who reads meanwhile is shown what is durable; or
    with ``readers_wait`` waits for what was applied before, which a server must do
    whose sessions expire: else one could be gone for a moment, and then be there again.
    """

    flush: float
    readers_wait: bool = False


class _Change(NamedTuple):
    """What became of a key (None: swept), and when by the server's clock."""

    key: str
    record: Record | None
    applied: int


class Server:
    """Keeps records, and a journal of everything that ever landed.

    ``locks`` is the journal of the records that locks are. ``crashes`` counts: a
    connection from before a crash is of no use.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        clock: Clock,
        tick: Callable[[], int],
        log: Callable[..., None] = lambda *_: None,
        *,
        disk: Disk | None = None,
        luck: random.Random | None = None,
    ) -> None:
        self.clock = clock
        self.journal: list[Landing] = []
        self.locks: list[Landing] = []
        self.complaints: list[str] = []
        self.tick = tick
        self.log = log
        self.requests, self.answers = Road(loop), Road(loop)
        self.crashes = 0
        self.lost = 0
        self.strays = 0
        self._loop = loop
        self._memory = MemoryBackend(clock=clock)
        self._disk = disk
        self._luck = luck
        self._watched = False
        self._keys: set[str] = set()
        self._durable: dict[str, Record] = {}
        # Applied and not durable, in order; so many of them are being written.
        self._undurable: list[_Change] = []
        self._written = 0
        self._flushing: asyncio.TimerHandle | None = None
        # Who waits until so many changes are durable, of all that ever were.
        self._count = 0
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []
        # Done when the server is up again; None if it is.
        self.up: asyncio.Future[None] | None = None

    def tally(self) -> Counter[str]:
        """Return how often what happened here."""
        return Counter(
            {
                "crashes of the server": self.crashes,
                "writes lost by them": self.lost,
                "requests overtaken": self.requests.overtaken,
                "answers overtaken": self.answers.overtaken,
                "strays": self.strays,
            }
        )

    # Requests.

    def load(self, keys: Sequence[str]) -> Loaded:
        """Read at this very moment."""
        if self._disk is None:
            return at_once(self._memory.load(keys))
        return Loaded(self.clock.now(), [self._durable.get(key) for key in keys])

    def commit(self, writes: Sequence[Write]) -> list[bool]:
        """Compare and swap at this very moment; see ``when_durable``."""
        landed = at_once(self._memory.commit(writes))
        for write, did in zip(writes, landed, strict=True):
            if did and not self._watched:
                self._apply(write.key, write.record)
        return landed

    def when_durable(self) -> asyncio.Future[bool] | None:
        """Return what tells when all that was applied is durable, None if it is.

        False says that the server crashed before.
        """
        if not self._undurable:
            return None
        durable: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append((self._count, durable))
        return durable

    def when_readable(self, keys: Sequence[str]) -> asyncio.Future[bool] | None:
        """Return what a reader of these keys has to wait for, None if nothing."""
        if self._disk is None or not self._disk.readers_wait:
            return None
        if all(change.key not in keys for change in self._undurable):
            return None
        return self.when_durable()

    def sweep(self, prefix: str, limit: int) -> int:
        """Remove what has been dead for long enough."""
        before = self._stored()
        count = at_once(self._memory.sweep(prefix, limit))
        after = self._stored()
        swept = [key for key in before if key not in after]
        end = self.clock.now() - GRACE_MS
        for key in swept:
            if not before[key].is_dead(end):
                self.complaints.append(f"{key} was swept too early")
            if self._disk is not None:
                self._undurable.append(_Change(key, None, self.clock.now()))
                self._count += 1
                self._begin_flush()
        return count

    def names(self, prefix: str, after: str) -> list[str]:
        """Return the keys that are there, in order."""
        there = self._durable if self._disk is not None else self._stored()
        return sorted(key for key in there if key.startswith(prefix) and key > after)

    def dead(self) -> list[str]:
        """Return the keys whose records could have been swept."""
        end = self.clock.now() - GRACE_MS
        return [key for key, record in self._stored().items() if record.is_dead(end)]

    def _stored(self) -> dict[str, Record]:
        keys = sorted(self._keys)
        records = at_once(self._memory.load(keys)).records
        pairs = zip(keys, records, strict=True)
        return {key: record for key, record in pairs if isinstance(record, Record)}

    # Crashes, and what outlives them.

    @property
    def is_up(self) -> bool:
        """Whether anything answers."""
        return self.up is None

    def crash(self) -> None:
        """Lose all that is not durable; answer nothing until ``restart``."""
        assert self._luck is not None
        # The disk may be done with some of what it was writing.
        self._make_durable(self._luck.randint(0, self._written))
        self.log("server", "crashes and loses", len(self._undurable))
        self.lost += len(self._undurable)
        self._undurable.clear()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._written = 0
        for _, durable in self._waiting:
            if not durable.done():
                durable.set_result(False)
        self._waiting.clear()
        self._memory = MemoryBackend(clock=self.clock)
        for key, record in self._durable.items():
            at_once(self._memory.commit([Write(key, None, record, _FOREVER)]))
        self.crashes += 1
        self.up = self._loop.create_future()

    def restart(self) -> None:
        """Answer again."""
        assert self.up is not None
        self.log("server", "is up again")
        self.up.set_result(None)
        self.up = None

    def _apply(self, key: str, record: Record) -> None:
        self._keys.add(key)
        change = _Change(key, record, self.clock.now())
        if self._disk is None:
            self._note(change)
            return
        self._undurable.append(change)
        self._count += 1
        self.log("server", "applied", key, record.version)
        self._begin_flush()

    def _begin_flush(self) -> None:
        if self._flushing is None and self._undurable:
            assert self._disk is not None
            assert self._luck is not None
            self._written = len(self._undurable)
            seconds = self._luck.random() * self._disk.flush
            self._flushing = self._loop.call_later(seconds, self._end_flush)

    def _end_flush(self) -> None:
        self._flushing = None
        self._make_durable(self._written)
        self._begin_flush()

    def _make_durable(self, number: int) -> None:
        for change in self._undurable[:number]:
            if change.record is None:
                self._durable.pop(change.key, None)
            else:
                self._durable[change.key] = change.record
                self._note(change)
        del self._undurable[:number]
        self._written -= number
        reached = self._count - len(self._undurable)
        for count, durable in self._waiting:
            if count <= reached and not durable.done():
                durable.set_result(True)
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]

    # The journal.

    def _note(self, change: _Change) -> None:
        record = change.record
        assert record is not None
        session = _codec.decode(record.value) if record.value else {}
        self._write_down(change.key, record, session, change.applied)

    def _write_down(
        self, key: str, record: Record, session: dict[Any, Any], applied: int
    ) -> None:
        text, tick, now = key.removeprefix(_PREFIX), self.tick(), self.clock.now()
        if text.startswith(MARK):
            self.locks.append(Landing(tick, now, text, record, (), now - applied))
            self.log("server", "landed", text, record.version)
            return
        ids = ids_of(session)
        self.journal.append(Landing(tick, now, text, record, ids, now - applied))
        self.log("server", "landed", text, record.version, ids)

    def attach(
        self,
        prefix: str,
        loop: asyncio.AbstractEventLoop | None,
        seal: Callable[[bytes], bytes],
    ) -> InlineTable:
        """Hand over the very records, and watch what becomes of them."""
        table = self._memory.attach(prefix, loop, seal)
        self._watched = True
        if not isinstance(table.records, _Watched):
            table.records = _Watched(self, prefix, table.records)
        return table

    def detach(self) -> None:
        """Take them back."""
        self._memory.detach()

    def note_inline(self, key: str, entry: bytes | Record | None) -> None:
        """Journal what an inline engine has done (None: deleted)."""
        self._keys.add(key)
        now = self.clock.now()
        if isinstance(entry, Record):
            self._note(_Change(key, entry, now))
            return
        version = Version(self.tick(), 0)  # it has none, and needs none
        end = now if entry is None else None
        record = Record(version, entry or b"", b"", now, end)
        session = {} if entry is None else _codec.unpack(entry)
        self._write_down(key, record, session, now)

    def stray(self, place: str, shape: Shape, rng: random.Random) -> None:
        """Let a write arrive for which it is wrong to land.

        It may come from before the data was restored from a backup (then its version
        has another token), it may be a creation where something is, or come too late.
        """
        found = self.load([place]).records[0]
        if found is None:
            return
        assert isinstance(found, Record)
        self.strays += 1
        counter, token = found.version
        now = self.clock.now()
        stray = Record(
            Version(counter + 1, rng.getrandbits(63)),
            _codec.encode(shape.session(STRAY_ID)),
            ring_after(found),
            now,
            None,
        )
        expected, not_after = rng.choice(
            [
                (Version(counter, token ^ 1), now + GRACE_MS),
                (None, now + GRACE_MS),
                (found.version, now),
            ]
        )
        if self.commit([Write(place, expected, stray, not_after)]) != [False]:
            self.complaints.append(f"a stray write of {place} landed")


class _Watched(dict[str, "bytes | Record"]):
    """The records of an inline table; the server is told of each that changes."""

    def __init__(
        self, server: Server, prefix: str, records: dict[str, bytes | Record]
    ) -> None:
        super().__init__(records)
        self._server = server
        self._prefix = prefix

    def __setitem__(self, text: str, entry: bytes | Record) -> None:
        before = self.get(text)
        super().__setitem__(text, entry)
        # A backend gives what was written inline a version; nothing changes by that.
        if not (
            isinstance(before, bytes)
            and isinstance(entry, Record)
            and seal(before) == entry.value
        ):
            self._server.note_inline(self._prefix + text, entry)

    def pop(self, text: str, *default: Any) -> Any:
        if text in self:
            self._server.note_inline(self._prefix + text, None)
        return super().pop(text, *default)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what never suspends (``MemoryBackend`` promises that)."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("MemoryBackend suspended")
