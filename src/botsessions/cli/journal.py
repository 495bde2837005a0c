"""Where the replay of a file stands, kept in the store beside what it changes.

The *standing* is a session of its own: which pass over the file this is, and up to
which line everything is acknowledged. It is written now and then, so after a crash it
lags behind. The *marker*, an entry in each session that was changed, says up to which
line of which pass that session has come; it is written by the very update that applies
the line, so it never lags. Together they make each line count once. When a pass is
complete the markers are taken out again.

``replay`` is the user. Handlers never see a marker.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING

from botsessions.errors import SessionError
from botsessions.keys import SessionKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from botsessions.cli.handlers import Session
    from botsessions.cli.source import Line, Source
    from botsessions.store import SessionStore

MARKER = "botsessions.replay"

# By which a file is known until more of it is seen: what its first wave may apply.
_HEAD_LINES = 256


class Prefix:
    """The first lines of a file, as a number of lines and a digest of them."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.length = 0
        self._hash = blake2b(digest_size=16)
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Take in the line that follows."""
        self.length = line.number
        # The last line of a file may get its newline later.
        self._hash.update(line.text.rstrip(b"\r\n") + b"\n")

    def digest(self) -> str:
        """Return the digest of the lines so far."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the replay of one file has come; ``run`` is who works on it.

    All of the first ``lines`` are done. The first ``seen`` lines have this digest, by
    which the file is known again. When the pass is ``done`` the file has this ``size``.
    """

    file: str
    pass_number: int = 0
    lines: int = 0
    seen: int = 0
    digest: str = ""
    size: int = 0
    done: bool = False
    run: str = ""


def resume(standing: Standing, source: Source) -> Standing:
    """Return where to go on, given how the last run left it.

    A file that was replayed completely begins a new pass, one that has grown since goes
    on behind its old end. One whose lines are other than those that were seen is
    another file: a new pass as well.
    """
    complete = standing.done and standing.size == source.size
    if standing.pass_number and not complete:
        seen = Prefix(islice(source.lines(), standing.seen))
        if (seen.length, seen.digest()) == (standing.seen, standing.digest):
            return replace(standing, done=False)
    head = Prefix(
        line for line in islice(source.lines(), _HEAD_LINES) if not line.is_open
    )
    return Standing(
        standing.file,
        standing.pass_number + 1,
        seen=head.length,
        digest=head.digest(),
    )


class Journal:
    """The standing of one file, and the markers that its replay sets."""

    def __init__(self, store: SessionStore, source: Source) -> None:
        self._store = store
        self._source = source
        file = str(source.path)
        # Of the path, not of the contents: a file that grows stays the same file.
        self._id = blake2b(os.fsencode(file), digest_size=8).hexdigest()
        self._key = SessionKey(name=f"replay.{self._id}")
        # A name that is no UTF-8 could not be stored as it is.
        self.standing = Standing(os.fsencode(file).decode(errors="backslashreplace"))

    @property
    def is_open(self) -> bool:
        """Tell whether this run has taken over."""
        return bool(self.standing.run)

    async def open(self) -> None:
        """Find out where to go on, and take over from any other run; do it once."""
        if self.is_open:
            return
        run = secrets.token_hex(8)
        while self.standing.run != run:
            found = await self._store.get(self._key)
            standing = _read(found) if found else self.standing
            mine = asdict(replace(resume(standing, self._source), run=run))
            # If another run was faster, again.
            change = partial(_replaced, found, mine)
            self.standing = _read(await self._store.update(self._key, change))

    async def reach(self, lines: int, seen: Prefix) -> None:
        """Write down that so many lines are done, and what was seen of the file."""
        if lines > self.standing.lines:
            standing = replace(self.standing, lines=lines)
            await self._save(
                replace(standing, seen=seen.length, digest=seen.digest()),
            )

    async def finish(self, size: int) -> None:
        """Write down that this pass over the file, of so many bytes, is complete."""
        await self._save(replace(self.standing, size=size, done=True))

    async def _save(self, standing: Standing) -> None:
        def write(now: Session) -> Session:
            if now.get("run") != standing.run:
                raise SessionError(
                    f"another replay of {standing.file} has taken over; this one stops"
                )
            return asdict(standing)

        await self._store.update(self._key, write)
        self.standing = standing

    def line_of(self, session: Session) -> int:
        """Return up to which line of this pass a session has come."""
        pass_number, line = session.get(MARKER, {}).get(self._id, (0, 0))
        return line if pass_number == self.standing.pass_number else 0

    def mark(self, session: Session, line: int) -> Session:
        """Return a session with the note that it has come up to this line."""
        own = {self._id: [self.standing.pass_number, line]}
        return {**session, MARKER: {**session.get(MARKER, {}), **own}}

    def unmark(self, session: Session) -> Session:
        """Return a session without the note."""
        others = {k: v for k, v in session.get(MARKER, {}).items() if k != self._id}
        return {**bare(session), MARKER: others} if others else bare(session)


def bare(session: Session) -> Session:
    """Return a session as handlers see it, without a marker of any replay."""
    return {key: value for key, value in session.items() if key != MARKER}


def with_markers_of(before: Session, session: Session) -> Session:
    """Return a session that keeps the markers it had before."""
    return {**session, MARKER: before[MARKER]} if MARKER in before else session


def _replaced(expected: Session, new: Session, session: Session) -> Session:
    return new if session == expected else session


def _read(session: Session) -> Standing:
    try:
        return Standing(**session)
    except TypeError as exc:
        raise SessionError(
            f"what is kept about the replay of this file is not its own: {exc}"
        ) from exc
