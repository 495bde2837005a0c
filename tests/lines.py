"""The servers that a faulty network can lie before: one set of tests runs over all.

A line makes stores that reach its server through any port, names their connections, and
counts and ends them on the server. What a server needs besides is said by its methods,
never by its name.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botsessions import SessionKey, SessionStore, open_store
from tests.places import new_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import pytest

    from tests.servers.postgres import PostgresServer
    from tests.servers.redis import RedisServer


class Line:
    """The way of one test to a server, where no other has the same name."""

    server: str
    """The fixture of the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.name = new_name()

    def store(self, port: int, **options: Any) -> SessionStore:
        """Return a new store over what is the test's own, reached through a port."""
        raise NotImplementedError

    async def prepare(self, store: SessionStore) -> None:
        """See to it that each commit from now on is one request."""

    def hurry_opening(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Shorten how long opening waits for an answer; return the options for it."""
        raise NotImplementedError

    def hurry_listing(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Do the same to each step of a listing."""
        raise NotImplementedError

    def connections(self) -> int:
        """Return how many connections of these stores the server has."""
        raise NotImplementedError

    def end_connections(self) -> None:
        """Let the server end them."""
        raise NotImplementedError

    def ending_idle_ones(self) -> AbstractContextManager[None]:
        """Let the server end those that were idle for a second or less."""
        raise NotImplementedError


class Postgres(Line):
    """To a real PostgreSQL server."""

    server = "postgres_server"

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server.port)
        self._server = server

    def store(self, port: int, **options: Any) -> SessionStore:
        url = f"postgresql://bot@127.0.0.1:{port}/postgres"
        name = {"schema": self.name, "application_name": self.name}
        return open_store(url, **name, **options)

    def hurry_opening(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        return {"statement_timeout": 0.25}  # twice that is for connecting

    hurry_listing = hurry_opening

    def connections(self) -> int:
        return self._server.connections(self.name)

    def end_connections(self) -> None:
        self._server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE application_name = '{self.name}'"
        )

    @contextmanager
    def ending_idle_ones(self) -> Iterator[None]:
        self._server.configure("idle_session_timeout", "100ms")
        try:
            yield
        finally:
            self._server.configure("idle_session_timeout", "0")


class Redis(Line):
    """To a real Redis server."""

    server = "redis_server"

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server.port)
        self._server = server

    def store(self, port: int, **options: Any) -> SessionStore:
        name = {"namespace": self.name, "client_name": self.name}
        return open_store(f"redis://127.0.0.1:{port}", **name, **options)

    async def prepare(self, store: SessionStore) -> None:
        # The server learns the script, to be called by its hash.
        await store.put(SessionKey(name="first"), {})

    def hurry_opening(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr("botsessions.backends.redis_url._PATIENCE", 0.3)
        return {}

    def hurry_listing(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr("botsessions.backends.redis._STEP_PATIENCE", 0.3)
        return {}

    def connections(self) -> int:
        listed: str = self._server.execute("CLIENT", "LIST")
        return listed.count(f" name={self.name} ")

    def end_connections(self) -> None:
        self._server.execute("CLIENT", "KILL", "TYPE", "normal")

    @contextmanager
    def ending_idle_ones(self) -> Iterator[None]:
        self._server.execute("CONFIG", "SET", "timeout", 1)
        try:
            yield
        finally:
            self._server.execute("CONFIG", "SET", "timeout", 0)


class Valkey(Redis):
    """To a real Valkey server."""

    server = "valkey_server"


LINES = [Postgres, Redis, Valkey]
