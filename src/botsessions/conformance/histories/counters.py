"""Judge the calls of one counter: a number that each change makes greater by one.

Its answers show no ids but how many changes came before, which is enough to put all
calls in order: the change that made a count, then those who read it, then the next
change. Counts that no answered change made took changes of unknown outcome. Deciding
that is a matter of sorting, and exact, so it does for histories of any length.
Neighbour: ``order``, for sessions that hold the ids of their changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import (
    NEVER,
    READS,
    Call,
    Outcome,
    Verb,
    Violation,
    require_one_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def check_counter(
    calls: Sequence[Call], *, start: int = 0, final: int | None = None
) -> None:
    """Raise ``Violation`` unless some order of calls explains all counts of one key.

    ``calls`` are updates that add one (each answers the ``count`` that it made) and
    reads. A failed one added nothing; one of unknown outcome added one, at
    whatever moment after it was called, or nothing. The counter stood at ``start``, and
    at ``final`` when all was over, if that was looked up.
    """
    require_one_key(calls)
    counter = _Counter(calls, start)
    if final is not None:
        last = max((call.called for call in calls), default=0)
        ends = [call.returned for call in calls if call.returned != NEVER]
        after = max([last, *ends]) + 1
        look = Call(0, "", Verb.GET, after, returned=after, note="the final count")
        look.outcome, look.count = Outcome.DONE, final
        counter.add(look)
    _check_real_time(counter)
    _check_gaps(counter)


class _Counter:
    """Who made each count, who read it, and whose change may be in or not."""

    def __init__(self, calls: Iterable[Call], start: int) -> None:
        self.start = start
        self.made: dict[int, Call] = {}
        self.read: dict[int, list[Call]] = {}
        self.unknown: list[Call] = []
        for call in calls:
            self.add(call)
        self.unknown.sort(key=lambda call: call.called)

    def add(self, call: Call) -> None:
        if call.verb is not Verb.UPDATE and call.verb not in READS:
            raise ValueError(f"a counter is only read and added to: {call}")
        if call.outcome is Outcome.UNKNOWN and call.verb is Verb.UPDATE:
            self.unknown.append(call)
        if call.outcome is not Outcome.DONE:
            return
        if call.count is None:
            raise ValueError(f"no count was noted: {call}")
        if call.count < self.start + (call.verb is Verb.UPDATE):
            raise Violation(f"the counter began with {self.start}", call)
        if call.verb is not Verb.UPDATE:
            self.read.setdefault(call.count, []).append(call)
        elif self.made.setdefault(call.count, call) is not call:
            raise Violation(
                "a lost update: two changes made the same count",
                self.made[call.count],
                call,
            )

    def counts(self) -> list[int]:
        """Return all counts that were seen, in ascending order."""
        return sorted(self.made.keys() | self.read.keys())

    def steps(self, count: int) -> Iterator[list[Call]]:
        """Walk the calls that show a count: its change first, then all who read it."""
        if count in self.made:
            yield [self.made[count]]
        yield self.read.get(count, [])


def _check_real_time(counter: _Counter) -> None:
    """No call had returned before one was called that comes earlier in the order."""
    latest: Call | None = None
    for count in counter.counts():
        for step in counter.steps(count):
            for call in step:
                if latest is not None and call.end < latest.called:
                    raise Violation(
                        "counted back: a count had been passed before the call that "
                        "answered it began",
                        call,
                        latest,
                    )
            for call in step:
                if latest is None or call.called > latest.called:
                    latest = call


def _check_gaps(counter: _Counter) -> None:
    """Each count that nobody says to have made took a change of unknown outcome.

    It must have been called before anybody saw that count or a later one. The earliest
    of them take the lowest of these counts: no other choice is better.
    """
    first_seen = _first_seen(counter)
    taken, before = 0, counter.start
    for count in counter.counts():
        gaps = count - before - (count in counter.made)
        before = count
        if gaps <= 0:
            continue
        seen = first_seen[count]
        for call in counter.unknown[taken : taken + gaps]:
            if call.called > seen.end:
                raise Violation(
                    f"of the counts up to {count} one was made by nobody: the next "
                    "change of unknown outcome was called too late",
                    seen,
                    call,
                )
        taken += gaps
        if taken > len(counter.unknown):
            raise Violation(
                f"of the counts up to {count}, {taken} were made by changes that told "
                f"no count, but there are only {len(counter.unknown)} of unknown "
                "outcome",
                seen,
            )


def _first_seen(counter: _Counter) -> dict[int, Call]:
    """Return, by count, the call that was the first to answer it or a later one."""
    found: dict[int, Call] = {}
    first: Call | None = None
    for count in reversed(counter.counts()):
        for step in counter.steps(count):
            for call in step:
                if first is None or call.end < first.end:
                    first = call
                found[count] = first
    return found
