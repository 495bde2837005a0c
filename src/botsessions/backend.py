"""The contract of a backend: load and commit versioned records, nothing about sessions.

A third party implements ``Backend``; each further ability is a Protocol of its own, and
a backend has it by having its methods. The engine (above) is the only caller of
``load`` and ``commit``; it bounds the batches and never sends a key twice in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

from botsessions.errors import BackendError, OutcomeUnknownError

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from botsessions.record import Loaded, Record, Write

Outcome: TypeAlias = bool | BackendError | OutcomeUnknownError
"""What became of one write: it landed, it did not, or an error (see ``commit``)."""


@runtime_checkable
class Backend(Protocol):
    """Keeps records by key; every method may be called by several tasks at once.

    Keys are printable ASCII, at most 1,200 characters. A method that is cancelled, also
    again while it cleans up, must leave the backend usable and nothing open; a commit
    that is cancelled may land or not. None keeps the thread of the event loop waiting.
    Whatever a process has locked that is killed is free again within seconds.
    """

    concurrent_batches: int
    """How many batches of writes one engine may have under way at once (1 or more)."""

    async def open(self) -> None:
        """Connect and create what is missing (tables, files).

        Several stores may open one backend, each on an event loop of its own. Raise
        ``BackendUnavailableError`` with the reason and the remedy when that cannot be
        done; a later ``open`` may try again. One that failed, or was cancelled, is not
        to be closed: it leaves nothing open.
        """

    async def aclose(self) -> None:
        """Undo one ``open``; after the last one, release what this object itself made.

        A client or connection that the caller handed in stays open. It counts as closed
        also if this was cancelled.
        """

    async def load(self, keys: Sequence[str]) -> Loaded:
        """Read the newest committed record of each key, dead ones included.

        A load that starts after a commit was acknowledged, to anybody, sees it.
        Raise ``BackendError`` when that is impossible, or put it in the place of each
        record that cannot be read.
        """

    async def commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        """Compare and swap each write alone; tell for each one whether it landed.

        False means that another version is there (or ``not_after`` has passed) and that
        this write changed nothing and never will. True means that the write is as
        durable as the backend promises. Keys differ within one call; one that is there
        twice may be refused with any error, but never told that both landed.

        After an unknown outcome the same record may come again, with a later
        ``not_after``; True is right for it only as long as it is what is there. A
        backend that repeats a request by itself must not answer False because its own
        first copy has landed: that outcome is True, or unknown.

        Raise ``BackendError`` when it is certain that none of the writes landed or ever
        will, ``OutcomeUnknownError`` when any may have. Any other exception counts as
        unknown too. A backend that knows it of each write (one of several servers is
        away) puts the error in that write's place instead.
        """


class Page(NamedTuple):
    """One page of a listing: keys in ascending order with their records.

    ``now`` is the backend's clock (milliseconds) at the time of the reading.
    """

    now: int
    entries: Sequence[tuple[str, Record]]


@runtime_checkable
class SupportsListing(Protocol):
    """Can walk its keys in ascending order (by code point), page by page."""

    def list_pages(self, prefix: str, after: str, limit: int) -> AsyncIterator[Page]:
        """Walk the records whose key starts so and is above ``after``.

        Dead records may be among them, and go meanwhile. A page holds at most
        ``limit``, fewer (or none) if that suits the database; nothing is held open
        between two pages, so that a walk may be left at any of them. What exists from
        the first page to the last comes once.
        """


async def read_pages(
    read: Callable[[str], Awaitable[tuple[Page, bool]]], after: str
) -> AsyncIterator[Page]:
    """Walk a backend that can read on from any key.

    ``read`` brings a page of what is behind a key, with one entry at least unless there
    is no more, and tells if that was all.
    """
    while True:
        page, last = await read(after)
        yield page
        if last:
            return
        after = page.entries[-1][0]


@runtime_checkable
class SupportsSweeping(Protocol):
    """Can remove records that have been dead for ``GRACE_MS``."""

    async def sweep(self, prefix: str, limit: int) -> int:
        """Remove up to ``limit`` such records whose key starts so; return how many.

        0 means that nothing is left to do. A server that removes them by itself may
        leave it at that.
        """


@runtime_checkable
class SupportsLoadingNow(Protocol):
    """Can read without waiting, as a rule, because the data are on this machine.

    A single ``get`` is then answered without a batch, a future or a suspension.
    """

    def load_now(self, keys: Sequence[str]) -> Loaded | None:
        """Read what ``load`` would, and raise what it would; None if it had to wait.

        Called on the thread of the event loop, so it must take microseconds.
        """


@runtime_checkable
class SupportsInline(Protocol):
    """Keeps its records in this process and can hand over the very dict.

    A backend with this ability is used without a batch, a future or a suspension.
    """

    def now(self) -> int:
        """Return the backend's clock (milliseconds)."""

    def attach(
        self,
        prefix: str,
        loop: asyncio.AbstractEventLoop | None,
        seal: Callable[[bytes], bytes],
    ) -> InlineTable:
        """Give an engine on this loop access to the records under one prefix.

        Without a loop it is for any thread, and the records are shared from now on.
        ``seal`` turns a body into the value that ``load`` and ``list_page`` return.
        """

    def detach(self) -> None:
        """Take the access of one engine back."""


class Home:
    """Which thread has an inline backend to itself.

    While only one event loop uses it, that is the loop's thread: no operation suspends,
    so there none comes between two steps of another, and no lock is needed. Once it is
    *shared*, for good, it is whichever thread holds ``lock``. Either way one look at
    ``owner._thread_id`` tells. The backend shares first and goes on when the owner's
    loop has turned once more.
    """

    __slots__ = ("holder", "lock", "owner")

    def __init__(self, lock: threading.RLock, owner: RunsOn | None) -> None:
        self.lock = lock
        self.holder = Holder()
        self.owner: RunsOn = self.holder if owner is None else owner

    @property
    def is_shared(self) -> bool:
        """Tell whether threads take turns here."""
        return self.owner is self.holder

    def share(self) -> None:
        """Let threads take turns from now on."""
        self.owner = self.holder


class RunsOn(Protocol):
    """Says on which thread an event loop runs; asyncio's own loops do so unasked."""

    @property
    def _thread_id(self) -> int | None: ...


class Holder:
    """The thread that holds the lock of shared records, if any."""

    __slots__ = ("_thread_id",)

    def __init__(self) -> None:
        self._thread_id: int | None = None

    def enter(self, thread: int) -> bool:
        """Note who holds the lock; tell whether it did not hold it before."""
        if self._thread_id is not None:
            return False
        self._thread_id = thread
        return True

    def leave(self) -> None:
        """Note that nobody does."""
        self._thread_id = None


class InlineTable:
    """The records of one namespace, by key, for an engine to read and replace.

    A bare bytes value is a live session without an end, as the body that the engine's
    codec made; any other state is a ``Record``, its value sealed.
    """

    __slots__ = ("home", "records", "seal")

    def __init__(self, home: Home, seal: Callable[[bytes], bytes]) -> None:
        self.home = home
        self.records: dict[str, bytes | Record] = {}
        self.seal = seal
