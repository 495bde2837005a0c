"""The laws of the store (docs/guarantees.md), over this backend, as users meet them.

Most of them are the engine's work; a backend that breaks the contract breaks some of
them too. Neighbours: ``subject``, ``contract`` (what the laws rest on).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import math
import random
import time
import uuid
from typing import TYPE_CHECKING, Any

from botsessions.conformance.histories.history import Call, Outcome, Verb, Violation
from botsessions.conformance.subject import expect, together, within
from botsessions.conformance.witness import judge
from botsessions.errors import (
    CorruptRecordError,
    InvalidSessionError,
    InvalidUpdateError,
    OutcomeUnknownError,
    SessionError,
    SessionTooLargeError,
    StoreClosedError,
    UnsupportedValueError,
)
from botsessions.keys import SessionKey
from botsessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from botsessions.backend import Backend
    from botsessions.backend import Outcome as Landed
    from botsessions.conformance.subject import Subject
    from botsessions.record import Loaded, Write

    Session = dict[Any, Any]

_KEY = SessionKey(chat_id=-1001, user_id=42)
_OTHER = SessionKey(chat_id=-1001, user_id=43)


async def law_1_a_function_gets_a_fresh_dict(subject: Subject) -> None:
    """A function is given a dict of its own, and must return a mapping, at once."""
    store = await subject.store()
    seen: list[Session] = []

    def keep(session: Session) -> Session:
        seen.append(session)
        return {"list": [len(seen)]}

    for _ in range(2):
        await store.update(_KEY, keep)
    await asyncio.gather(*(store.update(_KEY, keep) for _ in range(3)))
    expect(seen[0] == {}, f"the first was given {seen[0]!r}")
    expect(len({id(session) for session in seen}) == 5, "two were given one dict")
    lists = {id(session["list"]) for session in seen[1:]}
    expect(len(lists) == 4, "two were given one list")

    async def coroutine(session: Session) -> Session:
        return session

    await _refused(store.update(_KEY, lambda _: None), InvalidSessionError)  # type: ignore[arg-type,return-value]
    await _refused(store.update(_KEY, coroutine), InvalidUpdateError)  # type: ignore[arg-type]
    expect(await store.get(_KEY) == {"list": [5]}, "who was refused wrote something")


async def law_2_an_exception_writes_nothing(subject: Subject) -> None:
    """What a function raises reaches its caller; the others are not disturbed."""
    store = await subject.store()
    error = LookupError("the caller's")

    def fails(session: Session) -> Session:
        session["n"] = "spoilt"
        raise error

    calls = [store.update(_KEY, f) for f in (_count, fails, _count, fails, _count)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    expect(answers[::2] == [{"n": 1}, {"n": 2}, {"n": 3}], f"they got {answers!r}")
    expect(answers[1::2] == [error, error], "it did not get what it raised")
    expect(await store.get(_KEY) == {"n": 3}, "one that raised has written")


async def law_3_each_update_is_applied_once(subject: Subject) -> None:
    """Updates of several stores on the same keys: each once, on another's result."""
    stores = [await subject.store() for _ in range(3)]
    keys = [_KEY, _OTHER]
    calls: list[Call] = []
    work = [
        _call(store, number, keys[turn % 2], calls, turn)
        for number, store in enumerate(stores)
        for turn in range(20)
    ]
    await together(*work)
    # Those came in few commits, perhaps. Here each has one of its own.
    for number, store in enumerate(stores):
        for turn in range(3):
            await _call(store, number, _KEY, calls, turn)
    for key in keys:
        await _call(stores[0], 0, key, calls, 5)
    for call in calls:
        # Nothing was lost on the way here, nobody was too late.
        expect(call.outcome is Outcome.DONE, f"{call.process} was told {call.note}")
    judge(subject, calls)


async def law_4_what_is_no_session_is_refused(subject: Subject) -> None:
    """No mapping, or a session that is too large, is refused; what was there stays."""
    store = await subject.store(max_session_bytes=1_000)
    await store.put(_KEY, {"a": 1})
    large = {"a": "x" * 1_001}
    await _refused(store.put(_KEY, [("a", 2)]), InvalidSessionError)  # type: ignore[arg-type]
    await _refused(store.put(_KEY, large), SessionTooLargeError)
    await _refused(store.update(_KEY, lambda _: large), SessionTooLargeError)
    expect(await store.get(_KEY) == {"a": 1}, "what was refused is there")


async def law_5_nothing_aliases(subject: Subject) -> None:
    """What is handed in or out can be changed, and nothing stored changes with it."""
    store = await subject.store()
    given: Session = {"cart": ["apple"]}
    await store.put(_KEY, given)
    given["cart"].append("later")
    for _ in range(2):
        got = await store.get(_KEY)
        expect(got == {"cart": ["apple"]}, f"changed from outside: {got!r}")
        got["cart"].append("by its reader")
    answer = await store.update(_KEY, lambda session: session)
    answer["cart"].append("by who updated")
    expect(await store.get(_KEY) == {"cart": ["apple"]}, "changed by an answer's owner")

    def grow(session: Session) -> Session:
        session["cart"].append("more")
        return session

    # At once: they may be applied together, and each answer is its caller's alone.
    answers = await asyncio.gather(*(store.update(_KEY, grow) for _ in range(3)))
    sizes = [len(answer["cart"]) for answer in answers]
    expect(sizes == [2, 3, 4], f"answers of calls made at once grew to {sizes}")


async def law_6_types_come_back(subject: Subject) -> None:
    """Each value comes back as what it was; what cannot be kept is refused by name."""
    store = await subject.store()
    session: Session = {
        "text": "ä\U0001f600\x00",
        "bytes": b"\x00\xff",
        "tuple": (1, (2,), [3]),
        "sets": [{1, "a"}, frozenset({2})],
        "numbers": [0, -1, 2**64, -(2**200), 1.5, math.inf, -0.0, True, None],
        "decimal": decimal.Decimal("1.10"),
        "uuid": uuid.UUID(int=7),
        "times": [
            dt.datetime(2026, 11, 28, 12, 0, 0, 1, tzinfo=dt.UTC),
            dt.datetime(2026, 11, 28),  # noqa: DTZ001 - without a zone it stays so
            dt.date(2026, 11, 28),
            dt.timedelta(days=-1, microseconds=1),
        ],
        1: "an int",
        "1": "a text",
        None: "no name",
        (1, "a"): "a pair",
    }
    await store.put(_KEY, session)
    got = await store.get(_KEY)
    expect(repr(got) == repr(session), f"it came back as {got!r}")
    try:
        await store.put(_KEY, {"cart": [1, object()]})
    except UnsupportedValueError as exc:
        expect("['cart'][1]" in str(exc), f"it does not say where: {exc}")
    else:
        raise Violation("an object of nobody's class was taken")
    expect(repr(await store.get(_KEY)) == repr(session), "refused, and yet written")


async def law_7_a_cancelled_call_blocks_nobody(subject: Subject) -> None:
    """Cancelled at any moment, a call leaves no half of it and no stuck key."""
    store = await subject.store()
    for turn in range(40):
        key = (_KEY, _OTHER)[turn % 2]
        cancelled = asyncio.ensure_future(store.update(key, _count))
        others = [asyncio.ensure_future(store.update(key, _count)) for _ in range(3)]
        for _ in range(turn % 8):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001 * (turn // 8))
        cancelled.cancel()
        await asyncio.wait([cancelled])
        answers = await within(together(*others), "a call of the same key is stuck")
        counts = [answer["n"] for answer in answers]
        expect(counts == sorted(set(counts)), f"they were answered {counts}")
        expect((await store.get(key))["n"] >= counts[-1], "what was answered is gone")


async def law_8_an_unknown_outcome_is_settled_or_told(subject: Subject) -> None:
    """When answers are lost, each change is applied once, or called unknown."""
    backend = await subject.unopened()
    rng = random.Random(subject.rng.getrandbits(32))
    calls: list[Call] = []
    stores = [SessionStore(_Losing(backend, rng), namespace=subject.namespace)]
    if await subject.is_shared():
        stores.append(await subject.store())
    async with stores[0]:
        for turn in range(12):
            await together(
                *(
                    _call(store, number, _KEY, calls, turn + n)
                    for number, store in enumerate(stores)
                    for n in range(4)
                )
            )
        await _call(stores[0], 0, _KEY, calls, 5)
    for name in {call.process for call in calls}:
        of_store = [c for c in calls if c.process == name and c.verb is Verb.UPDATE]
        done = [call for call in of_store if call.outcome is Outcome.DONE]
        expect(done, f"no update of {name} was done, the last: {of_store[-1].note}")
    judge(subject, calls)


async def law_9_an_expired_session_is_gone(subject: Subject) -> None:
    """Nothing is read of a session from its end on, swept or not."""
    store = await subject.store(ttl=0.2)
    await store.put(_KEY, {"n": 1})
    await store.update(_OTHER, _count)
    await subject.pass_time(230)
    expect(await store.get(_KEY) == {}, "an expired session was read")
    expect(await store.update(_OTHER, _count) == {"n": 1}, "an update went on from it")
    other = await subject.store()
    expect(await other.get(_KEY) == {}, "another store has read it")


async def law_10_a_corrupt_record_is_left_alone(subject: Subject) -> None:
    """What cannot be decoded is an error, stays as it is, and hurts no other key."""
    store, backend = await subject.store(), await subject.open()
    await store.put(_OTHER, {"n": 1})
    key = subject.key(str(_KEY))
    rubbish = await backend.must_write(key, None, subject.record(b"\xc1 rubbish"))
    await _refused(store.get(_KEY), CorruptRecordError)
    await _refused(store.update(_KEY, _count), CorruptRecordError)
    expect(await backend.found(key) == rubbish, "it was overwritten by an update")
    answers = await asyncio.gather(
        store.update(_KEY, _count), store.update(_OTHER, _count), return_exceptions=True
    )
    expect(answers[1] == {"n": 2}, f"another key suffers: {answers[1]!r}")
    await store.put(_KEY, {"n": 7})
    expect(await store.get(_KEY) == {"n": 7}, "put does not replace it")


async def law_11_a_closed_store_refuses(subject: Subject) -> None:
    """After ``aclose`` each call is refused, and what was under way has an answer."""
    store = await subject.store()
    await store.put(_KEY, {"n": 0})
    under_way = [asyncio.ensure_future(store.update(_KEY, _count)) for _ in range(5)]
    await asyncio.sleep(0)
    await store.aclose()
    await store.aclose()
    await within(asyncio.wait(under_way), "calls were under way when it was closed")
    await _refused(store.get(_KEY), StoreClosedError)
    await _refused(store.put(_KEY, {}), StoreClosedError)
    answered = sum(task.exception() is None for task in under_way)
    again = await subject.store()
    found = (await again.get(_KEY))["n"]
    expect(found == answered, f"{answered} were told that it is done; {found} are")


async def _call(
    store: SessionStore, worker: int, key: SessionKey, calls: list[Call], turn: int
) -> None:
    """Read, or append the id of the call to a session, and note what came of it."""
    verb = Verb.GET if turn % 6 == 5 else Verb.UPDATE
    name = f"store {worker + 1}"
    call = Call(len(calls) + 1, str(key), verb, time.monotonic_ns(), process=name)
    calls.append(call)

    def append(session: Session) -> Session:
        return {"ids": [*session.get("ids", ()), call.id]}

    try:
        if verb is Verb.GET:
            session = await store.get(key)
        else:
            session = await store.update(key, append)
    except OutcomeUnknownError as exc:
        call.note = repr(exc)
    except SessionError as exc:
        call.outcome, call.note = Outcome.FAILED, repr(exc)
    else:
        call.outcome, call.saw = Outcome.DONE, tuple(session.get("ids", ()))
    call.returned = time.monotonic_ns()


class _Losing:
    """A backend over a line that loses requests and answers of commits.

    Of four commits one request is lost and one answer, in any order: none gets by
    without.
    """

    def __init__(self, backend: Backend, rng: random.Random) -> None:
        self.concurrent_batches = backend.concurrent_batches
        self._backend = backend
        self._rng = rng
        self._luck: list[str] = []

    async def open(self) -> None:
        await self._backend.open()

    async def aclose(self) -> None:
        await self._backend.aclose()

    async def load(self, keys: Sequence[str]) -> Loaded:
        return await self._backend.load(keys)

    async def commit(self, writes: Sequence[Write]) -> Sequence[Landed]:
        if not self._luck:
            self._luck = ["request lost", "answer lost", "fine", "fine"]
            self._rng.shuffle(self._luck)
        luck = self._luck.pop()
        if luck == "request lost":
            raise OutcomeUnknownError("the kit: a request was lost")
        landed = await self._backend.commit(writes)
        if luck == "answer lost":
            raise OutcomeUnknownError("the kit: an answer was lost")
        return landed


async def _refused(call: Awaitable[Any], error: type[SessionError]) -> None:
    try:
        answer = await call
    except error:
        return
    raise Violation(f"answered {answer!r}, where {error.__name__} was due")


def _count(session: Session) -> Session:
    return {**session, "n": session.get("n", 0) + 1}


CHECKS = (
    law_1_a_function_gets_a_fresh_dict,
    law_2_an_exception_writes_nothing,
    law_3_each_update_is_applied_once,
    law_4_what_is_no_session_is_refused,
    law_5_nothing_aliases,
    law_6_types_come_back,
    law_7_a_cancelled_call_blocks_nobody,
    law_8_an_unknown_outcome_is_settled_or_told,
    law_9_an_expired_session_is_gone,
    law_10_a_corrupt_record_is_left_alone,
    law_11_a_closed_store_refuses,
)
