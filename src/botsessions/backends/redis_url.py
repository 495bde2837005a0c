"""What a Redis URL says: which servers, and how to connect to them; used by ``redis``.

The driver knows ``redis://``, ``rediss://`` and ``unix://``; the forms with several
servers are taken apart here, and what is left of them is read by the driver as well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import ConnectionPool, Sentinel, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError

from botsessions.backends.redis_nodes import Cluster, Node, OneServer, drop

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from redis.asyncio.connection import AbstractConnection

    from botsessions.backends.redis_nodes import Address, Servers

# Valkey is spoken to in the same way.
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
_KINDS = ("", "sentinel", "cluster")
_PORT, _SENTINEL_PORT = 6379, 26379
# Seconds to connect and log in, and for a Sentinel to answer.
_PATIENCE, _SENTINEL_PATIENCE = 5.0, 1.0
# What the URL may not change: it is we who read the replies.
_OURS = {"protocol": 2, "decode_responses": False}


class _Sentinels(NamedTuple):
    addresses: list[Address]
    service: str
    login: dict[str, str]


class Place:
    """Where the records are; ``name`` tells it without a password."""

    def __init__(self, url: str, client_name: str) -> None:
        parts = urlsplit(url)
        base, _, kind = parts.scheme.partition("+")
        if base not in _SCHEMES or kind not in _KINDS or (base == "unix" and kind):
            raise ValueError(
                "write redis://host:6379/0, rediss://…, unix:///path.sock, "
                "redis+sentinel://host:26379,…/name or redis+cluster://host:6379,…"
            )
        if parts.fragment:
            raise ValueError("a Redis URL has no #; in a password write %23")
        self._kind = kind
        self._addresses = _addresses(
            parts, _SENTINEL_PORT if kind == "sentinel" else _PORT
        )
        hosts = ",".join(f"{host}:{port}" for host, port in self._addresses)
        self.name = f"{parts.scheme}://{'' if base == 'unix' else hosts}{parts.path}"
        self._service = ""
        self._login: dict[str, str] = {}
        path = parts.path
        if kind == "sentinel":
            self._service, _, database = path.lstrip("/").partition("/")
            if not self._service:
                raise ValueError(
                    "name the master that the Sentinels watch: "
                    "redis+sentinel://host:26379/mymaster"
                )
            path = f"/{database}"
        if base != "unix" and not (path in ("", "/") or path[1:].isdecimal()):
            raise ValueError(f"{path!r} is no database; write its number, as in /0")
        if kind == "cluster" and path.strip("/0"):
            raise ValueError("a Cluster has no databases but 0")
        pool = _pool(parts, _SCHEMES[base], path, self._login, client_name)
        self._class: type[Any] = pool.connection_class
        self._options: dict[str, Any] = pool.connection_kwargs | _OURS

    def servers(self) -> Servers:
        """Return the servers, with connections for the running event loop."""
        if self._kind == "cluster":
            return Cluster(self._addresses, self._connect_to)
        if self._kind == "sentinel":
            return self._by_sentinel()
        where = self.name.partition("://")[2]
        return OneServer(Node(where, self._connect))

    async def _connect(self) -> AbstractConnection:
        return await _connected(self._class(**self._options))

    async def _connect_to(self, host: str, port: int) -> AbstractConnection:
        place = {"host": host, "port": port}
        return await _connected(self._class(**{**self._options, **place}))

    def _by_sentinel(self) -> Servers:
        options = {
            name: value
            for name, value in self._options.items()
            if name not in ("host", "port")
        }
        secure = issubclass(self._class, SSLConnection)
        certificates = {
            name: value for name, value in options.items() if name.startswith("ssl_")
        }
        sentinel = Sentinel(
            self._addresses,
            sentinel_kwargs={
                "socket_timeout": _SENTINEL_PATIENCE,
                "socket_connect_timeout": _SENTINEL_PATIENCE,
                # Another one is asked instead.
                "retry": Retry(NoBackoff(), 0),
                **({"ssl": True} | certificates if secure else {}),
                **self._login,
            },
        )
        pool = SentinelConnectionPool(self._service, sentinel, ssl=secure, **options)

        async def connect() -> AbstractConnection:
            connection = await _connected(pool.make_connection())
            await connection.send_command("ROLE")
            [role, *_] = await connection.read_response(disable_decoding=True)
            if role != b"master":
                # The Sentinels have not yet agreed, or one is behind.
                await drop(connection)
                raise ReadOnlyError(f"{self._service} has no master just now")
            return connection

        closing = [one.aclose for one in sentinel.sentinels]
        where = self.name.partition("://")[2]
        return OneServer(Node(where, connect), *closing)


def _addresses(parts: SplitResult, port: int) -> list[Address]:
    hosts = parts.netloc.rpartition("@")[2]
    found = [urlsplit(f"//{host}") for host in hosts.split(",")]
    try:
        return [(one.hostname or "localhost", one.port or port) for one in found]
    except ValueError as exc:
        raise ValueError(f"a port in {hosts!r} is no number") from exc


def _pool(
    parts: SplitResult, scheme: str, path: str, login: dict[str, str], client_name: str
) -> ConnectionPool:
    """Let the driver read the URL; keep what is for Sentinels in ``login``."""
    query = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in ("sentinel_username", "sentinel_password"):
            login[name.removeprefix("sentinel_")] = value
        else:
            query.append((name, value))
    credentials, at, hosts = parts.netloc.rpartition("@")
    netloc = f"{credentials}{at}{hosts.partition(',')[0]}"
    known = parts._replace(
        scheme=scheme, netloc=netloc, path=path, query=urlencode(query)
    )
    pool: ConnectionPool = ConnectionPool.from_url(
        known.geturl(),
        socket_timeout=None,  # the engine has limits of its own
        socket_connect_timeout=_PATIENCE,
        client_name=client_name,
    )
    try:
        pool.make_connection()
    except TypeError as exc:
        raise TypeError(f"the driver knows no such option: {exc}") from exc
    return pool


async def _connected(connection: AbstractConnection) -> AbstractConnection:
    try:
        async with asyncio.timeout(_PATIENCE):
            await connection.connect()
    except BaseException:
        await drop(connection)
        raise
    return connection
