"""One run: what a source holds is compared with the store, and written if asked for.

Whether it writes or only says what it would write, all else is the same. A session that
the store has already is never replaced, as with ``import``. The sources give ``Taken``
and ``Left``; ``commands`` is the user.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from botsessions.cli.imports.plain import plain
from botsessions.cli.jsonl import Entry, Outcome, record_of
from botsessions.codec import Codec
from botsessions.engine.rules import new_token
from botsessions.errors import CodecError, InvalidSessionError
from botsessions.transfer.side import BATCH_BYTES, BATCH_ROWS

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable

    from botsessions.keys import SessionKey
    from botsessions.record import Record
    from botsessions.transfer.side import Side

# As a store has it unless told; a bot cannot change what is larger.
_USUAL_LIMIT = 1024 * 1024
_EXAMPLES = 3
_codec = Codec()


class Taken(NamedTuple):
    """A session as its source has it. ``place`` is what the source calls it."""

    place: str
    key: SessionKey
    session: Any
    """A dict, if it is one."""
    expires_in: int | None = None
    """Milliseconds."""
    whole: bool = False
    """Whether a part of it would be of no use."""


class Left(NamedTuple):
    """What a source has and cannot give."""

    place: str
    reason: str


class Source(Protocol):
    """What another library keeps."""

    @property
    def room(self) -> int:
        """Tell how much its sessions may weigh together, once it is open.

        More than there is of bytes, where it can have one value in many places.
        """

    async def open(self, on_progress: Callable[[str, int], None]) -> int:
        """Look at all of it; return how many entries there are. To be called first."""

    def entries(self) -> AsyncIterator[Taken | Left | None]:
        """Give each; None for one that holds nothing, or is gone since."""


@dataclass(slots=True)
class Summary:
    """What became of the entries of a source, each counted once."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """What kinds of values could not be carried over."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Some places, and their keys."""


LEFT = "left"


class Run:
    """One pass over one source.

    ``partial`` carries a session over without what is refused in it; unless told it is
    left out. ``on_problem`` is told what is left out and why, ``on_change`` what is
    carried over, but not quite as it was.
    """

    def __init__(  # noqa: PLR0913 - none has a default
        self,
        side: Side,
        *,
        write: bool,
        partial: bool,
        rng: random.Random,
        on_problem: Callable[[str], None],
        on_change: Callable[[str], None],
    ) -> None:
        self._side = side
        self._write = write
        self._partial = partial
        self._rng = rng
        self._on_problem = on_problem
        self._on_change = on_change
        self._seen: dict[str, tuple[str, bytes]] = {}
        self._batch: dict[str, tuple[Taken, bytes]] = {}
        self._summary = Summary()
        self._room = 0

    async def run(self, source: Source, on_progress: Callable[[int], None]) -> Summary:
        """Carry all entries over, or see what that would do."""
        size = done = 0
        self._room = source.room
        async for entry in source.entries():
            done += 1
            on_progress(done)
            if isinstance(entry, Left):
                self._leave(entry.place, entry.reason)
            elif entry is not None:
                size += self._take(entry)
            if len(self._batch) == BATCH_ROWS or size >= BATCH_BYTES:
                await self._flush()
                size = 0
        await self._flush()
        return self._summary

    def _take(self, taken: Taken) -> int:
        """Add a session to the batch; return how many bytes it has."""
        place, key = taken.place, str(taken.key)
        made = plain(taken.session, place, self._room)
        self._room -= made.weight
        for refusal in made.refused:
            self._summary.refused[refusal.what] += 1
            self._on_problem(f"{refusal.path} {refusal.why}")
        may_lack = self._partial and not taken.whole
        if made.refused and not (may_lack and made.value):
            self._summary.outcomes[LEFT] += 1
            return 0
        try:
            value = _codec.encode(made.value)
        except (CodecError, InvalidSessionError) as exc:
            self._leave(place, str(exc))
            return 0
        digest = blake2b(value, digest_size=16).digest()
        first, same = self._seen.setdefault(key, (place, digest))
        if first != place:
            if same == digest:
                self._summary.outcomes[Outcome.PRESENT] += 1
            else:
                self._leave(place, f"{first} is the same session, with other data")
            return 0
        if made.refused:
            self._on_change(f"{place} is carried over without what is refused in it")
        for change in made.changed:
            self._on_change(change)
        if len(value) > _USUAL_LIMIT:
            self._on_change(
                f"{place} has {len(value):,} bytes; to change it a bot must open its "
                "store with max_session_bytes=…"
            )
        if len(self._summary.examples) < _EXAMPLES:
            self._summary.examples.append((place, key))
        self._batch[key] = taken, value
        return len(value)

    async def _flush(self) -> None:
        batch, self._batch = self._batch, {}
        keys = list(batch)
        outcomes: dict[str, Outcome] = {}

        def choose(key: str, there: Record | None, now: int) -> Record | None:
            taken, value = batch[key]
            ttl = taken.expires_in
            entry = Entry(0, key, value, None, None if ttl is None else now + ttl)
            made = record_of(entry, there, now, new_token(self._rng))
            if isinstance(made, Outcome):
                outcomes[key] = made
                return None
            outcomes[key] = Outcome.IMPORTED
            return made

        if keys and self._write:
            await self._side.replace(keys, choose)
        elif keys:
            now, records = await self._side.load(keys)
            for key, there in zip(keys, records, strict=True):
                choose(key, there, now)
        for key, outcome in outcomes.items():
            self._summary.outcomes[outcome] += 1
            if outcome is Outcome.DIFFERENT:
                place = batch[key][0].place
                self._on_problem(f"{place}: the store has another {key}, which stays")

    def _leave(self, place: str, reason: str) -> None:
        self._summary.outcomes[LEFT] += 1
        self._on_problem(f"{place}: {reason}")
