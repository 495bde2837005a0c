"""A backend over a network that fails, drawn from a seed: how processes see the server.

A request travels by itself once it was sent: whether its sender waits, gave up or died,
it arrives when it arrives. Also watches over the engine's part of the contract: a key
once in a batch, in one batch at a time, and no more batches than were agreed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import sys
from typing import TYPE_CHECKING, NoReturn, TypeVar

from botsessions.conformance.history import NEVER
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    OutcomeUnknownError,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping, Sequence

    from botsessions.backend import Outcome
    from botsessions.record import Loaded, Write
    from tests.simulation.server import Server

F = TypeVar("F", bound=enum.Enum)

_REFUSED = BackendError("injected: this one refused")
_AWAY = BackendUnavailableError("injected: this one's server is away")
_REQUEST_LOST = OutcomeUnknownError("injected: this one's request lost")
_ANSWER_LOST = OutcomeUnknownError("injected: this one's answer lost")
_FATES = (_REFUSED, _AWAY, _REQUEST_LOST, _ANSWER_LOST)


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


class LoadFault(enum.Enum):
    """What may happen to a load."""

    LOST = "no answer"
    SLOW = "slow"
    BROKEN = "some exception"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    EACH = "some keys refused, the others read"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what happens; times are the longest ones, in seconds.

    ``silence`` is the share of lost answers after which nothing at all comes; else an
    error tells that the outcome is unknown. ``limit`` bounds how much happens to one
    process. ``poisoned`` keys make every batch fail in which they are written.
    """

    commit: Mapping[CommitFault, float] = dataclasses.field(default_factory=dict)
    load: Mapping[LoadFault, float] = dataclasses.field(default_factory=dict)
    trip: float = 0.002
    slow: float = 0.5
    late: float = 10.0
    silence: float = 0.3
    limit: int = sys.maxsize
    poisoned: frozenset[str] = frozenset()


@dataclasses.dataclass(slots=True)
class Attempt:
    """Writes that were sent, and when (ticks) it became known what came of them."""

    places: set[str]
    sent: int
    settled: int = NEVER


class FaultyBackend:
    """One process's connection to the server."""

    def __init__(
        self,
        server: Server,
        faults: Faults,
        rng: random.Random,
        *,
        name: str = "",
        concurrent_batches: int = 1,
    ) -> None:
        self.concurrent_batches = concurrent_batches
        self.faults = faults
        self._server = server
        self._rng = rng
        self._name = name
        self.refusals = 0  # how often to fail to open
        self._opened = 0
        self._happened = 0
        self._writing: dict[str, int] = {}
        self._batches = 0
        self.attempts: list[Attempt] = []

    async def open(self) -> None:
        await self._travel()
        if self.refusals:
            self.refusals -= 1
            raise BackendUnavailableError("injected: cannot be opened")
        self._opened += 1

    async def aclose(self) -> None:
        await self._travel()
        self._opened -= 1

    @property
    def is_open(self) -> bool:
        return self._opened > 0

    async def load(self, keys: Sequence[str]) -> Loaded:
        fault = self._draw(self.faults.load)
        self._log("loads", fault, *keys)
        if len(set(keys)) != len(keys):
            self._complain("a key is loaded twice in one batch")
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
        loaded = self._server.load(keys)
        await self._travel()
        if fault is LoadFault.EACH:
            records = [self._rng.choice([r, _REFUSED, _AWAY]) for r in loaded.records]
            return loaded._replace(records=records)
        return loaded

    async def commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        with self._watched([write.key for write in writes]):
            attempt = Attempt({write.key for write in writes}, self._server.tick())
            self.attempts.append(attempt)
            try:
                answer = await self._commit(writes)
            except BackendError:
                attempt.settled = self._server.tick()
                raise
            attempt.settled = self._server.tick()
            unknown = {
                write.key
                for write, outcome in zip(writes, answer, strict=True)
                if isinstance(outcome, OutcomeUnknownError)
            }
            self.attempts.append(Attempt(unknown, attempt.sent))
            self._log("is told", *answer)
            return answer

    async def sweep(self, prefix: str, limit: int) -> int:
        await self._travel()
        return self._server.sweep(prefix, limit)

    async def _commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        fault = self._draw(self.faults.commit)
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
                self._send(writes, trip)
                await self._lose_answer()
            case CommitFault.LATE:
                self._send(writes, self._rng.random() * self.faults.late)
                await self._lose_answer()
            case CommitFault.PART:
                self._send([w for w in writes if self._rng.random() < 0.5], trip)
                await self._lose_answer()
            case CommitFault.TWICE:
                # Never ahead of the other: "False" must mean that no copy has landed.
                self._send(writes, trip + self._rng.random() * self.faults.late)
            case CommitFault.EACH:
                return await self._commit_each(writes, trip)
        return await self._send(writes, trip)

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
        self, writes: Sequence[Write], delay: float
    ) -> asyncio.Future[Sequence[bool]]:
        """Put writes on their way; return the answer that comes back, if one waits."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[bool]] = loop.create_future()
        back = self._trip()

        def arrive() -> None:
            landed = self._server.commit(writes)
            loop.call_later(back, come_back, landed)

        def come_back(landed: Sequence[bool]) -> None:
            if not answer.done():
                answer.set_result(landed)

        loop.call_later(delay, arrive)
        return answer

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

    def _draw(self, rates: Mapping[F, float]) -> F | None:
        drawn = self._rng.random()
        for fault, rate in rates.items():
            drawn -= rate
            if drawn < 0 and self._happened < self.faults.limit:
                self._happened += 1
                return fault
        return None

    @contextlib.contextmanager
    def _watched(self, keys: Sequence[str]) -> Iterator[None]:
        """Complain if the engine breaks its part of the contract."""
        self._batches += 1
        if self._batches > self.concurrent_batches:
            self._complain(f"{self._batches} batches are under way at once")
        for key in keys:
            if key in self._writing:
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
