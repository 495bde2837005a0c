"""PostgreSQL: one server, killed, stopped, cut off, and made to end connections."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.servers.postgres import PostgresServer
from tests.soak.places.base import BehindProxy

if TYPE_CHECKING:
    import random

    from tests.soak.places.base import Bots, Fault

_OURS = "application_name = 'botsessions'"
_CUT = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS}"
_DEADLOCKS = "SELECT sum(deadlocks) FROM pg_stat_database"


class Postgres(BehindProxy):
    """One server with its own settings, flushing each commit to the disk."""

    name = "postgres"

    @property
    def title(self) -> str:
        [(version,)] = self._server.execute("SHOW server_version")
        return f"PostgreSQL {version.split()[0]}, one server, behind a faulty network"

    @property
    def url(self) -> str:
        return f"postgresql://bot@127.0.0.1:{self.between.port}/postgres"

    @property
    def clear_url(self) -> str:
        return self._server.dsn

    async def start(self) -> None:
        self._server = await asyncio.to_thread(PostgresServer, self.directory)
        await self.connect(self._server.port)

    async def stop(self) -> None:
        await super().stop()
        await asyncio.to_thread(self._server.stop)

    async def clean(self) -> None:
        [(deadlocks,)] = await asyncio.to_thread(self._server.execute, _DEADLOCKS)
        assert not deadlocks, "stores were in each other's way"
        await asyncio.to_thread(self._server.execute, "TRUNCATE botsessions")

    def faults(self) -> dict[str, Fault]:
        return {
            **super().faults(),
            "the server is killed": self._kill,
            "the server stands still": self._freeze,
            "the server ends connections": self._terminate,
        }

    async def _kill(self, rng: random.Random, bots: Bots) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(rng.uniform(0, 1.5))
        await asyncio.to_thread(self._server.start)

    async def _freeze(self, rng: random.Random, bots: Bots) -> None:
        self._server.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(rng.uniform(0.2, 3.0))
        finally:
            self._server.send(signal.SIGCONT)

    async def _terminate(self, rng: random.Random, bots: Bots) -> None:
        await asyncio.to_thread(self._server.execute, _CUT)
