"""A world in which stores are used: one server, processes with their stores, and calls.

It makes calls and notes what became of them, ends all faults, and then looks whether
anything is stuck, lost or wrong. What is called when, and what goes wrong, is up to
``schedule`` (drawn from a seed) and to the cancellation tests (step by step).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions.conformance.history import (
    CHANGES,
    Call,
    History,
    Ids,
    Outcome,
    Refused,
    Shape,
    Verb,
    Violation,
    ids_of,
    listed,
)
from botsessions.conformance.linearizability import check_linearizable
from botsessions.conformance.order import check_order
from botsessions.errors import OutcomeUnknownError, SessionError, StoreClosedError
from botsessions.keys import SessionKey
from botsessions.store import SessionStore
from tests.simulation.faulty import Faults, FaultyBackend
from tests.simulation.loop import DeadlockError, LivelockError, SimulatedLoop
from tests.simulation.moments import ENDLESS, Lifetime, check_moments
from tests.simulation.server import NAMESPACE, Clock, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

T = TypeVar("T")

_running: ContextVar[Process | None] = ContextVar("_running", default=None)


class Process:
    """A process of the bot: a store, its connection, and all tasks that it started."""

    def __init__(self, name: str, store: SessionStore, backend: FaultyBackend) -> None:
        self.name = name
        self.store = store
        self.backend = backend
        self.tasks: list[asyncio.Task[Any]] = []
        self.crashed = False
        self.closed = False

    @property
    def alive(self) -> bool:
        """Whether it still works."""
        return not self.crashed and not self.closed

    @property
    def engine(self) -> list[asyncio.Task[Any]]:
        """The tasks of the store's engine."""
        named = "botsessions-"
        return [task for task in self.tasks if task.get_name().startswith(named)]

    def crash(self) -> None:
        """End at once: nothing here goes on, and nothing is closed."""
        self.crashed = True
        for task in self.tasks:
            task.cancel()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let what is started meanwhile belong to this process."""
        token = _running.set(self)
        try:
            yield
        finally:
            _running.reset(token)

    async def close(self) -> None:
        """Close the store, whatever is under way; must leave nothing open."""
        self.closed = True
        with self.running():
            await self.store.aclose()
        if self.backend.is_open:
            raise Violation(f"{self.name} closed its store, and its backend is open")


class World:
    """Everything there is in one run; ``log`` is told of every event, in order."""

    def __init__(
        self,
        loop: SimulatedLoop,
        *,
        keys: int = 1,
        flat: bool = False,
        lifetime: Lifetime = ENDLESS,
        log: Callable[..., None] | None = None,
    ) -> None:
        self.loop = loop
        self.lifetime = lifetime
        self.shape = Shape(flat=flat)
        self.clock = Clock(loop)
        self.history = History(self.clock.now)
        self.server = Server(self.clock, self.history.tick, self.log)
        self.keys = [SessionKey(chat_id=number + 1) for number in range(keys)]
        self.processes: list[Process] = []
        self.slowest = 0.0
        self.slowest_get = 0.0
        self._listener = log
        loop.set_task_factory(_adopt)

    def start(
        self,
        name: str,
        seed: str,
        faults: Faults,
        *,
        concurrent_batches: int = 1,
        slow_functions: float = 0.0,
        timeout: float = 4.0,
        max_pending: int = 24,
    ) -> Process:
        """Start a process, whose luck is drawn from a seed.

        ``slow_functions`` is the chance that a function takes long, each time the
        engine looks at its watch.
        """
        backend = FaultyBackend(
            self.server,
            faults,
            random.Random(f"{seed}/network"),
            name=name,
            concurrent_batches=concurrent_batches,
        )
        store = SessionStore(
            backend,
            namespace=NAMESPACE,
            ttl=_seconds(self.lifetime.ttl),
            max_age=_seconds(self.lifetime.max_age),
            max_pending=max_pending,
            timeout=timeout,
            rng=random.Random(f"{seed}/engine"),
            timer=_watch(random.Random(f"{seed}/functions"), slow_functions),
        )
        process = Process(name, store, backend)
        self.processes.append(process)
        return process

    def step_clock(self, seconds: float) -> None:
        """Let the server's clock jump."""
        self.log("clock", "jumps by", seconds)
        self.clock.step(seconds)

    def log(self, *what: object) -> None:
        """Tell of an event."""
        if self._listener is not None:
            self._listener(self.loop.time(), *what)

    # Calls.

    async def call(self, process: Process, key: SessionKey, verb: Verb) -> Call:
        """Make one call and note its answer, whatever it is.

        A cancelled one is noted as such, and the task goes on (unless it crashed).
        """
        call = self.history.begin(str(key), verb, process.name)
        since = self.loop.time()
        self.log(process.name, "calls", call)
        try:
            with process.running():
                saw = await self._perform(process.store, key, call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise Violation(f"cancelled, and by nobody: {call}") from None
            if process.crashed:
                call.note = "crashed"
                raise
            task.uncancel()
            self.history.end(call, Outcome.UNKNOWN, None, "cancelled")
        except OutcomeUnknownError as exc:
            self.history.end(call, Outcome.UNKNOWN, None, repr(exc))
        except SessionError as exc:
            self.history.end(call, Outcome.FAILED, None, repr(exc))
        except Violation:
            raise
        except Exception as exc:
            raise Violation(f"an exception of nobody's, {exc!r}: {call}") from exc
        else:
            self.history.end(call, Outcome.DONE, saw)
        took = self.loop.time() - since
        self.slowest = max(self.slowest, took)
        if verb is Verb.GET:
            self.slowest_get = max(self.slowest_get, took)
        self.log(process.name, "is answered", call)
        return call

    async def _perform(
        self, store: SessionStore, key: SessionKey, call: Call
    ) -> Ids | None:
        match call.verb:
            case Verb.GET:
                session = await store.get(key)
            case Verb.PUT:
                await store.put(key, self.shape.session(call.id))
                return None
            case Verb.DELETE:
                await store.delete(key)
                return None
            case _:
                try:
                    session = await store.update(key, self.shape.function(call))
                except Refused as refused:
                    return refused.ids
        ids = ids_of(session)
        self.shape.spoil(session)
        return ids

    def play(self, main: Coroutine[Any, Any, T]) -> T:
        """Run something on the loop; if it hangs, tell who has no answer."""
        try:
            return self.loop.play(main)
        except (DeadlockError, LivelockError) as exc:
            waiting = [
                call
                for call in self.history.calls
                if call.outcome is Outcome.UNKNOWN and not call.note
            ]
            raise Violation(f"no answer to{listed(*waiting)}\n{exc}") from None

    # What must be true in the end.

    async def audit(self, slots: int, poisoned: Iterable[str] = ()) -> None:
        """Look, after all faults: no key is stuck, no slot lost, all can be closed."""
        auditor = self.start("auditor", "auditor", Faults())
        working = [process for process in self.processes if process.alive]
        for key in self.keys:
            await self._must(auditor, key, Verb.GET)
            for process in working:
                if process is not auditor and place_of(key) not in poisoned:
                    await self._must(process, key, Verb.UPDATE)
        for process in working:
            gets = [process.store.get(self.keys[0]) for _ in range(slots)]
            for answer in await asyncio.gather(*gets, return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise Violation(f"{process.name} lost a slot: {answer!r}")
        for process in working:
            await process.close()
        for process in self.processes:
            if process.closed:
                with contextlib.suppress(StoreClosedError):
                    await process.store.get(self.keys[0])
                    raise Violation(f"the closed store of {process.name} answers")

    async def _must(self, process: Process, key: SessionKey, verb: Verb) -> None:
        call = await self.call(process, key, verb)
        if call.outcome is not Outcome.DONE:
            raise Violation(f"fails when all faults are over: {call}")

    def judge(self) -> None:
        """Raise ``Violation`` if an answer was wrong or anybody complained."""
        complaints = [*self.loop.complaints, *self.server.complaints]
        if complaints:
            raise Violation("; ".join(complaints))
        for call in self.history.calls:
            self._judge_unknown(call)
        expiring = self.lifetime != ENDLESS
        for key in map(str, self.keys):
            calls = [call for call in self.history.calls if call.key == key]
            landings = [there for there in self.server.journal if there.key == key]
            check_order(
                calls, stored={there.ids for there in landings}, expiring=expiring
            )
            check_moments(calls, landings, self.lifetime)
            check_linearizable(calls, expiring=expiring)

    def _judge_unknown(self, call: Call) -> None:
        """No outcome is called unknown unless a write for the key got no answer."""
        if call.outcome is not Outcome.UNKNOWN or call.note in {"cancelled", "crashed"}:
            return
        if call.verb not in (*CHANGES, Verb.DELETE):
            raise Violation(f"it changes nothing, so nothing is doubtful: {call}")
        if not any(
            place_of(call.key) in attempt.places
            and call.called < attempt.sent < call.returned < attempt.settled
            for attempt in self._process(call).backend.attempts
        ):
            raise Violation(f"there was nothing doubtful about it: {call}")

    def _process(self, call: Call) -> Process:
        return next(p for p in self.processes if p.name == call.process)


def _adopt(
    loop: asyncio.AbstractEventLoop, work: Any, **options: Any
) -> asyncio.Task[Any]:
    """Make a task, as loops do, and give it to the process that starts it."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    process = _running.get()
    if process is not None:
        process.tasks.append(task)
    return task


def place_of(key: object) -> str:
    """Return the name by which a backend knows a key."""
    return f"{NAMESPACE}/{key}"


def _watch(rng: random.Random, slowness: float) -> Callable[[], float]:
    """Return a watch on which, now and then, a long time has passed."""
    passed = 0.0

    def read() -> float:
        nonlocal passed
        if rng.random() < slowness:
            passed += 0.010
        return passed

    return read


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
