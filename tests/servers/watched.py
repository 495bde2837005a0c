"""Processes that do not outlive the one that started them, however that ends.

Who is interrupted while it starts a server cannot stop it, and who is killed stops
nothing. So another process watches: it waits for the end of a pipe that we alone hold
open, and kills who is left then. It goes by what Linux tells in ``/proc``; elsewhere
nobody watches. The servers beside this module start by ``spawn``, and so do the bots
of a soak.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROCESSES = Path("/proc")
_starting = threading.Lock()


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process, as ``subprocess.Popen`` does; it ends with us at the latest."""
    with _starting:
        # Before there is anybody to watch: we may be killed at any moment.
        pipe = _watcher().stdin
        assert pipe is not None
        process = subprocess.Popen(command, **options)
        pipe.write(b"%d\n" % process.pid)
    return process


@functools.cache
def _watcher() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", __file__],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is not for it
    )


def _watch() -> None:
    watched = [(pid, _begun(pid)) for pid in map(int, sys.stdin)]
    for pid, begun in watched:
        # Its number may have gone to another process meanwhile.
        if begun is not None and _begun(pid) == begun:
            _kill(pid)


def _begun(pid: int) -> str | None:
    """Return when a process began, in ticks; None if there is none."""
    try:
        told = (_PROCESSES / f"{pid}/stat").read_text()
    except OSError:
        return None
    return told.rpartition(")")[2].split()[19]


def _kill(pid: int) -> None:
    """Kill a process with its children: stopped ones would never see that it ended."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGSTOP)  # it makes no more of them meanwhile
        children = (_PROCESSES / f"{pid}/task/{pid}/children").read_text()
        for each in (pid, *map(int, children.split())):
            os.kill(each, signal.SIGKILL)


if __name__ == "__main__":
    _watch()
