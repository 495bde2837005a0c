"""A TCP proxy that does to connections what networks do: cuts, silence, delay.

It stands before any server that speaks TCP, on the loop of the test. A *rule* is asked
about each piece of data that goes by and answers with a ``Deed``; a test may put
another rule in its place at any time. What has fallen silent stays so.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_PIECE = 65536


class Way(enum.Enum):
    """Which way data goes."""

    REQUEST = "to the server"
    REPLY = "to the client"


class Then(enum.Enum):
    """What becomes of the connection behind a piece of data."""

    GO_ON = "goes on"
    CUT = "is cut, both ways"
    SILENCE = "stays open, and nothing more goes this way"


class Deed(NamedTuple):
    """What is done to a piece of data: so many bytes of it pass (all, if None)."""

    passing: int | None = None
    then: Then = Then.GO_ON
    delay: float = 0.0


Rule: TypeAlias = "Callable[[Way, bytes, int], Deed]"
"""Takes the way, the piece, and how many bytes went that way before it."""

PASS = Deed()
CUT_BEFORE = Deed(0, Then.CUT)  # a request is lost, or the answer to one that was done
CUT_BEHIND = Deed(None, Then.CUT)  # the answer to this request is lost
SILENCE = Deed(0, Then.SILENCE)


def pass_all(way: Way, piece: bytes, before: int) -> Deed:
    """Do no harm."""
    return PASS


def swallow_replies(way: Way, piece: bytes, before: int) -> Deed:
    """Let requests reach the server, and no answer come back."""
    return SILENCE if way is Way.REPLY else PASS


def swallow_all(way: Way, piece: bytes, before: int) -> Deed:
    """Be a black hole: connections stay open, and nothing arrives any more."""
    return SILENCE


def cut_after(way: Way, count: int) -> Rule:
    """Cut each connection once exactly so many bytes have gone one way."""

    def rule(this: Way, piece: bytes, before: int) -> Deed:
        if this is way and before + len(piece) > count:
            return Deed(max(count - before, 0), Then.CUT)
        return PASS

    return rule


def at_random(rng: random.Random, share: float) -> Rule:
    """Cut at this share of the pieces, in all the ways there are; delay as many."""

    def rule(way: Way, piece: bytes, before: int) -> Deed:
        if rng.random() < share:
            within = Deed(rng.randrange(len(piece)), Then.CUT)
            return rng.choice([CUT_BEFORE, CUT_BEHIND, within])
        return Deed(delay=rng.random() * 0.02) if rng.random() < share else PASS

    return rule


class Proxy:
    """Listens on ``port`` of the loopback while it is open, before one server.

    ``faults`` counts how often which fault was done to which way.
    """

    def __init__(self, server_port: int) -> None:
        self.rule: Rule = pass_all
        self.faults: Counter[tuple[Way, Then]] = Counter()
        self.port = 0
        self._server_port = server_port
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._forgotten: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._listener is not None
        self._listener.close()
        await self.cut_all()

    async def cut_all(self) -> None:
        """Cut all connections that are open now."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def forget_all(self) -> int:
        """Let the connections that are open now fall silent; return how many."""
        self._forgotten |= self._connections
        return len(self._connections)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        # Cancelled by ``cut_all``: the end of a connection, and of nothing else.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._connect(reader, writer)
        writer.close()
        self._connections.discard(task)
        self._forgotten.discard(task)

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        server_reader, server_writer = await asyncio.open_connection(
            "127.0.0.1", self._server_port
        )
        this = asyncio.current_task()
        ways = [
            asyncio.create_task(self._carry(this, Way.REQUEST, reader, server_writer)),
            asyncio.create_task(self._carry(this, Way.REPLY, server_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            # What was let pass still arrives: closing sends it, aborting would not.
            server_writer.close()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(
        self,
        connection: asyncio.Task[None] | None,
        way: Way,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Carry data one way, until its end or until the connection is to be cut."""
        before = 0
        silent = False
        while piece := await reader.read(_PIECE):
            if silent or connection in self._forgotten:
                continue
            deed = self.rule(way, piece, before)
            if deed.delay:
                await asyncio.sleep(deed.delay)
            writer.write(piece[: deed.passing])
            await writer.drain()
            before += len(piece)
            if deed.then is not Then.GO_ON:
                self.faults[way, deed.then] += 1
            if deed.then is Then.CUT:
                return
            silent = deed.then is Then.SILENCE
        if silent or connection in self._forgotten:
            await asyncio.Event().wait()  # not even that it ended is told
