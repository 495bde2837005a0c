"""What a Redis URL says: which servers, and how to connect to them; used by ``redis``.

The driver knows ``redis://``, ``rediss://`` and ``unix://``; the forms with several
servers are taken apart here, and what is left of them is read by the driver as well.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from redis.asyncio import ConnectionPool, Sentinel, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError

from botsessions.backends import urls
from botsessions.backends.redis_nodes import (
    Cluster,
    Node,
    OneServer,
    drop,
    without_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
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


class Place:
    """Where the records are; ``name`` and ``where`` tell it without a password."""

    def __init__(self, url: str, client_name: str) -> None:
        parts = urls.split(url)
        base, _, kind = parts.scheme.partition("+")
        if base not in _SCHEMES or kind not in _KINDS or (base == "unix" and kind):
            raise ValueError(
                "write redis://host:6379/0, rediss://…, unix:///path.sock, "
                "redis+sentinel://host:26379,…/name or redis+cluster://host:6379,…"
            )
        self._kind = kind
        urls.check_readable(parts)
        self._addresses = _addresses(
            parts, _SENTINEL_PORT if kind == "sentinel" else _PORT
        )
        hosts = ",".join(f"{host}:{port}" for host, port in self._addresses)
        self.where = f"{'' if base == 'unix' else hosts}{parts.path}"
        self.name = f"{parts.scheme}://{self.where}"
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
        logins = (self._options, self._login)
        self._passwords = [one["password"] for one in logins if one.get("password")]

    def servers(self, waits: float) -> Servers:
        """Return the servers, with connections for the running event loop.

        ``waits``: for how long, in seconds, a command of ours may wait for replicas.
        """
        if self._kind == "cluster":
            return Cluster(self._addresses, self._connect_to, waits)
        if self._kind == "sentinel":
            return self._by_sentinel()
        return OneServer(Node(self.where, self._connect))

    async def _connect(self) -> AbstractConnection:
        with self._hiding_passwords():
            return await _connected(self._class(**self._options))

    async def _connect_to(self, host: str, port: int) -> AbstractConnection:
        place = {"host": host, "port": port}
        with self._hiding_passwords():
            return await _connected(self._class(**{**self._options, **place}))

    @contextmanager
    def _hiding_passwords(self) -> Iterator[None]:
        """Take our passwords out of what is raised, in whatever words of a server."""
        try:
            yield
        except Exception as exc:
            error: BaseException | None = exc
            while error is not None:
                error.args = tuple(map(self._hidden, error.args))
                error = error.__cause__ or error.__context__
            raise

    def _hidden(self, said: Any) -> Any:
        if not isinstance(said, str):
            return said
        for password in self._passwords:
            for form in (password, quote(password, safe="")):
                said = said.replace(form, "…")
        return said

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
            try:
                with self._hiding_passwords():
                    return await _connected(pool.make_connection(), self._is_master)
            except MasterNotFoundError as exc:  # it says too much of the driver's own
                raise MasterNotFoundError(
                    f"no Sentinel that answers knows a master {self._service!r}, "
                    "or lets us ask (sentinel_password=)"
                ) from exc

        closing = [one.aclose for one in sentinel.sentinels]
        return OneServer(Node(self.where, connect), *closing)

    async def _is_master(self, connection: AbstractConnection) -> None:
        await connection.send_command("ROLE")
        [role, *_] = await connection.read_response(disable_decoding=True)
        if role != b"master":
            # The Sentinels have not yet agreed, or one is behind.
            raise ReadOnlyError(f"{self._service} has no master just now")


def _addresses(parts: SplitResult, port: int) -> list[Address]:
    found = [urls.split(f"//{host}") for host in urls.hosts(parts)]
    return [(one.hostname or "localhost", one.port or port) for one in found]


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
    _, hosts = urls.login_and_hosts(parts)
    known = parts._replace(
        scheme=scheme,
        netloc=parts.netloc.removesuffix(hosts) + hosts.partition(",")[0],
        path=path,
        query=urlencode(query),
    )
    return read_by_driver(
        known,
        parts,
        socket_timeout=None,  # the engine has limits of its own
        socket_connect_timeout=_PATIENCE,
        client_name=client_name,
    )


def read_by_driver(
    parts: SplitResult, given: SplitResult, **defaults: Any
) -> ConnectionPool:
    """Return what makes connections, or raise ValueError or TypeError; none is made.

    ``given`` is the whole URL of which ``parts`` are for the driver.
    """
    try:
        pool: ConnectionPool = ConnectionPool.from_url(parts.geturl(), **defaults)
        pool.make_connection()
    except TypeError as exc:
        if not urls.has_password_in_query(given):
            raise TypeError(f"the driver knows no such option: {exc}") from exc
    except RedisError as exc:
        raise ValueError(f"the driver does not take this URL: {exc}") from exc
    else:
        return pool
    # Out here, so that the original is not even the context of this one.
    raise TypeError(
        "the driver knows no such option as one in the query of this URL; in a "
        "password write & as %26"
    )


async def _connected(
    connection: AbstractConnection,
    check: Callable[[AbstractConnection], Awaitable[None]] | None = None,
) -> AbstractConnection:
    try:
        # The driver bounds the connecting alone, not the logging in.
        async with asyncio.timeout(connection.socket_connect_timeout):
            await connection.connect()
            if check is not None:
                await check(connection)
    except BaseException as exc:
        without_arguments(exc)
        await drop(connection)
        raise
    return connection
