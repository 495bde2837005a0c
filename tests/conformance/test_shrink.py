"""Shrinking: what is left is small, still rejected, and would be whatever else was."""

from __future__ import annotations

import copy
import dataclasses
import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from botsessions.conformance.histories.history import (
    NEVER,
    Call,
    Outcome,
    Verb,
    Violation,
)
from botsessions.conformance.histories.judge import check_calls
from botsessions.conformance.histories.registers import Kind, Operation, check_register
from botsessions.conformance.histories.search import UndecidedError
from botsessions.conformance.histories.shrink import Shrunk, _beside, shrink
from botsessions.conformance.histories.timeline import explain
from botsessions.conformance.histories.versions import check_versions
from tests.conformance import test_counters, test_lists, test_versions
from tests.histories import Line, commit, history, load, rejects, tied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GET, UPDATE, PUT, DELETE = Verb.GET, Verb.UPDATE, Verb.PUT, Verb.DELETE
FAILED, UNKNOWN = Outcome.FAILED, Outcome.UNKNOWN


def ids(shrunk: Shrunk[Call]) -> list[int]:
    return [call.id for call in shrunk.calls]


def long_list(count: int) -> list[Call]:
    """Return updates one after the other, a read behind each."""
    lines: list[Line] = []
    content: tuple[int, ...] = ()
    for number in range(1, 2 * count, 2):
        content = (*content, number)
        lines += [
            (UPDATE, 2 * number, 2 * number + 1, content),
            (GET, 2 * number + 2, 2 * number + 3, content),
        ]
    return history(*lines)


def test_a_lost_update_is_two_calls() -> None:
    calls = long_list(100)
    lost = calls[121]
    lost.verb, lost.saw = UPDATE, (*(calls[118].saw or ()), lost.id)
    shrunk = shrink(calls, check_calls)
    assert ids(shrunk) == [121, 122]
    assert [call in calls for call in shrunk.calls] == [True, True]
    assert shrunk.is_finished
    assert rejects(check_calls, shrunk.history)
    assert "a lost update" in str(shrunk.violation)
    assert set(shrunk.violation.calls) == set(shrunk.calls)
    assert shrunk.steps[0] == str(calls[120])
    assert "whatever became of the 60 other changes beside them" in shrunk.steps[-1]


def test_a_stale_read_is_the_read_and_what_it_missed() -> None:
    calls = long_list(60)
    calls[71].saw = calls[21].saw
    shrunk = shrink(calls, check_calls)
    assert 72 in ids(shrunk)
    assert len(shrunk.calls) == 2


def test_the_only_one_that_could_explain_it_is_kept() -> None:
    calls = history(
        (PUT, 1, 2, None),
        (DELETE, 3, 4, None),
        (PUT, 5, 6, None),
        (GET, 7, 8, (3,)),
        (DELETE, 9, 10, FAILED),
        (GET, 11, 12, ()),
        (DELETE, 13, 14, None),
    )
    # A delete that failed and one that came later are evidence: neither ended it. So
    # is the one before, which ended another life.
    assert {2, 5, 6, 7} <= set(ids(shrink(calls, check_calls)))


def test_a_change_that_was_said_to_have_failed_is_kept() -> None:
    calls = long_list(20)
    calls[20].outcome, calls[20].saw = FAILED, None
    shrunk = shrink(calls, check_calls)
    assert 21 in ids(shrunk)
    assert len(shrunk.calls) == 2


def test_a_counter_that_lost_one_is_two_calls() -> None:
    calls = history(*[(UPDATE, 2 * n, 2 * n + 1, n) for n in range(1, 200)])
    calls.append(copy.copy(calls[150]))
    calls[-1].id = 999
    assert ids(shrink(calls, check_calls)) == [151, 999]


def test_a_count_that_nobody_made_keeps_who_could_have() -> None:
    calls = history(
        (UPDATE, 1, 2, 1),
        (UPDATE, 3, 4, FAILED),
        (UPDATE, 5, 6, 2),
        (UPDATE, 7, 8, 4),
        (UPDATE, 9, 10, UNKNOWN),
        (UPDATE, 11, 12, 5),
    )
    shrunk = shrink(calls, check_calls)
    assert ids(shrunk) == [2, 4, 5]
    # With other counts they could have made it.
    assert "made the counts that they were told" in shrunk.steps[-1]
    words = " ".join(re.sub("<[^>]+>", " ", explain(calls, check_calls)).split())
    assert "made the counts that they were told" in words
    assert "whatever became" not in words


def test_two_commits_on_one_version_are_two() -> None:
    names = [None, *range(1, 300)]
    operations = [commit(3 * i, 3 * i + 1, names[i], names[i + 1]) for i in range(299)]
    operations += [load(3 * i + 2, 3 * i + 2, i + 1) for i in range(299)]
    lost = commit(601, 604, 200, "lost")
    shrunk = shrink([*operations, lost], check_versions)
    assert shrunk.calls == (operations[200], lost)
    # The other is kept as well when a load alone gives it away.
    lost = commit(601, 604, 200, "lost", None)
    seen = load(605, 606, "lost")
    shrunk = shrink([*operations, lost, seen], check_versions)
    assert {operations[200], lost} <= set(shrunk.calls)


def test_what_says_which_version_came_first_is_kept() -> None:
    replaced = commit(3, 4, "a", "b", None)
    operations = [
        commit(1, 2, None, "a"),
        replaced,
        load(5, 6, "b"),
        load(7, 8, "a"),
    ]
    shrunk = shrink(operations, check_versions)
    assert replaced in shrunk.calls
    assert operations[0] not in shrunk.calls


def test_only_the_key_at_fault_is_looked_at() -> None:
    calls = long_list(5)
    calls += history(*[(GET, 0, 0, None)] * 99, (DELETE, 98, 99, None))[99:]
    other = [copy.copy(call) for call in long_list(5)]
    for call in other:
        call.key, call.id = "other", call.id + 200
        call.saw = tuple(number + 200 for number in call.saw or ())
    other[7].saw = ()
    shrunk = shrink([*calls, *other], check_calls)
    assert {call.key for call in shrunk.history} == {"other"}


def test_a_true_history_is_not_shrunk() -> None:
    with pytest.raises(ValueError, match="accepts this history"):
        shrink(long_list(3), check_calls)


def test_what_the_judge_gives_up_is_not_shrunk() -> None:
    def judge(calls: Sequence[Operation]) -> None:
        """Give up on the key that is hard, unless another is wrong before."""
        if rejects(check_register, [one for one in calls if one.key == "key"]):
            raise Violation("names nobody")
        if any(one.key == "hard" for one in calls):
            raise UndecidedError

    wrong = [load(1, 2, "a")]
    hard = [dataclasses.replace(load(1, 2, None), key="hard")]
    with pytest.raises(UndecidedError):
        shrink(hard, judge)
    assert shrink([*hard, *wrong], judge).calls == tuple(wrong)


def test_it_ends_in_time_with_what_it_has() -> None:
    calls = long_list(30)
    calls[30].outcome, calls[30].saw = FAILED, None
    clock = iter(range(1000))
    shrunk = shrink(calls, check_calls, seconds=0, timer=lambda: next(clock))
    assert not shrunk.is_finished
    assert rejects(check_calls, shrunk.history)


KINDS: list[tuple[Any, Callable[[Any], object]]] = [
    (test_lists, check_calls),
    (test_counters, check_calls),
    (test_versions, check_versions),
]


@pytest.mark.parametrize(("kind", "judge"), KINDS)
def test_no_part_of_a_true_history_is_rejected(
    kind: Any, judge: Callable[[Any], object]
) -> None:
    for seed in range(80):
        rng = random.Random(f"part {seed}")
        calls = kind.true_history(rng, rng.randint(1, 5), rng.randint(5, 40))
        calls = tied(rng, calls)
        for share in (0.1, 0.5, 0.9):
            kept = {i for i in range(len(calls)) if rng.random() < share}
            part = [calls[i] for i in kept]
            part += _beside(calls, kept).values()
            part.sort(key=lambda call: call.called)
            assert not rejects(judge, part), f"seed {seed}, {share}"


def forgotten(call: Call | Operation) -> Call | Operation:
    """Return a change of which nothing is known at all."""
    if isinstance(call, Operation):
        return dataclasses.replace(call, outcome=None)
    return dataclasses.replace(call, outcome=UNKNOWN, count=None, saw=None)


@pytest.mark.parametrize(("kind", "judge"), KINDS)
def test_what_is_left_is_rejected_and_happened(
    kind: Any, judge: Callable[[Any], object]
) -> None:
    sizes = []
    for seed in range(60):
        rng = random.Random(f"changed {seed}")
        calls = tied(rng, kind.changed(rng, kind.true_history(rng, 4, 30)))
        if not rejects(judge, calls):
            continue
        shrunk = shrink(calls, judge)
        assert rejects(judge, shrunk.history), f"seed {seed}"
        happened = {id(call) for call in calls}
        assert all(id(call) in happened for call in shrunk.calls), f"seed {seed}"
        assert all(id(call) not in happened for call in shrunk.beside), f"seed {seed}"
        assert shrunk.calls, f"seed {seed}"
        free = [forgotten(call) for call in shrunk.beside]
        if not rejects(judge, [*shrunk.calls, *free]):
            assert "whatever became" not in str(shrunk), f"seed {seed}"
        sizes.append(len(shrunk.calls))
    assert len(sizes) > 15
    assert sorted(sizes)[len(sizes) // 2] <= 3


def test_what_is_beside_says_nothing() -> None:
    operations = [
        Operation("key", "w", Kind.LOAD, None, None, True, 5, 6),
        Operation("key", "w", Kind.COMMIT, None, "a", True, 7, 8),
    ]
    (other,) = _beside(operations, {0}).values()
    assert isinstance(other, Operation)
    assert other.outcome is None
    assert other.called == 5
    assert other.returned == NEVER
    assert _beside(operations, {1}) == {}
