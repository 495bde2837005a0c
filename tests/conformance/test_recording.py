"""Recording: what was answered is what is noted, also across processes and deaths."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import botsessions as bs
from botsessions.conformance.histories.history import (
    NEVER,
    Call,
    History,
    Outcome,
    Shape,
    Verb,
    Violation,
    ids_of,
)
from botsessions.conformance.histories.judge import check_calls
from botsessions.conformance.histories.recording import (
    Recorded,
    RecordedBackend,
    dumps,
    loads,
)
from botsessions.conformance.histories.registers import Kind, Operation
from botsessions.conformance.histories.versions import check_versions
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    OutcomeUnknownError,
)
from botsessions.record import Loaded, Record, Version, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from botsessions.backend import Outcome as Landed

KEY, TALLY = bs.SessionKey(chat_id=1), bs.SessionKey(chat_id=2)
ROOT = Path(__file__).parents[2]


async def play(store: bs.SessionStore, history: History, workers: int = 4) -> None:
    """Let some workers use both kinds of session at once."""

    async def work(number: int) -> None:
        recorded = Recorded(store, history, f"worker {number}")
        for step in range(6):
            await recorded.update(KEY)
            await recorded.increment(TALLY)
            await recorded.get(KEY)
            await recorded.count(TALLY)
            if step == number:
                await recorded.put(KEY)
                await recorded.delete(KEY)

    await asyncio.gather(*map(work, range(workers)))


async def test_a_run_is_recorded_and_judged(tmp_path: Path) -> None:
    history = History(tick=time.monotonic_ns)
    async with bs.open_store(f"sqlite:///{tmp_path}/sessions.db") as store:
        await play(store, history)
    assert check_calls(history.calls) == []
    assert {call.outcome for call in history.calls} == {Outcome.DONE}
    assert {call.process for call in history.calls} == {f"worker {n}" for n in range(4)}
    assert max(call.count or 0 for call in history.calls) == 24


class Forgetful(bs.SessionStore):
    """Loses each seventh update that it acknowledges."""

    calls = 0

    async def update(
        self, key: bs.SessionKey, function: Callable[..., object]
    ) -> dict[object, object]:
        Forgetful.calls += 1
        before = await self.get(key)
        after = await super().update(key, function)  # type: ignore[arg-type]
        if Forgetful.calls % 7 == 0:
            await super().put(key, before)
        return after


async def test_a_store_that_forgets_is_found() -> None:
    history = History()
    async with Forgetful(bs.MemoryBackend()) as store:
        await play(store, history)
    for key in map(str, (KEY, TALLY)):
        with pytest.raises(Violation, match=r"lost update|stale|counted back"):
            check_calls([call for call in history.calls if call.key == key])


class Failing(bs.SessionStore):
    """Answers each update with the next of its errors."""

    errors: Sequence[BaseException] = ()

    async def update(
        self, key: bs.SessionKey, function: Callable[..., object]
    ) -> dict[object, object]:
        raise self.errors[0]


@pytest.mark.parametrize(
    ("error", "outcome", "raised"),
    [
        (OutcomeUnknownError("lost"), Outcome.UNKNOWN, False),
        (BackendUnavailableError("away"), Outcome.FAILED, False),
        (ZeroDivisionError(), Outcome.UNKNOWN, True),
        (asyncio.CancelledError(), Outcome.UNKNOWN, True),
    ],
)
async def test_an_error_is_noted_for_what_it_says(
    error: BaseException, outcome: Outcome, *, raised: bool
) -> None:
    history = History()
    store = Failing(bs.MemoryBackend())
    store.errors = [error]
    recorded = Recorded(store, history, "w")
    if raised:
        with pytest.raises(type(error)):
            await recorded.update(KEY)
    else:
        await recorded.increment(KEY)
    (call,) = history.calls
    assert (call.outcome, call.note) == (outcome, repr(error))
    assert call.returned != NEVER


async def test_what_the_recorder_did_not_write_is_a_violation() -> None:
    history = History()
    async with bs.SessionStore(bs.MemoryBackend()) as store:
        await store.put(KEY, {"ids": [], "other": 1})
        await store.put(TALLY, {"count": True})
        recorded = Recorded(store, history, "w")
        for verb in (recorded.get(KEY), recorded.count(TALLY)):
            with pytest.raises(Violation, match="what nobody wrote"):
                await verb


@pytest.mark.parametrize(
    "ids", [[1.9], ["1"], [True], ["x"], 7, None, "x", "1", "1  2 ", "1_0 ", (1,)]
)
def test_ids_that_nobody_wrote_are_a_violation(ids: object) -> None:
    with pytest.raises(Violation, match="what nobody wrote"):
        ids_of({"ids": ids})


@pytest.mark.parametrize("flat", [True, False])
def test_ids_are_as_they_were_written(*, flat: bool) -> None:
    for ids in ((), (1,), (12, 3, 2**63)):
        assert ids_of(Shape(flat=flat).session(*ids)) == ids
    assert ids_of({}) == ()


def test_ids_of_workers_differ() -> None:
    histories = [History(first=n, stride=3) for n in (1, 2, 3)]
    for history in histories:
        for _ in range(4):
            history.begin("key", Verb.GET)
    ids = [call.id for history in histories for call in history.calls]
    assert sorted(ids) == list(range(1, 13))
    for first, stride in ((0, 1), (1, 0), (4, 3)):
        with pytest.raises(ValueError, match="1 or more"):
            History(first=first, stride=stride)


def test_calls_come_back_from_their_lines() -> None:
    calls = [
        Call(1, "k\u2028\n", Verb.OBSERVE, 1, 5, "p", Outcome.DONE, 2, 6, (1, 2), "n"),
        Call(2, "k", Verb.GET, 3, outcome=Outcome.DONE, returned=4, count=0),
        Call(3, "k", Verb.DELETE, 5),
    ]
    back = loads(dumps(calls), Call)
    assert list(map(repr, back)) == list(map(repr, calls))
    assert back[2].returned == NEVER


def test_operations_come_back_from_their_lines() -> None:
    operations = [
        Operation("k", "w", Kind.LOAD, None, None, True, 1, 2),
        Operation(
            "k", "w", Kind.COMMIT, Version(1, -5), Version(2, 2**62), False, 3, 4
        ),
        Operation("k", "w", Kind.PUT, None, "text", None, 5, excused=True),
        Operation("k", "w", Kind.PUT, "never", NEVER, True, 6, 7),
    ]
    back = loads(dumps(operations), Operation)
    assert back == operations
    assert isinstance(back[1].expected, Version)


def test_the_last_word_on_a_call_counts() -> None:
    lines: list[str] = []
    history = History(keep=lambda call: lines.append(dumps([call])))
    done, open_ = (history.begin("key", Verb.UPDATE) for _ in range(2))
    history.end(done, Outcome.DONE, (1,))
    assert len(lines) == 3
    back = loads("".join(lines) + '{"id": 3, "ke', Call)
    assert [(call.id, call.outcome) for call in back] == [
        (done.id, Outcome.DONE),
        (open_.id, Outcome.UNKNOWN),
    ]


CHILD = """
import asyncio, itertools, os, signal, sys, time
import botsessions as bs
from botsessions.conformance.histories.history import History
from botsessions.conformance.histories.recording import Recorded, dumps

async def main(path, number, kill):
    file = open(f"{path}.{number}", "w", encoding="utf-8")
    history = History(
        tick=time.monotonic_ns, first=number, stride=2,
        keep=lambda call: print(dumps([call]), end="", file=file, flush=True),
    )
    async with bs.open_store(f"sqlite:///{path}") as store:
        recorded = Recorded(store, history, f"process {number}")
        for step in itertools.count(1):
            await recorded.update(bs.SessionKey(chat_id=1))
            await recorded.increment(bs.SessionKey(chat_id=2))
            if step == 15 and not kill:
                return
            if step == 10 and kill:
                asyncio.get_running_loop().call_later(
                    0.002, os.kill, os.getpid(), signal.SIGKILL
                )

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[2] == "2"))
"""


def test_processes_hand_over_their_records_also_when_killed(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), number],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
        for number in ("1", "2")
    ]
    assert [child.wait() for child in children] == [0, -9]
    calls = list(
        itertools.chain.from_iterable(
            loads(Path(f"{path}.{number}").read_text(encoding="utf-8"), Call)
            for number in (1, 2)
        )
    )
    assert check_calls(calls) == []
    assert len({call.id for call in calls}) == len(calls) > 45
    # The same with one answer changed is found.
    told = [call for call in calls if call.count is not None]
    told[5].count = told[4].count
    with pytest.raises(Violation):
        check_calls(calls)


# Backends.


class Scripted:
    """Answers commits as it is told, loads with nothing."""

    concurrent_batches = 3

    def __init__(self, answer: Sequence[Landed] | Exception, now: int = 0) -> None:
        self.answer = answer
        self.now = now
        self.opened = 0

    async def open(self) -> None:
        self.opened += 1

    async def aclose(self) -> None:
        self.opened -= 1

    async def load(self, keys: Sequence[str]) -> Loaded:
        if isinstance(self.answer, Exception):
            raise self.answer
        return Loaded(
            self.now, [BackendError("damaged") if k == "bad" else None for k in keys]
        )

    async def commit(self, writes: Sequence[Write]) -> Sequence[Landed]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def write(number: int, not_after: int = 100) -> Write:
    version = Version(1, number)
    return Write(f"k{number}", None, Record(version, b"v", b"", 0, None), not_after)


async def answers(
    answer: Sequence[Landed] | Exception, writes: Sequence[Write], now: float = 50
) -> list[tuple[bool | None, bool, bool]]:
    operations: list[Operation] = []
    backend = RecordedBackend(Scripted(answer), operations, "w", now=lambda: now)
    try:
        assert await backend.commit(writes) is answer
    except Exception as exc:  # noqa: BLE001 - whatever it was
        assert exc is answer  # noqa: PT017 - it may be none
    return [(one.outcome, one.excused, one.returned == NEVER) for one in operations]


async def test_each_write_is_noted_with_its_answer() -> None:
    each: list[Landed] = [True, False, BackendError("no"), OutcomeUnknownError("lost")]
    assert await answers(each, [write(n) for n in range(4)]) == [
        (True, False, False),
        (False, False, False),
        (False, True, False),
        (None, False, True),
    ]


async def test_a_write_that_came_too_late_says_nothing_of_versions() -> None:
    assert await answers([False], [write(1, 50)], now=50) == [(False, True, False)]
    assert await answers([False], [write(1, 51)], now=50) == [(False, False, False)]
    assert await answers([True], [write(1, 50)], now=50) == [(True, False, False)]


@pytest.mark.parametrize(("not_after", "late"), [(1049, True), (1060, False)])
async def test_whether_it_came_too_late_is_told_by_the_clock_of_the_backend(
    not_after: int, *, late: bool
) -> None:
    operations: list[Operation] = []
    clock = iter([50, 99])  # when it asks for the load, and at the answer to the write
    backend = RecordedBackend(
        Scripted([False], now=1000), operations, now=lambda: next(clock)
    )
    await backend.load(["good"])
    await backend.commit([write(1, not_after)])
    assert operations[1].excused is late


async def test_operations_of_two_threads_do_not_mix() -> None:
    operations: list[Operation] = []

    def other() -> None:
        backend = RecordedBackend(Scripted([]), operations, "other")
        asyncio.run(backend.load(["b"]))

    def tick() -> int:
        """Let the other thread come in between."""
        if not operations:
            with ThreadPoolExecutor() as pool:
                pool.submit(other).result()
        return 1

    await RecordedBackend(Scripted([]), operations, "one", tick=tick).load(["a"])
    assert [one.outcome for one in operations] == [True, True]


async def test_an_error_stands_for_all_writes() -> None:
    two = [write(1), write(2)]
    assert await answers(BackendError("no"), two) == [(False, True, False)] * 2
    for error in (OutcomeUnknownError("lost"), ZeroDivisionError()):
        assert await answers(error, two) == [(None, False, True)] * 2


async def test_loads_are_noted_unless_they_failed() -> None:
    operations: list[Operation] = []
    backend = RecordedBackend(Scripted([]), operations)
    await backend.load(["good", "bad"])
    assert [one.outcome for one in operations] == [True, None]
    operations = []
    backend = RecordedBackend(Scripted(ZeroDivisionError()), operations)
    with pytest.raises(ZeroDivisionError):
        await backend.load(["good"])
    assert [one.outcome for one in operations] == [None]


async def test_an_engine_at_work_is_recorded(tmp_path: Path) -> None:
    operations: list[Operation] = []
    history = History(tick=time.monotonic_ns)
    path = tmp_path / "sessions.db"
    async with (
        bs.SessionStore(
            RecordedBackend(bs.SQLiteBackend(path), operations, "a")
        ) as one,
        bs.SessionStore(
            RecordedBackend(bs.SQLiteBackend(path), operations, "b")
        ) as two,
    ):
        await asyncio.gather(play(one, history, 2), play(two, history, 2))
    check_calls(history.calls)
    check_versions(operations)
    commits = [one for one in operations if one.kind is Kind.COMMIT and one.outcome]
    assert {one.worker for one in commits} == {"a", "b"}
    # A commit that was acknowledged and is not there is found.
    with pytest.raises(Violation):
        check_versions([one for one in operations if one is not commits[1]])
