"""A few connections for each event loop that uses a backend; used by ``postgres``.

Connections are made when they are needed and kept. Whoever is cancelled or cut off in
the middle of a statement leaves a connection of which nobody knows what it will say
next: such a one is closed, never lent again.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from botsessions.errors import BackendError, BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


# The connection ended, or never came to be.
CUT_OFF = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)
# The server is away, full, starting, or lets nobody in: not the fault of a statement.
_AWAY = frozenset({"08", "28", "3D", "53", "57"})


class Connections:
    """The connections of one backend, on whatever loops it is open.

    ``where`` names the server in errors; ``options`` are those of ``asyncpg.connect``.
    """

    def __init__(self, most: int, where: str, **options: Any) -> None:
        self._most = most
        self._where = where
        self._options = options
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
        self._pid = 0

    def open(self) -> None:
        """Count one more store of the running loop."""
        if not self._pools:
            self._pid = os.getpid()
        self._check_process()
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Pool(self._most, self._options)
        pool.users += 1

    async def aclose(self) -> None:
        """Count one store less; with the last one, close the loop's connections."""
        loop = asyncio.get_running_loop()
        pool = self._pools[loop]
        pool.users -= 1
        if not pool.users:
            del self._pools[loop]
            await pool.aclose()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection of the running loop; waits while all are lent."""
        self._check_process()
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is None:
            raise BackendError(
                "this PostgreSQL backend is not open; use it through a store"
            )
        try:
            connection = await pool.take()
        except (*CUT_OFF, asyncpg.PostgresError) as exc:
            raise refused(exc, self._where) from exc
        try:
            yield connection
        except asyncpg.PostgresError:
            raise  # the server's own word: the connection is in order
        except BaseException:
            connection.terminate()
            raise
        finally:
            pool.give_back(connection)

    def _check_process(self) -> None:
        if self._pools and os.getpid() != self._pid:
            raise BackendError(
                "this PostgreSQL store was opened before a fork; open one in each "
                "process"
            )


def refused(exc: Exception, where: str) -> BackendError:
    """Return our error for one of the driver's that certainly wrote nothing."""
    sqlstate = getattr(exc, "sqlstate", None) or ""
    if isinstance(exc, asyncpg.PostgresError) and sqlstate[:2] not in _AWAY:
        return BackendError(f"PostgreSQL refused ({sqlstate}): {exc}")
    return BackendUnavailableError(
        f"PostgreSQL at {where} cannot be used: {exc or type(exc).__name__}; "
        "check that it runs and lets this user in"
    )


class _Pool:
    """What one loop has: idle connections, last used first, and room for more."""

    def __init__(self, most: int, options: dict[str, Any]) -> None:
        self._options = options
        self._room = asyncio.Semaphore(most)
        self._idle: list[asyncpg.Connection] = []
        self.users = 0

    async def take(self) -> asyncpg.Connection:
        await self._room.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await asyncpg.connect(**self._options)
        except BaseException:
            self._room.release()
            raise

    def give_back(self, connection: asyncpg.Connection) -> None:
        self._room.release()
        if connection.is_closed():
            return
        if self.users:
            self._idle.append(connection)
        else:
            connection.terminate()

    async def aclose(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close(timeout=1)
