"""python-telegram-bot: its persistence over a store, and updates in order in a chat.

    builder.persistence(SessionPersistence(store))
    builder.concurrent_updates(SessionUpdateProcessor())

The framework keeps all data in its own dicts and hands over copies of those that were
used. The persistence knows of each dict what the store held when it last looked, writes
the names that differ, and takes over what other processes wrote. The processor lets one
update of a key run after the other, and says when one is done and is to be saved.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from telegram.ext import (
    Application,
    BasePersistence,
    BaseUpdateProcessor,
    PersistenceInput,
)

from botsessions.derive import chat_user_key
from botsessions.errors import (
    CodecError,
    InvalidUpdateDocumentError,
    MissingKeyPart,
    SessionTooLargeError,
)
from botsessions.kept import telegram as kept
from botsessions.keys import SessionKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from botsessions.store import SessionStore

    AnyApplication = Application[Any, Any, Any, Any, Any, Any]
    CallbackData = tuple[list[tuple[str, float, dict[str, Any]]], dict[str, str]]
    ConversationKey = tuple[int | str, ...]
    Write = Callable[[], Awaitable[None]]

Session = dict[Any, Any]

# Keys of users stand behind those of chats, and "-" before all digits.
_FIRST_USER = SessionKey(user_id=-1)
_ABSENT = object()
_SCALARS = frozenset({str, int, float, bool, type(None), bytes})


class SessionPersistence(BasePersistence[Session, Session, Session]):
    """Keeps user, chat, bot and callback data, and conversations, in a store.

    ``preload=True`` loads everything when the application is initialized, as the
    framework promises; ``preload=False`` loads each chat and user when its first update
    comes, and ``application.user_data`` has those that came. Either way a handler sees
    what other processes wrote before its update. Of a dict only the names that were set
    or removed are written: two processes that set the same name overwrite each other.

    With a ``SessionUpdateProcessor`` each update is saved before the next of its key
    begins; without, what changed is saved every ``update_interval`` seconds and at the
    end. A write that fails is told to the error handlers and repeated with the next
    ones; what the store refuses (``CodecError``, ``SessionTooLargeError``) is told, and
    tried again when it is next used.

    The data are dicts, whatever ``ContextTypes`` may name. Several bots in one store
    need a namespace each. The store stays open.
    """

    __slots__ = (
        "_ending",
        "_failed",
        "_keyboards",
        "_known",
        "_last_run",
        "_next_run",
        "_preload",
        "_run",
        "_store",
        "_used",
        "_writes",
    )

    def __init__(
        self,
        store: SessionStore,
        *,
        preload: bool = True,
        store_data: PersistenceInput | None = None,
        update_interval: float = 60,
    ) -> None:
        super().__init__(store_data=store_data, update_interval=update_interval)
        self._store = store
        self._preload = preload
        self._known: dict[SessionKey, _Known] = {}
        # Those that an update or a job got, and that nobody has saved since.
        self._used: set[SessionKey] = set()
        # Of each keyboard what can change: when it was used, and by which queries.
        self._keyboards: dict[str, tuple[float | None, list[str]]] = {}
        # The last write of each key until it succeeds; those that are to be repeated.
        self._writes: dict[SessionKey, Write] = {}
        self._failed: set[SessionKey] = set()
        self._run: asyncio.Task[bool] | None = None
        self._next_run: asyncio.Task[bool] | None = None
        self._last_run: asyncio.Task[bool] | None = None
        self._ending: set[asyncio.Task[Any]] = set()

    async def get_user_data(self) -> dict[int, Session]:
        """Load the dicts of all users; none with ``preload=False``."""
        if not self._preload:
            return {}
        walk = self._store.items(after=_FIRST_USER, name=kept.USER_NAME)
        with _collecting_later():
            return {
                key.user_id: self._loaded(key, session)
                async for key, session in walk
                if isinstance(key.user_id, int)
            }

    async def get_chat_data(self) -> dict[int, Session]:
        """Load the dicts of all chats; none with ``preload=False``."""
        if not self._preload:
            return {}
        walk = self._store.items(before=_FIRST_USER, name=kept.CHAT_NAME)
        with _collecting_later():
            return {
                key.chat_id: self._loaded(key, session)
                async for key, session in walk
                if isinstance(key.chat_id, int)
            }

    async def get_bot_data(self) -> Session:
        """Load the dict of the bot."""
        return self._loaded(kept.BOT_KEY, _BotData(await self._store.get(kept.BOT_KEY)))

    async def get_callback_data(self) -> CallbackData | None:
        """Load the buttons of all keyboards, and the queries that came from them."""
        self._keyboards.clear()
        keyboards: list[tuple[str, float, dict[str, Any]]] = []
        queries: dict[str, str] = {}
        found = self._named(kept.KEYBOARD_NAMES)
        stored = [kept.Keyboard.of(record) async for record in found]
        # What comes first is the first that the application forgets.
        for keyboard in sorted(stored, key=lambda keyboard: keyboard.used or 0.0):
            uuid, used = keyboard.uuid, keyboard.used
            self._keyboards[uuid] = used, keyboard.queries
            queries.update(dict.fromkeys(keyboard.queries, uuid))
            if used is not None:
                keyboards.append((uuid, used, keyboard.buttons or {}))
        return (keyboards, queries) if stored else None

    async def get_conversations(self, name: str) -> dict[ConversationKey, object]:
        """Load the conversations of one handler."""
        found = self._named(kept.conversation_names(name))
        return dict([kept.Conversation.of(record) async for record in found])

    async def refresh_user_data(self, user_id: int, user_data: Session) -> None:
        """Take over what other processes wrote; what is not saved yet stays."""
        await self._refresh(kept.user_key(user_id), user_data)

    async def refresh_chat_data(self, chat_id: int, chat_data: Session) -> None:
        """Take over what other processes wrote; what is not saved yet stays."""
        await self._refresh(kept.chat_key(chat_id), chat_data)

    async def refresh_bot_data(self, bot_data: Session) -> None:
        """Take over what other processes wrote; what is not saved yet stays."""
        await self._refresh(kept.BOT_KEY, bot_data)

    async def update_user_data(self, user_id: int, data: Session) -> None:
        """Write the names that were set or removed since the last time."""
        await self._save(kept.user_key(user_id), data)

    async def update_chat_data(self, chat_id: int, data: Session) -> None:
        """Write the names that were set or removed since the last time."""
        await self._save(kept.chat_key(chat_id), data)

    async def update_bot_data(self, data: Session) -> None:
        """Write the names that were set or removed since the last time."""
        await self._save(kept.BOT_KEY, data)

    async def update_callback_data(self, data: CallbackData) -> None:
        """Write the keyboards that are new or were used, remove the forgotten."""
        uses: dict[str, tuple[float | None, list[str]]] = {}
        buttons: dict[str, dict[str, Any]] = {}
        keyboards, queries = data
        for uuid, used, buttons_of_it in keyboards:
            uses[uuid] = used, []
            buttons[uuid] = buttons_of_it
        for query, uuid in queries.items():
            uses.setdefault(uuid, (None, []))[1].append(query)
        writes = [
            self._write_keyboard(uuid, use, buttons.get(uuid))
            for uuid, use in uses.items()
            if use != self._keyboards.get(uuid)
        ]
        writes += [self._drop_keyboard(u) for u in self._keyboards if u not in uses]
        await _all(writes)

    async def update_conversation(
        self, name: str, key: ConversationKey, new_state: object | None
    ) -> None:
        """Write the state of one conversation; remove one that has ended.

        One that a handler with ``block=False`` ended is removed at its next update, or
        at the next start.
        """
        where = kept.conversation_key(name, key)
        if new_state is None:
            await self._write(where, partial(self._store.delete, where))
        else:
            record = kept.Conversation(key, new_state).record()
            await self._write(where, partial(self._store.put, where, record))

    async def drop_user_data(self, user_id: int) -> None:
        """Remove the dict of a user."""
        await self._drop(kept.user_key(user_id))

    async def drop_chat_data(self, chat_id: int) -> None:
        """Remove the dict of a chat."""
        await self._drop(kept.chat_key(chat_id))

    async def flush(self) -> None:
        """Try once more what could not be written, and raise why it cannot."""
        await self._repeat()

    async def write_through(self, application: AnyApplication) -> None:
        """Save now what the application has marked; the processor calls it.

        Calls that come while a run is under way share the next one. What goes wrong is
        told to the error handlers, and these must not call it.
        """
        if self._next_run is None:
            run = self._save_next(application, self._run)
            self._next_run = asyncio.get_running_loop().create_task(run)
        # Shielded: by now the application has forgotten what this run is to save.
        copied = await asyncio.shield(self._next_run)
        task = asyncio.current_task()
        if not copied and task is not None and task not in self._ending:
            # When the task of an update or a job ends, the application marks its dicts
            # once more, and its own run would end for good at what cannot be copied.
            self._ending.add(task)
            task.add_done_callback(partial(self._take_marks, application))

    def _take_marks(self, application: AnyApplication, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        saving = self._save_all(application, tell=False)
        self._last_run = task.get_loop().create_task(saving)

    async def _save_next(
        self, application: AnyApplication, previous: asyncio.Task[bool] | None
    ) -> bool:
        if previous is not None and not previous.done():
            await asyncio.wait([previous])
        self._run, self._next_run = self._next_run, None
        return await self._save_all(application, tell=True)

    async def _save_all(self, application: AnyApplication, *, tell: bool) -> bool:
        """Save what is marked; return whether the application could copy it."""
        try:
            await application.update_persistence()
        except Exception as exc:  # noqa: BLE001 - whatever copying a value raises
            # It could not copy one dict, and has forgotten which others were to follow.
            refused = await _failures([self._save_live(key) for key in self._used])
            again = await _failures([application.update_persistence()])
            for failure in [*(refused or [exc]), *again] if tell else ():
                await application.process_error(None, failure)
            return False
        return True

    def _loaded(self, key: SessionKey, session: Session) -> Session:
        self._known[key] = _Known(session, _copy(session))
        return session

    async def _named(self, beginning: str) -> AsyncIterator[Session]:
        """Walk the sessions whose names begin so: neighbours in the order of keys."""
        after = SessionKey(name=beginning)
        async for key, session in self._store.items(after=after):
            if key.name is None or not key.name.startswith(beginning):
                return
            yield session

    async def _refresh(self, key: SessionKey, live: Session) -> None:
        while True:
            before = self._stored(key)
            session = await self._store.get(key)
            if self._stored(key) is before:
                break
            # It was saved meanwhile, and what was read may be from before.
        # From here on nothing waits, so that no handler runs.
        self._used.add(key)
        known = self._known.get(key)
        if known is None or (known.live is not None and known.live is not live):
            known = self._known[key] = _Known(live, {})
        known.live = live
        stored = known.stored
        if _same(stored, session):
            return
        for name in {**stored, **session}:
            was, now = stored.get(name, _ABSENT), session.get(name, _ABSENT)
            # A handler may hold the value, or have changed it: only news replace it,
            # and nothing that is not saved yet.
            if _same(was, now) or not _same(was, live.get(name, _ABSENT)):
                continue
            if now is _ABSENT:
                del live[name]
            else:
                live[name] = now
        known.before, known.stored = stored, _copy(session)

    def _stored(self, key: SessionKey) -> Session | None:
        known = self._known.get(key)
        return None if known is None else known.stored

    async def _save(self, key: SessionKey, data: Session) -> None:
        self._used.discard(key)
        known = self._known.setdefault(key, _Known(None, {}))
        changed: Session = {}
        removed: set[Any] = set()
        for name in {**known.stored, **data}:
            value = data.get(name, _ABSENT)
            if _same(value, known.stored.get(name, _ABSENT)):
                continue
            if known.is_old(data, name):
                continue
            if value is _ABSENT:
                removed.add(name)
            else:
                changed[name] = value
        if changed or removed:
            commit = partial(self._commit, key, _copy(changed), removed)
            await self._write(key, commit)
        await self._repeat()

    async def _save_live(self, key: SessionKey) -> None:
        known = self._known.get(key)
        if known is not None and known.live is not None:
            await self._save(key, known.live)

    async def _commit(
        self, key: SessionKey, changed: Session, removed: set[Any]
    ) -> None:
        def change(session: Session) -> Session:
            merged = {**session, **changed}
            return {name: merged[name] for name in merged if name not in removed}

        await self._store.update(key, change)
        known = self._known.get(key)
        if known is not None:
            known.stored = change(known.stored)

    async def _drop(self, key: SessionKey) -> None:
        self._used.discard(key)
        self._known.pop(key, None)
        await self._write(key, partial(self._store.delete, key))

    async def _write_keyboard(
        self,
        uuid: str,
        use: tuple[float | None, list[str]],
        buttons: dict[str, Any] | None,
    ) -> None:
        record = kept.Keyboard(uuid, *use, buttons).record()
        await self._store.put(kept.keyboard_key(uuid), record)
        self._keyboards[uuid] = use

    async def _drop_keyboard(self, uuid: str) -> None:
        await self._store.delete(kept.keyboard_key(uuid))
        self._keyboards.pop(uuid, None)

    async def _write(self, key: SessionKey, write: Write) -> None:
        """Write, and remember a write that fails unless a later one takes its place."""
        self._writes[key] = write
        self._failed.discard(key)
        try:
            await write()
        except (CodecError, SessionTooLargeError):
            self._forget(key, write)
            raise
        except BaseException:
            self._failed.add(key)
            raise
        self._forget(key, write)

    def _forget(self, key: SessionKey, write: Write) -> None:
        if self._writes.get(key) is write:
            del self._writes[key]

    async def _repeat(self) -> None:
        failed, self._failed = self._failed, set()
        writes = [(key, self._writes[key]) for key in failed if key in self._writes]
        await _all(self._write_again(key, write) for key, write in writes)

    async def _write_again(self, key: SessionKey, write: Write) -> None:
        # A later write may have begun before it was the turn of this.
        if self._writes.get(key) is write:
            await self._write(key, write)


class SessionUpdateProcessor(BaseUpdateProcessor):
    """Handles updates of one key in order, one at a time, those of others meanwhile.

    Updates that ``key`` finds no key for run freely, as all would otherwise. One that
    waits for its turn counts as one of ``max_concurrent_updates``. With a
    ``SessionPersistence`` each update is saved before the next of its key begins. Jobs
    and handlers with ``block=False`` run outside of all this.
    """

    __slots__ = ("_key", "_lanes")

    def __init__(
        self,
        max_concurrent_updates: int = 256,
        *,
        key: Callable[[object], SessionKey] = chat_user_key,
    ) -> None:
        super().__init__(max_concurrent_updates)
        self._key = key
        # A lock is there as long as somebody holds it or waits for it.
        self._lanes: WeakValueDictionary[SessionKey, asyncio.Lock] = (
            WeakValueDictionary()
        )

    async def do_process_update(
        self, update: object, coroutine: Awaitable[Any]
    ) -> None:
        """Await the coroutine when it is the turn of its update, then save."""
        application = _application(coroutine)
        try:
            async with self._lane(update):
                await coroutine
                if application is not None:
                    persistence = application.persistence
                    if isinstance(persistence, SessionPersistence):
                        await persistence.write_through(application)
        finally:
            # It was never begun if this was cancelled while it waited.
            if isinstance(coroutine, Coroutine):
                coroutine.close()

    async def initialize(self) -> None:
        """Do nothing: there is nothing to prepare."""

    async def shutdown(self) -> None:
        """Do nothing: no update is under way, so nothing is kept."""

    def _lane(self, update: object) -> AbstractAsyncContextManager[Any]:
        try:
            key = self._key(update)
        except (MissingKeyPart, InvalidUpdateDocumentError):
            return nullcontext()
        return self._lanes.setdefault(key, asyncio.Lock())


class _Known:
    """A dict of the application's, and what the store held of it when we last looked.

    ``live`` is None until the application shows it. ``before`` is what ``stored`` was
    when another process' changes were last taken over.
    """

    __slots__ = ("before", "live", "stored")

    def __init__(self, live: Session | None, stored: Session) -> None:
        self.live = live
        self.stored = self.before = stored

    def is_old(self, data: Session, name: Any) -> bool:
        """Tell whether a copy that differs here does so although nobody changed it.

        It was made just before a change was taken over. Or it is empty, and of another
        dict, which took the place of this one: ``migrate_chat_data`` puts one there
        when it is called for both of Telegram's messages about a migration.
        """
        if self.live is None:
            return False
        if not _same(self.live.get(name, _ABSENT), self.stored.get(name, _ABSENT)):
            return False
        value = data.get(name, _ABSENT)
        return not data or _same(value, self.before.get(name, _ABSENT))


class _BotData(Session):
    """The application's ``bot_data``, which it copies each time that it saves anything.

    One value that cannot be copied would end its saving for good. It is handed on as it
    is instead, and the store refuses it by its path.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return _copy(self)


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Keep the garbage collector from going through what is just being loaded.

    All of it stays, and looking at it again and again would take a third of the time.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _application(coroutine: Awaitable[Any]) -> AnyApplication | None:
    """Return whose updates these are.

    The framework tells its processor nothing but the coroutine: that of a method of the
    application, so among its arguments.
    """
    if not inspect.iscoroutine(coroutine):
        return None
    arguments = inspect.getcoroutinelocals(coroutine).values()
    return next((x for x in arguments if isinstance(x, Application)), None)


def _same(one: object, other: object) -> bool:
    """Tell whether both are stored as the same; 1 is equal to True, and another."""
    return one is other or (repr(one) == repr(other) and bool(one == other))


def _copy(session: Session) -> Session:
    if _SCALARS.issuperset(map(type, session.values())):
        return session.copy()
    return {name: _copied(value) for name, value in session.items()}


def _copied(value: Any) -> Any:
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001 - a value may raise anything; the store refuses it
        return value


async def _all(writes: Iterable[Awaitable[None]]) -> None:
    """Let all of them end, then raise what the first of those that failed raised."""
    for failure in await _failures(writes):
        raise failure


async def _failures(writes: Iterable[Awaitable[None]]) -> list[Exception]:
    results = await asyncio.gather(*writes, return_exceptions=True)
    return [result for result in results if isinstance(result, Exception)]
