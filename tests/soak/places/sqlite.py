"""SQLite: a new file for each round, on the disk or on a small one that can be filled.

Every second round lies on a disk of some megabytes in memory, which is mounted for the
processes of this soak alone, if the machine allows for it. Any can be slow (``disk``).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, ClassVar

import apsw

from tests.soak.places.base import Place
from tests.soak.places.disk import FULL, SLOW, Disk
from tests.sqlite.processes import can_mount, with_disk

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from tests.soak.places.base import Bots, Fault

_SIZE = "24m"


class SQLite(Place):
    """Several processes on one file, each change flushed to the disk."""

    name = "sqlite"
    unwilling = (AssertionError, apsw.BusyError)

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._disk = directory / "disk"
        self._file = self._disk / "sessions.db"
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
        return self._any_disk.environment

    async def start(self) -> None:
        self._has_small = can_mount() and shutil.which("nsenter") is not None
        self._any_disk = await asyncio.to_thread(Disk, self.directory)

    async def stop(self) -> None:
        self._unmount()

    async def begin(self, number: int) -> None:
        self._disk.mkdir()
        if self._has_small and number % 2:
            await asyncio.to_thread(self._mount)

    async def clean(self) -> None:
        self._unmount()
        await asyncio.to_thread(shutil.rmtree, self._disk)

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
        with self._any_disk.slow(rng.randint(5, 60)):
            await asyncio.sleep(rng.uniform(0.5, 3.0))

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
            for statement in statements:
                await asyncio.to_thread(_run, connection, statement)
            await asyncio.sleep(seconds)
        finally:
            connection.close()

    _WITH_ROOM: ClassVar[Mapping[str, Fault]] = {
        "a reader stops checkpoints": _read_long,
        "another program holds the file": _hold,
    }
    faults: ClassVar[Mapping[str, Fault]] = {
        **Place.faults,
        SLOW: _slow,
        FULL: _fill,
        **_WITH_ROOM,
    }

    def impossible(self) -> Collection[str]:
        too_fast = [] if self._any_disk.is_ours else [SLOW]
        return [*too_fast, *([FULL] if self._small is None else self._WITH_ROOM)]


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
