"""Hold what was changed under a lock against the records that the locks are.

A change under a lock may land only while the very record lives by which its holder had
the lock, by the server's clock: however late it comes, and whatever its process
believes. Neighbour: ``moments``, which judges what sessions hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import Violation, shown
from tests.simulation.server import lock_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.simulation.server import Landing


def check_fenced(
    key: str,
    guards: Mapping[int, bytes],
    landings: Sequence[Landing],
    locks: Sequence[Landing],
) -> None:
    """Raise ``Violation`` if one of these changes landed without its lock.

    ``guards`` has what the lock's record said when it was taken, by the ids of changes.
    """
    records = [lock for lock in locks if lock.key == lock_of(key)]
    seen: set[int] = set()
    for landing in landings:
        there = [lock.record for lock in records if lock.tick < landing.tick][-1:]
        held = {lock.value for lock in there if not lock.is_gone(landing.applied)}
        for number in landing.ids:
            guarded = number not in seen and number in guards
            if guarded and guards[number] not in held:
                raise Violation(
                    f"{shown(landing.ids)} was written at {landing.applied} under a "
                    f"lock that was lost before, by #{number}"
                )
        seen.update(landing.ids)
