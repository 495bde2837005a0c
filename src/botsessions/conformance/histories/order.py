"""Judge the calls of one key by the order of events that their answers show.

Each answer lists the changes that led to it, so the answers of one key must agree on
one *chain* of changes for each life of the session (from a put or a creation to the
next put, a delete or its end), and the chains on one order in real time. Every
complaint is justified: what it names cannot have happened under the laws. It does not
find all there is to find (which delete ended which life is not searched for); the exact
but slow ``linearizability`` does, and judges this module in its tests.
"""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING, NamedTuple

from botsessions.conformance.histories.history import (
    CHANGES,
    NEVER,
    READS,
    Call,
    Ids,
    Outcome,
    Verb,
    Violation,
    require_one_key,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence


def check_order(
    calls: Sequence[Call], *, stored: Collection[Ids] = (), expiring: bool = False
) -> None:
    """Raise ``Violation`` unless the answers for one key fit together.

    ``stored`` are contents that the session is known to have had, from a look behind
    the scenes. ``expiring`` allows a session to vanish by itself.
    """
    require_one_key(calls)
    lives = sorted(_lives(calls, stored), key=lambda life: life.first_end)
    for life in lives:
        _check_inside(life)
    _check_lives(lives)
    past = _Past(lives)
    absences = [call for call in calls if _finds_nothing(call)]
    for absent in absences:
        _check_not_inside(absent, past)
    if not expiring:
        deletes = _Deletes(calls)
        created = [life.steps[0][0] for life in lives if life.created]
        _check_created(created, deletes)
        for absent in [*absences, *created]:
            if absent.verb is not Verb.DELETE:
                _check_deleted(absent, past, deletes)


class _Life(NamedTuple):
    """One life of the session: its states in order, each with the calls that show it.

    The first call of a step made the state, the others read it. ``first_end`` and
    ``last_start`` bound all of them: a call that had returned before ``last_start``
    came before something in this life, one called after ``first_end`` after something.
    """

    steps: list[list[Call]]
    created: bool
    first_end: int
    last_start: int

    @property
    def calls(self) -> list[Call]:
        return [call for step in self.steps for call in step]


def _lives(calls: Sequence[Call], stored: Collection[Ids]) -> list[_Life]:
    """Put the changes into chains, or say why they do not form any."""
    chains = _Chains(calls)
    shown_by = {call.saw: call for call in calls if call.saw}
    for ids in shown_by.keys() | set(stored):
        chains.add(ids, *([shown_by[ids]] if ids in shown_by else []))
    readers: dict[int, list[Call]] = {}
    for call in calls:
        if call.verb in READS and call.saw:
            readers.setdefault(call.saw[-1], []).append(call)
    lives = []
    for chain in chains:
        steps = [[call, *readers.get(call.id, ())] for call in chain]
        members = [call for step in steps for call in step]
        lives.append(
            _Life(
                steps,
                created=chain[0].verb is Verb.UPDATE,
                first_end=min(call.end for call in members),
                last_start=max(call.called for call in members),
            )
        )
    return lives


class _Chains:
    """Which change follows which, by their ids; 0 stands for nothing."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._by_id = {call.id: call for call in calls}
        self._before: dict[int, int] = {}
        self._after: dict[int, int] = {}
        self._contents: list[tuple[Ids, tuple[Call, ...]]] = []
        for call in calls:
            if call.outcome is not Outcome.DONE:
                continue
            if call.verb is Verb.PUT:
                self._before[call.id] = 0
            elif call.verb is Verb.UPDATE and (call.saw or (0,))[-1] != call.id:
                raise Violation("an update's answer is not what it made", call)

    def __iter__(self) -> Iterator[list[Call]]:
        """Walk the chains, each from its first change on."""
        for first, before in self._before.items():
            if not before:
                chain = [first]
                while chain[-1] in self._after:
                    chain.append(self._after[chain[-1]])
                yield [self._by_id[number] for number in chain]

    def add(self, ids: Ids, *shown_by: Call) -> None:
        """Note the order that a content shows, and in whose answer it was."""
        for before, number in itertools.pairwise((0, *ids)):
            self._check(number, ids, *shown_by)
            first = self._before.setdefault(number, before)
            if first != before:
                told, also_by = self._where(first, number)
                raise Violation(
                    f"applied twice, on {first or 'nothing'}{told} and on "
                    f"{before or 'nothing'} in {shown(ids, number)}",
                    self._by_id[number],
                    *also_by,
                    *shown_by,
                )
            if before and self._after.setdefault(before, number) != number:
                raise Violation(
                    "a lost update: two changes were applied on the same state, "
                    + shown(ids, number),
                    self._by_id[self._after[before]],
                    self._by_id[number],
                )
        self._contents.append((ids, shown_by))

    def _where(self, before: int, number: int) -> tuple[str, tuple[Call, ...]]:
        """Return a content that shows one behind the other, and who was answered it."""
        for ids, shown_by in self._contents:
            if (before, number) in itertools.pairwise((0, *ids)):
                return f" in {shown(ids, number)}", shown_by
        return "", ()  # a put says so itself, and this content is looked at still

    def _check(self, number: int, ids: Ids, *shown_by: Call) -> None:
        """Complain about a change that cannot be in a content."""
        call = self._by_id.get(number)
        if call is None:
            raise Violation(
                f"change {number} in {shown(ids, number)} was made by nobody here; had "
                "the key a session before?",
                *shown_by,
            )
        if call.verb not in CHANGES or call.outcome is Outcome.FAILED:
            raise Violation(
                "applied, though its caller was told it is not", call, *shown_by
            )
        if call.verb is Verb.PUT and number != ids[0]:
            raise Violation(
                f"a put did not replace what was there, {shown(ids)}", call, *shown_by
            )


def _check_inside(life: _Life) -> None:
    """Within a life, real time must not contradict the chain."""
    latest: Call | None = None
    for step in life.steps:
        for call in step:
            if latest is not None and call.end < latest.called:
                raise Violation(
                    "a later state was answered before the change that led to it, or "
                    "to the state before it, was asked for"
                    if call.verb not in READS or latest.verb not in READS
                    else "a stale read",
                    call,
                    latest,
                )
            if call is step[0] and (latest is None or call.called > latest.called):
                latest = call
        for call in step[1:]:
            if latest is None or call.called > latest.called:
                latest = call


def _check_lives(lives: Sequence[_Life]) -> None:
    """One life ends before another begins; ``lives`` come in order of ``first_end``.

    Each comes wholly before the other; if real time demands both, there is no order.
    Looking at pairs is enough: among lives that demand each other in a circle, the one
    with the earliest ``first_end`` is in such a pair.
    """
    for index, one in enumerate(lives):
        for later in range(index + 1, len(lives)):
            other = lives[later]
            if other.first_end >= one.last_start:
                break
            if one.first_end < other.last_start:
                raise Violation(
                    "two lives of the session interleave",
                    *_bounds(one),
                    *_bounds(other),
                )


class _Past:
    """Which lives have come before a call: at least something of them."""

    def __init__(self, lives: Sequence[_Life]) -> None:
        self._first_ends = [life.first_end for life in lives]
        self._latest = list(itertools.accumulate(lives, _later))

    def latest(self, call: Call) -> _Life | None:
        """Return, of all lives before a call, the one that goes on for longest."""
        count = bisect.bisect_left(self._first_ends, call.called)
        return self._latest[count - 1] if count else None


def _later(one: _Life, other: _Life) -> _Life:
    return other if other.last_start > one.last_start else one


class _Deletes:
    """Which deletes may have come before a call has taken effect."""

    def __init__(self, calls: Iterable[Call]) -> None:
        deletes = sorted(
            (
                call
                for call in calls
                if call.verb is Verb.DELETE and call.outcome is not Outcome.FAILED
            ),
            key=lambda call: call.called,
        )
        self._called = [delete.called for delete in deletes]
        self._ends = list(itertools.accumulate((d.end for d in deletes), max))

    def count(self, call: Call) -> int:
        """Return how many."""
        return bisect.bisect_right(self._called, call.end)

    def end(self, call: Call) -> int:
        """Return until when one of them may have come."""
        count = self.count(call)
        return self._ends[count - 1] if count else -NEVER


def _finds_nothing(call: Call) -> bool:
    """Tell whether the session was absent for a moment while this call ran."""
    if call.outcome is not Outcome.DONE:
        return False
    return call.verb is Verb.DELETE or (call.verb in READS and not call.saw)


def _check_not_inside(absent: Call, past: _Past) -> None:
    """No moment of absence lies within a life."""
    life = past.latest(absent)
    if life is not None and absent.returned < life.last_start:
        raise Violation(
            "absent in the midst of a life, or revived after its end",
            absent,
            *_bounds(life),
        )


def _check_created(created: Iterable[Call], deletes: _Deletes) -> None:
    """Each creation but the first has a delete of its own before it."""
    ordered = sorted(created, key=lambda call: call.end)
    for earlier, call in enumerate(ordered):
        if earlier > deletes.count(call):
            raise Violation(
                "created more often than deleted: a lost update",
                *ordered[: earlier + 1],
            )


def _check_deleted(absent: Call, past: _Past, deletes: _Deletes) -> None:
    """Each life that came before a moment of absence was ended by a delete between."""
    life = past.latest(absent)
    if life is not None and deletes.end(absent) < life.last_start:
        raise Violation("gone, and nobody deleted it", absent, *_bounds(life))


def _bounds(life: _Life) -> tuple[Call, Call]:
    calls = life.calls
    return (
        min(calls, key=lambda call: call.end),
        max(calls, key=lambda call: call.called),
    )
