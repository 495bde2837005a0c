"""A check that catches nothing is none: each wrong one is caught, by its own check."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from botsessions.conformance import CHECKS, Status, check_backend
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
    from pathlib import Path


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
        "a_kill_loses_nothing_acknowledged",
        "inline_and_contract_agree",
    }


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
