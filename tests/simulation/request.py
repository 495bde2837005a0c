"""A batch of writes on its way to the server, and the answer on its way back.

It travels by itself: whether its sender waits, gave up or died, it arrives when it
arrives. Where the server is down, or has crashed since it was sent, the connection is
cut: then it is refused, or lost, or arrives once the server is up again, with nobody to
hear the answer. Neighbour: ``faulty``, which draws what happens to it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from botsessions.errors import BackendUnavailableError
from tests.simulation.road import then

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from botsessions.record import Write
    from tests.simulation.server import Server


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """How long it takes there and back (seconds), and what happens on the way.

    ``behind`` and ``answer_behind`` are by how many others it, or its answer, is
    overtaken, in so many seconds at most; ``again`` after how many seconds it is
    delivered once more; ``silence`` the chance that a cut connection is not noticed.
    """

    there: float
    back: float
    behind: tuple[int, float] | None = None
    answer_behind: tuple[int, float] | None = None
    again: float | None = None
    silence: float = 0.0


class Request:
    """Writes that were sent; ``answer`` is done if and when one comes back."""

    def __init__(
        self,
        server: Server,
        writes: Sequence[Write],
        journey: Journey,
        rng: random.Random,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._writes = writes
        self._journey = journey
        self._rng = rng
        self._crashes = server.crashes
        self.answer: asyncio.Future[Sequence[bool]] = self._loop.create_future()
        self._loop.call_later(journey.there, self._set_out)

    def _set_out(self) -> None:
        behind = self._journey.behind
        way = None if behind is None else self._server.requests.behind(*behind)
        then(way, self._arrive)

    def _arrive(self) -> None:
        server = self._server
        server.requests.passes()
        if server.is_up and server.crashes == self._crashes:
            self._apply()
        elif not server.is_up and self._rng.random() < 0.3:
            self._fail(BackendUnavailableError("injected: down"))
        else:
            self._cut()
            if self._rng.random() < 0.5:
                self._when_up(self._apply)

    def _when_up(self, action: Callable[[], None]) -> None:
        def soon(_: object = None) -> None:
            self._loop.call_later(self._journey.back, action)

        if self._server.up is None:
            soon()
        else:
            self._server.up.add_done_callback(soon)

    def _apply(self) -> None:
        server = self._server
        if not server.is_up:
            self._cut()
            return
        landed = server.commit(self._writes)
        if self._journey.again is not None:
            # Never ahead of the other: "False" must mean that no copy has landed.
            self._loop.call_later(self._journey.again, self._apply_again)
        durable = server.when_durable()
        if durable is None:
            self._depart(landed)
        else:
            durable.add_done_callback(
                lambda done: self._depart(landed) if done.result() else self._cut()
            )

    def _apply_again(self) -> None:
        if self._server.is_up:
            self._server.commit(self._writes)

    def _depart(self, landed: Sequence[bool]) -> None:
        behind, back = self._journey.answer_behind, self._journey.back
        way = None if behind is None else self._server.answers.behind(*behind)
        then(way, lambda: self._loop.call_later(back, self._come_back, landed))

    def _come_back(self, landed: Sequence[bool]) -> None:
        self._server.answers.passes()
        if self._server.crashes != self._crashes and self._rng.random() < 0.5:
            self._cut()
        elif not self.answer.done():
            self.answer.set_result(landed)

    def _cut(self) -> None:
        if self._rng.random() >= self._journey.silence:
            self._fail(ConnectionResetError("injected: the server has crashed"))

    def _fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
