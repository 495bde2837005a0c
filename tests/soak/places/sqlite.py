"""SQLite: a new file for each round, on the disk or on a small one that can be filled.

Every second round lies on a disk of some megabytes in memory, which is mounted for the
processes of this soak alone, if the machine allows for it. A small library before libc
makes any disk slow, for as long as a file says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import apsw

from tests.soak.places.base import Place
from tests.sqlite.processes import can_mount, with_disk

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.soak.places.base import Bots, Fault

_SIZE = "24m"
_SLOW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* As many milliseconds as that file has bytes. */
static int later(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    struct stat told;
    if (stat(getenv("SLOW_DISK"), &told) == 0) usleep(1000 * told.st_size);
    return real(fd);
}
int fdatasync(int fd) { return later("fdatasync", fd); }
int fsync(int fd) { return later("fsync", fd); }
"""


class SQLite(Place):
    """Several processes on one file, each change flushed to the disk."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._disk = directory / "disk"
        self._file = self._disk / "sessions.db"
        self._slowness = directory / "milliseconds"
        self._library = directory / "slow.so"
        self._small: subprocess.Popen[bytes] | None = None
        self._has_small = False

    @property
    def title(self) -> str:
        version = apsw.sqlite_lib_version()
        return f"SQLite {version}, one file, durability full"

    @property
    def url(self) -> str:
        return f"sqlite:///{self._file}"

    @property
    def under(self) -> list[str]:
        if self._small is None:
            return []
        namespaces = f"/proc/{self._small.pid}/ns"
        return [
            *("nsenter", "--preserve-credentials", f"--user={namespaces}/user"),
            *(f"--mount={namespaces}/mnt", "--"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        if not self._library.exists():
            return {}
        return {"LD_PRELOAD": str(self._library), "SLOW_DISK": str(self._slowness)}

    async def start(self) -> None:
        await asyncio.to_thread(self._prepare)

    async def stop(self) -> None:
        self._unmount()

    async def begin(self, number: int) -> None:
        self._disk.mkdir()
        if self._has_small and number % 2:
            await asyncio.to_thread(self._mount)

    async def clean(self) -> None:
        self._unmount()
        await asyncio.to_thread(shutil.rmtree, self._disk)

    def faults(self) -> dict[str, Fault]:
        faults = super().faults()
        if self._library.exists():
            faults["the disk is slow"] = self._slow
        if self._small is not None:
            faults["the disk is full"] = self._fill
        else:
            faults["a reader stops checkpoints"] = self._read_long
            faults["another program holds the file"] = self._hold
        return faults

    def _prepare(self) -> None:
        self._has_small = can_mount() and shutil.which("nsenter") is not None
        if shutil.which("cc") is not None:
            source = self.directory / "slow.c"
            source.write_text(_SLOW)
            command = ["cc", "-shared", "-fPIC", "-o", str(self._library), str(source)]
            subprocess.run([*command, "-ldl"], check=True)

    def _mount(self) -> None:
        command = [*with_disk(self._disk, _SIZE), "sh", "-c", "echo; exec cat"]
        pipe = subprocess.PIPE
        self._small = subprocess.Popen(command, stdin=pipe, stdout=pipe)
        assert self._small.stdout is not None
        assert self._small.stdout.read(1) == b"\n", "no small disk"

    def _unmount(self) -> None:
        if self._small is not None:
            self._small.communicate()  # its disk goes with it
            self._small = None

    async def _slow(self, rng: random.Random, bots: Bots) -> None:
        self._slowness.write_bytes(bytes(rng.randint(5, 60)))
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        self._slowness.unlink()

    async def _fill(self, rng: random.Random, bots: Bots) -> None:
        assert self._small is not None
        # The same place, as the processes see it that have the disk.
        seen = f"/proc/{self._small.pid}/root{self._disk}/filler"
        until = time.monotonic() + rng.uniform(0.3, 2.0)
        filler = os.open(seen, os.O_WRONLY | os.O_CREAT)
        try:
            while time.monotonic() < until:
                await asyncio.to_thread(_write_until_full, filler)
                await asyncio.sleep(0.02)
        finally:
            os.close(filler)
            os.unlink(seen)  # noqa: PTH108 - a Path would lead elsewhere

    async def _read_long(self, rng: random.Random, bots: Bots) -> None:
        await self._busy(rng.uniform(0.5, 4.0), "BEGIN", "SELECT * FROM sqlite_schema")

    async def _hold(self, rng: random.Random, bots: Bots) -> None:
        await self._busy(rng.uniform(0.2, 3.0), "BEGIN IMMEDIATE")

    async def _busy(self, seconds: float, *statements: str) -> None:
        connection = apsw.Connection(str(self._file))
        try:
            connection.set_busy_timeout(5000)
            with contextlib.suppress(apsw.BusyError):
                for statement in statements:
                    await asyncio.to_thread(_run, connection, statement)
                await asyncio.sleep(seconds)
        finally:
            connection.close()


def _run(connection: apsw.Connection, statement: str) -> None:
    connection.execute(statement).fetchall()


def _write_until_full(file: int) -> None:
    """Take all the room there is, to the last page."""
    size = 1 << 20
    while size >= 4096:
        try:
            os.write(file, bytes(size))
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
            size >>= 1
