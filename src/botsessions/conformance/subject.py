"""What a check works with: backends to make, keys of its own, a clock, and its steps.

The data may be shared by all backends that ``make`` returns (a file, a server) or be
each backend's own (memory). It is found out by looking, and a check need not know:
``open`` gives a further user of the same data either way. Neighbours: ``results``; the
checks (``contract``, ``contention``, …) use it, ``run`` makes it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    Self,
    TypeVar,
    cast,
    runtime_checkable,
)

from botsessions.conformance.histories.history import Violation
from botsessions.conformance.results import NotSupported
from botsessions.errors import BackendError, OutcomeUnknownError
from botsessions.record import Loaded, Record, Version, Write, ring_after
from botsessions.store import SessionStore

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from botsessions.backend import Backend, Outcome
    from botsessions.keys import SessionKey
    from botsessions.store import Session, UpdateFunction

    Make = Callable[..., Backend]

T = TypeVar("T")

MINUTE_MS = 60_000
# So many keys a store asks for in a page.
PAGE = 500
# Seconds for which a call of a backend may be busy.
_PATIENCE = 10.0
# Seconds by which a write that was acknowledged may be late, for us to notice.
_LATE = 0.05
# What the contract asks of every backend (``Backend``).
_NAMES = ("concurrent_batches", "open", "aclose", "load", "commit")


@runtime_checkable
class SetsClock(Protocol):
    """A ``make`` that can set the clock that its backends go by: a server's, in a test.

    The clock stands still then, but for what the kit sets. Where a backend can be given
    a clock there is no need for it: a ``make`` with a parameter ``clock`` gets the
    kit's.
    """

    def set_clock(self, seconds: float) -> None:
        """Let it be this time (seconds since the epoch)."""


class Clock:
    """Seconds since the epoch, ahead of the real time or behind it, or standing still.

    It runs unless a check stops it: a backend may wait for its clock to go on.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._stopped: float | None = None

    def __call__(self) -> float:
        """Return the time."""
        return (time.time() if self._stopped is None else self._stopped) + self._offset

    def stop(self) -> None:
        """Go on by ``move`` only."""
        self._stopped = time.time()

    def move(self, seconds: float) -> None:
        """Go ahead, or back."""
        self._offset += seconds


class Subject:
    """The backend under test, for one check on one event loop."""

    def __init__(self, make: Make, rng: random.Random) -> None:
        self.make = make
        self.rng = rng
        self.steps: list[str] = []
        self.drawing = ""
        self.prefix = f"conform{rng.getrandbits(40):010x}/"
        self._clock = Clock() if takes_clock(make) else None
        self._setter = setter_of(make)
        self._set_at = time.time()
        self._first: Backend | None = None
        self._is_shared: bool | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._setter is not None:
            self._setter.set_clock(self._set_at)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    # Backends and stores.

    def made(self) -> Backend:
        """Return a new backend that is not open."""
        return made_by(self.make, self._clock)

    async def unopened(self) -> Backend:
        """Return an unopened backend over the data of this check.

        It is a new object, or the only one there can be.
        """
        if self._first is None:
            self._first = self.made()
            return self._first
        return self.made() if await self.is_shared() else self._first

    async def open(self) -> Watched:
        """Return an open backend over the data of this check; closed at its end."""
        backend = opened(await self.unopened())
        return Watched(await self._stack.enter_async_context(backend), self)

    async def able(self, ability: type[Any], methods: str) -> Any:
        """Return what ``open`` does; go on only if it has the ability (a protocol)."""
        backend = (await self.open()).backend
        if not isinstance(backend, ability):
            raise NotSupported(f"it has no {methods}")
        return backend

    async def store(self, **options: Any) -> SessionStore:
        """Return an open store over the data of this check; closed at its end."""
        given: dict[str, Any] = {
            "namespace": self.namespace,
            "rng": self.rng,
            **options,
        }
        store = _NotedStore(await self.unopened(), **given)
        store.steps = self.steps
        return await self._stack.enter_async_context(store)

    @property
    def namespace(self) -> str:
        """Return the namespace whose keys are this check's own."""
        return self.prefix.removesuffix("/")

    async def is_shared(self) -> bool:
        """Tell whether another backend that ``make`` returns sees the same data."""
        if self._is_shared is None:
            self._is_shared = await self._sees_what_another_wrote()
        return self._is_shared

    async def _sees_what_another_wrote(self) -> bool:
        # Of a prefix of its own: a check may list all that begins with its own.
        key = f"conform{self.rng.getrandbits(40):010x}/shared"
        async with opened(self.made()) as first:
            until = await in_a_minute(first)
            record = fresh(self.rng, b"\x01", expires_at=until)
            [landed] = await first.commit([Write(key, None, record, until)])
            expect(
                landed is True,
                f"a creation where nothing was did not land, it was told {landed!r}",
            )
            # Opened later: who reads what was there as it opened still shares it.
            if await self._finds(key):
                return True
        # So does one that writes when it is closed, or is late with its writes.
        await asyncio.sleep(_LATE)
        return await self._finds(key)

    async def _finds(self, key: str) -> bool:
        async with opened(self.made()) as backend:
            [found] = (await backend.load([key])).records
            return found is not None

    async def need_shared(self) -> None:
        """Go on only if backends that are made apart share their data."""
        if not await self.is_shared():
            raise NotSupported("each backend that make() returns has data of its own")

    # Keys, versions, records.

    def key(self, text: str = "key") -> str:
        """Return a key that no other check uses."""
        return self.prefix + text

    def version(self, counter: int = 1) -> Version:
        """Return a version that there never was."""
        return Version(counter, self.rng.getrandbits(64) - (1 << 63))

    def record(
        self,
        value: bytes = b"value",
        before: Record | None = None,
        expires_at: int | None = None,
    ) -> Record:
        """Return a record that may follow another, as the engine makes them."""
        return fresh(self.rng, value, before, expires_at)

    # Time.

    def stop_clock(self) -> None:
        """Let the clock of the backend stand still but for ``pass_time``."""
        if self._clock is not None:
            self._clock.stop()
        elif self._setter is None:
            raise NotSupported(
                "its clock cannot be set: make() takes no clock, and make has no "
                "set_clock(seconds) of its own"
            )

    async def pass_time(self, milliseconds: int) -> None:
        """Let time pass by the clock of the backend (also back, if it can be moved)."""
        self.steps.append(f"{milliseconds:+,} ms pass")
        if self._clock is not None:
            self._clock.move(milliseconds / 1000)
        elif self._setter is not None:
            self._set_at += milliseconds / 1000
            self._setter.set_clock(self._set_at)
        else:
            await asyncio.sleep(milliseconds / 1000)


class Watched:
    """A backend whose loads and commits are noted as the steps of a check."""

    def __init__(self, backend: Backend, subject: Subject) -> None:
        self.backend = backend
        self._subject = subject

    async def load(self, *keys: str) -> list[Record | BackendError | None]:
        """Load records; only what was asked for, as many, may come back."""
        return list((await self.loaded(*keys)).records)

    async def loaded(self, *keys: str) -> Loaded:
        """Load records with the clock, as the backend answers them."""
        names = " ".join(map(self._short, keys[:5])) + (" …" if len(keys) > 5 else "")
        self._note(f"load {names}")
        loaded = await awaitable(self.backend.load(keys), "load")
        if not isinstance(loaded, Loaded):
            raise Violation(f"load answered {loaded!r:.60}, no Loaded")
        records = _sequence(loaded.records, "the records of a load are")
        for record in records:
            if record is not None and not isinstance(record, BackendError):
                must_be_record(record)
        found = ", ".join(map(described, records[:5]))
        self._note(f"  is answered {found or 'nothing'} (now {loaded.now})")
        expect(
            len(records) == len(keys),
            f"{len(keys)} keys were asked for, {len(records)} records came",
        )
        return loaded

    async def found(self, key: str) -> Record:
        """Load a record that must be there."""
        [record] = await self.load(key)
        if not isinstance(record, Record):
            raise Violation(f"no record where one was: {record!r}")
        return record

    async def commit(self, *writes: Write) -> Sequence[Outcome]:
        """Commit writes, as one batch."""
        for write in writes[:5]:
            expected = "none" if write.expected is None else shown(write.expected)
            self._note(
                f"commit {self._short(write.key)}: {expected} → "
                f"{described(write.record)} (not after {write.not_after})"
            )
        if len(writes) > 5:
            self._note(f"  … and {len(writes) - 5:,} more")
        answer = await awaitable(self.backend.commit(writes), "commit")
        landed = _sequence(answer, "commit answered")
        answers = ", ".join(map(repr, landed[:5])) + (", …" if len(landed) > 5 else "")
        self._note(f"  is answered [{answers}]")
        for answer in landed:
            expect(
                isinstance(answer, bool | BackendError | OutcomeUnknownError),
                f"a write was answered {answer!r:.60}, neither a bool nor an error",
            )
        expect(
            len(landed) == len(writes),
            f"{len(writes)} writes went out, {len(landed)} answers came",
        )
        return landed

    async def write(
        self, key: str, expected: Record | None, record: Record, not_after: int = 0
    ) -> bool:
        """Commit one write that is in time; tell whether it landed."""
        version = None if expected is None else expected.version
        until = not_after or await in_a_minute(self.backend)
        [landed] = await self.commit(Write(key, version, record, until))
        if not isinstance(landed, bool):
            raise Violation(f"an error instead of an answer: {landed!r}")
        return landed

    async def must_write(
        self, key: str, expected: Record | None, record: Record
    ) -> Record:
        """Commit one write that has to land; return its record."""
        landed = await self.write(key, expected, record)
        expect(landed, "a write in time that expected what is there did not land")
        return record

    async def must_create(self, records: Mapping[str, Record]) -> None:
        """Commit records where nothing is, in one batch; all of them have to land."""
        until = await in_a_minute(self.backend)
        writes = [Write(key, None, record, until) for key, record in records.items()]
        missed = [did for did in await self.commit(*writes) if did is not True]
        expect(
            not missed,
            f"of {len(writes):,} creations {len(missed):,} did not land; the first was "
            f"told {missed[:1]}",
        )

    def _short(self, key: str) -> str:
        text = key.removeprefix(self._subject.prefix)
        return text if len(text) <= 60 else f"{text[:40]}…({len(text)})"

    def _note(self, line: str) -> None:
        self._subject.steps.append(line)


class _NotedStore(SessionStore):
    """A store whose calls are noted as the steps of a check."""

    steps: list[str]

    async def get(self, key: SessionKey) -> Session:
        return await self._noted(f"get {key}", super().get(key))

    async def put(self, key: SessionKey, session: Mapping[Any, Any]) -> None:
        await self._noted(f"put {key} {session!s:.60}", super().put(key, session))

    async def update(self, key: SessionKey, function: UpdateFunction) -> Session:
        name = getattr(function, "__name__", "a function")
        return await self._noted(
            f"update {key} by {name}", super().update(key, function)
        )

    async def delete(self, key: SessionKey) -> None:
        await self._noted(f"delete {key}", super().delete(key))

    async def aclose(self) -> None:
        await self._noted("close the store", super().aclose())

    async def _noted(self, call: str, answer: Awaitable[T]) -> T:
        self.steps.append(call)
        try:
            answered = await answer
        except BaseException as exc:
            self.steps.append(f"  {call}: raises {exc!r:.100}")
            raise
        if answered is not None:
            self.steps.append(f"  {call}: is answered {answered!s:.100}")
        return answered


def expect(condition: object, message: str) -> None:
    """Raise ``Violation`` unless something is so."""
    if not condition:
        raise Violation(message)


def must_be_record(found: Any) -> None:
    """Refuse what may well equal a record and is none: a tuple, a bytearray in it."""
    if not isinstance(found, Record):
        raise Violation(f"{found!r:.60} came in the place of a record")
    if not isinstance(found.version, Version):
        raise Violation(f"the version of a record is {found.version!r:.60}, no Version")
    end = None if found.expires_at is None else 0
    for name, field, like in zip(
        (*Version._fields, *Record._fields),
        (*found.version, *found),
        (0, 0, Version(0, 0), b"", b"", 0, end),
        strict=True,
    ):
        kind, right = type(field), type(like)
        expect(
            kind is right,
            f"{name} of a record is {field!r:.40}, of {kind.__name__}: it must be of "
            f"{right.__name__}",
        )


def fresh(
    rng: random.Random,
    value: bytes,
    before: Record | None = None,
    expires_at: int | None = None,
) -> Record:
    """Return a record that may follow another, with a version of its own."""
    counter = 1 if before is None else before.version.counter + 1
    version = Version(counter, rng.getrandbits(64) - (1 << 63))
    created_at = int(time.time() * 1000) if before is None else before.created_at
    return Record(version, value, ring_after(before), created_at, expires_at)


class opened:  # noqa: N801 - it reads like contextlib's own
    """Open a backend, and close it whatever comes.

    No generator: where a call hangs is looked for from one coroutine to the next.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def __aenter__(self) -> Backend:
        await awaitable(self._backend.open(), "open")
        return self._backend

    async def __aexit__(self, *exc_info: object) -> None:
        await awaitable(self._backend.aclose(), "aclose")


def awaitable(answer: Awaitable[T], method: str) -> Awaitable[T]:
    """Return what a method answered, or TypeError if it cannot be awaited."""
    if not inspect.isawaitable(answer):
        raise TypeError(
            f"{method}() returned {answer!r:.60}, which cannot be awaited: "
            f"write async def {method}"
        )
    return answer


async def within(work: Awaitable[T], what: str) -> T:
    """Wait for work that takes a moment; ``what`` is wrong if it takes for ever."""
    try:
        async with asyncio.timeout(_PATIENCE) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():  # it is the backend's own
            raise
        raise Violation(f"no answer for {_PATIENCE:g} s: {what}") from None


async def together(*works: Awaitable[T]) -> list[T]:
    """Do all at once; if one fails, the others are over before that is told.

    Else they would go on with a backend that is being closed.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def on_another_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do it on another thread's event loop.

    It is made there: cancelled before that, it leaves no coroutine unawaited.
    """
    return await asyncio.to_thread(lambda: asyncio.run(work()))


async def now(backend: Backend) -> int:
    """Return the time by the clock of the backend, in milliseconds."""
    return (await awaitable(backend.load(["conform/clock"]), "load")).now


async def in_a_minute(backend: Backend) -> int:
    """Return a moment until which a write may land, by the clock of the backend."""
    return await now(backend) + MINUTE_MS


def described(record: Record | BackendError | None) -> str:
    """Return a record in a few words."""
    if not isinstance(record, Record):
        return "none" if record is None else repr(record)
    value = repr(record.value[:12]) if record.value else "deleted"
    size = f" ({len(record.value):,} bytes)" if len(record.value) > 12 else ""
    end = "" if record.expires_at is None else f", until {record.expires_at}"
    return f"{shown(record.version)} {value}{size}{end}"


def shown(version: Version) -> str:
    """Return a version in a few characters."""
    return f"{version.counter}·{version.token & 0xFFFF:04x}"


def made_by(make: Make, clock: Callable[[], float] | None) -> Backend:
    """Return a new backend that goes by this clock if it takes one, or TypeError."""
    if not callable(make):
        raise TypeError(
            f"make is {make!r:.60}: it must be a function (or class) that is called "
            "without arguments and returns a new backend"
        )
    backend: object = make() if clock is None else make(clock=clock)
    if inspect.isawaitable(backend):
        if inspect.iscoroutine(backend):
            backend.close()  # or Python warns that nobody has awaited it
        raise TypeError(
            "make() returned an awaitable: it must be a plain function; what has to be "
            "awaited belongs into open()"
        )
    if backend is None:
        raise TypeError("make() returned None, and no backend")
    if isinstance(backend, type):
        raise TypeError(
            f"make() returned the class {backend.__name__}: it must call it"
        )
    if missing := [name for name in _NAMES if not hasattr(backend, name)]:
        kind = type(backend).__name__
        raise TypeError(f"make() returned {kind}, which has no {', '.join(missing)}")
    return cast("Backend", backend)


def takes_clock(make: Make) -> bool:
    """Tell whether a backend can be given a clock."""
    try:
        return "clock" in inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False


def _sequence(answer: Any, what: str) -> Sequence[Any]:
    if isinstance(answer, Sequence) and not isinstance(answer, str | bytes):
        return answer
    raise Violation(f"{what} {answer!r:.60}, no sequence")


def setter_of(make: object) -> SetsClock | None:
    """Return ``make`` if it can set the clock of what it makes."""
    if not isinstance(make, SetsClock):
        return None
    try:
        inspect.signature(make.set_clock).bind(0.0)
    except TypeError:
        # It is a method of the backends, and their class was given.
        return None
    if inspect.iscoroutinefunction(make.set_clock):
        raise TypeError("make.set_clock must be a plain function: it is not awaited")
    return make
