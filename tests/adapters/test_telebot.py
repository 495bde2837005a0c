"""pyTelegramBotAPI on our storages gets the answers that it expects of a storage.

telebot has no tests of its storages. Here is a suite that its memory storages pass, but
for the faults that are listed; those must be there, and so must those of its others.
``test_telebot_bots`` runs whole bots.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from telebot import asyncio_storage, storage
from telebot.states import State, StatesGroup

import botsessions as bs
from botsessions.adapters.telebot import AsyncSessionStateStorage, SessionStateStorage
from tests.places import Memory, OnlyContract, Place, Postgres, Redis, SQLite

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Callable,
        Collection,
        Coroutine,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

CHAT, USER = 7, 8
MANY = 20


class Form(StatesGroup):
    name = State()
    age = State()


class Step(enum.Enum):
    NAME = 1


# Storages, awaited or not, behind one face.


class Awaited:
    """A storage of AsyncTeleBot."""

    def __init__(self, its: Any) -> None:
        self.its = its

    async def call(self, method: str, *args: Any, **named: Any) -> Any:
        return await getattr(self.its, method)(CHAT, USER, *args, **named)

    @asynccontextmanager
    async def block(self, **named: Any) -> AsyncIterator[dict[Any, Any]]:
        async with self.its.get_interactive_data(CHAT, USER, **named) as data:
            yield data

    async def pause(self) -> None:
        await asyncio.sleep(0.005)

    async def together(self, work: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
        """Let many do a thing at once, as tasks."""
        await asyncio.gather(*(work(number) for number in range(MANY)))


class Blocking(Awaited):
    """A storage of TeleBot; its calls block the event loop of the test."""

    async def call(self, method: str, *args: Any, **named: Any) -> Any:
        return getattr(self.its, method)(CHAT, USER, *args, **named)

    @asynccontextmanager
    async def block(self, **named: Any) -> AsyncIterator[dict[Any, Any]]:
        with self.its.get_interactive_data(CHAT, USER, **named) as data:
            yield data

    async def pause(self) -> None:
        time.sleep(0.005)  # noqa: ASYNC251 - it is alone on its thread

    async def together(self, work: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
        """Let many do a thing at once, as threads."""
        await asyncio.gather(
            *(asyncio.to_thread(asyncio.run, work(number)) for number in range(MANY))
        )


@asynccontextmanager
async def ours(
    kind: type[Place], face: type[Awaited], directory: Path, *server: Any
) -> AsyncIterator[Awaited]:
    async with over(kind(directory, *server).backend(), face) as s:
        yield s


@asynccontextmanager
async def over(backend: bs.Backend, face: type[Awaited]) -> AsyncIterator[Awaited]:
    if face is Blocking:
        with bs.SyncSessionStore(backend) as sync_store:
            yield Blocking(SessionStateStorage(sync_store))
    else:
        async with bs.SessionStore(backend) as store:
            yield Awaited(AsyncSessionStateStorage(store))


@asynccontextmanager
async def memory(face: type[Awaited], _: Path) -> AsyncIterator[Awaited]:
    home: Any = storage if face is Blocking else asyncio_storage
    yield face(home.StateMemoryStorage())


@asynccontextmanager
async def pickle(directory: Path) -> AsyncIterator[Awaited]:
    yield Blocking(storage.StatePickleStorage(str(directory / "states.pkl")))


@asynccontextmanager
async def redis(face: type[Awaited], _: Path, server: Any) -> AsyncIterator[Awaited]:
    server.empty()
    if face is Blocking:
        made = storage.StateRedisStorage(redis_url=server.url)
        with made.redis:
            yield Blocking(made)
    else:
        other = asyncio_storage.StateRedisStorage(redis_url=server.url)
        async with other.redis:
            yield Awaited(other)


class Kind(NamedTuple):
    """A kind of storage; ``faults`` are the tests that it fails."""

    name: str
    open: Callable[..., AbstractAsyncContextManager[Awaited]]
    server: str | None = None
    faults: Collection[str] = ()


# What telebot's own storages do wrong: all of them, and some.
FAULTS = {
    "test_each_id_counts_for_itself",
    "test_blocks_of_many_lose_nothing",
    "test_a_block_that_raises_saves_nothing",
    "test_a_block_within_a_block_is_an_error",
    "test_a_block_keeps_what_others_change_meanwhile",
}
OF_MEMORY = FAULTS | {"test_what_was_read_belongs_to_the_caller"}
OF_REDIS = FAULTS | {
    "test_a_state_is_set_and_changed",  # 5 becomes "5"
    "test_data_need_a_state",  # save and reset_data make a record
    "test_data_need_no_more_than_a_state_that_is_none",
    "test_a_block_does_not_bring_back_what_was_deleted_in_it",
    "test_data_keep_their_types",
}
OF_PICKLE = FAULTS | {
    # A State is kept as an object of its own, equal to no other.
    "test_a_state_is_set_and_changed",
    "test_data_are_set_replaced_and_emptied",
    "test_a_block_reads_and_saves",
    "test_a_state_set_within_a_block_stays",
    # A KeyError, as a rule.
    "test_data_need_a_state",
    "test_a_block_does_not_bring_back_what_was_deleted_in_it",
}

OURS = [
    Kind(
        f"{place.__name__}-{face.__name__}".lower(),
        partial(ours, place, face),
        place.server,
    )
    for place in (Memory, SQLite, Postgres, Redis)
    for face in (Awaited, Blocking)
]
KINDS = [
    *OURS,
    Kind("their-memory-awaited", partial(memory, Awaited), faults=OF_MEMORY),
    Kind("their-memory-blocking", partial(memory, Blocking), faults=OF_MEMORY),
    Kind("their-pickle-blocking", pickle, faults=OF_PICKLE),
    Kind("their-redis-awaited", partial(redis, Awaited), "redis_server", OF_REDIS),
    Kind(
        "their-redis-blocking",
        partial(redis, Blocking),
        "redis_server",
        OF_REDIS | {"test_data_set_by_many_are_all_there"},
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def opened(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AbstractAsyncContextManager[Awaited]:
    """Return a new storage, to be entered."""
    kind: Kind = request.param
    if request.function.__name__ in kind.faults:
        request.applymarker(pytest.mark.xfail(strict=True, reason="a fault of theirs"))
    server = [] if kind.server is None else [request.getfixturevalue(kind.server)]
    return kind.open(tmp_path, *server)


ELSEWHERE = {"business_connection_id": "b", "message_thread_id": 3, "bot_id": 1}


# What each call does and answers.


async def test_a_state_is_set_and_changed(opened: Any) -> None:
    async with opened as s:
        assert await s.call("get_state") is None
        assert await s.call("set_state", Form.name) is True
        assert await s.call("get_state") == "Form:name"
        assert await s.call("set_state", "other") is True
        assert await s.call("get_state") == "other"
        assert await s.call("set_state", 5) is True
        assert await s.call("get_state") == 5
        assert await s.call("set_state", None) is True
        assert await s.call("get_state") is None


async def test_a_change_of_state_leaves_the_data(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", Form.name)
        await s.call("set_data", "name", "Ada")
        await s.call("set_state", Form.age)
        assert await s.call("get_data") == {"name": "Ada"}


async def test_the_end_takes_state_and_data(opened: Any) -> None:
    async with opened as s:
        assert await s.call("delete_state") is False
        await s.call("set_state", Form.name)
        await s.call("set_data", "name", "Ada")
        assert await s.call("delete_state") is True
        assert await s.call("delete_state") is False
        assert await s.call("get_state") is None
        assert await s.call("get_data") == {}
        await s.call("set_state", Form.name)
        assert await s.call("get_data") == {}


async def test_data_need_a_state(opened: Any) -> None:
    async with opened as s:
        assert await s.call("get_data") == {}
        with pytest.raises(RuntimeError):
            await s.call("set_data", "name", "Ada")
        assert await s.call("reset_data") is False
        assert await s.call("save", {"name": "Ada"}) is False
        async with s.block() as data:
            assert data == {}
            data["name"] = "Ada"
        assert await s.call("get_data") == {}
        assert await s.call("delete_state") is False


async def test_data_need_no_more_than_a_state_that_is_none(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", None)
        assert await s.call("set_data", "name", "Ada") is True
        assert await s.call("get_data") == {"name": "Ada"}
        assert await s.call("delete_state") is True


async def test_data_are_set_replaced_and_emptied(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", Form.age)
        assert await s.call("set_data", "name", "Ada") is True
        assert await s.call("set_data", key="age", value=36) is True
        assert await s.call("get_data") == {"name": "Ada", "age": 36}
        assert await s.call("save", {"age": 37}) is True
        assert await s.call("get_data") == {"age": 37}
        assert await s.call("reset_data") is True
        assert await s.call("get_data") == {}
        assert await s.call("get_state") == "Form:age"


async def test_a_block_reads_and_saves(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", Form.age)
        await s.call("save", {"name": "Ada", "old": 1, "list": [1]})
        async with s.block() as data:
            assert data == {"name": "Ada", "old": 1, "list": [1]}
            data["age"] = 36
            data["list"].append(2)
            del data["old"]
        assert await s.call("get_data") == {"name": "Ada", "age": 36, "list": [1, 2]}
        assert await s.call("get_state") == "Form:age"


async def test_a_state_set_within_a_block_stays(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", Form.name)
        async with s.block() as data:
            data["name"] = "Ada"
            await s.call("set_state", Form.age)
        assert await s.call("get_state") == "Form:age"
        assert await s.call("get_data") == {"name": "Ada"}


async def test_a_first_state_set_within_a_block_lets_it_save(opened: Any) -> None:
    async with opened as s:
        async with s.block() as data:
            data["name"] = "Ada"
            await s.call("set_state", Form.age)
        assert await s.call("get_data") == {"name": "Ada"}


async def test_a_block_does_not_bring_back_what_was_deleted_in_it(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", Form.name)
        async with s.block() as data:
            data["name"] = "Ada"
            await s.call("delete_state")
        assert await s.call("get_state") is None
        assert await s.call("get_data") == {}
        assert await s.call("delete_state") is False


async def test_data_keep_their_types(opened: Any) -> None:
    data = {
        1: "one",
        "1": ("a", {2, 3}),
        None: datetime(2026, 11, 23, tzinfo=UTC),
        "sum": Decimal("2.40"),
        "raw": b"\0",
    }
    async with opened as s:
        await s.call("set_state", Form.name)
        for name, value in data.items():
            await s.call("set_data", name, value)
        found = await s.call("get_data")
        assert found == data
        assert {name: type(value) for name, value in found.items()} == {
            name: type(value) for name, value in data.items()
        }


async def test_ids_come_by_position_or_by_name(opened: Any) -> None:
    async with opened as s:
        at = tuple(ELSEWHERE.values())
        assert await s.call("set_state", "there", **ELSEWHERE) is True
        assert await s.call("get_state") is None
        assert await s.call("get_state", *at) == "there"
        assert await s.call("set_data", "n", 1, *at) is True
        assert await s.call("get_data", *at) == {"n": 1}
        assert await s.call("save", {"n": 2}, *at) is True
        async with s.block(**ELSEWHERE) as data:
            assert data == {"n": 2}
            data["n"] = 3
        assert await s.call("get_data", **ELSEWHERE) == {"n": 3}
        assert await s.call("reset_data", *at) is True
        assert await s.call("delete_state", *at) is True


async def test_each_id_counts_for_itself(opened: Any) -> None:
    """A thread 2 is no business connection "2"."""
    places: list[dict[str, Any]] = [
        dict(zip(ELSEWHERE, ids, strict=True))
        for ids in itertools.product((None, "2"), (None, 2, 3), (None, 2, 3))
    ]
    async with opened as s:
        for number, place in enumerate(places):
            await s.call("set_state", f"state {number}", **place)
        found = [await s.call("get_state", **place) for place in places]
        assert found == [f"state {number}" for number in range(len(places))]


# What its memory storages do not do.


async def test_what_was_read_belongs_to_the_caller(opened: Any) -> None:
    async with opened as s:
        given = {"list": [1]}
        await s.call("set_state", Form.name)
        await s.call("save", given)
        given["list"].append(2)
        (await s.call("get_data"))["list"].append(3)
        assert await s.call("get_data") == {"list": [1]}


async def test_blocks_of_many_lose_nothing(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", Form.name)

        async def count(_: int) -> None:
            async with s.block() as data:
                n = data.get("n", 0)
                await s.pause()
                data["n"] = n + 1

        await s.together(count)
        assert await s.call("get_data") == {"n": MANY}


async def test_data_set_by_many_are_all_there(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", Form.name)
        await s.together(lambda number: s.call("set_data", str(number), number))
        assert await s.call("get_data") == {str(n): n for n in range(MANY)}


async def test_a_block_that_raises_saves_nothing(opened: Any) -> None:
    """And raises: theirs saves, and swallows the exception."""
    async with opened as s:
        await s.call("set_state", Form.name)
        await s.call("save", {"list": [1]})
        with pytest.raises(LookupError):  # noqa: PT012 - the block is the point
            async with s.block() as data:
                data["list"].append(2)
                raise LookupError
        assert await s.call("get_data") == {"list": [1]}
        async with s.block() as data:  # and whoever comes next gets in
            assert data == {"list": [1]}


async def test_a_block_within_a_block_is_an_error(opened: Any) -> None:
    async with opened as s:
        await s.call("set_state", Form.name)
        async with s.block() as data:
            with pytest.raises(RuntimeError, match="this very task or thread"):
                async with s.block():
                    pass
            data["n"] = 1
            async with s.block(bot_id=2):  # that is another record
                pass
        assert await s.call("get_data") == {"n": 1}


async def test_a_block_keeps_what_others_change_meanwhile(opened: Any) -> None:
    """Calls outside of blocks do not wait for one: what it left alone stays theirs."""
    async with opened as s:
        await s.call("set_state", Form.name)
        await s.call("save", {"both": 0, "mine": 0, "theirs": 0, "gone": 0, "left": 0})
        async with s.block() as data:
            data["mine"] = data["both"] = 1
            del data["left"]
            await s.call("save", {"both": 2, "mine": 0, "theirs": 2, "left": 0})
            await s.call("set_data", "new", 2)
        assert await s.call("get_data") == {
            "both": 1,
            "mine": 1,
            "theirs": 2,
            "new": 2,
        }


# What is ours alone.


async def test_records_have_keys_of_their_own() -> None:
    update = {
        "update_id": 1,
        "message": {
            "message_id": 1,
            "date": 1,
            "chat": {"id": CHAT, "type": "supergroup", "title": "All"},
            "from": {"id": USER, "is_bot": False, "first_name": "Ada"},
        },
    }
    async with bs.open_store("memory://") as store:
        s = Awaited(AsyncSessionStateStorage(store))
        await s.call("set_state", Form.name)
        await s.call("set_state", Form.age, **ELSEWHERE)
        assert await store.get(bs.chat_user_key(update)) == {}
        await store.put(bs.chat_user_key(update), {"mine": 1})
        assert await s.call("get_data") == {}
        # What was stored by one release is found by the next.
        assert {str(key): record async for key, record in store.items()} == {
            "chat=7/user=8": {"mine": 1},
            "chat=7/user=8/name=telebot": {"state": "Form:name", "data": {}},
            "chat=7/user=8/topic=3/business=b/bot=1/name=telebot": {
                "state": "Form:age",
                "data": {},
            },
        }
        await s.call("delete_state")
        assert await store.get(bs.chat_user_key(update)) == {"mine": 1}


@pytest.mark.parametrize("opened", OURS, ids=lambda kind: kind.name, indirect=True)
async def test_of_many_who_remove_a_state_one_is_told_so(opened: Any) -> None:
    """Whoever else sends a farewell when it is True would send it twice."""
    async with opened as s:
        told = []

        async def end(_: int) -> None:
            told.append(await s.call("delete_state"))

        for _ in range(5):
            await s.call("set_state", Form.name)
            await s.together(end)
            assert (told.count(True), len(told)) == (1, MANY)
            told.clear()


class Overtaken(OnlyContract):
    """Lets another program do something just before its first write."""

    def __init__(self, backend: bs.MemoryBackend, key: bs.SessionKey) -> None:
        super().__init__(backend)
        self._other = bs.SessionStore(backend)
        self._key: bs.SessionKey | None = key

    async def commit(self, writes: Sequence[bs.Write]) -> Sequence[bool]:
        key, self._key = self._key, None
        if key is not None:
            await self._other.delete(key)
        return await super().commit(writes)


@pytest.mark.parametrize("face", [Awaited, Blocking])
async def test_who_comes_too_late_removed_nothing(face: type[Awaited]) -> None:
    backend = bs.MemoryBackend()
    key = bs.SessionKey(chat_id=CHAT, user_id=USER, name="telebot")
    async with bs.SessionStore(backend) as store:
        await store.put(key, {"state": "A", "data": {}})
    async with over(Overtaken(backend, key), face) as s:
        assert await s.call("delete_state") is False
        await s.call("set_state", "B")
        assert await s.call("delete_state") is True


async def test_enums_are_states_where_the_store_knows_them() -> None:
    async with bs.open_store("memory://", types=[Step]) as store:
        s = Awaited(AsyncSessionStateStorage(store))
        await s.call("set_state", Step.NAME)
        assert await s.call("get_state") is Step.NAME
    async with bs.open_store("memory://") as store:
        s = Awaited(AsyncSessionStateStorage(store))
        with pytest.raises(bs.UnsupportedValueError, match=r"types=\[Step\]"):
            await s.call("set_state", Step.NAME)
        assert await s.call("get_state") is None


async def test_a_block_that_lost_its_lock_saves_nothing() -> None:
    async with bs.SessionStore(bs.MemoryBackend()) as store:
        s = Awaited(AsyncSessionStateStorage(store, lease=0.1))
        await s.call("set_state", Form.name)
        with pytest.raises(bs.LockLostError):  # noqa: PT012 - the block is the point
            async with s.block() as data:
                data["n"] = 1
                time.sleep(0.15)  # noqa: ASYNC251 - so that nothing renews it
        assert await s.call("get_data") == {}
        async with s.block() as data:
            data["n"] = 2
        assert await s.call("get_data") == {"n": 2}


async def test_a_block_waits_for_another_no_longer_than_told() -> None:
    async with bs.open_store("memory://") as store:
        s = Awaited(AsyncSessionStateStorage(store, timeout=0.05))

        async def other() -> None:
            async with s.block():
                pytest.fail("two at once")

        async with s.block():
            with pytest.raises(bs.LockTimeoutError):
                await asyncio.create_task(other())


def test_data_can_be_read_without_a_block() -> None:
    """As with theirs: ``bot.retrieve_data(…).data``."""
    with bs.open_sync_store("memory://") as store:
        states = SessionStateStorage(store)
        states.set_state(CHAT, USER, Form.name)
        states.set_data(CHAT, USER, "n", 1)
        asked = states.get_interactive_data(CHAT, USER)
        assert asked.data == {"n": 1}
        with asked as data:
            assert data is asked.data
            data["n"] = 2
        assert states.get_data(CHAT, USER) == {"n": 2}


def test_the_other_face_of_a_store_is_refused() -> None:
    """A coroutine that nobody awaits is true, and stores nothing."""
    given: Any = bs.open_store("memory://")
    with pytest.raises(TypeError, match="open_sync_store"):
        SessionStateStorage(given)
    given = bs.open_sync_store("memory://")
    with pytest.raises(TypeError, match="open_store"):
        AsyncSessionStateStorage(given)


class Vector(tuple[float, ...]):
    """Compares as arrays do: with no single answer."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ValueError("which of them?")

    __hash__ = None  # type: ignore[assignment]


async def test_a_block_saves_what_cannot_be_compared() -> None:
    codec = bs.Codec().register(Vector, "vector", list, Vector)
    async with bs.open_store("memory://", codec=codec) as store:
        s = Awaited(AsyncSessionStateStorage(store))
        await s.call("set_state", Form.name)
        await s.call("save", {"v": Vector([1, 2])})
        async with s.block() as data:
            data["v"] = Vector([*data["v"], 3])
        assert list((await s.call("get_data"))["v"]) == [1, 2, 3]
