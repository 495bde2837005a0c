"""A backend over a network that fails, drawn from a seed: how processes see the server.

Writes travel by themselves once they were sent (``request``), and may be overtaken by
others (``road``). What backends may have besides (``Near``, ``Home``) are classes of
their own, since the engine looks for methods. Also watches over the engine's part of
the contract: a key once in a batch, in one batch at a time, and no more batches than
were agreed. What it did is counted, and noted for ``reasons`` to look up.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import sys
from collections import Counter
from typing import TYPE_CHECKING, NoReturn, TypeVar

from botsessions.backend import Page
from botsessions.conformance.histories.history import NEVER
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    OutcomeUnknownError,
)
from botsessions.record import Record
from tests.simulation.request import Journey, Request
from tests.simulation.server import is_lock

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from botsessions.backend import InlineTable, Outcome
    from botsessions.record import Loaded, Write
    from tests.simulation.server import Server

F = TypeVar("F", bound=enum.Enum)

_REFUSED = BackendError("injected: this one refused")
_AWAY = BackendUnavailableError("injected: this one's server is away")
_REQUEST_LOST = OutcomeUnknownError("injected: this one's request lost")
_ANSWER_LOST = OutcomeUnknownError("injected: this one's answer lost")
_FATES = (_REFUSED, _AWAY, _REQUEST_LOST, _ANSWER_LOST)
# So many others at most overtake a request, or an answer.
_OVERTAKING = 6


class CommitFault(enum.Enum):
    """What may happen to a batch of writes."""

    LOST_REQUEST = "request lost"
    LOST_ANSWER = "answer lost"
    LATE = "applied late, and no answer"
    TWICE = "applied, answered, and delivered again"
    PART = "applied in part, and no answer"
    SLOW = "slow"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    EACH = "each write fares on its own"
    OVERTAKEN = "overtaken by later requests"
    ANSWER_OVERTAKEN = "applied, and the answer overtaken by others"


class LoadFault(enum.Enum):
    """What may happen to a load."""

    LOST = "no answer"
    SLOW = "slow"
    BROKEN = "some exception"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    EACH = "some keys refused, the others read"
    OVERTAKEN = "overtaken by later requests"
    ANSWER_OVERTAKEN = "read, and the answer overtaken by others"


class AsideFault(enum.Enum):
    """What may happen to a sweep, or to a page of a listing.

    Nothing bounds these in time but the backend, so an error always comes.
    """

    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    SLOW = "slow"
    LOST_ANSWER = "done, and no answer"
    LATE = "done late, and no answer"
    TWICE = "done, answered, and done again"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what happens; times are the longest ones, in seconds.

    ``silence`` is the share of lost answers after which nothing at all comes; else an
    error tells that the outcome is unknown. ``limit`` bounds how much happens to one
    process. ``poisoned`` keys make every batch fail in which they are written.
    """

    commit: Mapping[CommitFault, float] = dataclasses.field(default_factory=dict)
    load: Mapping[LoadFault, float] = dataclasses.field(default_factory=dict)
    aside: Mapping[AsideFault, float] = dataclasses.field(default_factory=dict)
    trip: float = 0.002
    slow: float = 0.5
    late: float = 10.0
    silence: float = 0.3
    limit: int = sys.maxsize
    poisoned: frozenset[str] = frozenset()

    def kinds(self) -> set[str]:
        """Return by what names these are counted."""
        return {
            f"{what}: {fault.value}"
            for what, rates in (
                ("commits", self.commit),
                ("loads", self.load),
                ("aside", self.aside),
            )
            for fault in rates
        }


@dataclasses.dataclass(slots=True)
class Attempt:
    """What was sent, and when (ticks) it became known what came of it.

    No ``places`` stand for all: the backend could not be opened.
    """

    places: set[str] | None
    sent: int
    settled: int = NEVER


class FaultyBackend:
    """One process's connection to the server, for so many stores."""

    def __init__(
        self,
        server: Server,
        faults: Faults,
        rng: random.Random,
        *,
        name: str = "",
        concurrent_batches: int = 1,
        stores: int = 1,
    ) -> None:
        self.concurrent_batches = concurrent_batches
        self.faults = faults
        self._server = server
        self._rng = rng
        self._name = name
        self._stores = stores
        self.refusals = 0  # how often to fail to open
        self._opened = 0
        self._happened = 0
        self._writing: dict[str, int] = {}
        self._batches = 0
        # Writes, with those that got no answer; and what certainly failed.
        self.attempts: list[Attempt] = []
        self.failures: list[Attempt] = []
        self.happened: Counter[str] = Counter()
        self.is_cut_off = False

    async def open(self) -> None:
        sent = self._server.tick()
        await self._travel()
        if self.refusals or self.is_cut_off or not self._server.is_up:
            self.refusals = max(self.refusals - 1, 0)
            self.failures.append(Attempt(None, sent, self._server.tick()))
            raise BackendUnavailableError("injected: cannot be opened")
        self._opened += 1

    async def aclose(self) -> None:
        await self._travel()
        self._opened -= 1

    @property
    def is_open(self) -> bool:
        return self._opened > 0

    async def load(self, keys: Sequence[str]) -> Loaded:
        sent = self._server.tick()
        try:
            loaded = await self._load(keys)
        except BaseException as exc:
            self._note_failure(keys, sent, exc)
            raise
        self._note_unread(keys, sent, loaded)
        return loaded

    async def _load(self, keys: Sequence[str]) -> Loaded:
        fault = self._draw("loads", self.faults.load)
        self._log("loads", fault, *keys)
        if len(set(keys)) != len(keys):
            self._complain("a key is loaded twice in one batch")
        since = self._server.crashes
        await self._travel(self.faults.slow if fault is LoadFault.SLOW else None)
        match fault:
            case LoadFault.LOST:
                await self._wait_for_ever()
            case LoadFault.BROKEN:
                raise ConnectionResetError("injected: connection reset")
            case LoadFault.REFUSED:
                raise BackendError("injected: refused")
            case LoadFault.UNAVAILABLE:
                raise BackendUnavailableError("injected: unavailable")
            case LoadFault.OVERTAKEN:
                await self._server.requests.behind(*self._others())
        await self._arrive(since)
        while readable := self._server.when_readable(keys):
            await readable
            await self._arrive(since)
        loaded = self._server.load(keys)
        if fault is LoadFault.ANSWER_OVERTAKEN:
            await self._server.answers.behind(*self._others())
        await self._travel()
        if self.is_cut_off:
            await self._get_lost()
        self._server.answers.passes()
        return self._spoil(loaded, fault)

    async def _get_lost(self) -> None:
        """While a process is cut off nothing goes there, or back."""
        if self._rng.random() < self.faults.silence:
            await self._wait_for_ever()
        raise ConnectionResetError("injected: cut off")

    def _note_unread(self, keys: Sequence[str], sent: int, loaded: Loaded) -> None:
        pairs = zip(keys, loaded.records, strict=True)
        unread = {key for key, record in pairs if isinstance(record, BackendError)}
        self.failures.append(Attempt(unread, sent, self._server.tick()))

    def _note_failure(self, keys: Sequence[str], sent: int, exc: BaseException) -> None:
        """Note for which keys this is a reason to fail.

        It is none for several of which one may be at fault alone: they are tried apart.
        (Those of locks come along, and are no batch of their own.)
        """
        several = sum(not is_lock(key) for key in keys) > 1
        apart = isinstance(exc, Exception) and not isinstance(
            exc, BackendUnavailableError
        )
        if not (several and apart):
            self.failures.append(Attempt(set(keys), sent, self._server.tick()))

    def _spoil(self, loaded: Loaded, fault: LoadFault | None) -> Loaded:
        if fault is not LoadFault.EACH:
            return loaded
        records = [self._rng.choice([r, _REFUSED, _AWAY]) for r in loaded.records]
        return loaded._replace(records=records)

    async def _arrive(self, since: int) -> None:
        """Reach the server, unless it is down, or crashed since this was sent."""
        if self.is_cut_off:
            await self._get_lost()
        self._server.requests.passes()
        if not self._server.is_up and self._rng.random() < 0.5:
            raise BackendUnavailableError("injected: down")
        if self._server.crashes != since or not self._server.is_up:
            if self._rng.random() < self.faults.silence:
                await self._wait_for_ever()
            raise ConnectionResetError("injected: the server has crashed")

    async def commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        with self._watched([write.key for write in writes]):
            attempt = Attempt({write.key for write in writes}, self._server.tick())
            self.attempts.append(attempt)
            try:
                answer = await self._commit(writes)
            except BackendError as exc:
                attempt.settled = self._server.tick()
                self._note_failure([w.key for w in writes], attempt.sent, exc)
                raise
            attempt.settled = self._server.tick()
            unknown, failed = (
                {
                    write.key
                    for write, outcome in zip(writes, answer, strict=True)
                    if isinstance(outcome, kind)
                }
                for kind in (OutcomeUnknownError, BackendError)
            )
            self.attempts.append(Attempt(unknown, attempt.sent))
            self.failures.append(Attempt(failed, attempt.sent, attempt.settled))
            self._log("is told", *answer)
            return answer

    async def sweep(self, prefix: str, limit: int) -> int:
        fault = await self._listen()

        def sweep() -> int:
            return self._server.sweep(prefix, limit) if self._server.is_up else 0

        swept = 0 if fault is AsideFault.LATE else sweep()
        if fault in (AsideFault.LATE, AsideFault.TWICE):
            loop = asyncio.get_running_loop()
            loop.call_later(self._rng.random() * self.faults.late, sweep)
        await self._hear(fault)
        return swept

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        """Walk in pages so small that much happens between two of them."""
        while True:
            fault = await self._listen()
            names = self._server.names(prefix, after)[: min(limit, 2)]
            while readable := self._server.when_readable(names):
                await readable
                self._reach()
            loaded = self._server.load(names)
            await self._hear(fault)
            if not names:
                return
            found = zip(names, loaded.records, strict=True)
            yield Page(loaded.now, [(k, r) for k, r in found if isinstance(r, Record)])
            after = names[-1]

    async def _listen(self) -> AsideFault | None:
        """Reach the server with what no engine bounds in time: no endless silence."""
        fault = self._draw("aside", self.faults.aside)
        await self._travel(self.faults.slow if fault is AsideFault.SLOW else None)
        if fault is AsideFault.REFUSED:
            raise BackendError("injected: refused")
        if fault is AsideFault.UNAVAILABLE:
            raise BackendUnavailableError("injected: unavailable")
        self._reach()
        return fault

    def _reach(self) -> None:
        if self.is_cut_off or not self._server.is_up:
            raise BackendUnavailableError("injected: unavailable")

    async def _hear(self, fault: AsideFault | None) -> None:
        """Wait for the answer, if one comes."""
        await self._travel()
        if self.is_cut_off or fault in (AsideFault.LATE, AsideFault.LOST_ANSWER):
            raise BackendUnavailableError("injected: no answer")

    async def _commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        fault = (
            CommitFault.LOST_REQUEST
            if self.is_cut_off
            else self._draw("commits", self.faults.commit)
        )
        keys = [write.key for write in writes]
        self._log("commits", fault, *keys)
        if not self.faults.poisoned.isdisjoint(keys):
            await self._travel()
            raise BackendError("injected: poisoned")
        trip = self._trip(self.faults.slow if fault is CommitFault.SLOW else None)
        match fault:
            case CommitFault.REFUSED:
                await self._travel()
                raise BackendError("injected: refused")
            case CommitFault.UNAVAILABLE:
                await self._travel()
                raise BackendUnavailableError("injected: unavailable")
            case CommitFault.LOST_REQUEST:
                await self._lose_answer()
            case CommitFault.LOST_ANSWER:
                self._send(writes, trip).cancel()
                await self._lose_answer()
            case CommitFault.LATE:
                self._send(writes, self._rng.random() * self.faults.late).cancel()
                await self._lose_answer()
            case CommitFault.PART:
                part = [write for write in writes if self._rng.random() < 0.5]
                self._send(part, trip).cancel()
                await self._lose_answer()
        if fault is CommitFault.EACH:
            answer = await self._commit_each(writes, trip)
        else:
            answer = await self._send(writes, trip, fault)
        if self.is_cut_off:
            await self._get_lost()
        return answer

    async def _commit_each(
        self, writes: Sequence[Write], trip: float
    ) -> Sequence[Outcome]:
        """Answer some, refuse some, and lose the requests or the answers of others."""
        fates = [self._rng.choice([None, None, *_FATES]) for _ in writes]
        sent = [
            write
            for write, fate in zip(writes, fates, strict=True)
            if fate in (None, _ANSWER_LOST)
        ]
        landed = dict(
            zip((w.key for w in sent), await self._send(sent, trip), strict=True)
        )
        return [
            landed[write.key] if fate is None else fate
            for write, fate in zip(writes, fates, strict=True)
        ]

    def _send(
        self,
        writes: Sequence[Write],
        delay: float,
        fault: CommitFault | None = None,
    ) -> asyncio.Future[Sequence[bool]]:
        """Put writes on their way; return the answer that comes back, if one waits."""
        back, again = self._trip(), self._rng.random() * self.faults.late
        journey = Journey(
            there=delay,
            back=back,
            behind=self._others() if fault is CommitFault.OVERTAKEN else None,
            answer_behind=(
                self._others() if fault is CommitFault.ANSWER_OVERTAKEN else None
            ),
            again=again if fault is CommitFault.TWICE else None,
            silence=self.faults.silence,
        )
        return Request(self._server, writes, journey, self._rng).answer

    def _others(self) -> tuple[int, float]:
        """Draw by how many others one is overtaken, and how long that may take."""
        return self._rng.randint(1, _OVERTAKING), self.faults.slow

    async def _lose_answer(self) -> NoReturn:
        if self._rng.random() < self.faults.silence:
            await self._wait_for_ever()
        await self._travel()
        raise self._rng.choice([OutcomeUnknownError, ConnectionResetError, OSError])(
            "injected: no answer"
        )

    async def _wait_for_ever(self) -> NoReturn:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("for ever is over")

    async def _travel(self, longest: float | None = None) -> None:
        await asyncio.sleep(self._trip(longest))

    def _trip(self, longest: float | None = None) -> float:
        return self._rng.random() * (self.faults.trip if longest is None else longest)

    def _draw(self, what: str, rates: Mapping[F, float]) -> F | None:
        drawn = self._rng.random()
        for fault, rate in rates.items():
            drawn -= rate
            if drawn < 0 and self._happened < self.faults.limit:
                self._happened += 1
                self.happened[f"{what}: {fault.value}"] += 1
                return fault
        return None

    @contextlib.contextmanager
    def _watched(self, keys: Sequence[str]) -> Iterator[None]:
        """Complain if the engine breaks its part of the contract."""
        self._batches += 1
        if self._batches > self.concurrent_batches * self._stores:
            self._complain(f"{self._batches} batches are under way at once")
        for key in keys:
            if self._writing.get(key, 0) >= self._stores:
                self._complain(f"{key} is in two writes at once")
            self._writing[key] = self._writing.get(key, 0) + 1
        try:
            yield
        finally:
            self._batches -= 1
            for key in keys:
                self._writing[key] -= 1
                if not self._writing[key]:
                    del self._writing[key]

    def _complain(self, what: str) -> None:
        self._server.complaints.append(f"{self._name}: {what}")

    def _log(self, *what: object) -> None:
        self._server.log(self._name, *what)


class Near(FaultyBackend):
    """Has its data on this machine: reads without waiting, as a rule."""

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        """Read at once, unless there is something to wait for."""
        sent = self._server.tick()
        try:
            loaded = self._load_now(keys)
        except Exception as exc:
            self._note_failure(keys, sent, exc)
            raise
        if loaded is not None:
            self._note_unread(keys, sent, loaded)
        return loaded

    def _load_now(self, keys: Sequence[str]) -> Loaded | None:
        fault = self._draw("loads", self.faults.load)
        match fault:
            case LoadFault.BROKEN:
                raise ConnectionResetError("injected: connection reset")
            case LoadFault.REFUSED:
                raise BackendError("injected: refused")
            case LoadFault.UNAVAILABLE:
                raise BackendUnavailableError("injected: unavailable")
            case None | LoadFault.EACH:
                pass
            case _:
                return None
        if not self._server.is_up or self._server.when_readable(keys) is not None:
            return None
        self._log("reads at once", fault, *keys)
        return self._spoil(self._server.load(keys), fault)


class Home(FaultyBackend):
    """Has its data in this process: an engine may take the very records."""

    def now(self) -> int:
        """Return the server's clock."""
        return self._server.clock.now()

    def attach(
        self,
        prefix: str,
        loop: asyncio.AbstractEventLoop | None,
        seal: Callable[[bytes], bytes],
    ) -> InlineTable:
        """Hand over the records under a prefix."""
        return self._server.attach(prefix, loop, seal)

    def detach(self) -> None:
        """Take them back."""
        self._server.detach()
