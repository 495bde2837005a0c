"""A road that requests, or answers, travel: some are kept back for others to overtake.

A delay by time alone seldom puts one behind another; this does it on purpose. Neighbour
above: ``faulty``, which sends everything along these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tests.simulation.loop import SimulatedLoop


class Road:
    """Counts what passes; ``overtaken`` is how often one was kept until others had."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._passed = 0
        self._kept: list[tuple[int, asyncio.Future[None]]] = []
        self.overtaken = 0

    def passes(self) -> None:
        """Note that one passes; let go who waited for it."""
        self._passed += 1
        for entry in self._kept[:]:
            number, gone = entry
            if number <= self._passed and not gone.done():
                self.overtaken += 1
                gone.set_result(None)
        self._kept = [entry for entry in self._kept if not entry[1].done()]

    def behind(self, others: int, longest: float) -> asyncio.Future[None]:
        """Return what is done when so many others have passed, or so much time."""
        gone: asyncio.Future[None] = self._loop.create_future()
        self._kept.append((self._passed + others, gone))
        self._loop.call_later(longest, _let_go, gone)
        return gone


def _let_go(gone: asyncio.Future[None]) -> None:
    if not gone.done():
        gone.set_result(None)


def then(gone: asyncio.Future[None] | None, action: Callable[[], object]) -> None:
    """Do something as soon as one is let go (at once if it was not kept)."""
    if gone is None:
        action()
    else:
        gone.add_done_callback(lambda _: action())
