"""What a soak of one place comes to, in figures that take little more room after hours.

What grows is a number for each second of use, and a mark for each fault.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import CHANGES, NEVER, Call, Outcome
from tests.soak.journal import MILLISECOND, SECOND
from tests.soak.judging import Finding, Wrong

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.soak.journal import Hold, Told
    from tests.soak.judging import Judgement

# So many findings are kept whole; the others are counted.
_KEPT = 10
# Latencies are kept apart if they differ by more than this.
_STEP = 1.03


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One that was injected; it was over when things were whole again."""

    kind: str
    begun: int
    over: int


class Latencies:
    """How long calls took, in milliseconds, to three percent."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.longest = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one."""
        self._counts[math.ceil(math.log(max(milliseconds, 1e-3), _STEP))] += 1
        self.longest = max(self.longest, milliseconds)

    def within(self, share: float) -> float:
        """Return the time in which this share of the calls was answered."""
        left = share * self._counts.total()
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return min(_STEP**step, self.longest)
        return 0.0


@dataclasses.dataclass(slots=True)
class Figures:
    """All that is counted of one place."""

    title: str = ""
    rounds: int = 0
    processes: int = 0
    seconds: float = 0.0
    """Of use; those of judging do not count."""
    verbs: Counter[tuple[str, Outcome]] = dataclasses.field(default_factory=Counter)
    latencies: Latencies = dataclasses.field(default_factory=Latencies)
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    recovery: dict[str, float] = dataclasses.field(default_factory=dict)
    """By kind of fault: the longest time, in seconds, from its being over to the answer
    of a change that was asked for afterwards and acknowledged."""
    silence: dict[str, float] = dataclasses.field(default_factory=dict)
    """By kind of fault: the longest time, in seconds, in which no change at all was
    acknowledged, from the beginning of one."""
    flow: Counter[int] = dataclasses.field(default_factory=Counter)
    """How many calls were acknowledged in each second of use."""
    marks: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    """When which fault began, in seconds of use."""
    histories: int = 0
    exact: int = 0
    undecided: int = 0
    wrong: Counter[Wrong] = dataclasses.field(default_factory=Counter)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def add(self, told: Told, judgement: Judgement, faults: list[Fault]) -> None:
        """Add a round; all of its moments are counted from its beginning."""
        calls = [call for calls in told.calls.values() for call in calls]
        start = self.seconds
        for call in calls:
            self._add_call(call, start)
        for hold in told.holds:
            self.verbs["lock", _outcome(hold)] += 1
        changes = sorted(
            (
                call
                for call in calls
                if call.verb in CHANGES and call.outcome is Outcome.DONE
            ),
            key=lambda call: call.called,
        )
        answers = sorted(call.returned for call in changes)
        for fault in faults:
            self.faults[fault.kind] += 1
            self.marks.append((start + fault.begun / SECOND, fault.kind))
            longest = self.silence.get(fault.kind, 0.0)
            self.silence[fault.kind] = max(longest, silence(fault, answers))
            away = recovery(fault, changes)
            if away is not None:
                longest = self.recovery.get(fault.kind, 0.0)
                self.recovery[fault.kind] = max(longest, away)
        last = max((c.returned for c in calls if c.returned != NEVER), default=0)
        self.seconds += last / SECOND
        self.rounds += 1
        self.histories += judgement.histories
        self.exact += judgement.exact
        self.undecided += judgement.undecided
        self._find(judgement.findings)

    def break_off(self, what: str) -> None:
        """Note why no more rounds could be played."""
        self._find([Finding(Wrong.ODD, "the soak itself", what)])

    def _find(self, findings: list[Finding]) -> None:
        self.wrong.update(finding.wrong for finding in findings)
        self.findings += findings[: _KEPT - len(self.findings)]

    def _add_call(self, call: Call, start: float) -> None:
        self.verbs[call.verb.value, call.outcome] += 1
        if call.outcome is Outcome.DONE:
            self.latencies.add((call.returned - call.called) / MILLISECOND)
            self.flow[int(start + call.returned / SECOND)] += 1

    @property
    def operations(self) -> int:
        """How many calls there were, attempts to get a lock among them."""
        return self.verbs.total()

    def told(self, outcome: Outcome) -> int:
        """Return how many calls came to this."""
        return sum(n for (_, what), n in self.verbs.items() if what is outcome)


def recovery(fault: Fault, changes: Iterable[Call]) -> float | None:
    """Return after how many seconds a change that came behind a fault was done.

    ``changes`` are those that were done, in the order in which they began.
    """
    behind = [call.returned for call in changes if call.called >= fault.over]
    return (min(behind) - fault.over) / SECOND if behind else None


def silence(fault: Fault, answers: Iterable[int]) -> float:
    """Return for how many seconds at most no change was acknowledged.

    That counts from the beginning of a fault until the first change behind it; the
    ``answers`` to all of them are in order.
    """
    moments = [fault.begun]
    for answer in answers:
        if moments[-1] > fault.over:
            break
        if answer > fault.begun:
            moments.append(answer)
    if moments[-1] < fault.over:
        moments.append(fault.over)
    return max(b - a for a, b in itertools.pairwise(moments)) / SECOND


def _outcome(hold: Hold) -> Outcome:
    return Outcome.FAILED if hold.got is None else Outcome.DONE
