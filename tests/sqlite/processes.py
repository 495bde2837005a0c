"""Real processes: started, told what to do, listened to, killed in the end.

Each runs ``bot``, the other end of the pipe. Nothing here waits longer than
``PATIENCE`` for it.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import botsessions
from botsessions import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE = 60.0
# The code under test in every process is the one that is under test in this.
_ROOT, _SOURCE = Path(__file__).parents[2], Path(botsessions.__file__).parents[1]


class Process:
    """One bot, from its start to its death, whichever way that comes.

    ``under`` is a command that runs it, see below. The lists are what came of the
    updates of ``hammer``, as (key, what), as far as this end has heard: all, once the
    process has ended.
    """

    def __init__(self, under: Sequence[str] = ()) -> None:
        self.acknowledged: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self.doubtful: list[tuple[str, str]] = []
        self._answers: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in the end
        self._process = subprocess.Popen(
            [*under, sys.executable, "-m", "tests.sqlite.bot"],
            env={**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_SOURCE}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def __enter__(self) -> Self:
        try:
            self.answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        # For whom the test failed.
        sys.stderr.write(self.complaints)
        self._stderr.close()

    def tell(self, command: str, *arguments: Any, **options: Any) -> None:
        """Say what to do, and do not wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments, options]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the next result; raise what the command raised."""
        try:
            word, *result = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no answer within {PATIENCE} s") from None
        if word == "done":
            return result[0]
        if word == "failed":
            name, message = result
            error = getattr(errors, name, None)
            raise error(message) if error else AssertionError(f"{name}: {message}")
        raise AssertionError(f"the process ended: {self.complaints}")

    def call(self, command: str, *arguments: Any, **options: Any) -> Any:
        """Say what to do, and wait for the result."""
        self.tell(command, *arguments, **options)
        return self.answer()

    def hear(self, count: int) -> None:
        """Wait until so many updates more have been acknowledged to it."""
        count += len(self.acknowledged)
        until = time.monotonic() + PATIENCE
        while len(self.acknowledged) < count:
            assert time.monotonic() < until, f"stuck: {self.complaints}"
            time.sleep(0.005)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it now, wherever it is, and hear all it had said."""
        if self._process.returncode is None:
            # With the program that it runs under, if there is one.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._wait()

    def end(self) -> int:
        """Let it end by itself, without closing its store; return its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._wait()

    @property
    def complaints(self) -> str:
        """What it has written to its standard error."""
        self._stderr.seek(0)
        return self._stderr.read()

    def _wait(self) -> int:
        status = self._process.wait(PATIENCE)
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return status

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # The last line of a killed process may be half of one.
            if not line.endswith("\n"):
                break
            word, *rest = json.loads(line)
            if word in {"acknowledged", "refused", "doubtful"}:
                getattr(self, word).append(tuple(rest))
            else:
                self._answers.put([word, *rest])
        self._answers.put(["ended"])


# Commands to run a process under.


def with_disk(directory: Path, size: str, *options: str) -> list[str]:
    """Mount a disk of this size on a directory, for the process alone."""
    mount = f'mount -t tmpfs -o {",".join([f"size={size}", *options])} tmpfs "$0"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    return [*namespace, "sh", "-c", f'{mount} && exec "$@"', str(directory)]


@functools.cache
def can_mount() -> bool:
    """Tell whether this machine lets us mount a disk in a namespace."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as directory:
        trial = [*with_disk(Path(directory), "1m"), sys.executable, "-c", ""]
        return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def as_plain_user() -> list[str]:
    """Have the permissions of files bind the process, even where we are root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def can_be_plain_user() -> bool:
    """Tell whether that is possible here."""
    return os.geteuid() != 0 or shutil.which("setpriv") is not None
