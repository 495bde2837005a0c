"""The laws of the design (section 1), each by name, over every place.

What needs real processes, kills, or a simulated network is in ``tests/sqlite`` and
``tests/simulation``; here is what one program can see.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextvars import ContextVar
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from botsessions.record import Record, Version, Write
from tests.test_codec import ONE_OF_EACH, same

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.places import Place

KEY = bs.SessionKey(chat_id=-1001, user_id=42)
OTHER = bs.SessionKey(chat_id=-1001, user_id=43)


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {**session, "n": session.get("n", 0) + 1}


def always(session: Any) -> Callable[[dict[Any, Any]], Any]:
    return lambda _: session


# The four verbs.


async def test_get_of_a_missing_session_is_an_empty_dict(place: Place) -> None:
    async with place.store() as store:
        assert await store.get(KEY) == {}
        assert [key async for key in store.keys()] == []


async def test_put_replaces_the_whole_session(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"a": 1, "b": 2})
        await store.put(KEY, {"c": 3})
        assert await store.get(KEY) == {"c": 3}


async def test_an_update_that_comes_to_nothing_removes_the_session(
    place: Place,
) -> None:
    async with place.store() as store:
        for before in ({"a": 1}, {}):
            await store.put(KEY, before)
            assert await store.update(KEY, always({})) == {}
            assert [key async for key in store.keys()] == []
        assert await store.update(KEY, always({})) == {}
        assert await store.update(KEY, count) == {"n": 1}
        assert await store.update(KEY, lambda s: {k: 0 for k in s if k == "b"}) == {}
        assert [key async for key in store.keys()] == []


async def test_put_takes_any_mapping_and_get_gives_a_dict(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, MappingProxyType({"a": 1}))
        got = await store.get(KEY)
        assert type(got) is dict
        assert got == {"a": 1}


async def test_update_returns_the_session_as_committed(place: Place) -> None:
    async with place.store() as store:
        assert await store.update(KEY, count) == {"n": 1}
        assert await store.update(KEY, count) == {"n": 2}
        returned = await store.update(KEY, lambda s: MappingProxyType(count(s)))
        assert type(returned) is dict
        assert returned == {"n": 3} == await store.get(KEY)


async def test_delete_removes_and_a_missing_one_is_no_error(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"a": 1})
        await store.delete(KEY)
        await store.delete(KEY)
        assert await store.get(KEY) == {}
        assert await store.update(KEY, count) == {"n": 1}


async def test_what_was_acknowledged_is_there_after_reopening(place: Place) -> None:
    async with place.store() as store:
        await store.update(KEY, count)
        await store.put(OTHER, {"x": (1, 2)})
    async with place.store() as store:
        assert await store.get(KEY) == {"n": 1}
        assert await store.get(OTHER) == {"x": (1, 2)}


async def test_namespaces_do_not_see_each_other(place: Place) -> None:
    async with place.store(namespace="a") as a, place.store(namespace="a.b") as b:
        await a.put(KEY, {"of": "a"})
        assert await b.get(KEY) == {}
        await b.put(KEY, {"of": "b"})
        assert await a.get(KEY) == {"of": "a"}
        assert [s async for _, s in a.items()] == [{"of": "a"}]


# Law 1: what a function may be, get, and return.


async def test_law_1_function_gets_a_fresh_dict(place: Place) -> None:
    seen = []

    def function(session: dict[Any, Any]) -> dict[Any, Any]:
        assert type(session) is dict
        seen.append(session)
        return {"list": [len(seen)]}

    async with place.store() as store:
        await store.update(KEY, function)
        await store.update(KEY, function)
        await asyncio.gather(*(store.update(KEY, function) for _ in range(3)))
    assert seen[0] == {}
    assert len({id(session) for session in seen}) == len(seen)
    assert len({id(session["list"]) for session in seen[1:]}) == len(seen) - 1


async def test_law_1_function_runs_synchronously_in_the_callers_context(
    place: Place,
) -> None:
    language: ContextVar[str] = ContextVar("language", default="none")

    async def caller(store: bs.SessionStore, value: str) -> None:
        language.set(value)
        key = bs.SessionKey(name=value)
        session = await store.update(key, lambda _: {"language": language.get()})
        assert session == {"language": value}

    async with place.store() as store:
        here = threading.get_ident()
        await store.update(KEY, lambda _: {"thread": threading.get_ident() == here})
        assert await store.get(KEY) == {"thread": True}
        await asyncio.gather(*(caller(store, value) for value in ("de", "en", "pt")))


@pytest.mark.parametrize("returned", [None, 7, [], (), "text", {1, 2}])
async def test_law_1_a_function_must_return_a_mapping(
    place: Place, returned: Any
) -> None:
    async with place.store() as store:
        await store.put(KEY, {"a": 1})
        with pytest.raises(bs.InvalidSessionError, match="return the whole session"):
            await store.update(KEY, lambda _: returned)
        assert await store.get(KEY) == {"a": 1}


def forgets_to_return(session: dict[Any, Any]) -> Any:
    session["a"] = 1


async def test_law_1_a_session_changed_in_place_must_be_returned(place: Place) -> None:
    async with place.store() as store:
        with pytest.raises(bs.InvalidSessionError, match="returned None"):
            await store.update(KEY, forgets_to_return)


async def coroutine_function(session: dict[Any, Any]) -> dict[Any, Any]:
    raise AssertionError(session)


async def async_generator(session: dict[Any, Any]) -> AsyncIterator[Any]:
    yield session


class AsyncCallable:
    async def __call__(self, session: dict[Any, Any]) -> dict[Any, Any]:
        raise AssertionError(session)


@pytest.mark.parametrize(
    "function",
    [
        None,
        7,
        {"a": 1},
        coroutine_function,
        async_generator,
        AsyncCallable(),
    ],
    ids=lambda x: repr(x).partition(" at 0x")[0],
)
async def test_law_1_what_cannot_be_called_is_refused(
    place: Place, function: Any
) -> None:
    async with place.store() as store:
        await store.put(KEY, {"a": 1})
        with pytest.raises(bs.InvalidUpdateError, match="function"):
            await store.update(KEY, function)
        assert await store.get(KEY) == {"a": 1}


@pytest.mark.parametrize("key", ["chat=1", None, 42, ("chat", 1), object()])
async def test_only_session_keys_are_keys(place: Place, key: Any) -> None:
    async with place.store() as store:
        for call in (
            lambda: store.get(key),
            lambda: store.put(key, {}),
            lambda: store.update(key, count),
            lambda: store.delete(key),
        ):
            with pytest.raises(bs.InvalidKeyError, match="SessionKey"):
                await call()


# Law 2: exceptions.


class OfTheApplication(Exception):  # noqa: N818
    pass


async def test_law_2_an_exception_reaches_the_caller_as_it_is(place: Place) -> None:
    error = OfTheApplication("mine")

    def function(_: dict[Any, Any]) -> dict[Any, Any]:
        raise error

    async with place.store() as store:
        await store.put(KEY, {"a": 1})
        with pytest.raises(OfTheApplication) as caught:
            await store.update(KEY, function)
        assert caught.value is error
        assert await store.get(KEY) == {"a": 1}


@pytest.mark.parametrize("error", [TypeError("mine"), KeyError("mine"), ValueError()])
async def test_law_2_also_the_errors_that_python_itself_raises(
    place: Place, error: Exception
) -> None:
    def function(_: dict[Any, Any]) -> dict[Any, Any]:
        raise error

    async with place.store() as store:
        for session in ({}, {"a": 1}, {"a": (1,)}):
            await store.put(KEY, session)
            with pytest.raises(type(error)) as caught:
                await store.update(KEY, function)
            assert caught.value is error


async def test_law_2_other_callers_of_the_key_are_not_disturbed(place: Place) -> None:
    def fails(session: dict[Any, Any]) -> dict[Any, Any]:
        session["n"] = "spoilt"
        raise OfTheApplication

    async with place.store() as store:
        functions = [count, fails, count, fails, count]
        answers = await asyncio.gather(
            *(store.update(KEY, function) for function in functions),
            return_exceptions=True,
        )
        assert answers[::2] == [{"n": 1}, {"n": 2}, {"n": 3}]
        assert [type(answer) for answer in answers[1::2]] == [OfTheApplication] * 2
        assert await store.get(KEY) == {"n": 3}


async def test_law_2_stop_iteration_becomes_a_runtime_error(place: Place) -> None:
    # No coroutine can raise it (PEP 479); what matters is that nobody hangs.
    async with place.store() as store:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await store.update(KEY, lambda _: next(iter(())))
        assert await store.update(KEY, count) == {"n": 1}


# Law 3: linearizable.


async def test_law_3_concurrent_updates_are_each_applied_once(place: Place) -> None:
    async with place.store() as store:
        sessions = await asyncio.gather(*(store.update(KEY, count) for _ in range(500)))
        assert sorted(session["n"] for session in sessions) == list(range(1, 501))


async def test_law_3_over_several_stores(place: Place) -> None:
    async with place.store() as one, place.store() as two, place.store() as three:
        stores = [one, two, three] * 60
        sessions = await asyncio.gather(*(s.update(KEY, count) for s in stores))
        assert sorted(session["n"] for session in sessions) == list(range(1, 181))


async def test_law_3_over_several_keys_at_once(place: Place) -> None:
    keys = [bs.SessionKey(chat_id=number) for number in range(50)]

    async def caller(store: bs.SessionStore, start: int) -> None:
        for number in range(20):
            await store.update(keys[(start + number * 7) % 50], count)

    async with place.store() as store:
        await asyncio.gather(*(caller(store, start) for start in range(100)))
        total = [session["n"] async for _, session in store.items()]
        assert sum(total) == 2000


async def test_law_3_over_threads_with_loops_of_their_own(place: Place) -> None:
    def work() -> None:
        async def run() -> None:
            async with place.store() as store:
                for _ in range(50):
                    await asyncio.gather(*(store.update(KEY, count) for _ in range(4)))

        asyncio.run(run())

    async with place.store() as store:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            await store.update(KEY, count)
            await asyncio.sleep(0)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await store.get(KEY) == {"n": 800}


async def test_law_3_a_read_sees_what_another_store_acknowledged(place: Place) -> None:
    async with place.store() as one, place.store() as two:
        for number in range(1, 30):
            await one.update(KEY, count)
            assert await two.get(KEY) == {"n": number}
            await two.put(OTHER, {"n": number})
            assert await one.get(OTHER) == {"n": number}


async def test_law_3_verbs_of_one_key_take_effect_in_call_order(place: Place) -> None:
    async with place.store() as store:
        answers: Any = await asyncio.gather(
            store.put(KEY, {"n": 10}),
            store.update(KEY, count),
            store.delete(KEY),
            store.update(KEY, count),
            store.put(KEY, {"n": 20}),
            store.update(KEY, count),
        )
        assert answers == [None, {"n": 11}, None, {"n": 1}, None, {"n": 21}]


# Law 4: refused before the backend is touched.


@pytest.mark.parametrize("session", [None, 7, [("a", 1)], "text", {1, 2}])
async def test_law_4_put_of_what_is_no_mapping(place: Place, session: Any) -> None:
    backend = Untouchable()
    with pytest.raises(bs.InvalidSessionError, match="mapping"):
        await bs.SessionStore(backend).put(KEY, session)
    async with place.store() as store:
        with pytest.raises(bs.InvalidSessionError, match="mapping"):
            await store.put(KEY, session)


async def test_law_4_a_session_that_is_too_large(place: Place) -> None:
    async with place.store(max_session_bytes=100) as store:
        await store.put(KEY, {"a": "x" * 90})
        for large in ({"a": "x" * 101}, {"a": ("x" * 101,)}):
            with pytest.raises(bs.SessionTooLargeError, match="max_session_bytes"):
                await store.put(KEY, large)
            with pytest.raises(bs.SessionTooLargeError, match="100"):
                await store.update(KEY, always(large))
        assert await store.get(KEY) == {"a": "x" * 90}


async def test_law_4_the_limit_is_exact_and_a_mebibyte_by_default(place: Place) -> None:
    def session_of(size: int) -> dict[str, str]:
        return {"a": "x" * (size - 8)}  # map, key, and a string header of 5 bytes

    async with place.store() as store:
        await store.put(KEY, session_of(1024 * 1024))
        with pytest.raises(bs.SessionTooLargeError):
            await store.put(KEY, session_of(1024 * 1024 + 1))
        assert await store.get(KEY) == session_of(1024 * 1024)


# Law 5: nothing aliases.


async def test_law_5_what_is_handed_in_can_be_changed_afterwards(place: Place) -> None:
    async with place.store() as store:
        cart = ["apple"]
        session = {"cart": cart}
        put = asyncio.ensure_future(store.put(KEY, session))
        await asyncio.sleep(0)
        cart.append("later")
        session["more"] = ["x"]
        await put
        assert await store.get(KEY) == {"cart": ["apple"]}


@pytest.mark.parametrize("flat", [True, False])
async def test_law_5_what_is_handed_out_can_be_changed(
    place: Place, *, flat: bool
) -> None:
    kept: list[dict[Any, Any]] = []

    def function(session: dict[Any, Any]) -> dict[Any, Any]:
        kept.append(session)
        new = {"n": 1} if flat else {"n": [1, {"deep": [2]}]}
        kept.append(new)
        return new

    async with place.store() as store:
        first = await store.update(KEY, function)
        expected = {"n": 1} if flat else {"n": [1, {"deep": [2]}]}
        for session in kept:
            spoil(session)
        assert first == expected
        second, third = await asyncio.gather(
            store.update(KEY, lambda s: s), store.update(KEY, lambda s: s)
        )
        spoil(first)
        spoil(second)
        assert third == expected
        got, again = await asyncio.gather(store.get(KEY), store.get(KEY))
        spoil(third)
        spoil(got)
        assert again == expected == await store.get(KEY)


def spoil(session: dict[Any, Any]) -> None:
    nested = session.get("n")
    if isinstance(nested, list):
        nested[1]["deep"].append("spoilt")
        nested.append("spoilt")
    session["n"] = "spoilt"


# Law 6, type for type, is tested on the codec; here that every place keeps it.


async def test_law_6_types_survive_every_place(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, ONE_OF_EACH)
        assert same(await store.get(KEY), ONE_OF_EACH)
        returned = await store.update(KEY, lambda s: {**s, "more": (1, (2,))})
        assert same(returned, {**ONE_OF_EACH, "more": (1, (2,))})
        assert same(await store.get(KEY), returned)
    async with place.store() as store:
        assert same(await store.get(KEY), returned)


async def test_law_6_what_cannot_be_kept_names_its_path(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"a": 1})
        for bad, path in (
            ({"cart": [1, 2, object()]}, r"session\['cart'\]\[2\]"),
            ({"name": "\ud800"}, r"session\['name'\]"),
            ({"blob": memoryview(b"x")}, r"session\['blob'\]"),
        ):
            with pytest.raises(bs.UnsupportedValueError, match=path):
                await store.put(KEY, bad)
            with pytest.raises(bs.UnsupportedValueError, match=path):
                await store.update(KEY, always(bad))
        assert await store.get(KEY) == {"a": 1}


# Law 7: cancellation (at every await: tests/simulation).


async def test_law_7_a_cancelled_call_leaves_no_stuck_key(place: Place) -> None:
    async with place.store() as store:
        await store.put(KEY, {"n": 0})
        calls = [asyncio.ensure_future(store.update(KEY, count)) for _ in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        kept = sum(isinstance(answer, dict) for answer in answers)
        assert kept >= 10
        session = await store.update(KEY, count)
        assert kept < session["n"] <= 21


# Law 8, unknown outcomes, is tested in tests/simulation.

# Law 9: expiry.


async def test_law_9_an_expired_session_is_never_returned(place: Place) -> None:
    async with place.store(ttl=100) as store:
        await store.put(KEY, {"a": 1})
        place.clock.now += 99.999
        assert await store.get(KEY) == {"a": 1}
        assert [key async for key in store.keys()] == [KEY]
        place.clock.now += 0.001
        assert await store.get(KEY) == {}
        assert [key async for key in store.keys()] == []
        assert await store.update(KEY, count) == {"n": 1}


async def test_law_9_writes_refresh_the_ttl_and_reads_do_not(place: Place) -> None:
    async with place.store(ttl=timedelta(seconds=100)) as store:
        await store.put(KEY, {"a": 1})
        place.clock.now += 60
        await store.update(KEY, lambda s: s)
        place.clock.now += 60
        assert await store.get(KEY) == {"a": 1}
        place.clock.now += 39
        assert await store.get(KEY) == {"a": 1}
        place.clock.now += 1
        assert await store.get(KEY) == {}


async def test_law_9_the_end_moves_lazily_but_lasts_nine_tenths(place: Place) -> None:
    async with place.store(ttl=100) as store:
        await store.put(KEY, {"n": 0})
        for _ in range(60):
            place.clock.now += 3
            await store.update(KEY, count)
        place.clock.now += 90
        assert await store.get(KEY) == {"n": 60}
        place.clock.now += 10
        assert await store.get(KEY) == {}


async def test_law_9_max_age_over_older_data_loses_nothing_that_is_written(
    place: Place,
) -> None:
    async with place.store() as store:
        await store.put(KEY, {"n": 1})
        await store.put(OTHER, {"n": 1})
    place.clock.now += 1000
    async with place.store(max_age=250) as store:
        await store.put(KEY, {"n": 2})
        assert await store.update(OTHER, count) == {"n": 2}
        assert await store.get(KEY) == await store.get(OTHER) == {"n": 2}
        place.clock.now += 249
        assert await store.update(KEY, count) == {"n": 3}
        place.clock.now += 1
        assert await store.get(KEY) == await store.get(OTHER) == {}


async def test_law_9_max_age_is_absolute(place: Place) -> None:
    async with place.store(ttl=100, max_age=250) as store:
        await store.put(KEY, {"n": 0})
        for _ in range(4):
            place.clock.now += 60
            await store.update(KEY, count)
        place.clock.now += 9
        assert await store.get(KEY) == {"n": 4}
        place.clock.now += 1
        assert await store.get(KEY) == {}
        await store.update(KEY, count)
        place.clock.now += 99
        assert await store.get(KEY) == {"n": 1}


async def test_law_9_sweeping_removes_only_what_is_long_dead(place: Place) -> None:
    async with place.store(ttl=100) as store, place.store(namespace="x") as other:
        for number in range(1200):
            await store.put(bs.SessionKey(chat_id=number), {"n": number})
        await other.put(KEY, {"kept": True})
        place.clock.now += 50
        await store.put(KEY, {"young": True})
        place.clock.now += 50
        assert await store.delete_expired() == 0
        place.clock.now += 60
        swept = await store.delete_expired()
        assert swept == (0 if place.sweeps_itself else 1200)
        assert await store.delete_expired() == 0
        assert await other.get(KEY) == {"kept": True}
        assert await store.update(KEY, count) == {"n": 1}


# Law 10: corrupt records.


async def corrupt(place: Place, change: Callable[[bytes], bytes]) -> None:
    """Change the stored bytes of KEY behind the store's back."""
    backend = place.backend()
    await backend.open()
    loaded = await backend.load([f"sessions/{KEY}"])
    (record,) = loaded.records
    assert isinstance(record, bs.Record)
    spoilt = record._replace(
        value=change(record.value), version=Version(record.version.counter + 1, 7)
    )
    write = Write(f"sessions/{KEY}", record.version, spoilt, loaded.now + 60_000)
    assert list(await backend.commit([write])) == [True]
    await backend.aclose()


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[:-1],
        lambda value: value[:5] + bytes([value[5] ^ 1]) + value[6:],
        lambda value: value + b"\x00",
        lambda _: b"\xff" * 40,
    ],
    ids=["cut short", "one bit", "one byte more", "garbage"],
)
async def test_law_10_a_corrupt_record_is_reported_and_left_alone(
    place: Place, change: Callable[[bytes], bytes]
) -> None:
    async with place.store() as store:
        await store.put(KEY, {"name": "Ada", "n": 1})
        await store.put(OTHER, {"n": 1})
        await corrupt(place, change)
        for _ in range(2):
            with pytest.raises(bs.CorruptRecordError, match=str(KEY)):
                await store.get(KEY)
            with pytest.raises(bs.CorruptRecordError, match="put or delete"):
                await store.update(KEY, count)
        assert await store.update(OTHER, count) == {"n": 2}
        with pytest.raises(bs.CorruptRecordError, match=str(KEY)):
            [item async for item in store.items()]
        after = [item async for item in store.items(after=KEY)]
        assert after == [(OTHER, {"n": 2})]
        await store.put(KEY, {"n": 5})
        assert await store.get(KEY) == {"n": 5}
        await corrupt(place, change)
        await store.delete(KEY)
        assert await store.update(KEY, count) == {"n": 1}


async def test_a_walk_begins_behind_a_key_and_ends_ahead_of_another(
    place: Place,
) -> None:
    keys = [bs.SessionKey(chat_id=1, user_id=number) for number in range(1, 6)]
    async with place.store() as store:
        for key in keys:
            await store.put(key, {"a": 1})
        walk = store.keys(after=keys[0], before=keys[3])
        assert [key async for key in walk] == keys[1:3]
        items = store.items(before=keys[1], chat_id=1)
        assert [item async for item in items] == [(keys[0], {"a": 1})]
        assert [key async for key in store.keys(before=keys[0])] == []


# Law 11: closing.


async def test_law_11_after_aclose_every_call_raises(place: Place) -> None:
    store = place.store()
    await store.put(KEY, {"a": 1})
    await store.aclose()
    await store.aclose()
    calls: list[Callable[[], Any]] = [
        lambda: store.get(KEY),
        lambda: store.put(KEY, {}),
        lambda: store.update(KEY, count),
        lambda: store.delete(KEY),
        store.delete_expired,
        lambda: anext(store.keys()),
        lambda: anext(store.items()),
        store.__aenter__,
    ]
    for call in calls:
        with pytest.raises(bs.StoreClosedError, match="closed"):
            await call()


async def test_law_11_work_in_flight_is_finished(place: Place) -> None:
    store = place.store()
    await store.put(KEY, {"n": 0})
    calls = [asyncio.ensure_future(store.update(KEY, count)) for _ in range(50)]
    await asyncio.sleep(0)
    await store.aclose()
    answers = await asyncio.gather(*calls)
    assert [answer["n"] for answer in answers] == list(range(1, 51))
    async with place.store() as again:
        assert await again.get(KEY) == {"n": 50}


async def test_law_11_closing_an_unused_store_is_fine(place: Place) -> None:
    await place.store().aclose()


async def test_law_11_closing_one_store_leaves_its_backend_to_the_others(
    place: Place,
) -> None:
    backend = place.backend()
    one, two = bs.SessionStore(backend), bs.SessionStore(backend)
    await one.put(KEY, {"a": 1})
    await two.put(OTHER, {"b": 1})
    await one.aclose()
    assert await two.get(KEY) == {"a": 1}
    await two.aclose()


# Opening.


async def test_a_store_opens_itself_once_for_all_first_callers(place: Place) -> None:
    store = place.store()
    await asyncio.gather(*(store.update(KEY, count) for _ in range(20)))
    assert await store.get(KEY) == {"n": 20}
    await store.aclose()


def test_a_store_is_made_without_a_loop_and_belongs_to_the_one_it_was_opened_on(
    place: Place,
) -> None:
    store = place.store()
    home = asyncio.Runner()
    home.run(store.put(KEY, {"a": 1}))
    calls: list[Callable[[], Any]] = [
        lambda: store.get(KEY),
        lambda: store.put(KEY, {"b": 1}),
        lambda: store.update(KEY, count),
        lambda: store.delete(KEY),
        lambda: anext(store.keys()),
    ]
    for call in calls:

        async def run(call: Callable[[], Any] = call) -> None:
            await call()

        with pytest.raises(bs.BackendError, match="another event loop"):
            asyncio.run(run())
    home.run(store.aclose())
    home.close()


async def test_an_unchanged_missing_session_is_not_created(place: Place) -> None:
    async with place.store() as store:
        for number in range(10):
            key = bs.SessionKey(chat_id=number)
            assert await store.update(key, lambda s: s) == {}
            assert await store.get(key) == {}
        assert [key async for key in store.keys()] == []


# Listing.


async def test_listing_is_filtered_by_any_part_of_the_key(place: Place) -> None:
    keys = [
        bs.SessionKey(chat_id=1, user_id=2),
        bs.SessionKey(chat_id=12, user_id=2),
        bs.SessionKey(chat_id=12, user_id=3, topic_id=5),
        bs.SessionKey(chat_id="1"),
        bs.SessionKey(user_id=2, name="cart"),
        bs.SessionKey(chat_id=1, guest=True),
    ]
    async with place.store() as store:
        for key in keys:
            await store.put(key, {"key": str(key)})

        async def found(**parts: Any) -> set[bs.SessionKey]:
            return {key async for key in store.keys(**parts)}

        assert await found() == set(keys)
        assert await found(chat_id=1) == {keys[0], keys[5]}
        assert await found(chat_id="1") == {keys[3]}
        assert await found(user_id=2) == {keys[0], keys[1], keys[4]}
        assert await found(user_id=2, chat_id=12) == {keys[1]}
        assert await found(topic_id=5) == {keys[2]}
        assert await found(name="cart") == {keys[4]}
        assert await found(guest=True) == {keys[5]}
        assert await found(chat_id=99) == set()
        with pytest.raises(TypeError, match="parts of a key"):
            await found(colour="red")
        texts = [str(key) async for key in store.keys()]
        assert texts == sorted(texts)
        assert [k async for k in store.keys(after=bs.SessionKey.parse(texts[2]))] == [
            bs.SessionKey.parse(text) for text in texts[3:]
        ]


async def test_listing_goes_on_while_sessions_come_and_go(place: Place) -> None:
    async with place.store() as store:
        stay = [bs.SessionKey(chat_id=number, name="stay") for number in range(1300)]
        for key in stay:
            await store.put(key, {"x": 1})
        seen = []
        async for key in store.keys():
            seen.append(key)
            if len(seen) % 100 == 0:
                await store.put(bs.SessionKey(chat_id=len(seen), name="new"), {})
                await store.delete(bs.SessionKey(chat_id=len(seen) - 1, name="new"))
        assert [key for key in seen if key.name == "stay"] == sorted(stay, key=str)


# What a store refuses to be made of.


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"namespace": ""}, ValueError),
        ({"namespace": "a/b"}, ValueError),
        ({"namespace": "x" * 65}, ValueError),
        ({"ttl": 0}, ValueError),
        ({"ttl": -1}, ValueError),
        ({"max_age": float("nan")}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": 60}, ValueError),
        ({"max_pending": 0}, ValueError),
        ({"max_session_bytes": 0}, ValueError),
        ({"codec": bs.Codec(), "types": [int]}, ValueError),
        ({"colour": "red"}, TypeError),
    ],
)
def test_bad_options_are_refused_at_once(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        bs.SessionStore(bs.MemoryBackend(), **options)


def test_what_is_no_backend_is_refused_at_once() -> None:
    for other in (None, object(), bs.MemoryBackend, "sqlite:///x.db"):
        with pytest.raises(TypeError, match="backend"):
            bs.SessionStore(other)  # type: ignore[arg-type]


class Untouchable(Mapping[Any, Any]):
    """A backend that fails the test as soon as it is touched."""

    concurrent_batches = 1

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError

    async def open(self) -> None:
        raise AssertionError

    async def aclose(self) -> None:
        raise AssertionError

    async def load(self, keys: Any) -> Any:
        raise AssertionError

    async def commit(self, writes: Any) -> Any:
        raise AssertionError


def test_a_record_is_dead_from_its_end_on() -> None:
    record = Record(Version(1, 1), b"value", b"", 0, 1000)
    assert not record.is_dead(999)
    assert record.is_dead(1000)
