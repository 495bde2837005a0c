"""A NATS server of our own with JetStream, in a temporary directory, on a free port."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

from tests.servers.postgres import PATIENCE, free_port
from tests.servers.watched import spawn

if TYPE_CHECKING:
    from pathlib import Path

SERVER = shutil.which("nats-server")
# A session of the largest size travels with the one that it replaces.
_MAX_PAYLOAD = 8 * 1024 * 1024


class NatsServer:
    """Started at once; ``kill`` and ``start`` again as often as a test likes."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.port = free_port()
        self._log = directory / "log"
        self._settings = directory / "nats.conf"
        settings = {
            "listen": f"127.0.0.1:{self.port}",
            "max_payload": _MAX_PAYLOAD,
            "jetstream": {"store_dir": str(directory / "data")},
            **more,
        }
        self._settings.write_text(json.dumps(settings), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert SERVER is not None
        command = [SERVER, "-c", str(self._settings), "-l", str(self._log)]
        self._process = spawn(command)
        until = time.monotonic() + PATIENCE
        try:
            while not self._answers():
                assert time.monotonic() < until, "NATS does not answer"
                time.sleep(0.02)
        except BaseException:
            self.kill()  # nobody else knows of it
            raise

    def stop(self) -> None:
        """Stop the server in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def send(self, how: signal.Signals) -> None:
        """Send a signal (SIGSTOP makes it hang, SIGCONT go on)."""
        assert self._process is not None
        self._process.send_signal(how)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)  # a test may have stopped it
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise
            finally:
                self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
        # It says who it is as soon as its streams are restored.
        with contextlib.suppress(OSError):
            address = ("127.0.0.1", self.port)
            with socket.create_connection(address, timeout=1) as connection:
                return connection.recv(4) == b"INFO"
        return False
