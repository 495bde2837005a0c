"""SQLite again, async and with threads, on a disk that takes a millisecond longer.

A small library, built with ``cc`` and put in front of libc, slows each ``fdatasync`` of
both rivals.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import sqlite, threads
from benchmarks.measure import say

MILLISECONDS = 1
ROUNDS = 3

_SLOW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int later(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    usleep(1000 * atoi(getenv("SLOW_DISK_MS")));
    return real(fd);
}
int fdatasync(int fd) { return later("fdatasync", fd); }
int fsync(int fd) { return later("fsync", fd); }
"""


async def report() -> list[str]:
    if shutil.which("cc") is None:
        return ["not measured: it takes a C compiler (cc)"]
    with tempfile.TemporaryDirectory() as directory:
        return _measure(_build(Path(directory))).splitlines()


def _build(directory: Path) -> Path:
    source, library = directory / "slow.c", directory / "slow.so"
    source.write_text(_SLOW)
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)  # noqa: S603 - our own
    return library


def _measure(library: Path) -> str:
    slow = {"LD_PRELOAD": str(library), "SLOW_DISK_MS": str(MILLISECONDS)}
    command = [sys.executable, "-m", "benchmarks.slowdisk"]
    return subprocess.check_output(command, env=os.environ | slow, text=True)  # noqa: S603 - our own


async def _report() -> None:
    for row in await sqlite.report(ROUNDS):
        say(row)
    with tempfile.TemporaryDirectory() as directory:
        for row in await threads.on_disk(Path(directory), ROUNDS):
            say(row)


if __name__ == "__main__":
    asyncio.run(_report())
