"""Judge the loads and commits of a raw backend by the chain of versions they show.

A version never comes back and names the one that it replaced, so all that landed on a
key forms one chain, and every answer has its place beside it. That takes time in
proportion to the history, not to the number of its orders: contention of hundreds of
thousands of operations is judged in seconds, and exactly. ``registers`` (below) has the
operations, and the search that this module is held against in its tests.
"""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING, NamedTuple

from botsessions.conformance.histories.history import NEVER, Violation, by_key
from botsessions.conformance.histories.registers import Kind, Operation, version_text

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence


def check_versions(
    operations: Iterable[Operation], *, start: Mapping[str, Hashable] | None = None
) -> None:
    """Raise ``Violation`` unless some order of these operations explains all answers.

    They are loads and commits. Each key had no record at first, or the version in
    ``start``. A version may be sent more than once (after an unknown outcome), always
    on the same expected one; it lands once. Records are not swept meanwhile.
    """
    for key, those in by_key(operations).items():
        _check_key(those, None if start is None else start.get(key))


def _check_key(operations: Sequence[Operation], start: Hashable) -> None:
    chain = _Chain(operations, start)
    steps = chain.steps()
    _check_real_time(steps)
    _check_refusals(chain, steps)


class _Step(NamedTuple):
    """One version that was there: its commit (none for the first), then who saw it."""

    version: Hashable
    commit: Operation | None
    loads: list[Operation]
    refusals: list[Operation]
    """Commits on this version that were told that it was not there."""

    @property
    def shown_by(self) -> list[Operation]:
        return self.loads if self.commit is None else [self.commit, *self.loads]


class _Chain:
    """Which version follows which."""

    def __init__(self, operations: Sequence[Operation], start: Hashable) -> None:
        self._start = start
        self._commits: dict[Hashable, Operation] = {}
        self._after: dict[Hashable, Hashable] = {}
        self._landed: set[Hashable] = set()
        self._loads: dict[Hashable, list[Operation]] = {}
        self.refusals: dict[Hashable, list[Operation]] = {}
        for one in operations:
            self._note(one)
        for one in operations:
            if one.outcome is True:
                self._land(one.version, one)
        # What may still land: no operation shows that it has.
        self.pending: dict[Hashable, list[Operation]] = {}
        for version, one in self._commits.items():
            if one.outcome is None and version not in self._landed:
                self.pending.setdefault(one.expected, []).append(one)

    def _note(self, one: Operation) -> None:
        if one.kind is Kind.LOAD:
            if one.outcome is True:
                self._loads.setdefault(one.version, []).append(one)
            return
        if one.kind is not Kind.COMMIT:
            raise ValueError(f"only loads and commits have versions: {one}")
        if one.version in {self._start, None, one.expected}:
            raise ValueError(f"a commit makes a version of its own: {one}")
        if one.outcome is False and not one.excused:
            self.refusals.setdefault(one.expected, []).append(one)
        known = self._commits.setdefault(one.version, one)
        if known is one:
            return
        if known.expected != one.expected:
            raise ValueError(f"one version, on two others: {known}; {one}")
        if known.outcome is True and one.outcome is True:
            raise Violation("the same commit landed twice", known, one)
        if _surer(one) > _surer(known):
            self._commits[one.version] = one

    def _land(self, version: Hashable, shown_by: Operation) -> None:
        """Note that a version was there, and so was all that it rests on."""
        while version != self._start and version not in self._landed:
            commit = self._commits.get(version)
            if commit is None:
                raise Violation(
                    f"version {version_text(version)} was made by nobody", shown_by
                )
            if commit.outcome is False:
                raise Violation(
                    "landed, though its caller was told that it did not",
                    commit,
                    shown_by,
                )
            self._landed.add(version)
            other = self._after.setdefault(commit.expected, version)
            if other != version:
                raise Violation(
                    "a lost update: two commits landed on one version",
                    self._commits[other],
                    commit,
                )
            version, shown_by = commit.expected, commit

    def steps(self) -> list[_Step]:
        """Return the versions that were there, in their order."""
        steps = [self._step(self._start)]
        while steps[-1].version in self._after:
            steps.append(self._step(self._after[steps[-1].version]))
        circle = self._landed - {step.version for step in steps}
        if circle:
            raise Violation(
                "versions that rest on each other in a circle",
                *(self._commits[version] for version in circle),
            )
        return steps

    def _step(self, version: Hashable) -> _Step:
        return _Step(
            version,
            self._commits.get(version),
            self._loads.get(version, []),
            self.refusals.get(version, []),
        )


def _surer(one: Operation) -> tuple[bool, bool, int]:
    """Rank copies of one commit: the one that landed, if any did, comes highest."""
    return one.outcome is True, one.outcome is None, -one.called


def _check_real_time(steps: Sequence[_Step]) -> None:
    """No operation had returned before one was called that comes earlier."""
    latest: Operation | None = None
    for step in steps:
        if step.commit is not None:
            _check_after(step.commit, latest)
            latest = _later(latest, step.commit)
        for load in step.loads:
            _check_after(load, latest)
        for load in step.loads:
            latest = _later(latest, load)


def _check_after(one: Operation, latest: Operation | None) -> None:
    if latest is not None and one.end < latest.called:
        raise Violation(
            "a stale read: the version that it found had been replaced before it began"
            if latest.kind is Kind.LOAD
            else "a version was there before the commit that led to it began",
            latest,
            one,
        )


def _later(latest: Operation | None, one: Operation) -> Operation:
    return one if latest is None or one.called > latest.called else latest


class _Range(NamedTuple):
    """Moments at which a commit can have landed, both ends included."""

    first: int
    last: int


def _check_refusals(chain: _Chain, steps: Sequence[_Step]) -> None:
    """Hold each refused commit against the version that it expected.

    It met another one, so it began before that one came, or returned after that one
    went. The moments at which each commit can have landed are narrowed down along the
    chain accordingly.
    """
    first = list(
        itertools.accumulate(
            (max((one.called for one in s.shown_by), default=-NEVER) for s in steps),
            max,
        )
    )
    last = list(
        itertools.accumulate(
            (min((one.end for one in s.shown_by), default=NEVER) for s in steps[::-1]),
            min,
        )
    )[::-1]
    ranges = [_Range(-NEVER, -NEVER)]
    for index, (old, new) in enumerate(itertools.pairwise(steps), 1):
        earliest = max(
            first[index - 1], -NEVER if new.commit is None else new.commit.called
        )
        narrowed = _narrowed(ranges, old.refusals, earliest, last[index])
        if not narrowed:
            raise _refused(old, new, earliest, ranges[-1].last)
        ranges = narrowed
    if not _ends(chain, ranges, steps[-1], first[-1]):
        raise _refused(steps[-1], None, NEVER, ranges[-1].last)


def _narrowed(
    ranges: Iterable[_Range], refusals: Iterable[Operation], first: int, last: int
) -> list[_Range]:
    """Return when the next commit can have landed, given that for the one before.

    Those who were refused in between and had not begun when the version came must have
    returned after it went. So the next one's end depends on when this one landed, and
    changes only where one of them began.
    """
    ordered = sorted(refusals, key=lambda one: one.called)
    calls = [one.called for one in ordered]
    ends = [one.end for one in ordered]
    soonest = list(itertools.accumulate(reversed(ends), min, initial=NEVER))[::-1]
    found: list[_Range] = []
    for landed in ranges:
        begin = bisect.bisect_right(calls, landed.first)
        stop = bisect.bisect_right(calls, landed.last)
        for moment in (landed.first, *calls[begin:stop]):
            one = _Range(
                max(first, moment),
                min(last, soonest[bisect.bisect_right(calls, moment)]),
            )
            if one.first > one.last:
                continue
            if found and one.first <= found[-1].last:
                found[-1] = _Range(found[-1].first, max(found[-1].last, one.last))
            else:
                found.append(one)
    return found


def _ends(chain: _Chain, ranges: Sequence[_Range], tail: _Step, first: int) -> bool:
    """Tell whether the last version can be the end, or a pending commit replaced it."""
    stack = [(tail.version, ranges, first)]
    while stack:
        version, ranges, first = stack.pop()
        refusals = chain.refusals.get(version, [])
        if all(one.called <= ranges[-1].last for one in refusals):
            return True
        for commit in chain.pending.get(version, ()):
            earliest = max(first, commit.called)
            narrowed = _narrowed(ranges, refusals, earliest, NEVER)
            if narrowed:
                stack.append((commit.version, narrowed, earliest))
    return False


def _refused(old: _Step, new: _Step | None, gone: int, came: int) -> Violation:
    """Return the complaint about commits that were refused for no reason."""
    alone = [one for one in old.refusals if one.called > came and one.end < gone]
    named: list[Operation] = alone[:1] or old.refusals
    around = [old.commit, None if new is None else new.commit]
    return Violation(
        "refused, though the version that it expected was there all the time",
        *named,
        *(one for one in around if one is not None),
        *_witnesses(old, named),
    )


def _witnesses(step: _Step, refusals: Sequence[Operation]) -> Iterator[Operation]:
    """Walk the loads that show that the version had come, and had not gone."""
    if step.loads:
        came = min(step.loads, key=lambda one: one.end)
        stayed = max(step.loads, key=lambda one: one.called)
        if any(came.end < one.called for one in refusals):
            yield came
        if stayed is not came and any(stayed.called > one.end for one in refusals):
            yield stayed
