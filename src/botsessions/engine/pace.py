"""How much one batch takes, of what is ready: used by ``batched``.

What is loaded and then gets no turn, because functions may hold the event loop only for
so long, must be loaded again. So a batch ends where its time will be over, by what
operations have taken of late.
"""

from __future__ import annotations

MAX_ROWS = 512
# Fewer are not worth a batch of their own beside another writer's.
MIN_SHARE = 16
# How long functions may hold the event loop before what is done goes out.
MAX_FUNCTION_SECONDS = 0.005
# The weight of the batch before, beside the one just done.
_MEMORY = 7 / 8


def share(ready: int, free_writers: int) -> int:
    """Return how many lanes one of the free writers takes.

    Callers in lock step would else all ride in one batch, and leave the other writers
    with nothing to do while it is under way.
    """
    return min(max(-(-ready // free_writers), MIN_SHARE), MAX_ROWS)


class Pace:
    """Remembers how long operations take; seconds."""

    __slots__ = ("_operations", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._operations = 0.0

    def learn(self, seconds: float, operations: int) -> None:
        """Take in a batch; it counts for more than those before it."""
        # What is far beyond the limit was one slow function, or a pause of the machine.
        seconds = min(seconds, 2 * MAX_FUNCTION_SECONDS)
        self._seconds = self._seconds * _MEMORY + seconds
        self._operations = self._operations * _MEMORY + operations

    def operations_in_time(self) -> float:
        """Return how many operations there is time for in one batch."""
        if not self._seconds or not self._operations:
            return float(MAX_ROWS)
        return MAX_FUNCTION_SECONDS * self._operations / self._seconds
