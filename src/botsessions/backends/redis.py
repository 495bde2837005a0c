"""Records in Redis or Valkey: one server, one behind Sentinel, or a Cluster.

A batch is one round trip to each server concerned, and one call of a script that swaps
all records it has. What a server refuses, or does not answer, concerns its keys alone.

Neighbours: ``backend`` (the contract), ``redis_record`` (what is stored, the scripts),
``redis_nodes`` (connections, and who has which key), ``redis_url``.
"""

from __future__ import annotations

import asyncio
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)

from botsessions.backend import Page
from botsessions.backends.redis_nodes import Part, apart, away, to_the_end
from botsessions.backends.redis_record import (
    Clock,
    Script,
    reading,
    swap_arguments,
    swapping,
    unpacked,
)
from botsessions.backends.redis_url import Place
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    OutcomeUnknownError,
)
from botsessions.record import Loaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from botsessions.backend import Outcome
    from botsessions.backends.redis_nodes import Command, Node, Servers
    from botsessions.record import Write

# How often a key is looked for elsewhere before we give up for this time.
_HOPS = 5
# Keys of a page, and keys that a walk keeps in mind: reading goes in order of keys,
# which Redis does not know, so that each so many take a look at all of them.
_PAGE = 50
_WINDOW = 100_000
_SCAN = 1000
# Seconds for a server to say how it is set up, and for each step of a listing.
_PATIENCE, _STEP_PATIENCE = 2.0, 5.0
_LANDED = 1
# It is the server that cannot, not this write: a busy one, no disk, no replicas, ...
_AWAY = (
    AskError,
    ClusterCrossSlotError,
    ClusterError,
    NoPermissionError,
    ReadOnlyError,
)
_AWAY_CODES = frozenset({"BUSY", "MISCONF", "NOREPLICAS"})


class RedisBackend:
    """Keeps records in Redis (6.2 or newer) or Valkey, one string for each.

    ``url`` is one of ``redis://user:password@host:6379/0``, ``rediss://…`` (TLS),
    ``unix:///path.sock``, ``redis+sentinel://host:26379,host2:26379/name/0`` and
    ``redis+cluster://host:6379,host2:6379``; its query takes what the driver takes
    (``ssl_ca_certs``, ``socket_connect_timeout``, …). With ``wait_replicas`` a change
    is acknowledged, and a session shown, only once so many replicas have it;
    ``wait_timeout`` (seconds) bounds how long that is waited for. Time is the server's.
    """

    concurrent_batches = 2

    def __init__(
        self,
        url: str,
        *,
        wait_replicas: int = 0,
        wait_timeout: float = 1.0,
        client_name: str = "botsessions",
    ) -> None:
        if not isinstance(wait_replicas, int) or wait_replicas < 0:
            raise ValueError("wait_replicas is a number of replicas, 0 or more")
        if not wait_timeout > 0:
            raise ValueError("wait_timeout is a number of seconds above 0")
        self._place = Place(url, client_name)
        self._wait: Command | None = None
        if wait_replicas:
            self._wait = ("WAIT", wait_replicas, int(wait_timeout * 1000) or 1)
        self._waits = wait_timeout if wait_replicas else 0.0
        self._clock = Clock()
        self._swap, self._read = swapping(self._clock), reading()
        # For each event loop: its connections, and how many stores use them.
        self._homes: dict[asyncio.AbstractEventLoop, tuple[Servers, int]] = {}
        self._pid = 0

    def __repr__(self) -> str:
        return f"RedisBackend({self._place.name!r})"

    async def open(self) -> None:
        """Connect; warn if the server may drop sessions to free memory."""
        if not self._homes:
            self._pid = os.getpid()
        self._check_process()
        loop = asyncio.get_running_loop()
        servers, users = self._homes.get(loop) or (self._place.servers(self._waits), 0)
        self._homes[loop] = servers, users + 1
        try:
            await servers.open()
            for node in await servers.masters():
                await _look_at(node)
        except BaseException as exc:
            await self.aclose()
            if isinstance(exc, OutcomeUnknownError):
                raise BackendUnavailableError(str(exc)) from exc
            raise

    async def aclose(self) -> None:
        """Close the connections of this loop once its last store is closed."""
        loop = asyncio.get_running_loop()
        servers, users = self._homes[loop]
        self._homes[loop] = servers, users - 1
        if users == 1:
            del self._homes[loop]
            await to_the_end(servers.aclose())

    async def load(self, keys: Sequence[str]) -> Loaded:
        """Read records, each at one moment; of a Cluster's clocks take the latest."""
        batch = _Batch(self._servers(), self._wait, self._clock)
        answers = await batch.run(keys, _Reading(keys, self._read))
        lost = [n for n, found in enumerate(answers) if _is_unknown(found)]
        if lost:
            # Reading twice does no harm: an idle connection may have died unseen.
            left = [keys[n] for n in lost]
            again = await batch.run(left, _Reading(left, self._read))
            for n, found in zip(lost, again, strict=True):
                answers[n] = found
        records = [
            _refusal(key, found)
            if isinstance(found, Exception)
            else unpacked(key, found)
            for key, found in zip(keys, answers, strict=True)
        ]
        if not keys:  # then nobody was asked for the time
            return (await self.load([""]))._replace(records=[])
        if batch.now is None:
            raise next(r for r in records if isinstance(r, BackendError))
        return Loaded(batch.now, records)

    async def commit(self, writes: Sequence[Write]) -> list[Outcome]:
        """Swap records by script; tell of each what became of it."""
        batch = _Batch(self._servers(), self._wait)
        keys = [write.key for write in writes]
        answers = await batch.run(keys, _Swapping(writes, self._swap))
        return [
            _outcome(key, answer) for key, answer in zip(keys, answers, strict=True)
        ]

    async def list_pages(
        self, prefix: str, after: str, limit: int
    ) -> AsyncIterator[Page]:
        """Walk keys in order: for each 100,000, every key of the server is looked at.

        In a Cluster keys of slots that move meanwhile may be left out.
        """
        size = min(limit, _PAGE)
        while True:
            keys, more = await self._following(prefix, after)
            for begin in range(0, len(keys), size):
                chosen = keys[begin : begin + size]
                now, records = await self._load_in_time(chosen)
                entries = []
                for key, record in zip(chosen, records, strict=True):
                    if isinstance(record, BackendError):
                        raise record
                    if record is not None:
                        entries.append((key, record))
                yield Page(now, entries)
            if not more:
                return
            after = keys[-1]

    async def sweep(self, prefix: str, limit: int) -> int:  # noqa: ARG002 - as agreed
        """Remove nothing: the server removes what is dead by itself, in time."""
        return 0

    def _servers(self) -> Servers:
        self._check_process()
        home = self._homes.get(asyncio.get_running_loop())
        if home is None:
            raise BackendError("this Redis backend is not open; use it through a store")
        return home[0]

    def _check_process(self) -> None:
        if self._homes and os.getpid() != self._pid:
            raise BackendError(
                "this Redis store was opened before a fork; open one in each process"
            )

    async def _load_in_time(self, keys: Sequence[str]) -> Loaded:
        try:
            async with asyncio.timeout(_STEP_PATIENCE):
                return await self.load(keys)
        except TimeoutError as exc:
            raise away(self._place.where, exc) from exc

    async def _following(self, prefix: str, after: str) -> tuple[list[str], bool]:
        """Return the first keys behind that one, in order; tell if there are more."""
        found: set[str] = set()
        more, last = False, None
        for node in await self._servers().masters():
            async for keys in _scan(node, prefix):
                found.update(
                    key for key in keys if key > after and (last is None or key <= last)
                )
                if len(found) > 2 * _WINDOW:
                    first = sorted(found)[:_WINDOW]
                    found, more, last = set(first), True, first[-1]
        ordered = sorted(found)
        return ordered[:_WINDOW], more or len(ordered) > _WINDOW


class _Reading:
    """Asks for some of these keys."""

    def __init__(self, keys: Sequence[str], script: Script) -> None:
        self._keys = keys
        self._script = script

    def command(self, part: Part) -> Command:
        chosen = [self._keys[position] for position in part.positions]
        if part.mixed:
            return self._script.call(0, chosen, anew=part.anew)
        return ("MGET", *chosen)

    def unconfirmed(self, _: list[Any], why: str) -> Any:
        """Return what to answer instead: what was read might be lost again."""
        return BackendUnavailableError(why)


class _Swapping:
    """Swaps some of these."""

    def __init__(self, writes: Sequence[Write], script: Script) -> None:
        self._writes = writes
        self._script = script

    def command(self, part: Part) -> Command:
        arguments = swap_arguments([self._writes[n] for n in part.positions])
        declared = 0 if part.mixed else len(part.positions)
        return self._script.call(declared, arguments, anew=part.anew)

    def unconfirmed(self, answers: list[Any], why: str) -> Any:
        """Return what to answer instead: what landed might be lost again."""
        return [
            OutcomeUnknownError(why) if answer == _LANDED else answer
            for answer in answers
        ]


class _Batch:
    """Work on many keys, on its way to the servers that have them.

    ``wait`` is the command that waits for replicas, if any; ``now`` the latest of the
    clocks met, if one was given.
    """

    def __init__(
        self, servers: Servers, wait: Command | None, clock: Clock | None = None
    ) -> None:
        self._servers = servers
        self._wait = wait
        self._clock = clock
        self.now: int | None = None

    async def run(self, keys: Sequence[str], work: _Reading | _Swapping) -> list[Any]:
        """Return an answer or an error for each key."""
        answers: list[Any] = [None] * len(keys)
        try:
            parts = await self._servers.parts(keys)
            for _ in range(_HOPS):
                elsewhere: list[Part] = []
                for part, reply in await self._send(parts, work):
                    _spread(part, reply, answers)
                    elsewhere += self._follow(part, reply, keys)
                if not elsewhere:
                    break
                parts = elsewhere
        except asyncio.CancelledError:
            # Somebody took too long; perhaps another has its keys by now.
            self._servers.outdated()
            raise
        return answers

    def _follow(self, part: Part, reply: Any, keys: Sequence[str]) -> list[Part]:
        """Say where to send what got no answer, and how; nowhere if all of it did."""
        if isinstance(reply, NoScriptError):
            return [part._replace(anew=True)]
        if part.mixed:
            return _declared(part, reply, keys)
        if isinstance(reply, AskError):
            asking = not isinstance(reply, MovedError)
            if not asking:
                self._servers.outdated()
            node = self._servers.node(reply.host, reply.port)
            if node is None:
                return []
            return [part._replace(node=node, asking=asking, refused=False)]
        if isinstance(reply, TryAgainError) and len(part.positions) > 1:
            # Some keys of a slot have moved already: each by itself finds its way.
            return [part._replace(positions=[position]) for position in part.positions]
        if part.refused and not _refused(part, reply):
            part.node.took_only_declared()
        return []

    async def _send(
        self, parts: list[Part], work: _Reading | _Swapping
    ) -> list[tuple[Part, Any]]:
        by_node: dict[Node, list[Part]] = {}
        for part in parts:
            by_node.setdefault(part.node, []).append(part)
        sending = [self._send_to(node, its, work) for node, its in by_node.items()]
        if len(sending) == 1:
            return await sending[0]
        return [pair for pairs in await asyncio.gather(*sending) for pair in pairs]

    async def _send_to(
        self, node: Node, parts: list[Part], work: _Reading | _Swapping
    ) -> list[tuple[Part, Any]]:
        """Send what goes to one server; an error is the answer to all of its parts."""
        try:
            replies = await node.exchange(self._commands(parts, work))
        except (BackendUnavailableError, OutcomeUnknownError) as exc:
            self._servers.outdated()
            return [(part, exc) for part in parts]
        why, left_behind = "", False
        if self._wait is not None:
            replicas = replies.pop()
            why = _unconfirmed(replicas, self._wait)
            # A replica refuses to WAIT, and a connection may outlive its master's rank.
            left_behind = isinstance(replicas, Exception)
        if self._clock is not None:
            time = replies.pop(0)
            if isinstance(time, Exception):
                return [(part, time) for part in parts]
            self.now = max(self.now or 0, self._clock.milliseconds(time))
        if left_behind or any(map(_was_master, replies)):
            await node.drop_idle()
        left = iter(replies)
        answered = []
        for part in parts:
            if part.asking:
                next(left)
            reply = next(left)
            if why and isinstance(reply, list):
                reply = work.unconfirmed(reply, why)
            answered.append((part, reply))
        return answered

    def _commands(self, parts: list[Part], work: _Reading | _Swapping) -> list[Command]:
        commands: list[Command] = []
        if self._clock is not None:
            commands.append(self._clock.command)
        for part in parts:
            if part.asking:
                commands.append(("ASKING",))
            commands.append(work.command(part))
        if self._wait is not None:
            commands.append(self._wait)
        return commands


def _declared(mixed: Part, reply: Any, keys: Sequence[str]) -> list[Part]:
    """Send again, slot by slot, what the server refused: it tells where a slot is."""
    left = _refused(mixed, reply)
    if len(left) < len(mixed.positions):
        mixed.node.took_mixed()
    return apart(mixed._replace(positions=left), keys, refused=left == mixed.positions)


def _refused(part: Part, reply: Any) -> list[int]:
    """Return the positions of which the server says that it did nothing."""
    if isinstance(reply, list):
        pairs = zip(part.positions, reply, strict=True)
        return [n for n, answer in pairs if isinstance(answer, RedisError)]
    return list(part.positions) if isinstance(reply, RedisError) else []


def _unconfirmed(replicas: Any, wait: Command) -> str:
    """Say what is missing if not enough replicas answered."""
    if isinstance(replicas, int) and replicas >= int(wait[1]):
        return ""
    if isinstance(replicas, Exception):
        return f"Redis does not tell whether its replicas have it: {replicas}"
    return (
        f"only {replicas} of {wait[1]!r} replicas have confirmed it within "
        f"{int(wait[2]) / 1000:g} s; a failover may undo it"
    )


def _was_master(reply: Any) -> bool:
    answers = reply if isinstance(reply, list) else [reply]
    return any(isinstance(answer, ReadOnlyError) for answer in answers)


def _spread(part: Part, reply: Any, answers: list[Any]) -> None:
    for n, position in enumerate(part.positions):
        answers[position] = reply[n] if isinstance(reply, list) else reply


def _is_unknown(found: Any) -> bool:
    return isinstance(found, OutcomeUnknownError)


def _outcome(key: str, answer: Any) -> Outcome:
    if isinstance(answer, OutcomeUnknownError):
        return answer
    if isinstance(answer, Exception):
        return _refusal(key, answer)
    return bool(answer == _LANDED)


def _refusal(key: str, exc: Exception) -> BackendError:
    """Return our error for one that certainly wrote nothing under this key."""
    if isinstance(exc, BackendError):
        return exc
    if isinstance(exc, OutcomeUnknownError):
        return BackendUnavailableError(str(exc))
    if isinstance(exc, (MovedError, ClusterCrossSlotError)):
        why = f"{key!r} is on another server; for a Cluster write redis+cluster://…"
    elif isinstance(exc, ReadOnlyError):
        why = f"Redis is a read-only replica here, and was asked to write {key!r}"
    elif isinstance(exc, OutOfMemoryError):
        why = f"Redis is out of memory and wrote nothing under {key!r}: {exc}"
    else:
        why = f"Redis refused {key!r}: {exc}"
    code = str(exc).partition(" ")[0]
    kind: type[BackendError] = BackendError
    if isinstance(exc, _AWAY) or code in _AWAY_CODES:
        kind = BackendUnavailableError
    refusal = kind(why)
    refusal.__cause__ = exc
    return refusal


async def _look_at(node: Node) -> None:
    """Warn if the server removes what it should keep."""
    try:
        found = await node.ask(("INFO", "memory"), _PATIENCE)
    except BackendUnavailableError:
        return  # this user may not ask; or whoever needs the server will hear of it
    told = dict(re.findall(rb"(\w+):([\w-]+)", found))
    policy = told.get(b"maxmemory_policy", b"noeviction").decode()
    if policy != "noeviction" and told.get(b"maxmemory") != b"0":
        warnings.warn(
            f"Redis at {node.name} removes keys when memory is short, and sessions "
            f"would be lost (maxmemory-policy {policy}); set it to noeviction",
            RuntimeWarning,
            stacklevel=2,
        )


async def _scan(node: Node, prefix: str) -> AsyncIterator[list[str]]:
    """Walk the keys of one server, in no order, some of them twice."""
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
    cursor: str | bytes = "0"
    while True:
        command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN)
        cursor, keys = await node.ask(command, _STEP_PATIENCE)
        yield [key.decode("latin-1") for key in keys]
        if cursor == b"0":
            return
