"""What a soak asks of a place: servers to start, a URL for bots, faults by their names.

A fault is a coroutine that does harm, waits as long as the dice say, and returns when
all is whole again; also if it is interrupted. What a place has no use for, it does not
offer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

from tests.servers import proxy
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from pathlib import Path

    from tests.servers.proxy import Rule

    Fault: TypeAlias = Callable[[Any, random.Random, "Bots"], Awaitable[None]]
    """Takes its place first."""

T = TypeVar("T")


class Bots(Protocol):
    """The processes that use the place, as far as a fault may meddle with them."""

    async def kill_one(self, rng: random.Random) -> None:
        """Kill any of them, and start another in its place."""

    async def stop_one(self, rng: random.Random, seconds: float) -> None:
        """Let any of them stand still for so long."""

    def keys(self) -> list[str]:
        """Return the names under which sessions are stored now, as the server knows."""


async def _kill_a_bot(place: Place, rng: random.Random, bots: Bots) -> None:
    await bots.kill_one(rng)


async def _stop_a_bot(place: Place, rng: random.Random, bots: Bots) -> None:
    await bots.stop_one(rng, rng.uniform(0.2, 3.0))


class Place:
    """Made in a directory of its own; ``start`` before use, ``stop`` in the end."""

    name: ClassVar[str]
    faults: ClassVar[Mapping[str, Fault]] = {
        "a bot is killed": _kill_a_bot,
        "a bot stands still": _stop_a_bot,
    }
    """All that can be done to it, by the names that reports have."""
    lacks: ClassVar[str | None] = None
    """What it needs and this machine does not have."""
    unwilling: tuple[type[Exception], ...] = (AssertionError,)
    """What a fault raises to which the servers did not lend themselves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.options: dict[str, Any] = {}
        """What stores need besides the URL."""

    @property
    def title(self) -> str:
        """Say what it is, with versions."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where bots find it; faults may lie on the way."""
        raise NotImplementedError

    @property
    def clear_url(self) -> str:
        """Where it is found without detours."""
        return self.url

    @property
    def under(self) -> list[str]:
        """The command under which processes run that use it."""
        return []

    @property
    def environment(self) -> dict[str, str]:
        """What they need in their environment."""
        return {}

    async def start(self) -> None:
        """Start what is needed."""

    async def stop(self) -> None:
        """Stop it."""

    async def begin(self, number: int) -> None:
        """Get ready for a round."""

    async def heal(self) -> None:
        """See to it that everything is whole."""

    async def complaints(self) -> list[str]:
        """Return what was wrong with it in a round, and no caller could see."""
        return []

    async def clean(self) -> None:
        """Remove what a round has left."""

    def impossible(self) -> Collection[str]:
        """Return the faults for which this round, or this machine, is not made."""
        return ()


class BehindProxy(Place):
    """A place with one server, and a network before it that can be faulty."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._between: Proxy | None = None

    @property
    def between(self) -> Proxy:
        assert self._between is not None, "start it first"
        return self._between

    async def connect(self, port: int) -> None:
        """Lie before this port from now on."""
        self._between = Proxy(port)
        await self._between.__aenter__()

    async def stop(self) -> None:
        if self._between is not None:
            await self._between.__aexit__()

    async def _cut(self, rng: random.Random, bots: Bots) -> None:
        for _ in range(rng.randint(1, 4)):
            await self.between.cut_all()
            await asyncio.sleep(rng.uniform(0, 0.1))

    async def _cut_at_random(self, rng: random.Random, bots: Bots) -> None:
        await self._under(proxy.at_random(rng, share=0.02), rng.uniform(0.3, 1.5))

    async def _swallow(self, rng: random.Random, bots: Bots) -> None:
        await self._under(proxy.swallow_all, rng.uniform(0.1, 3.0))

    async def _swallow_answers(self, rng: random.Random, bots: Bots) -> None:
        await self._under(proxy.swallow_replies, rng.uniform(0.1, 3.0))

    async def _forget(self, rng: random.Random, bots: Bots) -> None:
        self.between.forget_all()

    async def _under(self, rule: Rule, seconds: float) -> None:
        self.between.rule = rule
        try:
            await asyncio.sleep(seconds)
        finally:
            self.between.rule = proxy.pass_all

    faults: ClassVar[Mapping[str, Fault]] = {
        **Place.faults,
        "connections are cut": _cut,
        "cuts at random": _cut_at_random,
        "the network swallows all": _swallow,
        "the network swallows answers": _swallow_answers,
        "connections fall silent": _forget,
    }


async def patiently(work: Callable[[], T], times: int = 3) -> T:
    """Do something that waits for servers, on a thread; again if they take too long."""
    for _ in range(times - 1):
        try:
            return await asyncio.to_thread(work)
        except AssertionError:
            await asyncio.sleep(1)
    return await asyncio.to_thread(work)
