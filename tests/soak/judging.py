"""Say what is wrong with a round, given all that its callers were told.

The judges of the kit decide (``counters``; else ``order``, and ``linearizability`` on
short histories); beside them stand accounts that need no theory: what was acknowledged
and is not there, what was applied twice, what was refused and is there, what was served
after its end or gone before it.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections import Counter
from typing import TYPE_CHECKING

from botsessions.conformance.histories.counters import check_counter
from botsessions.conformance.histories.history import (
    CHANGES,
    NEVER,
    READS,
    Call,
    Outcome,
    Verb,
    Violation,
)
from botsessions.conformance.histories.linearizability import check_linearizable
from botsessions.conformance.histories.order import check_order
from botsessions.conformance.histories.search import UndecidedError
from tests.soak.journal import MILLISECOND, Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.soak.journal import Hold, Told

# Longer histories are left to ``order`` alone; the exact search may take for ever.
SHORT = 150
_BUDGET = 20_000
# A session has nine tenths of its ttl for certain, since its end moves lazily.
_CERTAIN = 0.9
# Backends count whole milliseconds, and round.
_ROUNDING = 2 * MILLISECOND


class Wrong(enum.StrEnum):
    """What can be wrong."""

    LOST = "acknowledged and lost"
    DOUBLED = "applied twice"
    REFUSED = "refused and applied"
    LATE = "served after its end"
    SHARED = "held by two at once"
    UNEXPLAINED = "no order explains it"
    ODD = "met what no caller should meet"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One wrong thing, and the calls for that key by which a person can see it."""

    wrong: Wrong
    key: str
    what: str
    calls: tuple[Call, ...] = ()


@dataclasses.dataclass(slots=True)
class Judgement:
    """What came out for one round."""

    findings: list[Finding] = dataclasses.field(default_factory=list)
    histories: int = 0
    """How many were judged."""
    exact: int = 0
    """How many of them were decided exactly: those of counters, and those searched."""
    undecided: int = 0
    """How many searches were given up."""


def judge(told: Told, ttl: float) -> Judgement:
    """Judge a round; ``ttl`` is that of the sessions that end, in seconds."""
    judgement = Judgement()
    found = judgement.findings
    for oddity in told.oddities:
        what = f"{oddity.process}: {oddity.what}"
        found.append(Finding(Wrong.ODD, oddity.key, what))
    for key, calls in told.calls.items():
        kind = kind_of(key)
        counting = kind is Kind.COUNTER
        noted = [*map(_as_counter, calls)] if counting else calls
        findings = [*(_counts(noted) if counting else _accounts(kind, calls))]
        if kind is Kind.BRIEF:
            findings += _ends(calls, round(ttl * 1000) * MILLISECOND)
        findings += _judged(kind, noted, judgement)
        found += [
            dataclasses.replace(finding, key=key, calls=tuple(calls))
            for finding in findings
        ]
    found += _holds(told.holds)
    return judgement


def _judged(kind: Kind, calls: list[Call], judgement: Judgement) -> Iterator[Finding]:
    expiring = kind is Kind.BRIEF
    judgement.histories += 1
    try:
        if kind is Kind.COUNTER:
            judgement.exact += 1
            check_counter(calls)
            return
        check_order(calls, expiring=expiring)
        if kind is not Kind.LEDGER and len(calls) <= SHORT:
            check_linearizable(calls, expiring=expiring, budget=_BUDGET)
            judgement.exact += 1
    except UndecidedError:
        judgement.undecided += 1
    except Violation as noticed:
        yield Finding(Wrong.UNEXPLAINED, "", str(noticed))


def _accounts(kind: Kind, calls: Sequence[Call]) -> Iterator[Finding]:
    """Look at the ids in all contents that were ever shown."""
    by_id = {call.id: call for call in calls}
    before: dict[int, set[int]] = {}
    after: dict[int, set[int]] = {}
    twice: set[int] = set()
    for ids in {call.saw for call in calls if call.saw}:
        for earlier, number in itertools.pairwise((0, *ids)):
            before.setdefault(number, set()).add(earlier)
        twice |= {number for number, times in Counter(ids).items() if times > 1}
    twice |= {number for number, found in before.items() if len(found) > 1}
    for number in sorted(twice):
        yield Finding(Wrong.DOUBLED, "", str(by_id.get(number, number)))
    for number in sorted(before):
        call = by_id.get(number)
        if call is None or call.verb not in CHANGES or call.outcome is Outcome.FAILED:
            yield Finding(Wrong.REFUSED, "", f"is there: {call or number}")
    for number, found in before.items():
        # Behind what is there twice there may well be two things.
        for earlier in found - twice:
            after.setdefault(earlier, set()).add(number)
    yield from _forks(by_id, after)
    if kind is Kind.LEDGER:
        yield from _left_out(calls)


def _forks(
    by_id: Mapping[int, Call], after: Mapping[int, Iterable[int]]
) -> Iterator[Finding]:
    """Find states on which more than one change was made: all but one are lost.

    Any number of lives may begin with nothing.
    """
    for earlier in sorted(after.keys() - {0}):
        numbers = sorted(after[earlier])
        if len(numbers) > 1:
            them = "; ".join(str(by_id.get(number, number)) for number in numbers)
            yield Finding(Wrong.LOST, "", f"all made of state {earlier}: {them}")


def _left_out(calls: Sequence[Call]) -> Iterator[Finding]:
    """Find what is not in the end of a ledger, as the last look saw it."""
    last = [call for call in calls if call.verb is Verb.GET and call.saw is not None]
    if not last:
        return
    there = set(last[-1].saw or ())
    for call in calls:
        done = call.verb is Verb.UPDATE and call.outcome is Outcome.DONE
        if done and call.returned < last[-1].called and call.id not in there:
            yield Finding(Wrong.LOST, "", f"is not there in the end: {call}")


def _counts(calls: Sequence[Call]) -> Iterator[Finding]:
    """Look at who made which count, and at the last one: all that was acknowledged."""
    changes = [call for call in calls if call.verb is Verb.UPDATE]
    done = [call for call in changes if call.outcome is Outcome.DONE]
    made: dict[int | None, Call] = {}
    for call in done:
        other = made.setdefault(call.count, call)
        if other is not call:
            yield Finding(Wrong.LOST, "", f"counted once for both: {other}; {call}")
    reads = [c for c in calls if c.verb is Verb.GET and c.outcome is Outcome.DONE]
    last = max(reads, key=lambda call: call.called, default=None)
    if last is None or last.count is None:
        return
    before = sum(call.returned < last.called for call in done)
    if last.count < before:
        what = f"{before} changes were acknowledged, and in the end there is {last}"
        yield Finding(Wrong.LOST, "", what)
    possible = sum(c.outcome is not Outcome.FAILED for c in changes)
    if last.count > possible:
        what = f"only {possible} changes may have landed: {last}"
        yield Finding(Wrong.DOUBLED, "", what)


def _as_counter(call: Call) -> Call:
    """Return a call as the kit notes it; in the journal a count is all that it saw."""
    count = call.saw[0] if call.saw else None
    return dataclasses.replace(call, saw=None, count=count)


def _ends(calls: Sequence[Call], ttl: int) -> Iterator[Finding]:
    """Find what was there after its end, or not before it; by the machine's clock."""
    latest = _latest_ends(calls, ttl)
    deletes = [
        call
        for call in calls
        if call.verb is Verb.DELETE and call.outcome is not Outcome.FAILED
    ]
    sure = [call for call in calls if call.verb in CHANGES and call.end != NEVER]
    certain = round(ttl * _CERTAIN) - _ROUNDING
    for call in calls:
        if call.outcome is not Outcome.DONE:
            continue
        base = _found(call)
        if base is None:
            continue
        if base:
            if call.called > latest.get(base[-1], NEVER) + _ROUNDING:
                yield Finding(Wrong.LATE, "", f"had ended before: {call}")
            continue
        for change in sure:
            # Written before this call began, and young when it was answered.
            if change.returned >= call.called:
                continue
            if call.returned > change.called + certain:
                continue
            if not any(
                delete.called < call.returned and delete.end >= change.called
                for delete in deletes
            ):
                yield Finding(Wrong.LOST, "", f"gone before its end: {change}; {call}")


def _found(call: Call) -> tuple[int, ...] | None:
    """Return what a call found there, None if its answer does not tell."""
    if call.verb in READS:
        return call.saw or ()
    if call.verb is Verb.UPDATE and call.saw:
        return call.saw[:-1]
    return None


def _latest_ends(calls: Iterable[Call], ttl: int) -> dict[int, int]:
    """Return when the content that ends with an id is over at the latest.

    An update that changes nothing moves the end of what it found; one of which nobody
    knows whether it landed may have moved any.
    """
    latest: dict[int, int] = {}
    for call in calls:
        if call.verb in CHANGES:
            end = call.returned + ttl if call.end != NEVER else NEVER
            latest[call.id] = max(latest.get(call.id, 0), end)
        elif call.verb is Verb.OBSERVE:
            if call.outcome is Outcome.UNKNOWN:
                return {}
            if call.saw:
                before = latest.get(call.saw[-1], 0)
                latest[call.saw[-1]] = max(before, call.returned + ttl)
    return latest


def _holds(holds: Iterable[Hold]) -> Iterator[Finding]:
    by_key: dict[str, list[tuple[int, int, Hold]]] = {}
    for hold in holds:
        if hold.got is not None and hold.until is not None:
            by_key.setdefault(hold.key, []).append((hold.got, hold.until, hold))
    for key, held in by_key.items():
        held.sort(key=lambda one: one[:2])
        for (_, until, one), (got, _, other) in itertools.pairwise(held):
            if got < until:
                yield Finding(Wrong.SHARED, key, f"{one} and {other}")
