"""A PgBouncer of our own in front of a PostgreSQL server, in transaction mode."""

from __future__ import annotations

import os
import shutil
import socket
import time
from typing import TYPE_CHECKING

from tests.servers.postgres import PATIENCE, directory_of, free_port
from tests.servers.watched import spawn

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.postgres import PostgresServer

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer:
    """Shares few connections of a server among many clients, for a transaction each.

    ``more`` are lines for its settings; ``stop`` and ``start`` it again at will.
    """

    def __init__(
        self, directory: Path, server: PostgresServer, pool_size: int, more: str = ""
    ) -> None:
        self._port = port = free_port()
        self._user = server.user
        self._directory = directory = directory_of(self._user, directory)
        self.dsn = f"postgresql://bot@127.0.0.1:{port}/postgres"
        users, settings = directory / "users", directory / "settings"
        users.write_text('"bot" ""\n')
        settings.write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool_size}\n{more}\n"
        )
        if server.user is not None:
            for path in (users, settings):
                shutil.chown(path, user=server.user)
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert PROGRAM is not None
        command = [PROGRAM, str(self._directory / "settings")]
        with (self._directory / "log").open("ab") as log:
            self._process = spawn(command, user=self._user, stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while not _answers(self._port):
            assert time.monotonic() < until, "PgBouncer does not answer"
            assert self._process.poll() is None, "PgBouncer ended at once"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it at once, with no word to anybody."""
        self._process.kill()
        self._process.wait(PATIENCE)


def _answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
