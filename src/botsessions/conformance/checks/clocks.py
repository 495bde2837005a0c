"""Checks of time: the end of a session to the millisecond, and clocks set back.

They stop the clock of the backend, so they ask for a ``make`` that takes one, or can
set a server's. Neighbours: ``subject``, ``laws`` (expiry by a clock that runs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botsessions.backend import SupportsListing
from botsessions.conformance.subject import expect
from botsessions.keys import SessionKey
from botsessions.record import Record

if TYPE_CHECKING:
    from botsessions.conformance.subject import Subject, Watched
    from botsessions.store import SessionStore

_KEY = SessionKey(chat_id=1, user_id=2)
_HOUR_MS = 3_600_000


async def a_session_ends_at_its_millisecond(subject: Subject) -> None:
    """It is there a millisecond before its end, and gone at its end."""
    subject.stop_clock()
    store, backend = await subject.store(ttl=10), await subject.open()
    await store.put(_KEY, {"n": 1})
    loaded = await backend.loaded(subject.key(str(_KEY)))
    [record] = loaded.records
    end = record.expires_at if isinstance(record, Record) else None
    expect(
        end == loaded.now + 10_000, f"put at {loaded.now} for 10 s, it ends at {end}"
    )
    await subject.pass_time(9_999)
    expect(await store.get(_KEY) == {"n": 1}, "gone a millisecond too early")
    listed = await _listed(store, backend)
    expect(listed is not False, "gone from the list a millisecond too early")
    await subject.pass_time(1)
    expect(await store.get(_KEY) == {}, "there at its end still")
    expect(not await _listed(store, backend), "listed at its end still")
    seen = await store.update(_KEY, lambda session: {"before": dict(session)})
    expect(seen == {"before": {}}, f"an update at its end was given {seen}")


async def a_clock_set_back_revives_nothing(subject: Subject) -> None:
    """A deleted session stays deleted when the clock is set back; it can begin anew."""
    subject.stop_clock()
    store, backend = await subject.store(), await subject.open()
    await store.put(_KEY, {"n": 1})
    await store.delete(_KEY)
    await subject.pass_time(-_HOUR_MS)
    expect(await store.get(_KEY) == {}, "it came back")
    expect(not await _listed(store, backend), "it is listed again")
    seen = await store.update(_KEY, lambda session: {**session, "new": 1})
    expect(seen == {"new": 1}, f"it began anew with {seen}")
    expect(await store.get(_KEY) == {"new": 1}, "begun anew, and not there")


async def a_clock_set_back_loses_nothing(subject: Subject) -> None:
    """What was acknowledged is there when the clock is set back, and can be changed."""
    subject.stop_clock()
    store = await subject.store(ttl=60)
    await store.put(_KEY, {"n": 1})
    for turn in range(2, 5):
        await subject.pass_time(-_HOUR_MS)
        expect(await store.get(_KEY) == {"n": turn - 1}, "it is gone, or an older one")
        seen = await store.update(_KEY, lambda session: {"n": session["n"] + 1})
        expect(seen == {"n": turn}, f"changed to {seen}")
    await subject.pass_time(4 * _HOUR_MS)
    expect(await store.get(_KEY) == {}, "it does not end any more")


async def _listed(store: SessionStore, backend: Watched) -> bool | None:
    """Tell whether the session is listed; None if the backend cannot list."""
    if not isinstance(backend.backend, SupportsListing):
        return None
    return _KEY in [key async for key, _ in store.items()]


CHECKS = (
    a_session_ends_at_its_millisecond,
    a_clock_set_back_revives_nothing,
    a_clock_set_back_loses_nothing,
)
