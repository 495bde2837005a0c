"""Put recorded updates through a handler, each one exactly once.

Lines are taken in waves. In a wave all updates of one session go, in their order, into
one ``store.update``, and all sessions go at once, so that the store commits them as a
group. The next wave begins when this one is acknowledged; ``journal`` remembers it.
``source`` gives the lines, ``routing`` their sessions, ``app`` the handler.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botsessions.blame import described
from botsessions.cli.journal import MARKER, Journal, Prefix, bare, with_markers_of
from botsessions.cli.routing import Outcome, Result, Step, route
from botsessions.cli.sessions import explained
from botsessions.cli.source import interruptible
from botsessions.engine import rules
from botsessions.errors import CodecError, CorruptRecordError, SessionTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from botsessions.cli.handlers import Handler, Session
    from botsessions.cli.source import Line, Source
    from botsessions.keys import SessionKey
    from botsessions.store import SessionStore

WAVE_LINES = 256
WAVE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did; the outcomes add up to the lines of the source.

    ``pass_number`` says which time the file is replayed; it is None for what cannot be
    read again.
    """

    pass_number: int | None
    outcomes: Counter[Outcome]
    sessions: int
    seconds: float


class Replay:
    """One run over one source.

    ``on_problem`` is told of each line that is malformed or failed, ``on_wave`` how
    many bytes of the source are done.
    """

    def __init__(
        self,
        store: SessionStore,
        source: Source,
        handler: Handler,
        *,
        on_problem: Callable[[Result], None],
        on_wave: Callable[[int], None],
    ) -> None:
        self._store = store
        self._source = source
        self._handler = handler
        self._on_problem = on_problem
        self._on_wave = on_wave
        self._journal = Journal(store, source) if source.path is not None else None
        self._outcomes: Counter[Outcome] = Counter()
        self._keys: set[SessionKey] = set()

    async def run(self) -> Summary:
        """Replay to the end of the source.

        If nothing in it is an update, raise ValueError, and leave no trace.
        """
        started = time.perf_counter()
        prefix, end = Prefix(), 0
        waves = _waves(self._source.lines())
        while wave := _next(waves):
            await self._apply_wave(wave, prefix)
            end = wave[-1].end
            self._on_wave(end)
        self._check_outcomes()
        journal = self._journal
        if journal is not None:
            await journal.open()
            await journal.reach(prefix.length, prefix)
            await self._unmark(journal)
            await journal.finish(end)
        return Summary(
            journal.standing.pass_number if journal is not None else None,
            self._outcomes,
            len(self._keys),
            time.perf_counter() - started,
        )

    async def _apply_wave(self, wave: Sequence[Line], prefix: Prefix) -> None:
        """Apply lines, and write down with them that those before are done."""
        done = prefix.length
        results: list[Result] = []
        journal = self._journal
        routed = [(line, route(line)) for line in wave]
        # Not before there is something to apply: the file may be a wrong one.
        if journal is not None and any(isinstance(found, Step) for _, found in routed):
            await journal.open()
        steps = self._sort(routed, prefix, results)
        work = [self._apply(key, some, results) for key, some in steps.items()]
        if journal is not None and journal.is_open:
            work.append(journal.reach(done, prefix))
        await _all(work)
        for result in sorted(results):
            self._outcomes[result.outcome] += 1
            if result.reason:
                self._on_problem(result)

    def _sort(
        self,
        routed: Sequence[tuple[Line, Step | Result]],
        prefix: Prefix,
        results: list[Result],
    ) -> dict[SessionKey, list[Step]]:
        """Return what is to be applied to each session; append what is settled."""
        done = self._journal.standing.lines if self._journal is not None else 0
        steps: dict[SessionKey, list[Step]] = {}
        for line, found in routed:
            if isinstance(found, Step):
                self._keys.add(found.key)
                if line.number > done:
                    steps.setdefault(found.key, []).append(found)
                else:
                    results.append(Result(line.number, Outcome.EARLIER))
            else:
                results.append(found)
                if found.outcome is Outcome.MALFORMED and line.is_open:
                    continue  # the rest of it may be written later
            prefix.add(line)
        return steps

    def _check_outcomes(self) -> None:
        malformed = self._outcomes[Outcome.MALFORMED]
        useless = malformed + self._outcomes[Outcome.BLANK]
        if malformed and useless == self._outcomes.total():
            raise ValueError(f"nothing in {self._source.name} is an update")

    async def _apply(
        self, key: SessionKey, steps: Sequence[Step], results: list[Result]
    ) -> None:
        """Apply updates of one session in one change; what cannot be stored, fails."""
        found: list[Result] = []

        def change(session: Session) -> Session:
            found.clear()  # after a conflict this runs again
            return self._change(session, steps, found)

        try:
            await self._store.update(key, change)
        except (CodecError, SessionTooLargeError) as exc:
            if len(steps) > 1:
                for step in steps:
                    await self._apply(key, [step], results)
            else:
                reason = explained(exc)
                results.append(Result(steps[0].number, Outcome.FAILED, reason))
        else:
            results += found

    def _change(
        self, session: Session, steps: Sequence[Step], results: list[Result]
    ) -> Session:
        """Return the session after these updates, and append what became of each."""
        journal = self._journal
        done = journal.line_of(session) if journal is not None else 0
        changed, applied = bare(session), 0
        for step in steps:
            if step.number <= done:
                results.append(Result(step.number, Outcome.EARLIER))
                continue
            try:
                # A copy, because a handler may change it and then fail.
                changed = self._handled(deepcopy(changed), step)
            except (Exception, SystemExit) as exc:  # noqa: BLE001 - it is the user's
                results.append(Result(step.number, Outcome.FAILED, described(exc)))
            else:
                results.append(Result(step.number, Outcome.APPLIED))
                applied = step.number
        if not applied:
            return session
        if not changed and not session:
            return {}  # what was not there is not made, not even for a marker
        changed = with_markers_of(session, changed)
        return changed if journal is None else journal.mark(changed, applied)

    def _handled(self, session: Session, step: Step) -> Session:
        returned = rules.check_returned(self._handler(session, step.update))
        if MARKER in returned:
            raise ValueError(f"the key {MARKER!r} is reserved for the replay")
        return dict(returned)

    async def _unmark(self, journal: Journal) -> None:
        """Take the markers out of all sessions of the source."""
        keys = list(self._keys)
        for start in range(0, len(keys), WAVE_LINES):
            some = keys[start : start + WAVE_LINES]
            await _all([self._unmark_one(journal, key) for key in some])

    async def _unmark_one(self, journal: Journal, key: SessionKey) -> None:
        with suppress(CorruptRecordError):  # which has none that could be read
            await self._store.update(key, journal.unmark)


def _waves(lines: Iterator[Line]) -> Iterator[list[Line]]:
    wave: list[Line] = []
    size = 0
    for line in lines:
        wave.append(line)
        size += len(line.text)
        if len(wave) == WAVE_LINES or size >= WAVE_BYTES:
            yield wave
            wave, size = [], 0
    yield wave


def _next(waves: Iterator[list[Line]]) -> list[Line]:
    """Read the next wave; none is left when it is empty."""
    with interruptible():
        return next(waves, [])


async def _all(work: Sequence[Coroutine[None, None, None]]) -> None:
    """Finish all of it, then raise the first of its errors."""
    for error in await asyncio.gather(*work, return_exceptions=True):
        if error is not None:
            raise error
