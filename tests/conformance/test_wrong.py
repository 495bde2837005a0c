"""A check that catches nothing is none: each wrong one is caught, by its own check."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from botsessions.conformance import CHECKS, Status, check_backend
from botsessions.conformance.checks import contract
from botsessions.record import Loaded
from tests.conformance import table
from tests.conformance.plain import Disk, PlainBackend
from tests.conformance.trial import try_backend, try_engine
from tests.conformance.wrong import (
    WRONG_ENGINES,
    AnyWrong,
    Wrong,
    WrongEngine,
    all_wrong,
    fault,
)
from tests.simulation.mutants import Mutant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from botsessions.backend import Page
    from botsessions.record import Record, Write


@pytest.mark.parametrize("kind", all_wrong(), ids=lambda kind: kind.__name__)
def test_a_wrong_backend_is_caught_by_its_check(kind: AnyWrong, tmp_path: Path) -> None:
    result = try_backend(kind, tmp_path)
    assert result.status is Status.FAILED, f"{kind.__name__} survived: {result}"
    assert result.message
    assert result.steps


@pytest.mark.parametrize("wrong", WRONG_ENGINES, ids=str)
def test_a_wrong_engine_is_caught_by_its_check(wrong: WrongEngine) -> None:
    result = try_engine(wrong)
    assert result.status is Status.FAILED, f"{wrong} survived: {result}"
    assert result.message
    assert result.steps


def test_each_check_catches_a_wrong_one() -> None:
    caught = {kind.caught_by for kind in all_wrong()}
    caught |= {wrong.caught_by for wrong in WRONG_ENGINES}
    assert caught == {check.name for check in CHECKS}


def test_the_right_backend_that_they_differ_from_passes() -> None:
    # Those that files and memory differ from do so in ``test_places``.
    report = check_backend(partial(PlainBackend, Disk()))
    assert report.passed, str(report)
    lacks = {r.name for r in report.results if r.status is Status.NOT_SUPPORTED}
    assert lacks == {
        "processes_lose_nothing",
        "a_kill_at_any_await_leaves_it_usable",
        "a_kill_loses_nothing_acknowledged",
        "inline_and_contract_agree",
    }


class AnswersTuples(PlainBackend):
    """Sequences need not be lists."""

    async def load(self, keys: Sequence[str]) -> Loaded:
        loaded = await super().load(keys)
        return loaded._replace(records=tuple(loaded.records))

    async def commit(self, writes: Sequence[Write]) -> Any:
        return tuple(await super().commit(writes))


class RefusesAKeyTwice(PlainBackend):
    """No engine sends one, so a constraint of the database may."""

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        if len({write.key for write in writes}) < len(writes):
            raise LookupError("duplicate key value violates unique constraint")
        return await super().commit(writes)


class ListsByFilter(PlainBackend):
    """Reads all keys and leaves out those of other prefixes: a page may be empty."""

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        keys = [key for key in self.keys() if key > after]
        for start in range(0, len(keys), limit):
            await self.trip()
            part = keys[start : start + limit]
            yield self.page_of([key for key in part if key.startswith(prefix)])


@pytest.mark.parametrize("kind", [AnswersTuples, RefusesAKeyTwice, ListsByFilter])
def test_what_the_contract_allows_passes(kind: type[PlainBackend]) -> None:
    report = check_backend(partial(kind, Disk()))
    assert report.passed, str(report)


def test_a_first_call_may_take_a_while() -> None:
    class ConnectsAtFirst(PlainBackend):
        is_connected = False

        async def load(self, keys: Sequence[str]) -> Loaded:
            loaded = await super().load(keys)
            if not self.is_connected:
                self.is_connected = True
                await asyncio.sleep(0.3)
            return loaded

    name = "the_clock_runs_in_milliseconds"
    assert check_backend(partial(ConnectsAtFirst, Disk()), only=[name]).passed


def test_who_does_not_sweep_for_the_server_does_passes() -> None:
    class Removes(PlainBackend):
        async def store(self, place: str, row: Record) -> None:
            await super().store(place, row)
            if self.is_long_dead(row):
                del self.disk.rows[place]

        async def sweep(self, prefix: str, limit: int) -> int:
            return 0

    names = [check.name for check in CHECKS if "sweep" in check.name]
    report = check_backend(partial(Removes, Disk()), only=names)
    assert report.counts()[Status.PASSED] == len(names) == 3, str(report)


class _Says(PlainBackend):
    """Answers in another form than the contract's."""

    loads: Any = None
    commits: Any = None

    async def load(self, keys: Sequence[str]) -> Any:
        return self.loads or await super().load(keys)

    async def commit(self, writes: Sequence[Write]) -> Any:
        return self.commits or await super().commit(writes)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"loads": [None]}, "load answered [None], no Loaded"),
        ({"loads": Loaded(1, {"key": 1})}, "no sequence"),  # type: ignore[arg-type]
        ({"loads": Loaded(1, [7])}, "7 came in the place of a record"),  # type: ignore[list-item]
        ({"commits": 1}, "commit answered 1, no sequence"),
        ({"commits": [1]}, "a write was answered 1, neither a bool nor an error"),
    ],
)
def test_an_answer_of_another_form_is_told(answers: dict[str, Any], told: str) -> None:
    kind = type("Says", (_Says,), answers)
    name = "a_missing_key_has_no_record"
    [result] = check_backend(partial(kind, Disk()), only=[name]).results
    assert told in result.message


def test_an_error_of_the_driver_is_not_taken_for_waiting() -> None:
    class TimesOut(PlainBackend):
        async def load(self, keys: Sequence[str]) -> Loaded:
            if len(keys) == 3:
                raise TimeoutError("the server took more than 5 s")
            return await super().load(keys)

    name = "a_cancelled_commit_leaves_it_usable"
    [result] = check_backend(partial(TimesOut, Disk()), only=[name]).results
    assert "no answer" not in result.message


def test_a_history_is_made_shorter_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class IsSlow(Wrong):
        async def trip(self) -> None:
            await asyncio.sleep(0.001)

        def is_expected(self, write: Write, found: Record | None) -> bool:
            return True

    monkeypatch.setattr(contract, "_SHRINKING", 0.1)
    name = "histories_agree_with_the_model"
    [result] = check_backend(partial(IsSlow, Disk()), only=[name]).results
    assert result.status is Status.FAILED
    assert "should be" in result.message
    assert result.seconds < 5  # to the end it takes some thousand calls


def test_what_a_check_opened_is_closed_though_it_fails() -> None:
    made: list[PlainBackend] = []

    class Refuses(PlainBackend):
        async def open(self) -> None:
            made.append(self)
            await super().open()

        async def commit(self, writes: Sequence[Write]) -> list[bool]:
            return [False for _ in writes]

    names = [
        "acknowledged_is_seen_by_all",
        "reopening_keeps_what_was_acknowledged",
        "several_stores_may_open_it",
        "what_is_closed_leaves_nothing_open",
    ]
    check_backend(partial(Refuses, Disk()), only=names)
    assert len(made) > len(names)
    assert not any(backend.users for backend in made)


def test_when_one_worker_fails_the_others_are_over() -> None:
    used_closed: list[str] = []

    class Fails(PlainBackend):
        commits = 0

        async def aclose(self) -> None:
            await super().aclose()
            await asyncio.sleep(0.02)

        def check_open(self) -> None:
            if self.users < 1:
                used_closed.append("used when it was closed")
            super().check_open()

        async def commit(self, writes: Sequence[Write]) -> list[bool]:
            self.commits += 1
            if self.commits == 5:
                raise LookupError("the fifth")
            return await super().commit(writes)

    for name in ("tasks_lose_nothing", "reads_are_never_stale"):
        [result] = check_backend(partial(Fails, Disk()), only=[name]).results
        assert result.status is Status.FAILED
    assert not used_closed


def test_one_whose_writes_do_not_land_is_not_taken_for_one_apart() -> None:
    class Refuses(PlainBackend):
        async def commit(self, writes: Sequence[Write]) -> list[bool]:
            return [False for _ in writes]

    name = "threads_lose_nothing"
    [result] = check_backend(partial(Refuses, Disk()), only=[name]).results
    assert result.status is Status.FAILED
    assert "did not land" in result.message


def test_one_that_is_not_wrong_survives(tmp_path: Path) -> None:
    class NotWrong(Wrong):
        caught_by = "each_write_compares_the_counter"

    assert try_backend(NotWrong, tmp_path).status is Status.PASSED


def test_an_engine_that_is_not_wrong_survives() -> None:
    snippet = "return token + record.ring"
    same = Mutant("same", "", "botsessions.record", {snippet: snippet})
    name = "law_2_an_exception_writes_nothing"
    assert try_engine(WrongEngine(name, same)).status is Status.PASSED


def test_each_wrong_one_says_what_its_fault_is() -> None:
    faults = [fault(kind) for kind in all_wrong()]
    assert len(faults) >= 45
    assert all(text.endswith((".", "?")) for text in faults)
    assert len({*faults}) == len(faults)


def test_the_page_lists_what_there_is() -> None:
    # How long it took, and in which words it was told, may differ: `make mutants`.
    assert table.listed(table.PAGE.read_text(encoding="utf-8")) == table.expected()
