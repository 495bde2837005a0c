"""Servers that tests start are gone when the tests are, in whatever way these ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# It starts a process that never ends, with a child that stands still.
STARTS_TWO = """
import os, signal, sys, time
from tests.servers.watched import spawn
first = spawn(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=-1, text=True)
second = int(first.stdout.readline())
os.kill(second, signal.SIGSTOP)
print(first.pid, second, flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nobody watches")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_started_ends_with_who_started_it(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_TWO],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        started = [int(pid) for pid in starter.stdout.readline().split()]
        assert list(map(is_alive, started)) == [True, True]
        starter.send_signal(how)
    try:
        until = time.monotonic() + 10
        while any(map(is_alive, started)):
            assert time.monotonic() < until, "they live on"
            time.sleep(0.01)
    finally:
        for pid in filter(is_alive, started):
            os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return told.rpartition(")")[2].split()[0] != "Z"
