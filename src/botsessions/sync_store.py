"""The blocking face: the same verbs for threads, scripts, and whoever has no loop.

A store on an event loop of its own, on a thread of its own; the calls of all threads
meet in its engine, and are combined there as those of tasks are. A backend in this
process is used by the calling thread itself. Neighbours: ``store`` (whose other face
this is), ``loop_thread`` (that thread), ``open`` (above).
"""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast

from botsessions.engine import rules
from botsessions.errors import LockLostError, SessionError, StoreClosedError
from botsessions.lock import Lock
from botsessions.loop_thread import LoopThread
from botsessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping
    from types import TracebackType

    from botsessions.backend import Backend
    from botsessions.engine.batched import BatchedEngine
    from botsessions.engine.inline import InlineEngine
    from botsessions.keys import SessionKey
    from botsessions.store import Session, UpdateFunction

T = TypeVar("T")
# How much of a walk is fetched at once.
_PAGE = 500


class SyncSessionStore:
    """Reads and atomically changes the sessions of a bot, blocking the calling thread.

    Takes what ``SessionStore`` takes; each verb does and raises the same. Any number of
    threads may share one store, and gain from it: their changes go out together. It
    opens itself at first use, and is closed by ``close``, by its ``with`` block, or at
    the end of the interpreter. It works beside a running event loop, but blocks that
    one when called from there. After a fork a store that was used before refuses to
    work in the child (in memory: the child has a copy of its own); make one there.

    Functions given to ``update`` run one at a time on the store's own thread (in
    memory: on the calling one), with the caller's context variables but not its
    ``threading.local``; they may not call the store. A call that is interrupted
    (KeyboardInterrupt) may still be applied.
    """

    def __init__(self, backend: Backend, **options: Any) -> None:
        self._store = SessionStore(backend, **options)
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._end: weakref.finalize[Any, Any] | None = None
        self._inside: _Inside | None = None
        self._closed = False

    def get(self, key: SessionKey) -> Session:
        """Read a session; a missing or expired one is ``{}``."""
        thread, inline, engine = self._inside or self._open()
        if inline is not None:
            return inline.get(key)
        text = rules.text_of(key)
        session: Session = thread.call(lambda: engine.get(text))
        return session

    def put(self, key: SessionKey, session: Mapping[Any, Any]) -> None:
        """Replace the whole session, whatever was there, readable or not."""
        text = rules.text_of(key)
        body = self._store._pack(session)
        thread, inline, engine = self._inside or self._open()
        if inline is not None:
            inline.put(key, body)
        else:
            thread.call(lambda: engine.put(text, body))

    def update(self, key: SessionKey, function: UpdateFunction) -> Session:
        """Change a session atomically; return it as committed, in a dict of its own."""
        thread, inline, engine = self._inside or self._open()
        if inline is not None:
            return inline.update_in_turn(key, function)
        rules.check_function(function)
        text = rules.text_of(key)
        context = copy_context()
        session: Session = thread.call(
            lambda: engine.update(text, function, context=context)
        )
        return session

    def delete(self, key: SessionKey) -> None:
        """Remove a session, whatever it holds; a missing one is no error."""
        text = rules.text_of(key)
        thread, inline, engine = self._inside or self._open()
        if inline is not None:
            inline.delete(key)
        else:
            thread.call(lambda: engine.delete(text))

    @contextmanager
    def lock(
        self, key: SessionKey, *, lease: float = 30.0, timeout: float = 10.0
    ) -> Iterator[SyncLock]:
        """Hold the lock of a key, as ``SessionStore.lock`` does, for this thread."""
        store, thread = self._store, (self._inside or self._open()).thread
        owner = threading.current_thread()
        acquiring = store._acquire(key, lease, timeout, owner)
        claim = thread.run(acquiring, undo=store._release)
        try:
            yield SyncLock(thread, Lock(store._have_locks(), claim))
        except BaseException:
            with suppress(LockLostError):
                thread.run(store._release(claim))
            raise
        thread.run(store._release(claim))

    def keys(
        self,
        *,
        after: SessionKey | None = None,
        before: SessionKey | None = None,
        **parts: Any,
    ) -> Iterator[SessionKey]:
        """Walk the keys of the live sessions that have all the given parts."""
        return self._walk(self._store.keys(after=after, before=before, **parts))

    def items(
        self,
        *,
        after: SessionKey | None = None,
        before: SessionKey | None = None,
        **parts: Any,
    ) -> Iterator[tuple[SessionKey, Session]]:
        """Walk the live sessions like ``keys``, each with its dict."""
        return self._walk(self._store.items(after=after, before=before, **parts))

    def delete_expired(self) -> int:
        """Remove what has been dead for over a minute; return how many records."""
        thread = (self._inside or self._open()).thread
        return thread.run(self._store.delete_expired())

    def close(self) -> None:
        """Finish what is under way and close; closing twice is fine.

        What cannot finish within ``timeout`` fails.
        """
        with self._lock:
            self._closed = True
            inside, self._inside = self._inside, None
            if inside is not None and inside.inline is not None:
                inside.inline.close()
            if self._end is not None:
                self._end()

    def __enter__(self) -> Self:
        if self._inside is None:
            self._open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sync{repr(self._store)[1:]}"

    def _open(self) -> _Inside:
        """Open the store once, whoever comes first."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is closed; open a new one")
            if self._inside is None:
                store = self._store
                if self._thread is None:
                    self._thread = LoopThread()
                    # Also when nobody closes the store, and the interpreter ends.
                    self._end = weakref.finalize(self, _end, self._thread, store)
                self._thread.run(store._open())
                # Without an inline engine there is one on the thread.
                engine = cast("BatchedEngine", store._batched)
                inline = store._inline_for_threads()
                self._inside = _Inside(self._thread, inline, engine)
            return self._inside

    def _walk(self, walk: AsyncGenerator[T]) -> Iterator[T]:
        thread = (self._inside or self._open()).thread
        try:
            while True:
                page, error = thread.run(_page(walk))
                yield from page
                if error is not None:
                    raise error
                if len(page) < _PAGE:
                    return
        finally:
            with suppress(SessionError):
                thread.run(_close(walk))


class SyncLock:
    """What the holder of a lock has, as ``Lock``, for a thread."""

    __slots__ = ("_lock", "_thread")

    def __init__(self, thread: LoopThread, lock: Lock) -> None:
        self._thread = thread
        self._lock = lock

    @property
    def is_held(self) -> bool:
        """Tell whether the lease certainly lasts still."""
        return self._lock.is_held

    def get(self) -> Session:
        """Read the session, as ``SyncSessionStore.get`` does."""
        return self._thread.run(self._lock.get())

    def update(self, function: UpdateFunction) -> Session:
        """Change the session as ``SyncSessionStore.update`` does, while it is held."""
        return self._thread.run(self._lock.update(function))

    def put(self, session: Mapping[Any, Any]) -> None:
        """Replace the session, while the lock is held."""
        self._thread.run(self._lock.put(session))

    def delete(self) -> None:
        """Remove the session, while the lock is held."""
        self._thread.run(self._lock.delete())


class _Inside(NamedTuple):
    """What an open store works with."""

    thread: LoopThread
    inline: InlineEngine | None
    """For the calling thread to use by itself, if the backend allows for that."""
    engine: BatchedEngine
    """For the thread."""


def _end(thread: LoopThread, store: SessionStore) -> None:
    thread.end(store.aclose())


async def _page(walk: AsyncGenerator[T]) -> tuple[list[T], SessionError | None]:
    """Return some steps of a walk, and what ended it too early."""
    page: list[T] = []
    try:
        async for item in walk:
            page.append(item)
            if len(page) == _PAGE:
                break
    except SessionError as exc:
        return page, exc
    return page, None


async def _close(walk: AsyncGenerator[T]) -> None:
    await walk.aclose()
