"""The adapter for aiogram: its parts alone, then real dispatchers, processes, kills."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import enum
import itertools
import os
import random
import sys
from collections import Counter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from aiogram import Dispatcher
from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, any_state
from aiogram.fsm.storage.base import StorageKey
from aiogram.methods import SendMessage

import botsessions as bs
from botsessions.adapters.aiogram import (
    SessionIsolation,
    SessionMiddleware,
    SessionStorage,
    _locks,
)
from tests.adapters.aiogram_bot import bot_at, routes
from tests.places import Memory, Place, Postgres, Redis, SQLite
from tests.servers.botapi import BotApi
from tests.test_codec import ONE_OF_EACH, same
from tests.updates.samples import SAMPLES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aiogram.types import TelegramObject

ROOT = Path(__file__).parents[2]
KEY = StorageKey(bot_id=1, chat_id=-1001, user_id=42)
HELD = bs.SessionKey(chat_id=-1001, user_id=42, bot_id=1, name="aiogram")

here = pytest.mark.parametrize(
    "place", [Memory, SQLite], indirect=True, ids=lambda kind: kind.__name__
)
anywhere = pytest.mark.parametrize(
    "place",
    [Memory, SQLite, Postgres, Redis],
    indirect=True,
    ids=lambda kind: kind.__name__,
)


async def keys_of(store: bs.SessionStore) -> list[bs.SessionKey]:
    return [key async for key in store.keys()]


# The storage.


@anywhere
async def test_state_and_data_are_set_apart_and_kept_together(place: Place) -> None:
    async with place.store() as store:
        storage = SessionStorage(store)
        assert await storage.get_state(KEY) is None
        assert await storage.get_data(KEY) == {}
        await storage.set_state(KEY, "here")
        await storage.set_data(KEY, {"a": 1})
        assert await store.get(HELD) == {"state": "here", "data": {"a": 1}}
        await storage.set_state(KEY, "there")
        assert await storage.get_data(KEY) == {"a": 1}
        await storage.set_data(KEY, {"b": 2})
        assert await storage.get_state(KEY) == "there"
        await storage.set_state(KEY, None)
        assert await storage.get_state(KEY) is None
        assert await storage.get_data(KEY) == {"b": 2}
        await storage.set_state(KEY, "end")
        await storage.set_data(KEY, {})
        assert await storage.get_state(KEY) == "end"
        assert await storage.get_data(KEY) == {}


@anywhere
async def test_concurrent_updates_of_different_names_keep_all(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        storages = itertools.cycle([SessionStorage(one), SessionStorage(other)])
        await next(storages).set_state(KEY, "counting")
        await asyncio.gather(
            *(next(storages).update_data(KEY, {f"n{n}": n}) for n in range(50))
        )
        assert await next(storages).get_data(KEY) == {f"n{n}": n for n in range(50)}
        assert await next(storages).get_state(KEY) == "counting"


@here
async def test_update_data_is_like_that_of_a_dict(place: Place) -> None:
    async with place.store() as store:
        storage = SessionStorage(store)
        assert await storage.update_data(KEY, {}) == {}
        assert await storage.update_data(KEY, {"a": 1, "b": {"c": 1}}) == {
            "a": 1,
            "b": {"c": 1},
        }
        assert await storage.update_data(KEY, {"b": {"d": 2}}) == {
            "a": 1,
            "b": {"d": 2},
        }
        assert await storage.update_data(KEY, {}) == await storage.get_data(KEY)
        assert await storage.get_value(KEY, "b") == {"d": 2}
        assert await storage.get_value(KEY, "z", 7) == 7


@here
async def test_states_are_kept_by_name(place: Place) -> None:
    class Named(str):
        __slots__ = ()

    async with place.store() as store:
        storage = SessionStorage(store)
        states: list[tuple[State | str, str | None]] = [
            (State("alone"), "@:alone"),
            (State("one", group_name="Group"), "Group:one"),
            (any_state, "*"),
            (State(), None),
            ("", ""),
        ]
        for state, name in states:
            await storage.set_state(KEY, state)
            assert await storage.get_state(KEY) == name
        with pytest.raises(bs.UnsupportedValueError, match=r"'state'.*Codec"):
            await storage.set_state(KEY, Named("one"))


class Step(str, enum.Enum):  # noqa: UP042 - as bots for Python 3.10 still write it
    NAME = "name"


@here
async def test_enum_states_are_kept_as_registered_or_refused(place: Place) -> None:
    async with place.store(types=[Step]) as store:
        storage = SessionStorage(store)
        await storage.set_state(KEY, Step.NAME)
        assert await storage.get_state(KEY) is Step.NAME
    async with place.store(namespace="other") as store:
        storage = SessionStorage(store)
        await storage.set_state(KEY, "before")
        with pytest.raises(bs.UnsupportedValueError, match=r"types=\[Step\]"):
            await storage.set_state(KEY, Step.NAME)
        assert await storage.get_state(KEY) == "before"


@here
async def test_data_come_back_type_for_type(place: Place) -> None:
    data: Any = ONE_OF_EACH
    async with place.store() as store:
        storage = SessionStorage(store)
        await storage.set_data(KEY, data)
        assert same(await storage.get_data(KEY), data)
        assert same(await storage.update_data(KEY, {"more": (1,)}) | data, data) is (
            False
        )
        assert (await storage.get_data(KEY))["more"] == (1,)


@here
async def test_any_mapping_is_data_and_nothing_else(place: Place) -> None:
    async with place.store() as store:
        storage = SessionStorage(store)
        await storage.set_data(KEY, MappingProxyType({"a": 1}))
        for wrong in ((), [("a", 2)], None, "text"):
            with pytest.raises(DataNotDictLikeError, match=type(wrong).__name__):
                await storage.set_data(KEY, wrong)  # type: ignore[arg-type]
        with pytest.raises(bs.UnsupportedValueError, match=r"\['data'\]\['b'\]"):
            await storage.update_data(KEY, {"b": object()})
        assert await storage.get_data(KEY) == {"a": 1}


@here
async def test_nothing_aliases(place: Place) -> None:
    async with place.store() as store:
        storage = SessionStorage(store)
        given = {"list": [1]}
        await storage.set_data(KEY, given)
        given["list"].append(2)
        (await storage.get_data(KEY))["list"].append(3)
        (await storage.update_data(KEY, {}))["list"].append(4)
        (await storage.get_value(KEY, "list") or []).append(5)
        assert await storage.get_data(KEY) == {"list": [1]}


@here
async def test_nothing_is_kept_for_idle_keys(place: Place) -> None:
    async with place.store() as store:
        storage = SessionStorage(store)
        context = FSMContext(storage, KEY)
        await context.get_state()
        await context.get_data()
        await context.clear()
        await context.update_data()
        assert await keys_of(store) == []
        await context.set_state("here")
        await context.update_data(a=1)
        assert await keys_of(store) == [HELD]
        await context.clear()
        assert await keys_of(store) == []


@here
async def test_state_and_data_expire_together(place: Place) -> None:
    async with place.store(ttl=60) as store:
        storage = SessionStorage(store)
        await storage.set_data(KEY, {"a": 1})
        place.clock.now += 50
        await storage.set_state(KEY, "here")
        place.clock.now += 50
        assert await storage.get_data(KEY) == {"a": 1}
        place.clock.now += 11
        assert await storage.get_state(KEY) is None
        assert await storage.get_data(KEY) == {}


async def test_each_part_of_a_storage_key_counts() -> None:
    parts: dict[str, list[Any]] = {
        "bot_id": [1, 2],
        "chat_id": [2, 7, -7],
        "user_id": [2, 3, 7],
        "thread_id": [None, 0, 2, 7],
        "business_connection_id": [None, "2", "7", "a/b"],
        "destiny": ["default", "", "aiogram", ":", "default:", "a/name=b", "ä"],
    }
    # A part that a later aiogram adds has to be honoured first.
    assert [field.name for field in dataclasses.fields(StorageKey)] == list(parts)
    every = [
        StorageKey(**dict(zip(parts, values, strict=True)))
        for values in itertools.product(*parts.values())
    ]
    async with bs.open_store("memory://") as store:
        storage = SessionStorage(store)
        for number, key in enumerate(every):
            await storage.set_state(key, str(number))
        for number, key in enumerate(every):
            assert await storage.get_state(key) == str(number)
        stored = await keys_of(store)
        assert len(stored) == len(every)
        # A bot's own sessions have another name, or none.
        assert {(key.name or "").partition(":")[0] for key in stored} == {"aiogram"}


async def test_keys_that_no_session_can_have_are_refused() -> None:
    async with bs.open_store("memory://") as store:
        storage = SessionStorage(store)
        for part in ({"destiny": "x" * 300}, {"business_connection_id": ""}):
            key = dataclasses.replace(KEY, **part)  # type: ignore[arg-type]
            with pytest.raises(bs.InvalidKeyError, match="256 characters"):
                await storage.get_state(key)


async def test_close_leaves_the_store_open() -> None:
    async with bs.open_store("memory://") as store:
        storage, isolation = SessionStorage(store), SessionIsolation(store)
        for _ in range(2):
            await storage.close()
            await isolation.close()
        async with isolation.lock(KEY):
            await storage.set_state(KEY, "here")
        assert await storage.get_state(KEY) == "here"


# The isolation.


@anywhere
async def test_one_holder_at_a_time_in_order(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        running = 0
        began: list[tuple[int, int]] = []

        async def handle(which: int, number: int) -> None:
            nonlocal running
            async with SessionIsolation((one, other)[which]).lock(KEY):
                running += 1
                began.append((which, number))
                await asyncio.sleep(0.001)
                assert running == 1
                running -= 1

        await asyncio.gather(*(handle(n % 2, n) for n in range(20)))
        assert len(began) == 20
        for which in (0, 1):
            assert [n for w, n in began if w == which] == [*range(which, 20, 2)]


@here
async def test_other_keys_are_not_held_up(place: Place) -> None:
    async with place.store() as store, contextlib.AsyncExitStack() as stack:
        isolation = SessionIsolation(store, timeout=0.5)
        # As aiogram_dialog does, and not in the order of a stack.
        first = isolation.lock(KEY)
        await first.__aenter__()
        for changed in ({"user_id": 43}, {"destiny": "a"}, {"thread_id": 1}):
            key = dataclasses.replace(KEY, **changed)
            await stack.enter_async_context(isolation.lock(key))
        await first.__aexit__(None, None, None)
        async with isolation.lock(KEY):
            await SessionStorage(store).set_state(KEY, "here")


@here
async def test_a_task_that_asks_for_what_it_holds_is_told(place: Place) -> None:
    async with place.store() as store:
        isolation = SessionIsolation(store)
        async with asyncio.timeout(1), isolation.lock(KEY):
            with pytest.raises(RuntimeError, match="locked by this very task"):
                async with isolation.lock(KEY):
                    raise AssertionError
        async with asyncio.timeout(1), isolation.lock(KEY):
            pass


@here
async def test_who_waits_for_too_long_is_told(place: Place) -> None:
    async with place.store() as store, SessionIsolation(store).lock(KEY):
        isolation = SessionIsolation(store, timeout=0.05)

        async def wait() -> None:
            async with isolation.lock(KEY):
                raise AssertionError

        async with asyncio.timeout(1):
            with pytest.raises(bs.LockTimeoutError):
                await asyncio.create_task(wait())


@here
async def test_what_a_handler_raises_gets_out_and_frees_the_key(place: Place) -> None:
    async with place.store() as store:
        isolation = SessionIsolation(store)
        for error in (KeyError("mine"), bs.LockLostError("mine"), SystemExit(3)):
            with pytest.raises(type(error)) as caught:
                async with isolation.lock(KEY):
                    raise error
            assert caught.value is error
        async with asyncio.timeout(1), isolation.lock(KEY):
            pass


def lose_the_lease(place: Place) -> None:
    """Let the time pass by the backend's clock, as if this process had stood still."""
    place.clock.now += 31


@here
async def test_without_its_lease_a_handler_writes_nothing(place: Place) -> None:
    async with place.store() as store, place.store() as other:
        storage, isolation = SessionStorage(store), SessionIsolation(store)
        await storage.set_state(KEY, "before")

        async def handle() -> None:
            async with isolation.lock(KEY):
                await storage.update_data(KEY, {"in": "time"})
                lose_the_lease(place)
                async with SessionIsolation(other).lock(KEY):
                    await SessionStorage(other).set_state(KEY, "of the other")
                    with pytest.raises(bs.LockLostError):
                        await storage.set_state(KEY, "too late")
                    # Also in tasks of the handler.
                    await asyncio.create_task(storage.set_data(KEY, {}))

        with pytest.raises(bs.LockLostError):
            await handle()
        assert await storage.get_state(KEY) == "of the other"
        assert await storage.get_data(KEY) == {"in": "time"}


@here
async def test_a_lost_lease_is_told_and_takes_no_result_away(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.store() as store:
        storage, isolation = SessionStorage(store), SessionIsolation(store)
        async with isolation.lock(KEY):
            await storage.set_state(KEY, "here")
            lose_the_lease(place)
        assert await storage.get_state(KEY) == "here"
        async with asyncio.timeout(2):
            while not caplog.records:  # noqa: ASYNC110 - it is given back soon
                await asyncio.sleep(0.005)
        [told] = caplog.records
        assert told.levelname == "WARNING"
        assert str(HELD) in told.getMessage()


@here
async def test_tasks_left_behind_write_without_the_lock(place: Place) -> None:
    async with place.store() as store:
        storage, isolation = SessionStorage(store), SessionIsolation(store)
        over = asyncio.Event()

        async def later() -> None:
            await over.wait()
            await storage.update_data(KEY, {"later": 1})

        async with isolation.lock(KEY):
            task = asyncio.create_task(later())
            await asyncio.sleep(0)
        over.set()
        await task
        await storage.update_data(KEY, {"and": 2})
        assert await storage.get_data(KEY) == {"later": 1, "and": 2}


@here
async def test_locks_of_one_task_end_in_any_order(place: Place) -> None:
    """Also a bot that handles its updates in one task keeps nothing of past ones."""
    async with place.store() as store:
        storage, isolation = SessionStorage(store), SessionIsolation(store)
        keys = [dataclasses.replace(KEY, user_id=n) for n in range(3)]
        for order in itertools.permutations(range(3)):
            locks = [isolation.lock(key) for key in keys]
            for lock in locks:
                await lock.__aenter__()
            lose_the_lease(place)
            held = set(range(3))
            for ends in order:
                await locks[ends].__aexit__(None, None, None)
                held.remove(ends)
                for number, key in enumerate(keys):
                    if number not in held:
                        await storage.set_state(key, "over")
                        continue
                    with pytest.raises(bs.LockLostError):
                        await storage.set_state(key, "lost")
        assert not _locks.get()


# The middleware.

SESSION = bs.SessionKey(chat_id=-1001, user_id=42)


def written(text: str = "/start", number: int = 1) -> dict[str, Any]:
    return {
        "update_id": number,
        "message": {
            "message_id": number,
            "date": 1,
            "chat": {"id": -1001, "type": "supergroup", "title": "All"},
            "from": {"id": 42, "is_bot": False, "first_name": "Ada"},
            "text": text,
        },
    }


async def feed(
    handler: Callable[..., Any], *middlewares: SessionMiddleware, **options: Any
) -> Any:
    """Let a dispatcher handle one message."""
    dispatcher = Dispatcher(**options)
    for middleware in middlewares:
        dispatcher.update.outer_middleware(middleware)
    dispatcher.message.register(handler)
    return await dispatcher.feed_raw_update(bot_at("http://nowhere"), written())


@anywhere
async def test_a_handler_gets_its_session_and_what_it_changes_is_saved(
    place: Place,
) -> None:
    async def handler(
        _: Any, session: dict[Any, Any], store: bs.SessionStore
    ) -> SendMessage:
        assert await store.get(SESSION) == {"list": [1], "old": 0}
        session["list"].append((2,))
        session["new"] = True
        del session["old"]
        return SendMessage(chat_id=1, text="as an answer to the webhook")

    async with place.store() as store:
        await store.put(SESSION, {"list": [1], "old": 0})
        answer = await feed(handler, SessionMiddleware(store))
        assert isinstance(answer, SendMessage)
        assert await store.get(SESSION) == {"list": [1, (2,)], "new": True}


@here
async def test_a_handler_that_raises_saves_nothing(place: Place) -> None:
    async def handler(_: Any, session: dict[Any, Any]) -> None:
        session["n"] = 2
        raise LookupError

    async with place.store() as store:
        await store.put(SESSION, {"n": 1})
        with pytest.raises(LookupError):
            await feed(handler, SessionMiddleware(store))
        assert await store.get(SESSION) == {"n": 1}
        async with store.lock(SESSION, timeout=0.1):
            pass


@here
async def test_what_cannot_be_stored_is_told(place: Place) -> None:
    async def handler(_: Any, session: dict[Any, Any]) -> None:
        session["x"] = object()

    async with place.store() as store:
        with pytest.raises(bs.UnsupportedValueError, match=r"session\['x'\]"):
            await feed(handler, SessionMiddleware(store))
        assert await store.get(SESSION) == {}


# A set may come back in another order, and is written again then.
# No sets: in what order one comes back is not certain, and it may be written again.
WITHOUT_SETS = {
    name: ONE_OF_EACH[name]
    for name in ONE_OF_EACH
    if type(ONE_OF_EACH[name]) in (int, float, str, bytes, tuple, type(None))
    and "{" not in repr(ONE_OF_EACH[name])
    and "set" not in repr(ONE_OF_EACH[name])
}


@pytest.mark.parametrize(
    "session", [{}, {"n": 1}, WITHOUT_SETS], ids=["empty", "plain", "rich"]
)
async def test_nothing_is_written_when_nothing_changed(
    tmp_path: Path, session: dict[Any, Any]
) -> None:
    async def handler(_: Any, session: dict[Any, Any]) -> None:
        session["n"] = session.pop("n", 0)
        if not session["n"]:
            del session["n"]

    place = SQLite(tmp_path)
    async with place.store() as store:
        if session:
            await store.put(SESSION, {**session, "n": 1})
        backend = place.backend()
        await backend.open()
        before = (await backend.load([f"sessions/{SESSION}"])).records
        await feed(handler, SessionMiddleware(store))
        assert (await backend.load([f"sessions/{SESSION}"])).records == before
        await backend.aclose()


@here
async def test_a_change_of_type_alone_is_a_change(place: Place) -> None:
    async def handler(_: Any, session: dict[Any, Any]) -> None:
        session["nested"][0] = True

    async with place.store() as store:
        await store.put(SESSION, {"nested": [1]})
        await feed(handler, SessionMiddleware(store))
        assert (await store.get(SESSION))["nested"][0] is True


@here
async def test_what_others_changed_meanwhile_stays(place: Place) -> None:
    async def handler(_: Any, session: dict[Any, Any], store: bs.SessionStore) -> None:
        session["mine"] = session["both"] = 2
        session["gone"] = session.pop("left", 0)
        await store.update(
            SESSION,
            lambda s: {
                **{name: s[name] for name in s if name != "dropped"},
                "theirs": 3,
                "both": 3,
                "new": 3,
            },
        )

    async with place.store() as store:
        begin = ["mine", "theirs", "both", "left", "dropped"]
        await store.put(SESSION, dict.fromkeys(begin, 1))
        await feed(handler, SessionMiddleware(store))
        assert await store.get(SESSION) == {
            "mine": 2,
            "both": 2,
            "gone": 1,
            "theirs": 3,
            "new": 3,
        }


@here
async def test_a_handler_that_only_reads_takes_nothing_back(place: Place) -> None:
    async def handler(_: Any, session: dict[Any, Any], store: bs.SessionStore) -> None:
        await store.update(SESSION, lambda s: {**s, "n": 2})
        assert session == {"n": 1}

    async with place.store() as store:
        await store.put(SESSION, {"n": 1})
        await feed(handler, SessionMiddleware(store))
        assert await store.get(SESSION) == {"n": 2}


@here
async def test_a_session_that_was_emptied_is_not_kept(place: Place) -> None:
    async def handler(_: Any, session: dict[Any, Any]) -> None:
        session.clear()

    async with place.store() as store:
        await store.put(SESSION, {"n": 1})
        await feed(handler, SessionMiddleware(store))
        assert await keys_of(store) == []


@here
async def test_without_its_lease_a_session_is_not_saved(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def change(_: Any, session: dict[Any, Any]) -> str:
        session["n"] = 2
        return await read(_)

    async def read(_: Any) -> str:
        lose_the_lease(place)
        return "done"

    async with place.store() as store:
        await store.put(SESSION, {"n": 1})
        with pytest.raises(bs.LockLostError):
            await feed(change, SessionMiddleware(store))
        assert await store.get(SESSION) == {"n": 1}
        assert await feed(read, SessionMiddleware(store)) == "done"
        assert any("lock" in told.getMessage() for told in caplog.records)


async def test_an_event_goes_through_one_middleware_for_a_key() -> None:
    async def handler(_: Any, session: dict[Any, Any]) -> None:
        session["n"] = 1

    async with bs.open_store("memory://") as store:
        with pytest.raises(RuntimeError, match="locked by this very task"):
            await feed(handler, SessionMiddleware(store), SessionMiddleware(store))

        def of_chat(event: TelegramObject) -> bs.SessionKey:
            return bs.chat_key(event)

        await feed(
            handler, SessionMiddleware(store), SessionMiddleware(store, key=of_chat)
        )
        assert await keys_of(store) == [bs.SessionKey(chat_id=-1001)]


async def test_it_may_stand_before_some_handlers_only() -> None:
    async def handler(_: Any, session: dict[Any, Any]) -> None:
        session["n"] = 1

    async with bs.open_store("memory://") as store:
        dispatcher = Dispatcher()
        dispatcher.message.middleware(SessionMiddleware(store))
        dispatcher.message.register(handler)
        await dispatcher.feed_raw_update(bot_at("http://nowhere"), written())
        assert await keys_of(store) == [SESSION]


# Real dispatchers, polling.


@contextlib.asynccontextmanager
async def polling(dispatcher: Dispatcher, api: BotApi) -> AsyncIterator[None]:
    bot = bot_at(api.url)
    task = asyncio.create_task(dispatcher.start_polling(bot, handle_signals=False))
    try:
        yield
    finally:
        await dispatcher.stop_polling()
        await task


async def counted(api: BotApi, dispatcher: Dispatcher) -> list[int]:
    """Say 20 things at once; return what the bot had counted to at each."""
    dispatcher.include_router(routes())
    for _ in range(20):
        api.say("count")
    async with polling(dispatcher, api):
        await asyncio.to_thread(api.wait_until, lambda: len(api.texts()) == 20)
    return sorted(map(int, api.texts()))


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as made:
        yield made


@pytest.fixture
def another_api() -> Iterator[BotApi]:
    with BotApi() as made:
        yield made


@anywhere
async def test_20_quick_messages_count_to_20(place: Place, api: BotApi) -> None:
    async with place.store() as store:
        dispatcher = Dispatcher(
            storage=SessionStorage(store), events_isolation=SessionIsolation(store)
        )
        assert await counted(api, dispatcher) == [*range(1, 21)]
        # aiogram has closed its storage; the store is open.
        assert [s async for _, s in store.items()] == [{"data": {"seen": 20}}]


async def test_20_quick_messages_count_to_1_without_us(api: BotApi) -> None:
    assert await counted(api, Dispatcher()) == [1] * 20


@here
async def test_20_quick_messages_count_to_20_in_a_session(
    place: Place, api: BotApi
) -> None:
    async def count(message: Any, session: dict[Any, Any]) -> None:
        seen = session.get("seen", 0)
        await asyncio.sleep(0.01)
        session["seen"] = seen + 1
        await message.answer(str(seen + 1))

    async with place.store() as store:
        dispatcher = Dispatcher()
        dispatcher.update.outer_middleware(SessionMiddleware(store))
        dispatcher.message.register(count)
        assert await counted(api, dispatcher) == [*range(1, 21)]


@here
async def test_mixed_traffic_is_counted_exactly(place: Place, api: BotApi) -> None:
    """Every type of update, many times, in any order, each in its own session."""
    rng = random.Random(7)
    updates = [sample for sample in SAMPLES if sample.origin.event] * 6
    rng.shuffle(updates)
    handled = asyncio.Semaphore(0)
    without = 0

    async def count(
        handler: Callable[..., Any], event: TelegramObject, data: dict[str, Any]
    ) -> None:
        nonlocal without
        session = data.get("session", {})
        seen = session.get("seen", 0)
        await asyncio.sleep(rng.random() / 500)
        session["seen"] = seen + 1
        without += "session" not in data

    async def tell(
        handler: Callable[..., Any], event: TelegramObject, data: dict[str, Any]
    ) -> None:
        await handler(event, data)
        handled.release()

    for number, sample in enumerate(updates, 1):
        api.push(copy.deepcopy(sample.update) | {"update_id": number})
    async with place.store() as store:
        dispatcher = Dispatcher(
            storage=SessionStorage(store), events_isolation=SessionIsolation(store)
        )
        dispatcher.update.outer_middleware(tell)
        dispatcher.update.outer_middleware(SessionMiddleware(store))
        dispatcher.update.outer_middleware(count)
        async with polling(dispatcher, api), asyncio.timeout(20):
            for _ in updates:
                await handled.acquire()
        found = {str(key): s["seen"] async for key, s in store.items()}
    expected = Counter(sample.keys.chat_user_key for sample in updates)
    assert found == {key: n for key, n in expected.items() if isinstance(key, str)}
    assert without == len(updates) - sum(found.values()) > 0


# Processes.


@contextlib.asynccontextmanager
async def bot_process(api: BotApi, file: Path, lease: float) -> AsyncIterator[Any]:
    source = Path(bs.__file__).parents[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "adapters" / "aiogram_bot.py"),
        *(api.url, str(file), str(lease)),
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{source}"},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_two_processes_count_together(
    api: BotApi, another_api: BotApi, tmp_path: Path
) -> None:
    file = tmp_path / "sessions.db"

    def all_poll() -> bool:
        return "getUpdates" in api.calls and "getUpdates" in another_api.calls

    async with bot_process(api, file, 30), bot_process(another_api, file, 30):
        await asyncio.to_thread(api.wait_until, all_poll)
        for _ in range(20):
            api.say("count")
            another_api.say("count")
        await asyncio.to_thread(
            api.wait_until, lambda: len(api.sent + another_api.sent) == 40
        )
    counts = sorted(int(text) for text in api.texts() + another_api.texts())
    assert counts == [*range(1, 41)]


async def test_killed_in_a_handler_the_conversation_goes_on(
    api: BotApi, tmp_path: Path
) -> None:
    file = tmp_path / "sessions.db"

    async def told(text: str) -> None:
        await asyncio.to_thread(api.wait_until, lambda: text in api.texts())

    async with bot_process(api, file, 1) as process:
        api.say("/start")
        await told("name?")
        api.say("Ada")
        await told("age?")
        api.say("think")
        await told("hm")
        process.kill()
    async with bot_process(api, file, 1):
        # The lock that the dead one held ends with its lease, a second.
        api.say("36")
        await told("Ada is 36")
