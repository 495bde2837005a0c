"""Judge the loads and commits of a raw backend by the chain of versions they show.

A version never comes back and names the one that it replaced, so all that landed on a
key forms one chain, and every answer has its place beside it. That takes time in
proportion to the history, not to the number of its orders: contention of hundreds of
thousands of operations is judged in seconds, and exactly. ``registers`` says what an
operation is.
"""

from __future__ import annotations

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
    on the same expected one. It lands once, and each other copy may be told that it
    landed for as long as that version is there. Records are not swept meanwhile.
    """
    for key, those in by_key(operations).items():
        _check_key(those, None if start is None else start.get(key))


def _check_key(operations: Sequence[Operation], start: Hashable) -> None:
    chain = _Chain(operations, start)
    steps = chain.steps()
    _check_real_time(steps)
    _check_refusals(chain, steps)


class _Step(NamedTuple):
    """One version that was there: its commit (none for the first), then who met it."""

    version: Hashable
    commit: Operation | None
    met: list[Operation]
    """Loads, and copies of the commit that found it there."""
    refusals: list[Operation]
    """Commits on this version that were told that it was not there."""

    @property
    def shown_by(self) -> list[Operation]:
        return self.met if self.commit is None else [self.commit, *self.met]


class _Chain:
    """Which version follows which."""

    def __init__(self, operations: Sequence[Operation], start: Hashable) -> None:
        self._start = start
        self._commits: dict[Hashable, Operation] = {}
        self._after: dict[Hashable, Hashable] = {}
        self._landed: set[Hashable] = set()
        self._met: dict[Hashable, list[Operation]] = {}
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
                self._met.setdefault(one.version, []).append(one)
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
        # Who of them landed makes no difference, so that is the first that may have.
        first, copy = sorted((known, one), key=lambda o: (o.outcome is False, o.called))
        self._commits[one.version] = first
        if copy.outcome is True:
            self._met.setdefault(one.version, []).append(copy)

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
            self._met.get(version, []),
            self.refusals.get(version, []),
        )


def _check_real_time(steps: Sequence[_Step]) -> None:
    """No operation had returned before one was called that comes earlier."""
    latest: Operation | None = None
    for step in steps:
        for those in ([] if step.commit is None else [step.commit]), step.met:
            for one in those:
                if latest is not None and one.end < latest.called:
                    raise Violation(_said(latest, steps), latest, one)
            for one in those:
                if latest is None or one.called > latest.called:
                    latest = one


def _said(late: Operation, steps: Sequence[_Step]) -> str:
    """Return what is wrong with an operation that was called too late for its place."""
    if late.kind is Kind.LOAD:
        return (
            "a stale read: the version that it found had been replaced before it began"
        )
    if any(step.commit is late for step in steps):
        return "a version was there before the commit that led to it began"
    return "told that it landed, though it had been replaced before it was sent again"


def _check_refusals(chain: _Chain, steps: Sequence[_Step]) -> None:
    """Hold each refused commit against the version that it expected.

    It met another one, so it began before that one came, or returned after that one
    went. It is best for all that each version came as late as it can have: the fewer
    are those who began later and for whom it has to be gone in time.
    """
    last = list(
        itertools.accumulate(
            (min((one.end for one in s.shown_by), default=NEVER) for s in steps[::-1]),
            min,
        )
    )[::-1]
    came = first = -NEVER
    for index, (old, new) in enumerate(itertools.pairwise(steps), 1):
        # Whoever showed the old version, and the new one's commit, had begun by then.
        begun = [*old.shown_by, *new.shown_by[:1]]
        first = max([first, *(one.called for one in begun)])
        gone = min([last[index], *_ends_after(came, old.refusals)])
        if gone < first:
            raise _refused(old, new, first, came)
        came = gone
    _check_end(chain, steps[-1], came, first)


def _check_end(chain: _Chain, tail: _Step, came: int, first: int) -> None:
    """The last version can be the end, or pending commits replaced it in time."""
    first = max([first, *(one.called for one in tail.shown_by)])
    stack = [(tail.version, came, first)]
    while stack:
        version, came, first = stack.pop()
        ends = _ends_after(came, chain.refusals.get(version, ()))
        if not ends:
            return
        gone = min(ends)
        for commit in chain.pending.get(version, ()):
            earliest = max(first, commit.called)
            if earliest <= gone:
                stack.append((commit.version, gone, earliest))
    raise _refused(tail, None, NEVER, came)


def _ends_after(came: int, refusals: Iterable[Operation]) -> list[int]:
    """Return by when a version that came then was gone, as those refused may say."""
    return [one.end for one in refusals if one.called > came]


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
    """Walk those who show that the version had come, and had not gone."""
    if step.met:
        came = min(step.met, key=lambda one: one.end)
        stayed = max(step.met, key=lambda one: one.called)
        if any(came.end < one.called for one in refusals):
            yield came
        if stayed is not came and any(stayed.called > one.end for one in refusals):
            yield stayed
