"""Who wants a lock, whose turn it is, and for how long the process has it: plain state.

Neighbour: ``locks``, which decides.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from botsessions.engine import rules

if TYPE_CHECKING:
    import asyncio

    from botsessions.engine.fold import Guard


class Claim:
    """One caller's wish for a lock, from asking to letting go.

    ``tenure`` is what it has the turn in, None before and after. ``turn`` ends with
    None if the tenure goes on, else with the seconds to wait before asking the backend.
    """

    __slots__ = ("key", "lease", "owner", "tenure", "turn")

    def __init__(
        self,
        key: str,
        lease: float,
        owner: object,
        turn: asyncio.Future[float | None],
    ) -> None:
        self.key = key
        self.lease = lease
        self.owner = owner
        self.turn = turn
        self.tenure: Tenure | None = None


class Tenure:
    """The time for which this process has one lock, whoever of it has the turn.

    ``until`` is when (by the loop's clock) its lease may be over: minus infinity as
    long as there is none. ``since`` is when it began.
    """

    __slots__ = ("guard", "lease", "mark", "policy", "renewal", "since", "until")

    def __init__(self, guard: Guard, mark: dict[str, int], lease: float) -> None:
        self.guard = guard
        self.mark = mark
        self.lease = lease
        self.policy = rules.Policy(int(lease * 1000), None, 1024)
        self.until = -math.inf
        self.since = math.inf
        self.renewal: asyncio.TimerHandle | None = None


class Queue:
    """Those of this process who want one lock: whose turn it is, and who comes next.

    Without a ``first`` the lock lingers since ``idle_since``, or ``is_ending``: it is
    just being given back.
    """

    __slots__ = ("first", "idle_since", "is_ending", "key", "tenure", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.first: Claim | None = None
        self.tenure: Tenure | None = None
        self.idle_since = math.inf
        self.is_ending = False
        self.waiting: deque[Claim] = deque()

    def following(self) -> Claim | None:
        """Return who comes next; those who gave up are forgotten."""
        while self.waiting and self.waiting[0].turn.done():
            self.waiting.popleft()
        return self.waiting[0] if self.waiting else None

    def give_turn(self, pause: float | None) -> None:
        """Give the turn to who comes next."""
        self.first = self.waiting.popleft()
        if pause is None:
            self.first.tenure = self.tenure
        self.first.turn.set_result(pause)
