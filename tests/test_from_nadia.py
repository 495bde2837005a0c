"""Nadia.SessionStore, point by point: a test for each row of docs/from-nadia.md.

The name of a test begins with the id of its row, and tests stand in the order of the
rows. A row that says "Not yet" has a test that calls ``absent``: it fails on the day
the thing comes, so that the page is corrected. ``TestPage`` holds the page, these tests
and what Nadia's documentation says together.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
import time
from dataclasses import make_dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import aiogram.types
import apsw
import pytest
import telebot.types
import telegram

import botsessions as bs
from tests.updates.samples import SAMPLES, UPDATE_TYPES, Document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from botsessions.backend import Outcome
    from tests.places import Place
    from tests.servers.postgres import PostgresServer
    from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "from-nadia.md"
PACKAGE = Path(bs.__file__).parent
ROOMS = ("", "backends", "cli")  # where a new ability would have its module
SEED = ROOT.parent / "shared" / "seed" / "nadia-session-store.txt"

Session = dict[Any, Any]

KEY = bs.SessionKey(chat_id=30, user_id=20)
OTHER = bs.SessionKey(chat_id=30, user_id=21)
# The update of Nadia's own tests.
UPDATE: Document = {
    "update_id": 1,
    "message": {
        "message_id": 10,
        "date": 1700000000,
        "text": "hello",
        "from": {"id": 20, "is_bot": False, "first_name": "Nadia"},
        "chat": {"id": 30, "type": "private"},
    },
}


def count(session: Session) -> Session:
    return {**session, "n": session.get("n", 0) + 1}


def sample(name: str) -> Document:
    return next(s.update for s in SAMPLES if s.name == name)


def ids(name: str) -> tuple[int | None, int | None]:
    where = bs.origin(sample(name))
    return where.chat_id, where.user_id


def absent(*words: str) -> None:
    """Assert that no public name, method, option or module is called so yet."""
    names = [
        *bs.__all__,
        *dir(bs.SessionStore),
        *inspect.signature(bs.SessionStore).parameters,
        *(path.stem for room in ROOMS for path in (PACKAGE / room).iterdir()),
    ]
    come = [name for name in names if any(word in name.lower() for word in words)]
    assert come == [], "has come: correct its row in docs/from-nadia.md, and this test"


class Plain:
    """Shows of a place's backend what a third party's would have: the contract."""

    concurrent_batches = 1

    def __init__(self, place: Place) -> None:
        self.inner = place.backend()
        self.calls: list[str] = []
        self.writes: list[bs.Write] = []

    async def open(self) -> None:
        self.calls.append("open")
        await self.inner.open()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        self.calls.append("load")
        return await self.inner.load(keys)

    async def commit(self, writes: Sequence[bs.Write]) -> Sequence[Outcome]:
        self.calls.append("commit")
        self.writes += writes
        return await self.inner.commit(writes)


class Contested(Plain):
    """Another process always wins the race for KEY."""

    async def commit(self, writes: Sequence[bs.Write]) -> Sequence[Outcome]:
        return [
            not write.key.endswith(f"/{KEY}") and (await self.inner.commit([write]))[0]
            for write in writes
        ]


class Broken(Plain):
    """Can write nothing, and knows it."""

    async def commit(self, writes: Sequence[bs.Write]) -> Sequence[Outcome]:
        self.calls.append("commit")
        raise bs.BackendError("the disk is full") from OSError(28, "no space left")


class Forgetful(Plain):
    """Commits, and loses the answer."""

    async def commit(self, writes: Sequence[bs.Write]) -> Sequence[Outcome]:
        await super().commit(writes)
        raise ConnectionResetError


class Deaf(Plain):
    """Never answers a load."""

    async def load(self, keys: Sequence[str]) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError


class Mute(Plain):
    """Never answers a commit."""

    async def commit(self, writes: Sequence[bs.Write]) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError


@contextlib.asynccontextmanager
async def opened(place: Place) -> AsyncIterator[bs.Backend]:
    """Open a backend of the place, to look behind the store's back."""
    backend = place.backend()
    await backend.open()
    try:
        yield backend
    finally:
        await backend.aclose()


async def record_of(backend: bs.Backend, key: bs.SessionKey) -> bs.Record | None:
    (record,) = (await backend.load([f"sessions/{key}"])).records
    assert not isinstance(record, bs.BackendError)
    return record


def write(
    place: Place,
    key: bs.SessionKey,
    *,
    expected: bs.Version | None = None,
    value: bytes = b"garbage",
) -> bs.Write:
    """Return a write that replaces the expected version, and is not late."""
    now = int(place.clock.now * 1000)
    record = bs.Record(bs.Version(8, 8), value, b"", now, None)
    return bs.Write(f"sessions/{key}", expected, record, now + 1000)


# What the documentation page says.


async def test_a_answers_are_values_and_errors_are_raised(place: Place) -> None:
    async with place.store() as store:
        assert await store.update(KEY, count) == {"n": 1}
        assert await store.get(KEY) == {"n": 1}
        with pytest.raises(bs.SessionError):
            await store.update(KEY, lambda _: ("error", "stop"))  # type: ignore[arg-type,return-value]
    public = [getattr(bs, name) for name in bs.__all__]
    errors = [it for it in public if isinstance(it, type) and issubclass(it, Exception)]
    assert all(issubclass(error, bs.SessionError) for error in errors)


def test_b_chat_key() -> None:
    assert bs.chat_key(UPDATE) == bs.SessionKey(chat_id=30)


def test_c_user_key() -> None:
    assert bs.user_key(UPDATE) == bs.SessionKey(user_id=20)


def test_d_chat_user_key() -> None:
    assert bs.chat_user_key(UPDATE) == bs.SessionKey(chat_id=30, user_id=20)


async def test_e_three_shapes_of_keys_are_three_sessions(place: Place) -> None:
    shapes = [
        bs.SessionKey(chat_id=20),
        bs.SessionKey(user_id=20),
        bs.SessionKey(chat_id=20, user_id=20),
    ]
    async with place.store() as store:
        for number, key in enumerate(shapes):
            await store.put(key, {"n": number})
        assert [await store.get(key) for key in shapes] == [{"n": n} for n in range(3)]


async def test_f_get_gives_a_dict_that_the_caller_owns(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"cart": ["tea"]})
        got = await store.get(KEY)
        got["cart"].append("milk")
        assert await store.get(KEY) == {"cart": ["tea"]}


async def test_g_put_keeps_what_it_was_given_at_the_time(place: Place) -> None:
    cart = ["tea"]
    async with place.store() as store:
        await store.put(KEY, {"cart": cart})
        cart.append("milk")
        assert await store.get(KEY) == {"cart": ["tea"]}


async def test_h_update_changes_a_session(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"name": "Ada"})
        await store.update(KEY, count)
        await store.update(KEY, count)
        assert await store.get(KEY) == {"name": "Ada", "n": 2}


async def test_i_delete_removes_a_session(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"a": 1})
        await store.put(OTHER, {"b": 1})
        await store.delete(KEY)
        assert (await store.get(KEY), await store.get(OTHER)) == ({}, {"b": 1})


async def test_j_update_is_atomic_over_whatever_fulfils_the_contract(
    place: Place,
) -> None:
    async with (
        bs.SessionStore(Plain(place)) as one,
        bs.SessionStore(Plain(place)) as two,
    ):
        stores = [one, two] * 20
        answers = await asyncio.gather(*(store.update(KEY, count) for store in stores))
    assert sorted(answer["n"] for answer in answers) == list(range(1, 41))


class OwnBackend:
    """A backend as an application would write one."""

    concurrent_batches = 1

    def __init__(self) -> None:
        self.records: dict[str, bs.Record] = {}

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        return bs.Loaded(self.now(), [self.records.get(key) for key in keys])

    async def commit(self, writes: Sequence[bs.Write]) -> Sequence[Outcome]:
        return [self.swap(write) for write in writes]

    def swap(self, write: bs.Write) -> bool:
        found = self.records.get(write.key)
        version = None if found is None else found.version
        if version != write.expected or self.now() >= write.not_after:
            return False
        self.records[write.key] = write.record
        return True

    def now(self) -> int:
        return int(time.time() * 1000)


async def test_k_an_application_can_implement_a_backend() -> None:
    backend = OwnBackend()
    assert isinstance(backend, bs.Backend)
    async with bs.SessionStore(backend) as store:
        await asyncio.gather(*(store.update(KEY, count) for _ in range(10)))
        await store.put(OTHER, {"n": 1})
        await store.delete(OTHER)
        assert (await store.get(KEY), await store.get(OTHER)) == ({"n": 10}, {})


async def test_l_postgres_and_redis_reach_over_machines(
    postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    redis_server.empty()
    for url in (f"{postgres_server.dsn}?schema=nadia", redis_server.url):
        async with bs.open_store(url) as one, bs.open_store(url) as other:
            assert await one.update(KEY, count) == {"n": 1}
            assert await other.update(KEY, count) == {"n": 2}


def test_m_no_framework_is_needed() -> None:
    code = (
        f"import botsessions, sys; print(botsessions.chat_user_key({UPDATE!r}), *"
        "{'aiogram', 'apsw', 'asyncpg', 'redis', 'telebot', 'telegram', 'typer'}"
        ".intersection(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment()
    )
    assert done.stdout.decode().split() == [str(KEY)]


def environment() -> dict[str, str]:
    """Return ours, so that a child has the package that is under test here."""
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}


# What Nadia does and what it leaves to the application.


async def test_1_stores_are_explicit_and_apart(place: Place) -> None:
    backend = place.backend()
    async with (
        bs.SessionStore(backend) as one,
        bs.SessionStore(backend) as same,
        bs.SessionStore(backend, namespace="b") as other,
        bs.open_store("memory://") as elsewhere,
    ):
        await one.put(KEY, {"a": 1})
        assert await same.get(KEY) == {"a": 1}
        assert (await other.get(KEY), await elsewhere.get(KEY)) == ({}, {})


async def test_2_what_is_no_store_is_refused(place: Place) -> None:
    for other in ("missing_store", (bs.MemoryBackend, "name"), bs.MemoryBackend, None):
        with pytest.raises(TypeError, match="no backend"):
            bs.SessionStore(other)  # type: ignore[arg-type]
    store = place.store()
    await store.aclose()
    with pytest.raises(bs.StoreClosedError):
        await store.get(KEY)


async def test_3_put_refuses_what_is_no_mapping_at_once(place: Place) -> None:
    backend = Plain(place)
    for session in ("started", None, [("step", 1)]):
        with pytest.raises(bs.InvalidSessionError):
            await bs.SessionStore(backend).put(KEY, session)  # type: ignore[arg-type]
    assert backend.calls == []


async def test_4_update_refuses_what_is_no_function_of_a_session(place: Place) -> None:
    async def coroutine(session: Session) -> Session:
        return session

    backend = Plain(place)
    for function in (None, {"a": 1}, coroutine):
        with pytest.raises(bs.InvalidUpdateError):
            await bs.SessionStore(backend).update(KEY, function)  # type: ignore[arg-type]
    assert backend.calls == []
    async with place.store() as store:
        with pytest.raises(TypeError, match="takes 0 positional arguments"):
            await store.update(KEY, lambda: {"a": 1})  # type: ignore[arg-type,misc]
        assert await store.get(KEY) == {}


async def test_5_only_session_keys_are_keys(place: Place) -> None:
    async with place.store() as store:
        for key in (("chat", 30), "chat=30", 30):
            with pytest.raises(bs.InvalidKeyError):
                await store.get(key)  # type: ignore[arg-type]
        await store.put(bs.SessionKey(chat_id=30), {"int": True})
        assert await store.get(bs.SessionKey(chat_id="30")) == {}


async def test_6_a_backend_knows_nothing_of_sessions(place: Place) -> None:
    methods = {name for name in vars(bs.Backend) if not name.startswith("_")}
    assert methods == {"open", "aclose", "load", "commit"}
    backend = Plain(place)
    async with bs.SessionStore(backend) as store:
        await store.put(KEY, {"a": 1})
    ((key, _, record, _),) = backend.writes
    assert (key, type(record.value)) == ("sessions/chat=30/user=20", bytes)
    assert isinstance(record.version, bs.Version)


async def test_7_contents_come_back_type_for_type_or_are_refused(place: Place) -> None:
    session = {"any": ["name", {"of": b"any depth"}], 30: (1, 2.5), "30": {None}}
    async with place.store() as store:
        await store.put(KEY, session)
        got = await store.get(KEY)
        assert (got, type(got[30]), type(got["30"])) == (session, tuple, set)
        with pytest.raises(bs.UnsupportedValueError, match=r"session\['cart'\]\[1\]"):
            await store.put(KEY, {"cart": ["tea", object()]})


async def test_8_a_missing_or_expired_session_is_empty(place: Place) -> None:
    async with place.store(ttl=60) as store:
        assert await store.get(KEY) == {}
        await store.put(KEY, {"a": 1})
        place.clock.now += 60
        assert await store.get(KEY) == {}


async def test_9_put_replaces_all(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"a": 1, "b": 2})
        await store.put(KEY, {"c": 3})
        assert await store.get(KEY) == {"c": 3}


async def test_10_delete_may_be_repeated(place: Place) -> None:
    async with place.store() as store:
        await store.delete(KEY)
        await store.put(KEY, {"a": 1})
        await store.delete(KEY)
        await store.delete(KEY)
        assert await store.get(KEY) == {}


async def test_11_get_and_then_put_is_not_atomic(place: Place) -> None:
    async with place.store() as store:
        first, second = await store.get(KEY), await store.get(KEY)
        await store.put(KEY, count(first))
        await store.put(KEY, count(second))
        assert await store.get(KEY) == {"n": 1}
        await asyncio.gather(store.update(KEY, count), store.update(KEY, count))
        assert await store.get(KEY) == {"n": 3}


async def test_12_the_function_gets_a_fresh_dict(place: Place) -> None:
    given: list[Session] = []

    def function(session: Session) -> Session:
        given.append(session)
        return {"list": []}

    async with place.store() as store:
        await store.update(KEY, function)
        await store.update(KEY, function)
        given[1]["list"].append("spoilt")
        assert given[0] == {}
        assert await store.get(KEY) == {"list": []}


async def test_13_the_answer_is_the_session_as_committed(place: Place) -> None:
    async with place.store() as store:
        answer = await store.update(KEY, lambda _: MappingProxyType({"cart": ["tea"]}))
        assert (answer, type(answer)) == ({"cart": ["tea"]}, dict)
        answer["cart"].append("milk")
        assert await store.get(KEY) == {"cart": ["tea"]}


async def test_14_raising_writes_nothing(place: Place) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def function(session: Session) -> Session:
        session["step"] = "spoilt"
        raise Stop

    async with place.store() as store:
        await store.put(KEY, {"step": "started"})
        with pytest.raises(Stop):
            await store.update(KEY, function)
        assert await store.get(KEY) == {"step": "started"}


async def test_15_other_returns_are_refused_and_the_session_kept(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"step": "started"})
        for returned in (None, "started", ("ok", {"step": "done"}), [("step", "done")]):
            with pytest.raises(bs.InvalidSessionError):
                await store.update(KEY, lambda _, it=returned: it)  # type: ignore[misc]
        assert await store.get(KEY) == {"step": "started"}


async def test_16_a_failing_function_disturbs_nobody(place: Place) -> None:
    def boom(_: Session) -> NoReturn:
        raise RuntimeError("boom")

    async with place.store() as store:
        updates = [store.update(KEY, function) for function in (count, boom, count)]
        first, error, last = await asyncio.gather(*updates, return_exceptions=True)
    assert (first, last) == ({"n": 1}, {"n": 2})
    assert repr(error) == "RuntimeError('boom')"


async def test_17_updates_are_applied_one_after_the_other(place: Place) -> None:
    seen: list[int] = []

    async def run() -> None:
        async with place.store() as store:
            updates = [store.update(KEY, count) for _ in range(20)]
            seen.extend([session["n"] for session in await asyncio.gather(*updates)])

    await asyncio.gather(run(), run(), asyncio.to_thread(asyncio.run, run()))
    assert sorted(seen) == list(range(1, 61))


async def test_18_a_function_that_calls_its_store_gets_an_error(place: Place) -> None:
    def blocks() -> None:
        with bs.SyncSessionStore(place.backend()) as blocking:
            with pytest.raises(bs.InvalidUpdateError, match="called the store itself"):
                blocking.update(KEY, lambda _: blocking.get(KEY))
            assert blocking.get(KEY) == {}

    await asyncio.to_thread(blocks)
    async with place.store() as store:
        inner = store.get(KEY)
        with pytest.raises(bs.InvalidUpdateError):
            await store.update(KEY, lambda _: store.update(KEY, count))  # type: ignore[arg-type,return-value]
        with pytest.raises(RuntimeError, match="running event loop"):
            await store.update(KEY, lambda _: asyncio.run(inner))
        assert await inner == {}
        assert await store.update(KEY, count) == {"n": 1}


async def test_19_an_unchanged_session_is_not_written(place: Place) -> None:
    backend = Plain(place)
    async with bs.SessionStore(backend) as store:
        await store.update(KEY, count)
        assert await store.update(KEY, lambda session: session) == {"n": 1}
    assert len(backend.writes) == 1


async def test_20_update_creates(place: Place) -> None:
    async with place.store() as store:
        assert await store.update(KEY, count) == {"n": 1}
        assert [key async for key in store.keys()] == [KEY]


async def test_21_a_store_opens_itself(place: Place) -> None:
    store = bs.SessionStore(place.backend())
    await store.put(KEY, {"a": 1})
    await store.aclose()
    async with bs.SessionStore(place.backend()) as again:
        assert await again.get(KEY) == {"a": 1}
    with pytest.raises(bs.StoreClosedError):
        await again.get(KEY)


async def test_22_a_contested_key_holds_up_no_other(place: Place) -> None:
    async with bs.SessionStore(Contested(place)) as store:
        contested = asyncio.ensure_future(store.update(KEY, count))
        for _ in range(10):
            answer = await store.update(OTHER, count)
        assert (answer, contested.done()) == ({"n": 10}, False)
        contested.cancel()


async def test_23_memory_is_gone_with_its_store() -> None:
    async with bs.open_store("memory://") as store:
        await store.put(KEY, {"a": 1})
    async with bs.open_store("memory://") as store:
        assert await store.get(KEY) == {}


async def test_24_errors_say_whether_something_may_have_been_written(
    place: Place,
) -> None:
    closed = place.store()
    await closed.aclose()
    with pytest.raises(bs.StoreClosedError):
        await closed.update(KEY, count)
    for backend, timeout, error in (
        (Deaf(place), 0.05, bs.BackendUnavailableError),
        (Mute(place), 0.25, bs.OutcomeUnknownError),
    ):
        async with bs.SessionStore(backend, timeout=timeout) as store:
            with pytest.raises(error):
                await store.update(KEY, count)


def test_25_a_missing_part_is_an_error_the_chat_first() -> None:
    inline, poll = sample("inline_query"), sample("poll")
    for function, update in ((bs.chat_key, inline), (bs.chat_user_key, poll)):
        with pytest.raises(bs.MissingChatId):
            function(update)
    with pytest.raises(bs.MissingUserId):
        bs.user_key(poll)
    assert issubclass(bs.MissingChatId, bs.MissingKeyPart)
    assert issubclass(bs.MissingUserId, bs.MissingKeyPart)


def test_26_an_update_in_any_form_gives_the_same_key() -> None:
    forms = [
        UPDATE,
        UPDATE["message"],
        json.dumps(UPDATE),
        bs.origin(UPDATE),
        SimpleNamespace(update=UPDATE, chat_data={}),
        aiogram.types.Update.model_validate(UPDATE),
        telegram.Update.de_json(UPDATE, None),
        telebot.types.Update.de_json(UPDATE),  # type: ignore[no-untyped-call]
    ]
    assert {bs.chat_user_key(form) for form in forms} == {KEY}


def test_27_all_kinds_of_message_are_read_alike() -> None:
    kinds = [name for name in UPDATE_TYPES if name.endswith(("message", "post"))]
    updates = [{"update_id": 1, kind: UPDATE["message"]} for kind in kinds]
    assert len(updates) == 7
    found = [bs.origin(update) for update in updates]
    assert [where.event for where in found] == kinds
    assert {(where.chat_id, where.user_id) for where in found} == {(30, 20)}


def test_28_the_chat_of_an_update() -> None:
    assert [
        str(bs.chat_key(sample(name)))
        for name in (
            "message",
            "callback_query",
            "deleted_business_messages",
            "chat_join_request",
            "message_reaction of a user",
            "message_reaction_count",
            "chat_boost, premium",
            "removed_chat_boost, premium",
        )
    ] == [
        "chat=-1005",
        "chat=-1005",
        "chat=11/business=AbC",
        "chat=-1005",
        "chat=-1005",
        "chat=-1006",
        "chat=-1005",
        "chat=-1005",
    ]


def test_29_the_user_of_an_update() -> None:
    for name in (
        "message",
        "callback_query under an inline message",
        "inline_query",
        "chosen_inline_result",
        "message_reaction of a user",
        "chat_join_request",
        "poll_answer of a user",
    ):
        assert bs.user_key(sample(name)) == bs.SessionKey(user_id=11)


def test_30_an_inline_button_has_a_user_and_a_poll_neither() -> None:
    assert ids("callback_query under an inline message") == (None, 11)
    assert ids("poll") == (None, None)


def test_31_a_button_belongs_to_the_person_who_pressed_it() -> None:
    update = sample("callback_query")
    assert update["callback_query"]["message"]["from"]["id"] == 99  # the bot
    assert ids("callback_query") == (-1005, 11)
    other = update["callback_query"] | {"from": {"id": 12}}
    assert bs.user_key({"update_id": 2, "callback_query": other}).user_id == 12


@pytest.mark.parametrize(
    "name", ["shipping_query", "pre_checkout_query", "purchased_paid_media"]
)
def test_32_payments_have_a_user(name: str) -> None:
    assert bs.user_key(sample(name)) == bs.SessionKey(user_id=11)


def test_33_members_business_and_boosts_have_their_parts() -> None:
    assert ids("my_chat_member") == (-1005, 11)
    assert ids("chat_member") == (-1006, 11)
    assert ids("business_connection") == ids("managed_bot") == (None, 11)
    assert ids("chat_boost, premium") == ids("removed_chat_boost, premium")
    assert ids("chat_boost, premium") == (-1005, 11)
    events = {bs.origin(known.update).event for known in SAMPLES}
    assert (len(UPDATE_TYPES), events - {None}) == (27, set(UPDATE_TYPES))


def test_34_anonymous_senders_share_no_session() -> None:
    admin = sample("message of an anonymous admin")
    where = bs.origin(admin)
    assert (where.user_id, where.sender_chat_id) == (1087968824, -1005)
    assert bs.chat_user_key(admin) == bs.SessionKey(chat_id=-1005, user_id=-1005)
    for name in ("message of an anonymous admin", "poll_answer of a chat, taken back"):
        with pytest.raises(bs.MissingUserId):
            bs.user_key(sample(name))


def test_35_topic_bot_business_and_guest_are_parts_of_a_key() -> None:
    topic = sample("message in a topic")
    assert str(bs.topic_key(topic)) == "chat=-1005/topic=7"
    assert str(bs.topic_user_key(topic)) == "chat=-1005/user=11/topic=7"
    assert str(bs.chat_key(topic, bot_id=99)) == "chat=-1005/bot=99"
    assert str(bs.chat_key(topic, name="cart")) == "chat=-1005/name=cart"
    assert str(bs.chat_key(sample("business_message"))) == "chat=11/business=AbC"
    assert str(bs.chat_key(sample("guest_message"))) == "chat=-1005/guest"


async def test_36_a_migrated_group_begins_anew(place: Place) -> None:
    absent("migrat", "alias")
    old, new = (
        bs.chat_key(sample(f"message about a migration, in the {side}"))
        for side in ("old group", "new supergroup")
    )
    async with place.store() as store:
        await store.put(old, {"a": 1})
        assert (await store.get(old), await store.get(new)) == ({"a": 1}, {})


async def test_37a_each_write_lands_alone_and_only_on_its_version(
    place: Place,
) -> None:
    async with opened(place) as backend, place.store() as store:
        await store.put(KEY, {"a": 1})
        stale = write(place, KEY, expected=bs.Version(7, 7))
        assert list(await backend.commit([stale, write(place, OTHER)])) == [False, True]
        assert await store.get(KEY) == {"a": 1}
        assert await record_of(backend, OTHER) == write(place, OTHER).record


async def test_37b_a_write_from_before_a_delete_never_lands(place: Place) -> None:
    async with opened(place) as backend, place.store() as store:
        await store.put(KEY, {"a": 1})
        before = await record_of(backend, KEY)
        assert before is not None
        late = write(place, KEY, expected=before.version)
        await store.delete(KEY)
        assert list(await backend.commit([late])) == [False]
        await store.put(KEY, {"a": 1})
        assert list(await backend.commit([late])) == [False]


async def test_38_options_are_checked(place: Place) -> None:
    for namespace in ("", "a/b", "a b", "x" * 65):
        with pytest.raises(ValueError, match="namespace"):
            place.store(namespace=namespace)
    for timeout in (0, -1, 60):
        with pytest.raises(ValueError, match="timeout"):
            place.store(timeout=timeout)


async def test_39_conflicts_are_retried_until_the_deadline(place: Place) -> None:
    backend = Contested(place)
    async with bs.SessionStore(backend, timeout=0.25) as store:
        with pytest.raises(bs.ConflictError):
            await store.update(KEY, count)
        assert backend.calls.count("load") > 1
    async with contextlib.AsyncExitStack() as stack:
        stores = [bs.SessionStore(Plain(place)) for _ in range(20)]
        for store in stores:
            await stack.enter_async_context(store)
        answers = await asyncio.gather(*(store.update(KEY, count) for store in stores))
        assert sorted(answer["n"] for answer in answers) == list(range(1, 21))


async def test_40_a_failure_is_reported_and_a_doubt_is_settled(place: Place) -> None:
    broken = Broken(place)
    async with bs.SessionStore(broken) as store:
        with pytest.raises(bs.BackendError, match="disk is full") as caught:
            await store.update(KEY, count)
        assert isinstance(caught.value.__cause__, OSError)
        assert broken.calls.count("commit") == 1
    forgetful = Forgetful(place)
    async with bs.SessionStore(forgetful) as store:
        assert await store.update(KEY, count) == {"n": 1}
        assert (len(forgetful.writes), await store.get(KEY)) == (1, {"n": 1})


async def test_41_a_malformed_record_is_reported_and_left_alone(place: Place) -> None:
    async with opened(place) as backend, place.store() as store:
        await backend.commit([write(place, KEY)])
        with pytest.raises(bs.CorruptRecordError, match=str(KEY)):
            await store.get(KEY)
        with pytest.raises(bs.CorruptRecordError, match=str(KEY)):
            await store.update(KEY, count)
        assert await record_of(backend, KEY) == write(place, KEY).record
        await store.put(KEY, {"a": 1})
        assert await store.get(KEY) == {"a": 1}


def test_42_no_transaction_with_an_outbox_yet() -> None:
    absent("once", "outbox", "process_update", "duplicate")


def test_43_the_id_of_an_update_is_all_there_is_yet() -> None:
    absent("once", "process_update")
    assert bs.origin(UPDATE).update_id == 1


async def test_44_data_survives_a_rebuilt_store(place: Place) -> None:
    for number in range(1, 4):
        async with place.store() as store:
            assert await store.update(KEY, count) == {"n": number}


CHILD = """
import asyncio, sys
import botsessions as bs

async def main():
    async with bs.open_store(sys.argv[1], durability="normal") as store:
        for _ in range(25):
            await store.update(bs.SessionKey(chat_id=30, user_id=20), lambda session: {
                "n": session.get("n", 0) + 1
            })

asyncio.run(main())
"""


async def test_45_processes_share_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    command = [sys.executable, "-c", CHILD, url]
    async with bs.open_store(url, durability="normal") as store:
        run = functools.partial(subprocess.run, command, env=environment(), check=True)
        children = asyncio.gather(*(asyncio.to_thread(run) for _ in range(2)))
        while not children.done():
            await store.update(OTHER, count)
        await children
        assert await store.get(KEY) == {"n": 50}


def test_46_no_outbox_worker_yet() -> None:
    absent("outbox", "worker")


async def test_47a_old_sessions_take_the_defaults_of_new_fields(place: Place) -> None:
    absent("migrat", "schema")
    old = make_dataclass("Form", ["name"])
    new = make_dataclass("Form", ["name", ("language", str, "en")])
    async with place.store(types=[old]) as store:
        await store.put(KEY, {"form": old("Ada")})
    async with place.store(types=[new]) as store:
        assert await store.get(KEY) == {"form": new("Ada", "en")}


async def test_47b_sessions_expire_and_are_swept(place: Place) -> None:
    async with place.store(ttl=60, max_age=90) as store:
        await store.put(KEY, {"a": 1})
        place.clock.now += 50
        assert await store.update(KEY, count) == {"a": 1, "n": 1}
        place.clock.now += 40
        assert await store.get(KEY) == {}
        place.clock.now += 60
        assert await store.delete_expired() == (0 if place.sweeps_itself else 1)


async def test_47c_the_sessions_of_a_person_can_be_found_and_deleted(
    place: Place,
) -> None:
    absent("erase", "export", "forget")
    async with place.store() as store:
        for chat in range(3):
            await store.put(bs.SessionKey(chat_id=chat, user_id=20), {"n": chat})
        await store.put(OTHER, {"a": 1})
        for key in [key async for key in store.keys(user_id=20)]:
            await store.delete(key)
        assert [key async for key in store.keys()] == [OTHER]


def test_47d_no_encryption_yet() -> None:
    absent("crypt", "cipher", "secret")


async def test_47e_a_call_takes_no_longer_than_its_timeout(place: Place) -> None:
    async with bs.SessionStore(Deaf(place), timeout=0.05) as store:
        async with asyncio.timeout(5):
            with pytest.raises(bs.BackendUnavailableError):
                await store.get(KEY)


def test_47f_no_metrics_yet() -> None:
    absent("metric", "otel", "telemetry", "trac")


async def test_47g_the_backup_of_sqlite_copies_a_store_in_use(tmp_path: Path) -> None:
    absent("backup", "restore")
    source, copy = tmp_path / "sessions.db", tmp_path / "copy.db"
    async with bs.open_store(f"sqlite:///{source}") as store:
        await store.put(KEY, {"a": 1})
        target = apsw.Connection(str(copy))
        with target.backup("main", apsw.Connection(str(source)), "main") as backup:
            backup.step()
        target.close()
        await store.delete(KEY)
    async with bs.open_store(f"sqlite:///{copy}") as store:
        assert await store.get(KEY) == {"a": 1}


class Bomb:
    """Unpickled, it says so."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("stored bytes were executed",)


async def test_47h_stored_bytes_are_never_executed(place: Place) -> None:
    async with opened(place) as backend, place.store() as store:
        with pytest.raises(bs.UnsupportedValueError):
            await store.put(KEY, {"a": Bomb()})
        await backend.commit([write(place, KEY, value=pickle.dumps(Bomb()))])
        with pytest.raises(bs.CorruptRecordError):
            await store.get(KEY)


async def test_47i_ids_have_64_bits_and_ints_any_size(place: Place) -> None:
    key = bs.SessionKey(chat_id=-(2**63), user_id=2**63 - 1, topic_id=2**52 - 1)
    assert bs.SessionKey.parse(str(key)) == key
    async with place.store() as store:
        await store.put(key, {"n": 10**100})
        assert await store.get(key) == {"n": 10**100}


async def test_48_an_update_that_comes_twice_can_be_told_by_its_id(
    place: Place,
) -> None:
    absent("once", "process_update")
    update_id = bs.origin(UPDATE).update_id

    def handle(session: Session) -> Session:
        if session.get("last_update") == update_id:
            return session
        return count(session) | {"last_update": update_id}

    async with place.store() as store:
        for _ in range(2):
            session = await store.update(bs.chat_user_key(UPDATE), handle)
        assert session == {"n": 1, "last_update": 1}


# The page itself.

# What Nadia's documentation page names, and the row that has its counterpart.
NAMES = {
    "store()": "1",
    "key()": "E",
    "session()": "7",
    "update_or_context()": "26",
    "chat_key/1": "B",
    "user_key/1": "C",
    "chat_user_key/1": "D",
    "get/2": "F",
    "put/3": "G",
    "update/3": "H",
    "delete/2": "I",
    "get": "6",  # the callbacks
    "put": "6",
    "update": "6",
    "delete": "6",
}

# The lines of that page by how they begin, and the rows that answer what they state.
LINES = {
    "Nadia. SessionStore behaviour": "6 K",
    "(nadia v1.5.0)": "",
    "View Source": "",
    "Behaviour and helpers for optional bot session storage.": "M",
    "Session storage is deliberately explicit.": "1 21",
    "children = [": "21",
    "{Nadia.SessionStore.ETS, name:": "21",
    "]": "",
    "store = {Nadia.SessionStore.ETS,": "1",
    "{:ok, key} = Nadia.SessionStore.chat_key(context)": "A B 26",
    "{:ok, session} = Nadia.SessionStore.update(": "A H 13",
    "Map.update(session, :seen, 1": "12 20",
    # "intended for local development"; "persistence, cross-node consistency, or
    # stronger concurrency guarantees"
    "end)The built-in ETS backend is intended for": "17 23 45 K L",
    "Summary": "",
    "Functions": "",
    "Builds a chat-scoped session key from a context or update.": "B 26",
    "Builds a combined chat/user session key": "D 26",
    "Deletes a session from a store.": "I",
    "Reads a session from a store.": "F",
    "Writes a complete session map to a store.": "9 G",
    "Atomically updates a session in a store when the": "17 H J",
    "Builds a user-scoped session key from a context or update.": "C 26",
    "Types": "",
    "@type key() :: {:chat,": "5 E",
    "Session keys used by Nadia helper functions.": "5 E",
    "@type session() :: map()": "7",
    "A session value.": "7",
    "Nadia keeps sessions as maps so backends can": "7",
    "A concrete store reference.": "1",
    "The first element is the backend module": "1 2",
    "second element is backend-specific state": "1 21",
    "name for Nadia.SessionStore.ETS.": "1",
    "@type update_or_context() ::": "26",
    "Callbacks": "6",
    "@spec chat_key(update_or_context()) ::": "25 A B",
    "@spec chat_user_key(update_or_context()) ::": "25 A D",
    "Missing sessions return {:ok, %{}}.": "8",
    "@spec update(store(), key(),": "13 14 A H",
    "The update function receives the current session": "12",
    "session is missing. It may return a new session": "12 13",
    "{:error, reason}. Error returns do not write": "14 15",
    "@spec user_key(update_or_context()) ::": "25 A C",
}


class Row(NamedTuple):
    id: str
    nadia: str
    ours: str
    test: str


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert lines[:2] == ["| id | Nadia | botsessions | test |", "|---|---|---|---|"]
    return [
        Row(*(cell.strip() for cell in line.split("|")[1:-1])) for line in lines[2:]
    ]


def spans(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


class TestPage:
    """The table, the tests above, and what they are made from belong together."""

    def test_each_row_has_its_test_and_each_test_its_row(self) -> None:
        tests = [f"`{name}`" for name in globals() if name.startswith("test_")]
        assert [row.test for row in rows()] == tests

    def test_the_name_of_a_test_begins_with_the_id_of_its_row(self) -> None:
        for row in rows():
            assert row.test.startswith(f"`test_{row.id.lower()}_")
        assert len({row.id for row in rows()}) == len(rows())

    def test_each_of_the_48_points_has_a_row(self) -> None:
        points = {
            int(number) for row in rows() for number in re.findall(r"\d+", row.id)
        }
        assert points == set(range(1, 49))

    def test_each_name_of_nadia_has_a_row(self) -> None:
        nadia = {row.id: spans(row.nadia) for row in rows()}
        assert [name for name, row in NAMES.items() if name not in nadia[row]] == []

    def test_each_statement_of_nadia_has_a_row(self) -> None:
        answering = {row for rows in LINES.values() for row in rows.split()}
        known = {row.id for row in rows()}
        assert answering <= known
        assert {row for row in known if row.isalpha()} <= answering

    @pytest.mark.skipif(not SEED.exists(), reason="it is not checked out beside us")
    def test_these_are_the_statements_of_nadia(self) -> None:
        said = [line for line in SEED.read_text().splitlines() if line.strip()]
        found = [[start for start in LINES if line.startswith(start)] for line in said]
        assert [
            line for line, starts in zip(said, found, strict=True) if not starts
        ] == []
        assert set(LINES) == {start for starts in found for start in starts}

    def test_a_row_says_not_yet_exactly_if_its_test_looks_for_it(self) -> None:
        for row in rows():
            names = globals()[row.test.strip("`")].__code__.co_names
            assert ("Not yet" in row.ours) == ("absent" in names), row.id

    def test_a_row_names_only_what_is_there(self) -> None:
        for row in rows():
            said, _, _ = row.ours.partition("Not yet")
            for name in re.findall(r"\b[A-Z]\w*[a-z]\w*", " ".join(spans(said))):
                assert name in bs.__all__ or hasattr(builtins, name), (row.id, name)
