"""The judge of whole runs sends each key to the judge that it is for."""

from __future__ import annotations

import copy

import pytest

from botsessions.conformance.histories.history import Call, Outcome, Verb, Violation
from botsessions.conformance.histories.judge import check_calls
from tests.histories import history

GET, UPDATE, PUT, DELETE = Verb.GET, Verb.UPDATE, Verb.PUT, Verb.DELETE


def at(key: str, calls: list[Call]) -> list[Call]:
    for call in calls:
        call.key = key
    return calls


def test_lists_and_counters_are_judged_each_in_its_way() -> None:
    calls = [
        *at("list", history((UPDATE, 1, 2, (1,)), (GET, 3, 4, (1,)))),
        *at("counter", history((UPDATE, 1, 2, 1), (GET, 3, 4, 1))),
    ]
    assert check_calls(calls) == []
    for index in (1, 3):
        wrong = [copy.copy(call) for call in calls]
        wrong[index].saw = None if wrong[index].saw is None else ()
        wrong[index].count = None if wrong[index].count is None else 0
        with pytest.raises(Violation):
            check_calls(wrong)


def test_a_counter_that_may_expire_is_not_judged() -> None:
    calls = history((UPDATE, 1, 2, 1), (GET, 3, 4, 0))
    with pytest.raises(ValueError, match="may expire cannot be judged: key"):
        check_calls(calls, expiring=True)


# Only the search sees that there is a delete too few.
UNSEEN = history(
    (PUT, 1, 2, None),
    (DELETE, 3, 4, Outcome.UNKNOWN),
    (GET, 5, 6, ()),
    (PUT, 7, 8, None),
    (GET, 9, 10, ()),
)


def test_keys_that_were_not_searched_are_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Violation):
        check_calls(UNSEEN)
    assert check_calls(UNSEEN, search_up_to=4) == ["key"]
    monkeypatch.setattr("botsessions.conformance.histories.judge._BUDGET", 0)
    assert check_calls(UNSEEN) == ["key"]
