"""A few connections for each event loop that uses a backend; used by ``postgres``.

Connections are made when they are needed and kept. Whoever is cancelled or cut off in
the middle of a statement leaves a connection of which nobody knows what it will say
next: such a one is closed, never lent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import asyncpg

from botsessions.backends.postgres_errors import (
    CUT_OFF,
    NO_PLACE,
    is_answer,
    refused,
)
from botsessions.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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

    @contextlib.asynccontextmanager
    async def one(self, *, anew: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection of the running loop; waits while all are lent.

        One that is made ``anew`` cannot have died while nobody looked.
        """
        self._check_process()
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is None:
            raise BackendError(
                "this PostgreSQL backend is not open; use it through a store"
            )
        try:
            connection = await pool.take(anew=anew)
        except (*CUT_OFF, *NO_PLACE, asyncpg.PostgresError) as exc:
            raise refused(exc, self._where) from exc
        try:
            yield connection
        except BaseException as exc:
            if not is_answer(exc):
                pool.abandon(connection)
            raise
        finally:
            pool.give_back(connection)

    def _check_process(self) -> None:
        if self._pools and os.getpid() != self._pid:
            raise BackendError(
                "this PostgreSQL store was opened before a fork; open one in each "
                "process"
            )


class _Pool:
    """What one loop has: idle connections, last used first, and room for more."""

    def __init__(self, most: int, options: dict[str, Any]) -> None:
        self._options = options
        self._room = asyncio.Semaphore(most)
        self._idle: list[asyncpg.Connection] = []
        self.users = 0

    async def take(self, *, anew: bool) -> asyncpg.Connection:
        await self._room.acquire()
        try:
            if anew:
                self._drop_idle()
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await asyncpg.connect(**self._options)
        except BaseException:
            self._room.release()
            raise

    def abandon(self, connection: asyncpg.Connection) -> None:
        """Close a connection at once, and those that idle: they fare no better.

        Else each of them would in its turn fail a caller, or keep one waiting in vain.
        """
        connection.terminate()
        self._drop_idle()

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for lost in idle:
            lost.terminate()

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
        # Who does not say goodbye in time has been closed all the same.
        await asyncio.gather(
            *(connection.close(timeout=1) for connection in idle),
            return_exceptions=True,
        )
