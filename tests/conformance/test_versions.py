"""The judge of versions: as the search of registers decides, which all orders judge."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from botsessions.conformance.histories.history import Violation
from botsessions.conformance.histories.registers import Kind, Operation, check_register
from botsessions.conformance.histories.search import UndecidedError
from botsessions.conformance.histories.versions import check_versions
from botsessions.record import Version
from tests.histories import commit, explained, load, rejects, tied

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence


def has_copies(operations: Sequence[Operation]) -> bool:
    """Tell whether a commit was told that it landed, and had been sent before."""
    commits = [one for one in operations if one.kind is Kind.COMMIT]
    sent = Counter(one.version for one in commits)
    return any(one.outcome is True and sent[one.version] > 1 for one in commits)


TRUE = {
    "nothing": [],
    "one after the other": [
        load(1, 2, None),
        commit(3, 4, None, "a"),
        commit(5, 6, "a", "b"),
        load(7, 8, "b"),
    ],
    "a load during a commit sees it or not": [
        commit(1, 9, None, "a"),
        load(2, 3, None),
        load(4, 5, "a"),
    ],
    "unknown and landed later": [
        commit(1, 2, None, "a", None),
        load(3, 4, None),
        load(5, 6, "a"),
    ],
    "unknown and never landed": [commit(1, 2, None, "a", None), load(3, 4, None)],
    "refused behind another": [commit(1, 2, None, "a"), commit(3, 4, None, "b", False)],
    "refused ahead of what it expected": [
        commit(1, 2, "a", "b", False),
        commit(3, 4, None, "a"),
    ],
    "refused, though never there": [commit(1, 2, "z", "b", False)],
    "refused for one of unknown outcome": [
        commit(1, 2, None, "a", None),
        commit(3, 4, None, "b", False),
        load(5, 6, "a"),
    ],
    "refused for one that nobody saw": [
        commit(1, 2, None, "a", None),
        commit(3, 4, None, "b", False),
    ],
    "refused for a row of which nobody saw any": [
        commit(1, 2, None, "a", None),
        commit(1, 2, "a", "b", None),
        commit(3, 4, None, "c", False),
        commit(5, 6, "a", "d", False),
    ],
    "sent again and landed at first": [
        commit(1, 2, None, "a", None),
        commit(3, 4, None, "a", False),
        load(5, 6, "a"),
    ],
    "sent again and landed then": [
        commit(1, 2, None, "a", None),
        load(3, 4, None),
        commit(5, 6, None, "a"),
    ],
    "sent again, and told that it landed as it is there": [
        commit(1, 2, None, "a", None),
        load(3, 4, "a"),
        commit(5, 6, None, "a"),
        commit(7, 8, None, "a"),
    ],
    "sent again in vain, and again while the first was under way": [
        commit(1, 9, None, "a"),
        commit(2, 3, None, "a", False),
        commit(4, 5, None, "a"),
        load(6, 7, "a"),
    ],
    "refused in the tick in which it came": [
        commit(1, 4, None, "a"),
        commit(4, 5, "a", "b", False),
    ],
    "too late": [commit(1, 2, None, "a", False, excused=True), load(3, 4, None)],
    "numbers as versions": [
        commit(1, 2, None, Version(1, 7)),
        commit(3, 4, Version(1, 7), Version(2, 8)),
    ],
}

FALSE = {
    "a lost update": (
        [commit(1, 3, None, "a"), commit(2, 4, None, "b")],
        "a lost update",
    ),
    "a lost update behind an unknown one": (
        [
            commit(1, 3, None, "a", None),
            commit(2, 4, "a", "b"),
            commit(5, 6, None, "c"),
        ],
        "a lost update",
    ),
    "a stale load": ([commit(1, 2, None, "a"), load(3, 4, None)], "a stale read"),
    "two loads in the wrong order": (
        [commit(1, 9, None, "a"), load(2, 3, "a"), load(4, 5, None)],
        "a stale read",
    ),
    "a load of the future": (
        [load(1, 2, "a"), commit(3, 4, None, "a")],
        "before the commit",
    ),
    "refused and landed": (
        [commit(1, 2, None, "a", False), load(3, 4, "a")],
        "told that it did not",
    ),
    "made by nobody": ([load(1, 2, "a")], "made by nobody"),
    "on what nobody made": ([commit(1, 2, "z", "a")], "made by nobody"),
    "landed again on what had come after it": (
        [
            commit(1, 2, None, "a", None),
            commit(3, 4, "a", "b"),
            commit(5, 6, None, "a"),
        ],
        "though it had been replaced",
    ),
    "told that it landed before it was there": (
        [commit(1, 2, None, "a"), load(3, 4, None), commit(5, 6, None, "a")],
        "a stale read",
    ),
    "in a circle": ([commit(1, 2, "b", "a"), commit(3, 4, "a", "b")], "in a circle"),
    "refused for nothing": ([commit(1, 2, None, "a", False)], "refused, though"),
    "refused before anything came": (
        [commit(1, 2, None, "a", False), commit(3, 4, None, "b")],
        "refused, though",
    ),
    "refused while it was there": (
        [
            commit(1, 2, None, "a"),
            commit(3, 4, "a", "b", False),
            commit(5, 6, "a", "c"),
        ],
        "refused, though",
    ),
    "refused for one that landed later": (
        [
            commit(1, 2, None, "a", None),
            commit(3, 4, None, "b", False),
            load(5, 6, None),
            load(7, 8, "a"),
        ],
        "refused, though",
    ),
    "refused at both ends": (
        [
            commit(1, 4, None, "a"),
            commit(3, 6, "a", "b", False),
            load(2, 2, "a"),
            commit(7, 8, "a", "c"),
        ],
        "refused, though",
    ),
}


@pytest.mark.parametrize("name", TRUE)
def test_a_true_history_is_accepted(name: str) -> None:
    check_versions(TRUE[name])
    if not has_copies(TRUE[name]):
        check_register(TRUE[name])


@pytest.mark.parametrize("name", FALSE)
def test_a_false_history_is_rejected(name: str) -> None:
    operations, said = FALSE[name]
    with pytest.raises(Violation, match=said) as caught:
        check_versions(operations)
    assert set(caught.value.calls) <= set(operations)
    assert caught.value.calls


@pytest.mark.parametrize("name", FALSE)
def test_the_search_rejects_it_too(name: str) -> None:
    with pytest.raises(Violation):
        check_register(FALSE[name][0])


def test_each_key_is_judged_alone() -> None:
    one = [commit(1, 2, None, "a"), load(3, 4, "a")]
    other = [dataclasses.replace(op, key="other") for op in one]
    check_versions(one + other)
    other[1] = dataclasses.replace(other[1], version=None)
    with pytest.raises(Violation, match="load of other"):
        check_versions(one + other)


def test_a_key_may_have_had_a_version_before() -> None:
    operations = [load(1, 2, "a"), commit(3, 4, "a", "b")]
    check_versions(operations, start={"key": "a"})
    with pytest.raises(Violation):
        check_versions(operations)


@pytest.mark.parametrize("judge", [check_versions, check_register])
def test_each_key_has_a_start_of_its_own(judge: Callable[..., None]) -> None:
    operations = [load(1, 2, "a"), dataclasses.replace(load(1, 2, "b"), key="other")]
    judge(
        [*operations, dataclasses.replace(load(1, 2, None), key="third")],
        start={"key": "a", "other": "b"},
    )
    with pytest.raises(Violation):
        judge(operations, start={"key": "a", "other": "a"})


@pytest.mark.parametrize(
    "operations",
    [
        [Operation("key", "w", Kind.PUT, version="a", outcome=True)],
        [commit(1, 2, "a", "a")],
        [commit(1, 2, "a", None)],
        [commit(1, 2, None, "a"), commit(1, 2, "b", "a")],
    ],
)
def test_what_has_no_versions_is_refused(operations: list[Operation]) -> None:
    with pytest.raises(ValueError, match="commit"):
        check_versions(operations)


# Registers of plain values.


def put(
    called: int, returned: int, value: Hashable, *, known: bool = True
) -> Operation:
    outcome = True if known else None
    return Operation("key", "w", Kind.PUT, None, value, outcome, called, returned)


def delete(called: int, returned: int, *, known: bool = True) -> Operation:
    outcome = True if known else None
    return Operation("key", "w", Kind.DELETE, None, None, outcome, called, returned)


def test_a_register_holds_what_was_put_last() -> None:
    check_register([put(1, 2, "a"), put(3, 6, "b"), load(4, 5, "a"), load(7, 8, "b")])
    with pytest.raises(Violation, match="leaves over\n    load of key"):
        check_register([put(1, 2, "a"), put(3, 4, "b"), load(5, 6, "a")])


def test_a_register_is_empty_once_deleted() -> None:
    check_register([put(1, 2, "a"), delete(3, 4), load(5, 6, None), put(7, 8, "a")])
    check_register(
        [put(1, 2, "a"), delete(3, 4, known=False), load(5, 6, "a"), load(7, 8, None)]
    )
    with pytest.raises(Violation):
        check_register([put(1, 2, "a"), delete(3, 4), load(5, 6, "a")])


def test_a_value_may_come_back() -> None:
    operations = [put(1, 2, 1), put(3, 4, 2), put(5, 6, 1), commit(7, 8, 1, 2)]
    check_register([*operations, load(9, 10, 2)])
    with pytest.raises(Violation):
        check_register([*operations, load(9, 10, 1)])


def test_a_search_is_given_up() -> None:
    operations = [put(1, 99, value) for value in range(12)]
    with pytest.raises(UndecidedError):
        check_register([*operations, load(100, 101, "never")], budget=500)


# Random histories.


class _Run:
    """Callers of one perfect key, one step at a time."""

    def __init__(self, rng: random.Random, clients: int, count: int) -> None:
        self.rng = rng
        # Whether a copy is told that it landed while what it wrote is there.
        self.knows_its_own = rng.random() < 0.5
        self.clients = clients
        self.left = count
        self.ticks = itertools.count(1)
        self.versions = itertools.count(1)
        self.there: Hashable = None
        self.past: list[Hashable] = [None]
        self.done: list[Operation] = []
        self.under_way: list[tuple[Operation, list[Any]]] = []
        self.lost: list[Operation] = []

    def step(self) -> None:
        moment = self.rng.random()
        if moment < 0.3:
            if len(self.under_way) < self.clients and self.left:
                self.left -= 1
                self.under_way.append((self.begin(), []))
        elif self.under_way:
            one, told = self.rng.choice(self.under_way)
            if moment >= 0.6:
                self.end(one, told)
            elif not told:
                load = one.kind is Kind.LOAD
                told.append(self.there if load else self.land(one))
        if self.lost and self.rng.random() < 0.2:
            self.land(self.lost.pop(self.rng.randrange(len(self.lost))))

    def begin(self) -> Operation:
        called = next(self.ticks)
        if self.rng.random() < 0.4:
            return Operation("key", "w", Kind.LOAD, called=called)
        if self.lost and self.rng.random() < 0.3:
            return dataclasses.replace(self.rng.choice(self.lost), called=called)
        known = self.rng.choice([self.there, self.there, *self.past[-4:]])
        return Operation(
            "key", "w", Kind.COMMIT, known, next(self.versions), called=called
        )

    def land(self, one: Operation) -> bool:
        lands = one.expected == self.there
        if lands:
            self.there = one.version
            self.past.append(self.there)
        return lands or (self.knows_its_own and one.version == self.there)

    def end(self, one: Operation, told: list[Any]) -> None:
        returned = next(self.ticks)
        if told and self.rng.random() < 0.7:
            answer = {"outcome": told[0]}
            if one.kind is Kind.LOAD:
                answer = {"outcome": True, "version": told[0]}
            self.done.append(dataclasses.replace(one, returned=returned, **answer))
        elif self.rng.random() < 0.4:
            self.done.append(dataclasses.replace(one, returned=returned))
            if one.kind is Kind.COMMIT:
                self.lost.append(one)
        else:
            return
        self.under_way.remove((one, told))


def true_history(rng: random.Random, clients: int, count: int) -> list[Operation]:
    """Return what callers of one perfect key may have been told."""
    run = _Run(rng, clients, count)
    while run.left or run.under_way:
        run.step()
    return sorted(run.done, key=lambda one: one.called)


def changed(rng: random.Random, operations: Sequence[Operation]) -> list[Operation]:
    """Return the history with one thing changed; it may still be a true one."""
    operations = [
        dataclasses.replace(one, called=2 * one.called, returned=2 * one.returned)
        for one in operations
    ]
    index = rng.randrange(len(operations))
    one, other = operations[index], rng.choice(operations)
    loads = [i for i, one in enumerate(operations) if one.kind is Kind.LOAD]
    match rng.randrange(4):
        case 0 if loads:
            index = rng.choice(loads)
            one = dataclasses.replace(operations[index], version=other.version)
        case 1 if one.kind is Kind.COMMIT and one.outcome is not None:
            one = dataclasses.replace(one, outcome=not one.outcome)
        case 2 if one.kind is Kind.COMMIT and one.outcome is True:
            one = dataclasses.replace(one, outcome=None)
        case _:
            called = rng.randrange(1, 4 * len(operations), 2)
            one = dataclasses.replace(
                one, called=called, returned=called + one.returned - one.called
            )
    operations[index] = one
    return operations


def effect(one: Operation, there: Hashable) -> Iterator[Hashable]:
    """Walk what may be there after an operation that is answered as it was."""
    if one.kind is Kind.LOAD:
        if one.outcome is None or one.version == there:
            yield there
    elif one.outcome is False:
        if one.excused or one.expected != there:
            yield there
    elif one.expected == there:
        yield one.version


def effect_of_copies(one: Operation, there: Hashable) -> Iterator[Hashable]:
    """The same where a version that is there may be said to have landed."""
    yield from effect(one, there)
    if one.kind is Kind.COMMIT and one.outcome is True and one.version == there:
        yield there


def test_no_true_history_is_rejected() -> None:
    for seed in range(300):
        rng = random.Random(f"true {seed}")
        operations = true_history(rng, rng.randint(1, 8), rng.randint(1, 80))
        assert not rejects(check_versions, tied(rng, operations)), f"seed {seed}"


def test_the_search_decides_as_trying_all_orders_does() -> None:
    decisions = []
    for seed in range(700):
        rng = random.Random(f"short {seed}")
        operations = true_history(rng, rng.randint(2, 4), rng.randint(5, 9))
        operations = tied(rng, changed(rng, operations))
        possible = explained(operations, None, effect)
        assert rejects(check_register, operations) is not possible, f"seed {seed}"
        decisions.append(possible)
    assert 100 < sum(decisions) < 600


def test_the_judge_decides_as_trying_all_orders_does() -> None:
    decisions = []
    for seed in range(2000):
        rng = random.Random(f"changed {seed}")
        operations = true_history(rng, rng.randint(2, 6), rng.randint(4, 13))
        operations = tied(rng, changed(rng, operations))
        possible = explained(operations, None, effect_of_copies)
        assert rejects(check_versions, operations) is not possible, f"seed {seed}"
        decisions.append(possible)
    assert 400 < sum(decisions) < 1600
