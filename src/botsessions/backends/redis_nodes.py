"""The servers that hold the keys, and what goes over the wire; used by ``redis``.

The driver makes the connections (login, TLS, who is master by Sentinel) and reads the
replies. Which server of a Cluster has a key is kept here: to send many keys to each in
one round trip one has to know it beforehand.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import hiredis
from redis import exceptions
from redis.crc import key_slot

from botsessions.errors import BackendUnavailableError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from redis.asyncio.connection import AbstractConnection

Command = tuple[str | bytes | int, ...]
Address = tuple[str, int]

SLOTS = 16_384
# Seconds for a server of a Cluster to answer, beside those that a long command takes to
# travel, before it counts as silent; and seconds between asking whether it is back.
_PATIENCE, _PAUSE = 1.0, 0.2
_BYTES_PER_SECOND = 1_000_000
# Who is stopped sooner by others learns nothing of the server.
_TELLING = 0.25
# How often in a row a server may refuse keys of several slots in one call: now and then
# it does, while slots move; a service that does so each time is not tried again.
_REFUSALS = 3
_QUOTED = ", with args beginning with"
_FAULTS = (exceptions.RedisError, OSError)


class Part(NamedTuple):
    """Those keys of a batch (by position) that go to one server in one command."""

    node: Node
    positions: Sequence[int]
    mixed: bool = False
    """They are of several slots, so they cannot be declared to the server as keys."""
    refused: bool = False
    """The server refused them all when they were mixed with keys of other slots."""
    asking: bool = False
    """The server has them not yet for good: it must be told that we know."""
    anew: bool = False
    """The server does not know the script."""


class Servers(Protocol):
    """Knows which server has which keys."""

    async def open(self) -> None:
        """Connect, so that what is wrong shows at once."""

    async def parts(self, keys: Sequence[str]) -> list[Part]:
        """Say where to send these keys."""

    def node(self, host: str, port: int) -> Node | None:
        """Return the server that another one named; None if there is but one."""

    async def masters(self) -> Sequence[Node]:
        """Return the servers that together hold every key."""

    def outdated(self) -> None:
        """Hear that a server is away, or a key elsewhere: look again next time."""

    async def aclose(self) -> None:
        """Close all connections."""


class Node:
    """One server: idle connections to it, last used first.

    With ``patience`` (seconds) one that falls silent is asked in the background until
    it answers, and meanwhile nobody else waits for it.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[AbstractConnection]],
        *,
        patience: float | None = None,
    ) -> None:
        self.name = name
        self._connect = connect
        self._patience = patience
        self._asking: asyncio.Task[None] | None = None
        self._idle: list[AbstractConnection] = []
        self._closed = False
        self._refusals = 0

    @property
    def takes_mixed(self) -> bool:
        """Tell whether keys of several slots may go to it in one call of a script."""
        return self._refusals < _REFUSALS

    def took_mixed(self) -> None:
        """Hear that it took keys of several slots."""
        self._refusals = 0

    def took_only_declared(self) -> None:
        """Hear that it refused keys of several slots, and took the same one by one."""
        self._refusals += 1

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once; return their replies, errors among them.

        Raises ``BackendUnavailableError`` if nothing was sent, ``OutcomeUnknownError``
        if something was and the replies did not come.
        """
        if self._asking is not None:
            raise away(self.name, TimeoutError("it fell silent and is not back yet"))
        sent = b"".join(map(_packed, commands))
        if self._patience is None:
            return await self._talk(await self._connection(), sent, len(commands))
        began = asyncio.get_running_loop().time()
        connection = None
        try:
            async with asyncio.timeout(self._patience + len(sent) / _BYTES_PER_SECOND):
                connection = await self._connection()
                return await self._talk(connection, sent, len(commands))
        except TimeoutError as exc:
            self._fell_silent()
            if connection is None:
                raise away(self.name, exc) from exc
            raise OutcomeUnknownError(f"Redis at {self.name} fell silent") from exc
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() - began > _TELLING:
                self._fell_silent()
            raise

    async def _talk(
        self, connection: AbstractConnection, sent: bytes, count: int
    ) -> list[Any]:
        idle = self._idle
        try:
            await connection.send_packed_command(sent)
            replies = [await _reply(connection) for _ in range(count)]
        except BaseException as exc:
            # What ended this one, or made it fall silent, has done so to the others.
            await drop(connection)
            await self.drop_idle()
            if not isinstance(exc, _FAULTS):
                raise
            raise OutcomeUnknownError(
                f"the connection to Redis at {self.name} ended: {exc}"
            ) from exc
        if self._closed or idle is not self._idle:  # dropped meanwhile
            await drop(connection)
        else:
            idle.append(connection)
        return replies

    async def ask(self, command: Command, patience: float) -> Any:
        """Return the reply to a command that changes nothing, within so many seconds.

        Raises ``BackendUnavailableError`` for a refusal as well.
        """
        try:
            async with asyncio.timeout(patience):
                try:
                    [reply] = await self.exchange([command])
                except OutcomeUnknownError:
                    # An idle connection may have died unseen: take a new one.
                    [reply] = await self.exchange([command])
        except (OutcomeUnknownError, TimeoutError) as exc:
            raise away(self.name, exc) from exc
        if isinstance(reply, Exception):
            raise away(self.name, reply)
        return reply

    def _fell_silent(self) -> None:
        if self._asking is None and not self._closed:
            self._asking = asyncio.create_task(self._ask_until_it_answers())

    async def _ask_until_it_answers(self) -> None:
        try:
            while True:
                with suppress(BackendUnavailableError, OutcomeUnknownError, *_FAULTS):
                    async with asyncio.timeout(self._patience):
                        connection = await self._new()
                        await self._talk(connection, _packed(("TIME",)), 1)
                        return
                await asyncio.sleep(_PAUSE)
        finally:
            self._asking = None

    async def forget(self) -> None:
        """Close idle connections, and ask no more whether it answers."""
        if self._asking is not None:
            self._asking.cancel()
        await self.drop_idle()

    async def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await drop(connection)

    async def aclose(self) -> None:
        """Close what is idle now, and the others when they are."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        idle, self._idle = self._idle, []
        # Both sides part in order, which with TLS takes a moment.
        await asyncio.gather(*(drop(one, in_order=True) for one in idle))

    async def _connection(self) -> AbstractConnection:
        return self._idle.pop() if self._idle else await self._new()

    async def _new(self) -> AbstractConnection:
        try:
            return await self._connect_twice()
        except _FAULTS as exc:
            raise away(self.name, exc) from exc

    async def _connect_twice(self) -> AbstractConnection:
        try:
            return await self._connect()
        except exceptions.ConnectionError as exc:
            if (
                type(exc) is not exceptions.ConnectionError
            ):  # a login that was refused, ...
                raise
            # Cut off while it logged in, perhaps, and all the others with it.
            return await self._connect()


class OneServer:
    """All keys are on one server, or on whichever Sentinel says is master."""

    def __init__(self, node: Node, *more: Callable[[], Awaitable[object]]) -> None:
        self._node = node
        self._more = more

    async def open(self) -> None:
        """Connect."""
        await self._node.exchange([])

    async def parts(self, keys: Sequence[str]) -> list[Part]:
        """Send them all to the one."""
        return [Part(self._node, range(len(keys)))]

    def node(self, _host: str, _port: int) -> None:
        """Know no other."""
        return

    async def masters(self) -> Sequence[Node]:
        """Return the one."""
        return [self._node]

    def outdated(self) -> None:
        """Do nothing: each new connection asks anew who is master."""

    async def aclose(self) -> None:
        """Close the connections, also those to Sentinels."""
        await self._node.aclose()
        for close in self._more:
            await close()


class Cluster:
    """Keys are spread over the masters of a Cluster by their slots."""

    def __init__(
        self,
        addresses: Sequence[Address],
        connect: Callable[[str, int], Awaitable[AbstractConnection]],
        waits: float,
    ) -> None:
        self._connect = connect
        self._patience = _PATIENCE + waits
        self._nodes: dict[Address, Node] = {}
        self._first = [self.node(*address) for address in addresses]
        self._slots: list[Node] = []
        self._outdated = True
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Ask who has which slots."""
        await self._current()

    async def parts(self, keys: Sequence[str]) -> list[Part]:
        """Make one command of the keys of each server."""
        slots = await self._current()
        by_node: dict[Node, list[int]] = {}
        for position, key in enumerate(keys):
            by_node.setdefault(slots[_slot(key)], []).append(position)
        parts = []
        for node, positions in by_node.items():
            mixed = Part(node, positions, mixed=True)
            parts += [mixed] if node.takes_mixed else apart(mixed, keys)
        return parts

    def node(self, host: str, port: int) -> Node:
        """Return the server at an address, known or new."""
        node = self._nodes.get((host, port))
        if node is None:
            node = Node(
                f"{host}:{port}",
                lambda: self._connect(host, port),
                patience=self._patience,
            )
            self._nodes[host, port] = node
        return node

    async def masters(self) -> Sequence[Node]:
        """Return all servers that have slots, as of now."""
        self._outdated = True
        return list(dict.fromkeys(await self._current()))

    def outdated(self) -> None:
        """Ask again who has which slots before the next batch."""
        self._outdated = True

    async def aclose(self) -> None:
        """Close the connections to all servers."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for node in self._nodes.values():
            await node.aclose()

    async def _current(self) -> list[Node]:
        """Return the server of each slot; look anew if that may have changed."""
        if self._outdated:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            # Shared: whoever is cancelled leaves the answer to the others.
            await asyncio.shield(self._looking)
        return self._slots

    async def _look(self) -> None:
        """Ask one server after the other until one answers."""
        problem: Exception | None = None
        for node in dict.fromkeys([*self._slots, *self._first]):
            try:
                found = await node.ask(("CLUSTER", "SLOTS"), _PATIENCE)
            except BackendUnavailableError as exc:
                problem = exc
            else:
                await self._learn(found, node)
                return
        raise BackendUnavailableError(str(problem)) from problem

    async def _learn(self, found: list[Any], asked: Node) -> None:
        """Take over what CLUSTER SLOTS says."""
        # A slot that nobody serves: any server will say so, of just these keys.
        slots = [asked] * SLOTS
        for first, last, (host, port, *_), *_ in found:
            # An empty name means: the one that you asked.
            name = host.decode() if host else asked.name.rpartition(":")[0]
            slots[first : last + 1] = [self.node(name, port)] * (last + 1 - first)
        self._slots = slots
        self._outdated = False
        used = set(slots)
        for node in self._nodes.values():
            if node not in used:
                await node.forget()


def apart(mixed: Part, keys: Sequence[str], *, refused: bool = False) -> list[Part]:
    """Make one command of the keys of each slot, as a Cluster asks for."""
    by_slot: dict[int, list[int]] = {}
    for position in mixed.positions:
        by_slot.setdefault(_slot(keys[position]), []).append(position)
    return [Part(mixed.node, found, refused=refused) for found in by_slot.values()]


def _slot(key: str) -> int:
    found: int = key_slot(key.encode())
    return found


def away(name: str, exc: Exception) -> BackendUnavailableError:
    """Return our error for a server that cannot be used, with nothing written."""
    said = str(exc) or "no answer in time"
    remedy = "check that it runs, and that this user may use it"
    if "cluster support disabled" in said:
        remedy = "it is no Cluster, write redis://…"
    return BackendUnavailableError(f"Redis at {name} cannot be used: {said}; {remedy}")


def _packed(command: Command) -> bytes:
    # Its annotation knows tuples of one item only.
    packed: bytes = hiredis.pack_command(cast("Any", command))
    return packed


def without_arguments(exc: BaseException) -> None:
    """Take out of an error what a server quotes of a command that it does not know.

    A service that has renamed or removed AUTH or EVALSHA quotes a password, a session.
    """
    said = str(exc)
    if _QUOTED in said:
        exc.args = (said.partition(_QUOTED)[0],)


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except exceptions.RedisError as exc:
        # An error that the server replies leaves the connection as it was.
        if connection.is_connected:
            without_arguments(exc)
            return exc
        raise


async def drop(connection: AbstractConnection, *, in_order: bool = False) -> None:
    """Close a connection, whatever state it is in."""
    with suppress(*_FAULTS):
        await connection.disconnect(nowait=not in_order)


async def to_the_end(closing: Coroutine[Any, Any, None]) -> None:
    """Close all; who is cancelled meanwhile is so when that is done.

    What was not come to would stay open, and nobody would know of it any more. The
    driver sees to it that no closing takes long.
    """
    task = asyncio.create_task(closing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
    task.result()
