"""Judge all calls of a run: each key by what its sessions hold.

Counters go to ``counters``, lists of ids to ``order`` and, unless there are too many,
to the search of ``linearizability``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from botsessions.conformance.histories.counters import check_counter
from botsessions.conformance.histories.history import by_key
from botsessions.conformance.histories.linearizability import check_linearizable
from botsessions.conformance.histories.order import check_order
from botsessions.conformance.histories.search import UndecidedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from botsessions.conformance.histories.history import Call


# States that the search may try for one key: some seconds at worst.
_BUDGET = 20_000


def check_calls(
    calls: Iterable[Call], *, expiring: bool = False, search_up_to: int = 200
) -> list[str]:
    """Raise ``Violation`` unless the answers for each key can be explained.

    The sessions were missing at first (counters at 0). ``expiring`` allows one to
    vanish by itself; with a counter that is a ``ValueError``, for what it counted then
    nobody can say. Return the keys that only ``check_order`` has judged: those with
    more calls than ``search_up_to``, or whose search was given up.
    """
    unsearched = []
    for key, those in by_key(calls).items():
        if any(call.count is not None for call in those):
            if expiring:
                raise ValueError(f"a counter that may expire cannot be judged: {key}")
            check_counter(those)
            continue
        check_order(those, expiring=expiring)
        if len(those) > search_up_to:
            unsearched.append(key)
            continue
        try:
            check_linearizable(those, expiring=expiring, budget=_BUDGET)
        except UndecidedError:
            unsearched.append(key)
    return unsearched
