"""Hold the answers for one key against the journal: what was really there, and when.

The journal knows each state that the session ever had, from its landing to the next
one, and when it expired. So a read is right if its answer was the state at one moment
between its call and its return, by the server's clock; and nothing grows out of what
has expired. ``order`` and ``linearizability`` do without journal and clock.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from botsessions.conformance.histories.history import (
    CHANGES,
    READS,
    Call,
    Ids,
    Outcome,
    Verb,
    Violation,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.simulation.server import Landing


class Lifetime(NamedTuple):
    """How long sessions live, in milliseconds."""

    ttl: int | None = None
    max_age: int | None = None


ENDLESS = Lifetime()


def check_moments(
    calls: Sequence[Call], landings: Sequence[Landing], lifetime: Lifetime
) -> None:
    """Raise ``Violation`` unless the answers for one key fit what was there."""
    _check_versions(landings)
    _check_revival(landings)
    _check_refreshing(calls, landings)
    for call in calls:
        if call.outcome is not Outcome.DONE:
            continue
        if call.verb is Verb.GET or (call.verb in READS and _is_state(call, landings)):
            _check_read(call, landings)
        elif call.verb in CHANGES and lifetime != ENDLESS:
            _check_lifetime(call, landings, lifetime)


def check_presence(sightings: Sequence[Call], landings: Sequence[Landing]) -> None:
    """Raise ``Violation`` unless walks met one key when it was there, and only then.

    Of what they met they tell nothing but that it was there.
    """
    contents = {landing.ids for landing in landings if landing.ids}
    for sighting in sightings:
        fitting = contents if sighting.saw else {()}
        if not any(_was_there(sighting, ids, landings) for ids in fitting):
            raise Violation(f"at no moment of a walk was it so: {sighting}")


def _check_versions(landings: Sequence[Landing]) -> None:
    versions = [landing.record.version for landing in landings]
    if len(set(versions)) != len(versions):
        raise Violation(f"a version came back: {versions}")


def _check_revival(landings: Sequence[Landing]) -> None:
    for old, new in itertools.pairwise(landings):
        continued = bool(old.ids) and old.ids == new.ids[: len(old.ids)]
        if continued and old.has_ended(new.applied):
            raise Violation(
                f"{shown(old.ids)} had ended at {old.record.expires_at} and was "
                f"revived as {shown(new.ids)} at {new.applied}"
            )


def _check_refreshing(calls: Sequence[Call], landings: Sequence[Landing]) -> None:
    """A write that changes no content is there for an update that returned."""
    for old, new in itertools.pairwise(landings):
        if (
            new.ids
            and old.ids == new.ids
            and not any(
                call.verb is Verb.OBSERVE and call.called < new.tick < call.end
                for call in calls
            )
        ):
            raise Violation(
                f"{shown(new.ids)} was written again at {new.now}, though nobody "
                "called for it but functions that raised"
            )


def _is_state(call: Call, landings: Sequence[Landing]) -> bool:
    """Tell whether an observing update saw a state of which the journal tells.

    Else other calls had changed the session before it in the same commit; and what that
    commit made may have expired already when it landed.
    """
    return bool(call.saw) and any(
        there.ids == call.saw and not call.called < there.tick < call.returned
        for there in landings
    )


def _check_read(call: Call, landings: Sequence[Landing]) -> None:
    if not _was_there(call, call.saw or (), landings):
        raise Violation(f"at no moment of the call was this there: {call}")


def _was_there(call: Call, saw: Ids, landings: Sequence[Landing]) -> bool:
    """Tell whether a state with this content was there at one moment of the call."""
    if not saw and (not landings or landings[0].tick > call.called):
        return True
    for landing, following in zip(landings, [*landings[1:], None], strict=True):
        if landing.tick > call.returned:
            break
        if following is not None and following.tick < call.called:
            continue
        if saw:
            begin = max(landing.now, call.called_at)
            if landing.ids == saw and not landing.has_ended(begin):
                return True
        else:
            end = call.returned_at if following is None else following.now
            if landing.has_ended(min(end, call.returned_at)):
                return True
    return False


def _check_lifetime(
    call: Call, landings: Sequence[Landing], lifetime: Lifetime
) -> None:
    """A change gives the session nine tenths of its ttl at least, and all at most."""
    before: Landing | None = None
    for landing in landings:
        if landing.ids[-1:] == (call.id,):
            break
        before = landing
    else:
        return  # replaced in the same commit
    made = landing.record.created_at
    alone = call.verb is Verb.UPDATE and call.saw == (call.id,)
    anew = alone or before is None or before.has_ended(landing.applied)
    if anew and made < call.called_at:
        raise Violation(f"made at {made}, before anybody called for it: {call}")
    expires_at = landing.record.expires_at
    earliest, latest = [], []
    if lifetime.ttl is not None:
        earliest.append(call.called_at + lifetime.ttl)
        latest.append(call.returned_at + lifetime.ttl)
    if lifetime.max_age is not None:
        earliest.append(made + lifetime.max_age)
        latest.append(made + lifetime.max_age)
    lag = (lifetime.ttl or 0) // 10
    if expires_at is None or not min(earliest) - lag <= expires_at <= min(latest):
        raise Violation(
            f"expires at {expires_at}, which is not from {min(earliest)} (or {lag} "
            f"before) to {min(latest)}: {call}"
        )
