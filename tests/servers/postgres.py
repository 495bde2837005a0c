"""A PostgreSQL server of our own, in a temporary directory, on a free port.

PostgreSQL refuses to run as root; then it runs as the user that its package made.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from tests.servers.watched import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

T = TypeVar("T")

PATIENCE = 30.0


def programs() -> Path | None:
    """Return the directory of the newest PostgreSQL server, or None."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3]),
    )
    in_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(in_path).resolve().parent if in_path else None


class PostgresServer:
    """Started at once; ``kill`` and ``start`` again as often as a test likes.

    ``settings`` are those of the server that differ from ours, ``environment`` what it
    has in its own besides ours. Its superuser is bot.
    """

    user = "postgres" if os.geteuid() == 0 else None

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        there = programs()
        assert there is not None
        self._programs = there
        self._settings = settings
        self._environment = {**os.environ, **(environment or {})}
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._data = directory_of(self.user, directory) / "data"
        self._run(
            *("initdb", "-D", str(self._data), "-U", "bot", "-A", "trust"),
            *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
        )
        self.start()

    @property
    def dsn(self) -> str:
        return f"postgresql://bot@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._data,
            "max_connections": 200,
            "log_min_messages": "warning",
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self._data.parent / "log").open("ab") as log:
            self._process = spawn(
                [str(self._programs / "postgres"), "-D", str(self._data), *options],
                user=self.user,
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                assert time.monotonic() < until, "PostgreSQL does not answer"
                assert self._process.poll() is None, "PostgreSQL ended at once"
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Stop the server in order."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a power cut would: all of its processes at once."""
        assert self._process is not None
        # Stopped, it makes no more of them meanwhile.
        self._process.send_signal(signal.SIGSTOP)
        self.send(signal.SIGKILL)
        self._process.wait()

    def revive(self) -> None:
        """Start it again if it has ended, or is about to."""
        try:
            self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            self.kill()
            self.start()

    def send(self, how: signal.Signals) -> None:
        """Send a signal to all of its processes (SIGSTOP, SIGCONT)."""
        assert self._process is not None
        if self._process.poll() is not None:
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in (str(self._process.pid), *children.read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), how)

    def connections(self, name: str) -> int:
        """Return how many connections an application has, by the name it gives."""
        seen = f"SELECT FROM pg_stat_activity WHERE application_name = '{name}'"
        return len(self.execute(seen))

    def configure(self, name: str, value: str) -> None:
        """Change a setting that needs no restart; wait until it is in force."""
        # Ours may be default_transaction_read_only, which binds administrators, too.
        self.execute(
            "SET default_transaction_read_only = off",
            f"ALTER SYSTEM SET {name} = '{value}'",
            "SELECT pg_reload_conf()",
        )
        self._await(lambda: self.execute(f"SHOW {name}")[0][0] == value)

    def let_in(self, *rules: str) -> None:
        """Put rules who is let in, and how, before those that trust everybody."""
        file = self._data / "pg_hba.conf"
        file.write_text("\n".join([*rules, file.read_text()]))
        before = "SELECT pg_conf_load_time()"
        [(loaded,)] = self.execute(before)
        self.execute("SELECT pg_reload_conf()")
        self._await(lambda: self.execute(before)[0][0] > loaded)

    def keep(self, name: str, content: bytes) -> Path:
        """Write a file that the server can read, and nobody else."""
        path = self._data / name
        path.write_bytes(content)
        path.chmod(0o600)
        if self.user is not None:
            shutil.chown(path, user=self.user)
        return path

    def execute(self, *statements: str) -> list[Any]:
        """Run statements one after the other; return the rows of the last."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.dsn)
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return await connection.fetch(statements[-1])
            finally:
                await connection.close()

        return aside(run())

    @staticmethod
    def _await(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, "PostgreSQL does not do it"
            time.sleep(0.02)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with spawn(command, user=self.user, **output) as running:
            said, _ = running.communicate()
        assert running.returncode == 0, said

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None


def directory_of(user: str | None, directory: Path) -> Path:
    """Return a directory that belongs to this user: the one given, if it is us.

    What pytest gives lies in one that each of its runs, also beside us, closes to all
    but root.
    """
    if user is None:
        return directory
    own = Path(tempfile.mkdtemp(prefix="botsessions-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    shutil.chown(own, user=user)
    return own


def aside(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, whether one is running here or not."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as exc:  # noqa: BLE001 - raised again, over there
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def free_port() -> int:
    """Return a port on which nobody listens just now.

    Not one of those that the system gives to outgoing connections: such a one might
    take it while a server is being restarted.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port
