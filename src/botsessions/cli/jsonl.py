"""Sessions as lines of JSON: ``export`` writes them, ``import`` takes them back.

A line has the key, the session in the JSON form, and two times of the record. What the
JSON form cannot give back exactly (types of the application's own, a few dates) is
*sealed*: the stored bytes themselves, in base64. Records are read and written as
``transfer.side`` has them, so that created_at and expires_at stay what they are.

``app`` is the user; ``source`` gives the lines.
"""

from __future__ import annotations

import base64
import enum
import json
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from botsessions.cli import json_form
from botsessions.cli.sessions import explained, is_foreign
from botsessions.cli.source import MAX_LINE, interruptible
from botsessions.codec import Codec
from botsessions.engine.rules import new_token
from botsessions.errors import CodecError, CorruptRecordError
from botsessions.keys import SessionKey
from botsessions.record import Record, Version, ring_after
from botsessions.transfer.side import BATCH_BYTES, BATCH_ROWS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from botsessions.cli.source import Line, Source
    from botsessions.transfer.side import Side

_FIELDS = frozenset({"key", "session", "sealed", "created_at", "expires_at"})
_codec = Codec()


# Out.


def line_of(key: str, record: Record) -> tuple[str, str | None]:
    """Return the line of a record, and why its session is unreadable if it is so."""
    times = {"created_at": record.created_at, "expires_at": record.expires_at}
    sealed = {"key": key, "sealed": base64.b64encode(record.value).decode(), **times}
    try:
        session = _codec.decode(record.value)
        line = json.dumps({"key": key, "session": json_form.shown(session), **times})
        json_form.read(line.encode())
    except CorruptRecordError as exc:
        return json.dumps(sealed), None if is_foreign(exc) else str(exc)
    except (ValueError, RecursionError):
        line = json.dumps(sealed)
    if len(line) >= MAX_LINE:
        return line, f"its line is longer than the {MAX_LINE:,} bytes that import takes"
    return line, None


async def export(
    side: Side,
    write: Callable[[str], None],
    *,
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int], None],
) -> int:
    """Write a line for each live session; return how many.

    ``on_problem`` is told the key of one that cannot be read, and why.
    """
    count = 0
    async with aclosing(side.records()) as records:
        async for key, record, now in records:
            if record.is_gone(now):
                continue
            line, problem = line_of(key, record)
            if problem is not None:
                on_problem(key, problem)
            write(line)
            count += 1
            on_progress(count)
    return count


# In.


class Outcome(enum.StrEnum):
    """What became of a line; each line has exactly one."""

    IMPORTED = "imported"
    PRESENT = "present"
    """The store has the same session under this key."""
    DIFFERENT = "different"
    """The store has another session under this key, which stays."""
    EXPIRED = "expired"
    MALFORMED = "malformed"
    BLANK = "blank"


class Result(NamedTuple):
    """A line that is done with; one that was not taken has a reason."""

    number: int
    outcome: Outcome
    reason: str = ""


class Entry(NamedTuple):
    """A session on its way into a store."""

    number: int
    key: str
    value: bytes
    created_at: int | None
    expires_at: int | None


def entry_of(line: Line) -> Entry:
    """Read a line, or raise ValueError or a CodecError that says what is wrong."""
    document = json_form.read(line.text)
    if type(document) is not dict or not {"key"} < document.keys() <= _FIELDS:
        raise ValueError(
            "an exported session is a JSON object with key and session (or sealed), "
            "and perhaps created_at and expires_at"
        )
    if ("session" in document) == ("sealed" in document):
        raise ValueError("it takes either session or sealed")
    created_at, expires_at = (
        _moment(name, document.get(name)) for name in ("created_at", "expires_at")
    )
    key = str(SessionKey.parse(document["key"]))
    value = _value(document)
    return Entry(line.number, key, value, created_at, expires_at)


def record_of(
    entry: Entry, there: Record | None, now: int, token: int
) -> Record | Outcome:
    """Decide about an entry, given what its key has now: the new record, or not."""
    if there is not None and not there.is_gone(now):
        same = _content(there.value) == _content(entry.value)
        return Outcome.PRESENT if same else Outcome.DIFFERENT
    if entry.expires_at is not None and entry.expires_at <= now:
        return Outcome.EXPIRED
    counter = 0 if there is None else there.version.counter
    return Record(
        Version(counter + 1, token),
        entry.value,
        ring_after(there),
        now if entry.created_at is None else entry.created_at,
        entry.expires_at,
    )


class Import:
    """One run over one file.

    ``on_problem`` is told of each line that was not taken, ``on_progress`` how many
    bytes of the file are done.
    """

    def __init__(
        self,
        side: Side,
        source: Source,
        *,
        rng: random.Random,
        on_problem: Callable[[Result], None],
        on_progress: Callable[[int], None],
    ) -> None:
        self._side = side
        self._source = source
        self._rng = rng
        self._on_problem = on_problem
        self._on_progress = on_progress
        self._outcomes: Counter[Outcome] = Counter()

    async def run(self) -> Counter[Outcome]:
        """Take each line alone; raise ValueError if there is no session in any."""
        batch: dict[str, Entry] = {}
        size = 0
        lines = self._source.lines()
        while True:
            with interruptible():
                line = next(lines, None)
            if line is None:
                break
            entry = self._read(line)
            if entry is None:
                continue
            if entry.key in batch:
                await self._write(batch)
                batch, size = {}, 0
            batch[entry.key] = entry
            size += len(entry.value)
            if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
                await self._write(batch)
                batch, size = {}, 0
            self._on_progress(line.end)
        await self._write(batch)
        malformed = self._outcomes[Outcome.MALFORMED]
        useless = malformed + self._outcomes[Outcome.BLANK]
        if malformed and useless == self._outcomes.total():
            raise ValueError(f"nothing in {self._source.name} is an exported session")
        return self._outcomes

    def _read(self, line: Line) -> Entry | None:
        if not line.text.strip():
            self._settle(Result(line.number, Outcome.BLANK))
            return None
        try:
            return entry_of(line)
        except (ValueError, CodecError) as exc:
            self._settle(Result(line.number, Outcome.MALFORMED, explained(exc)))
            return None

    async def _write(self, batch: dict[str, Entry]) -> None:
        outcomes: dict[str, Outcome] = {}

        def choose(key: str, there: Record | None, now: int) -> Record | None:
            made = record_of(batch[key], there, now, new_token(self._rng))
            if isinstance(made, Outcome):
                outcomes[key] = made
                return None
            outcomes[key] = Outcome.IMPORTED
            return made

        if batch:
            await self._side.replace(list(batch), choose)
        for key, outcome in outcomes.items():
            reason = ""
            if outcome is Outcome.DIFFERENT:
                reason = f"the store has another session {key}, which stays"
            self._settle(Result(batch[key].number, outcome, reason))

    def _settle(self, result: Result) -> None:
        self._outcomes[result.outcome] += 1
        if result.reason:
            self._on_problem(result)


def _value(document: dict[str, Any]) -> bytes:
    if "session" in document:
        if type(document["session"]) is not dict:
            raise ValueError("a session is a JSON object")
        return _codec.encode(document["session"])
    if type(document["sealed"]) is not str:
        raise ValueError("sealed is a text in base64")
    value = base64.b64decode(document["sealed"], validate=True)
    try:
        _codec.decode(value)
    except CorruptRecordError as exc:
        if not is_foreign(exc):
            raise
    return value


def _moment(name: str, value: Any) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 1 << 63):
        return value
    raise ValueError(f"{name} is in milliseconds since the epoch, or null")


def _content(value: bytes) -> str | bytes:
    """Return what two equal sessions have in common: sets have no order."""
    try:
        return json.dumps(json_form.shown(_codec.decode(value)))
    except (CorruptRecordError, RecursionError):
        return value
