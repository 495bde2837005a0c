"""A world in which stores are used: one server, processes with their stores, and calls.

It makes calls and notes what became of them, ends all faults, and then looks whether
anything is stuck, lost or wrong. What is called when, and what goes wrong, is up to
``schedule`` (drawn from a seed) and to the cancellation tests (step by step).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from botsessions.conformance.histories.history import (
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
from botsessions.conformance.histories.linearizability import check_linearizable
from botsessions.conformance.histories.order import check_order
from botsessions.errors import (
    BackendError,
    CorruptRecordError,
    LockLostError,
    OutcomeUnknownError,
    SessionError,
    StoreClosedError,
)
from botsessions.keys import SessionKey
from botsessions.record import GRACE_MS, Record
from botsessions.store import SessionStore
from tests.simulation.faulty import Faults, FaultyBackend
from tests.simulation.fences import check_fenced
from tests.simulation.loop import (
    TRUE_TIME,
    DeadlockError,
    LivelockError,
    LocalTime,
    SimulatedLoop,
)
from tests.simulation.moments import (
    ENDLESS,
    Lifetime,
    check_moments,
    check_presence,
)
from tests.simulation.reasons import Circumstances, check_failed, check_unknown
from tests.simulation.server import (
    NAMESPACE,
    Clock,
    Disk,
    Server,
    lock_of,
    place_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from botsessions.lock import Lock

T = TypeVar("T")

# What is said of a call that ended before there was an answer.
NOTES = ("cancelled", "crashed")
# So many leases long one has patience with those who have a lock.
PATIENCE = 6

_running: ContextVar[Process | None] = ContextVar("_running", default=None)


class Face(Protocol):
    """The four verbs on one session: as anybody has them, or a lock's holder."""

    async def get(self) -> dict[Any, Any]: ...

    async def put(self, session: Mapping[Any, Any]) -> None: ...

    async def delete(self) -> None: ...

    async def update(
        self, function: Callable[[dict[Any, Any]], Mapping[Any, Any]]
    ) -> dict[Any, Any]: ...


class _Plain:
    """The face of a session without a lock."""

    def __init__(self, store: SessionStore, key: SessionKey) -> None:
        self._store = store
        self._key = key

    async def get(self) -> dict[Any, Any]:
        return await self._store.get(self._key)

    async def put(self, session: Mapping[Any, Any]) -> None:
        await self._store.put(self._key, session)

    async def delete(self) -> None:
        await self._store.delete(self._key)

    async def update(
        self, function: Callable[[dict[Any, Any]], Mapping[Any, Any]]
    ) -> dict[Any, Any]:
        return await self._store.update(self._key, function)

    def lock(self, lease: float) -> AbstractAsyncContextManager[Lock]:
        """Ask for the lock of the session, with patience."""
        return self._store.lock(self._key, lease=lease, timeout=PATIENCE * lease)


class Process:
    """A process of the bot: stores, their connection, and all tasks that it started."""

    def __init__(
        self,
        name: str,
        stores: list[SessionStore],
        backend: FaultyBackend,
        local_time: LocalTime = TRUE_TIME,
        *,
        timeout: float,
        max_pending: int,
    ) -> None:
        self.name = name
        self.stores = stores
        self.backend = backend
        self.local_time = local_time
        self.timeout = timeout
        self.max_pending = max_pending
        self.tasks: list[asyncio.Task[Any]] = []
        self.crashed = False
        self.closed = False

    @property
    def store(self) -> SessionStore:
        """Its first store, which may be all it has."""
        return self.stores[0]

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
        """Close the stores, whatever is under way; must leave nothing open."""
        self.closed = True
        with self.running():
            for store in self.stores:
                await store.aclose()
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
        disk: Disk | None = None,
        luck: random.Random | None = None,
        clock_rate: float = 1.0,
        log: Callable[..., None] | None = None,
    ) -> None:
        self.loop = loop
        self.lifetime = lifetime
        self.shape = Shape(flat=flat)
        self.clock = Clock(loop, clock_rate)
        self.history = History(self.clock.now)
        self.server = Server(
            loop, self.clock, self.history.tick, self.log, disk=disk, luck=luck
        )
        # What the locks say under which changes were made, by the ids of the calls.
        self.guards: dict[int, bytes] = {}
        self.sightings: list[Call] = []
        # Whether clocks go as one, and whether nothing is changed without a lock.
        self.honest_clocks = True
        self.exclusive = False
        # What there was to see, beside what network and server count.
        self.happened: Counter[str] = Counter()
        self._held: dict[str, list[Lock]] = {}
        self.keys = [SessionKey(chat_id=number + 1) for number in range(keys)]
        self.processes: list[Process] = []
        # The longest waits, in seconds, by what was waited for.
        self.slowest: dict[str, float] = {}
        self._listener = log
        populate(loop)

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
        stores: int = 1,
        kind: type[FaultyBackend] = FaultyBackend,
        local_time: LocalTime = TRUE_TIME,
    ) -> Process:
        """Start a process, whose luck is drawn from a seed.

        ``slow_functions`` is the chance that a function takes long, each time the
        engine looks at its watch. ``kind`` says what the backend can do.
        """
        backend = kind(
            self.server,
            faults,
            random.Random(f"{seed}/network"),
            name=name,
            concurrent_batches=concurrent_batches,
            stores=stores,
        )
        made = [
            SessionStore(
                backend,
                namespace=NAMESPACE,
                ttl=_seconds(self.lifetime.ttl),
                max_age=_seconds(self.lifetime.max_age),
                max_pending=max_pending,
                timeout=timeout,
                rng=random.Random(f"{seed}/engine{number or ''}"),
                timer=_watch(random.Random(f"{seed}/functions"), slow_functions),
            )
            for number in range(stores)
        ]
        process = Process(
            name, made, backend, local_time, timeout=timeout, max_pending=max_pending
        )
        self.processes.append(process)
        return process

    def step_clock(self, seconds: float) -> None:
        """Let the server's clock jump."""
        self.happened["clocks set"] += 1
        self.log("clock", "jumps by", seconds)
        self.clock.step(seconds)

    def log(self, *what: object) -> None:
        """Tell of an event."""
        if self._listener is not None:
            self._listener(self.loop.time(), *what)

    # Calls.

    async def call(
        self,
        process: Process,
        key: SessionKey,
        verb: Verb,
        *,
        store: SessionStore | None = None,
        lease: float | None = None,
    ) -> Call:
        """Make one call and note its answer, whatever it is.

        A cancelled one is noted as such, and the task goes on (unless it crashed). With
        a ``lease`` it is made under the lock of the key, after a look at the session.
        """
        call = self.history.begin(str(key), verb, process.name)
        since = self.loop.time()
        self.log(process.name, "calls", call)
        session = _Plain(process.store if store is None else store, key)
        with process.running():
            if lease is None:
                work = self._perform(session, call)
            else:
                work = self._perform_locked(session, call, lease)
            error = await self._answer(process, call, work)
        took = self.loop.time() - since
        plain = "get" if verb is Verb.GET else "call"
        self._note_wait(plain if lease is None else "call under a lock", took)
        self.log(process.name, "is answered", call)
        if error is not None:
            self._check_failed(process, call, error, took, lease)
        return call

    def _note_wait(self, what: str, seconds: float) -> None:
        self.slowest[what] = max(self.slowest.get(what, 0), seconds)

    def _check_failed(
        self,
        process: Process,
        call: Call,
        error: SessionError,
        took: float,
        lease: float | None,
    ) -> None:
        places = [place_of(call.key)]
        if lease is not None:
            places.append(place_of(lock_of(call.key)))
        beside = sum(
            other.process == call.process and call.called < other.returned
            for other in self.history.calls
            if other is not call
        )
        circumstances = Circumstances(
            took=took,
            timeout=process.timeout,
            patience=PATIENCE * (lease or 0),
            beside=beside,
            most=process.max_pending,
            is_closed=process.closed,
            lock_is_lost=self._is_lost(call),
            failures=process.backend.failures,
        )
        check_failed(call, error, places, circumstances)

    def _is_lost(self, call: Call) -> bool:
        """Tell whether the lock is not any more what it was when the call got it."""
        loaded = self.server.load([place_of(lock_of(call.key))])
        [found] = loaded.records
        if not isinstance(found, Record):
            return True
        return found.value != self.guards.get(call.id) or found.is_gone(loaded.now)

    async def _answer(
        self, process: Process, call: Call, work: Coroutine[Any, Any, Ids | None]
    ) -> SessionError | None:
        """Note the answer; return the error of a call that failed."""
        try:
            saw = await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise Violation(f"cancelled, and by nobody: {call}") from None
            if process.crashed:
                call.note = "crashed"
                raise
            task.uncancel()
            self.happened["calls cancelled"] += 1
            self.history.end(call, Outcome.UNKNOWN, None, "cancelled")
        except OutcomeUnknownError as exc:
            self.history.end(call, Outcome.UNKNOWN, None, repr(exc))
        except SessionError as exc:
            self.history.end(call, Outcome.FAILED, None, repr(exc))
            return exc
        except Violation:
            raise
        except Exception as exc:
            raise Violation(f"an exception of nobody's, {exc!r}: {call}") from exc
        else:
            self.history.end(call, Outcome.DONE, saw)
        return None

    async def _perform(self, session: Face, call: Call) -> Ids | None:
        match call.verb:
            case Verb.GET:
                answer = await session.get()
            case Verb.PUT:
                await session.put(self.shape.session(call.id))
                return None
            case Verb.DELETE:
                await session.delete()
                return None
            case _:
                try:
                    answer = await session.update(self.shape.function(call))
                except Refused as refused:
                    return refused.ids
        ids = ids_of(answer)
        self.shape.spoil(answer)
        return ids

    async def _perform_locked(
        self, session: _Plain, call: Call, lease: float
    ) -> Ids | None:
        done, saw = False, None
        try:
            async with session.lock(lease) as held:
                with self._holding(call, held):
                    before = ids_of(await held.get())
                    saw = await self._perform(held, call)
                    done = True
        except LockLostError:
            if not done:
                raise
            if not self._is_lost(call):
                raise Violation("its lock was lost, it says", call) from None
        if self.exclusive and saw and call.verb is Verb.UPDATE and saw[:-1] != before:
            raise Violation(f"changed between a holder's look and its change: {call}")
        return saw

    @contextlib.contextmanager
    def _holding(self, call: Call, held: Lock) -> Iterator[None]:
        """Note who holds a lock, and by what one can tell."""
        tenure = held._claim.tenure
        if tenure is not None:
            self.guards[call.id] = tenure.guard.value
            self.happened["calls under a lock"] += 1
        others = self._held.setdefault(call.key, [])
        if self.honest_clocks and any(other.is_held for other in others):
            raise Violation(f"two hold the lock, and both are certain: {call}")
        others.append(held)
        try:
            yield
        finally:
            others.remove(held)

    async def walk(self, process: Process, store: SessionStore) -> None:
        """Walk all sessions: each of them is read at some moment of the walk.

        So it is noted, and judged, as if each had been read meanwhile.
        """
        self.happened["walks"] += 1
        began = self.loop.true_time
        calls = {
            name: self.history.begin(name, Verb.GET, process.name)
            for name in map(str, self.keys)
        }
        self.log(process.name, "walks", *calls.values())
        found: dict[str, Ids] = {}
        try:
            with process.running():
                async with contextlib.aclosing(store.items()) as walk:
                    async for key, session in walk:
                        self._check_step(str(key), found)
                        found[str(key)] = ids_of(session)
        except asyncio.CancelledError:
            for call in calls.values():
                call.note = "crashed"
            check_crashed(process)
            raise
        except CorruptRecordError as exc:
            raise Violation(f"a walk cannot read what it meets: {exc}") from exc
        except BackendError as exc:
            for call in calls.values():
                self.history.end(call, Outcome.FAILED, None, repr(exc))
            return
        self._note_wait("walk", self.loop.true_time - began)
        for name, call in calls.items():
            self.history.end(call, Outcome.DONE, found.get(name, ()))
        self.log(process.name, "has walked", *found)

    async def walk_keys(self, process: Process, store: SessionStore) -> None:
        """Walk all keys: each was there, or was not, at some moment of the walk."""
        self.happened["walks"] += 1
        began = self.loop.true_time
        tick, now = self.history.tick(), self.clock.now()
        found: dict[str, Ids] = {}
        try:
            with process.running():
                async with contextlib.aclosing(store.keys()) as walk:
                    async for key in walk:
                        self._check_step(str(key), found)
                        found[str(key)] = (-1,)
        except asyncio.CancelledError:
            check_crashed(process)
            raise
        except CorruptRecordError as exc:
            raise Violation(f"a walk cannot read what it meets: {exc}") from exc
        except BackendError:
            return
        self._note_wait("walk", self.loop.true_time - began)
        end, ended = self.history.tick(), self.clock.now()
        for name in map(str, self.keys):
            call = Call(0, name, Verb.GET, tick, now, process.name, Outcome.DONE)
            call.returned, call.returned_at = end, ended
            call.saw = found.get(name, ())
            self.sightings.append(call)

    def _check_step(self, key: str, found: Mapping[str, object]) -> None:
        if key not in map(str, self.keys):
            raise Violation(f"a walk comes upon {key}, which is no session")
        if any(key <= earlier for earlier in found):
            raise Violation(f"a walk comes upon {key} after {', '.join(found)}")

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

    async def audit(self, poisoned: Iterable[str] = ()) -> None:
        """Look, after all faults: no key is stuck, no slot lost, all can be closed."""
        auditor = self.start("auditor", "auditor", Faults())
        working = [process for process in self.processes if process.alive]
        for key in self.keys:
            await self._must(auditor, key, Verb.GET)
            for process in working:
                if process is not auditor and place_of(key) not in poisoned:
                    await self._must(process, key, Verb.UPDATE)
        for process in working:
            for store in process.stores:
                await locks_end(process, store)
                _check_slots(process, store)
        await self._sweep_all(auditor)
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

    async def _sweep_all(self, auditor: Process) -> None:
        """Nothing that has been dead for long enough is left."""
        await self._must(auditor, self.keys[-1], Verb.DELETE)
        self.clock.step(GRACE_MS / 1000)
        due = self.server.dead()
        with auditor.running():
            await auditor.store.delete_expired()
        if left := set(due).intersection(self.server.dead()):
            raise Violation(f"not swept: {', '.join(sorted(left))}")

    def judge(self) -> None:
        """Raise ``Violation`` if an answer was wrong or anybody complained."""
        complaints = [*self.loop.complaints, *self.server.complaints]
        if complaints:
            raise Violation("; ".join(complaints))
        for call in self.history.calls:
            if call.outcome is Outcome.UNKNOWN and call.note not in NOTES:
                attempts = self._process(call).backend.attempts
                check_unknown(call, place_of(call.key), attempts)
        expiring = self.lifetime != ENDLESS
        for key in map(str, self.keys):
            calls = [call for call in self.history.calls if call.key == key]
            landings = [there for there in self.server.journal if there.key == key]
            check_order(
                calls, stored={there.ids for there in landings}, expiring=expiring
            )
            check_moments(calls, landings, self.lifetime)
            check_presence([c for c in self.sightings if c.key == key], landings)
            check_fenced(key, self.guards, landings, self.server.locks)
            check_linearizable(calls, expiring=expiring)

    def tally(self) -> Counter[str]:
        """Return how often what happened, in all processes and on the server."""
        counts = self.happened + self.server.tally()
        for process in self.processes:
            counts.update(process.backend.happened)
        return counts

    def _process(self, call: Call) -> Process:
        return next(p for p in self.processes if p.name == call.process)


def populate(loop: SimulatedLoop) -> None:
    """Let tasks belong to the process that starts them, and go by its clock."""
    loop.set_task_factory(_adopt)
    loop.local_time = _local_time


def _adopt(
    loop: asyncio.AbstractEventLoop, work: Any, **options: Any
) -> asyncio.Task[Any]:
    """Make a task, as loops do, and give it to the process that starts it."""
    process = _running.get()
    context = options.get("context")
    if process is not None and context is not None:
        context.run(_running.set, process)  # also workers, whose context is empty
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    if process is not None:
        process.tasks.append(task)
    return task


def _local_time() -> LocalTime:
    """Return how the clock goes of the process that is running."""
    process = _running.get()
    return TRUE_TIME if process is None else process.local_time


def _check_slots(process: Process, store: SessionStore) -> None:
    """As many may wait as ever: who was answered has left its slot, once."""
    engine = store._batched
    if engine is not None and engine._gate.pending:
        raise Violation(f"{process.name} has lost {engine._gate.pending} slots")


def check_crashed(process: Process) -> None:
    """Nothing but a crash cancels a walk, or whoever calls on and on."""
    if not process.crashed:
        raise Violation(f"{process.name} was cancelled, and by nobody")


async def locks_end(process: Process, store: SessionStore) -> None:
    """What nobody holds is given back soon."""
    for _ in range(100):
        if store._locks is None or not store._locks._queues:
            return
        await asyncio.sleep(1)
    raise Violation(f"{process.name} keeps a lock that nobody holds")


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
