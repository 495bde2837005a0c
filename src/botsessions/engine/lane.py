"""What waits for one key: the unit that ``batched`` takes, loads, writes, settles."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from botsessions.engine.fold import Operation
    from botsessions.engine.rules import Policy
    from botsessions.record import Write


class State(enum.Enum):
    """Where a lane is; a key is in one batch at a time."""

    IDLE = enum.auto()
    READY = enum.auto()
    TAKEN = enum.auto()
    COMPUTED = enum.auto()
    """Its functions have run; what they wrote waits to be sent."""
    SENT = enum.auto()
    ASLEEP = enum.auto()


class Lane:
    """The operations of a key, in call order, and the write that awaits its verdict.

    ``taken`` are those of the batch under way, ``waiting`` came since. ``guarded``
    tells whether any of them may have a guard; ``policy`` is the key's own, if any.
    """

    __slots__ = (
        "doubtful",
        "guarded",
        "key",
        "policy",
        "retries",
        "state",
        "taken",
        "waiting",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        self.waiting: deque[Operation] = deque()
        self.taken: list[Operation] = []
        self.state = State.IDLE
        self.retries = 0
        self.doubtful: Write | None = None
        self.guarded = False
        self.policy: Policy | None = None

    def is_in_doubt(self) -> bool:
        """Tell whether a write of it may land or have landed."""
        return self.doubtful is not None or self.state is State.SENT
