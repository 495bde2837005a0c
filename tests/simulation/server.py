"""What all processes of a simulation share: the data, its clock, and the truth.

The data is a ``MemoryBackend``, used by its contract (``load``, ``commit``, ``sweep``).
The journal keeps every write that landed: the truth that ``moments`` holds answers
against. ``faulty`` is how a process reaches the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from botsessions.backends.memory import MemoryBackend
from botsessions.codec import Codec
from botsessions.conformance.history import Ids, Shape, ids_of
from botsessions.record import GRACE_MS, Loaded, Record, Version, Write, ring_after

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Sequence

    from tests.simulation.loop import SimulatedLoop

T = TypeVar("T")

NAMESPACE = "sessions"
_PREFIX = NAMESPACE + "/"
# A change of this id was made by nobody: it must not show up.
STRAY_ID = 0

_codec = Codec()


class Clock:
    """The server's clock, in seconds: virtual time, which may be stepped."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._offset = 1_000_000.0

    def __call__(self) -> float:
        return self._loop.time() + self._offset

    def now(self) -> int:
        """Return the time in milliseconds, as a backend does."""
        return int(self() * 1000)

    def step(self, seconds: float) -> None:
        """Let it jump."""
        self._offset += seconds


class Landing(NamedTuple):
    """One write that landed: when (tick, and the server's clock in ms), and what."""

    tick: int
    now: int
    key: str
    record: Record
    ids: Ids

    def has_ended(self, now: int) -> bool:
        """Tell whether the session is gone by then; a deleted one is for good."""
        end = self.record.expires_at
        return not self.ids or (end is not None and end <= now)


class Server:
    """Keeps records, and a journal of everything that ever landed."""

    def __init__(
        self,
        clock: Clock,
        tick: Callable[[], int],
        log: Callable[..., None] = lambda *_: None,
    ) -> None:
        self.clock = clock
        self.journal: list[Landing] = []
        self.complaints: list[str] = []
        self.tick = tick
        self.log = log
        self._memory = MemoryBackend(clock=clock)

    def load(self, keys: Sequence[str]) -> Loaded:
        """Read at this very moment."""
        return at_once(self._memory.load(keys))

    def commit(self, writes: Sequence[Write]) -> list[bool]:
        """Compare and swap at this very moment."""
        landed = at_once(self._memory.commit(writes))
        for write, did in zip(writes, landed, strict=True):
            if did:
                session = (
                    _codec.decode(write.record.value) if write.record.value else {}
                )
                key = write.key.removeprefix(_PREFIX)
                self.journal.append(
                    Landing(
                        self.tick(),
                        self.clock.now(),
                        key,
                        write.record,
                        ids_of(session),
                    )
                )
                self.log("server", "landed", key, write.record.version, ids_of(session))
        return landed

    def sweep(self, prefix: str, limit: int) -> int:
        """Remove what has been dead for long enough."""
        return at_once(self._memory.sweep(prefix, limit))

    def stray(self, place: str, shape: Shape, rng: random.Random) -> None:
        """Let a write arrive for which it is wrong to land.

        It may come from before the data was restored from a backup (then its version
        has another token), it may be a creation where something is, or come too late.
        """
        found = self.load([place]).records[0]
        if found is None:
            return
        assert isinstance(found, Record)
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


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what never suspends (``MemoryBackend`` promises that)."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("MemoryBackend suspended")
