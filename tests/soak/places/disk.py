"""A disk that is slow, or full, for those processes that have it in their environment.

A small library (``disk.c``) before libc makes it so: no mount is needed, no rights, and
nobody else notices. Neighbours: ``sqlite``, ``postgres`` and ``redis``, which use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from tests.soak.places.base import BehindProxy

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterator, Mapping

    from tests.soak.places.base import Bots, Fault

SLOW, FULL = "the disk is slow", "the disk is full"
_SOURCE = Path(__file__).with_name("disk.c")


class Disk:
    """Made in a directory that those processes can read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._library = directory / "disk.so"
        compiler = shutil.which("cc")
        self.is_ours = compiler is not None
        """Whether it can be made slow, or full; that takes a compiler."""
        if compiler is not None:
            files = ["-o", str(self._library), str(_SOURCE)]
            subprocess.run([compiler, "-shared", "-fPIC", *files, "-ldl"], check=True)

    @property
    def environment(self) -> dict[str, str]:
        """What must be in the environment of a process for it to have this disk."""
        if not self.is_ours:
            return {}
        return {"LD_PRELOAD": str(self._library), "DISK": str(self._directory)}

    def slow(self, milliseconds: int) -> contextlib.AbstractContextManager[None]:
        """Let each flush take so much longer."""
        return self._tell("slow", milliseconds)

    def full(self) -> contextlib.AbstractContextManager[None]:
        """Let no file grow."""
        return self._tell("full", 0)

    @contextlib.contextmanager
    def _tell(self, what: str, how: int) -> Iterator[None]:
        file = self._directory / what
        file.write_bytes(bytes(how))
        try:
            yield
        finally:
            file.unlink()


class _Server(Protocol):
    def revive(self) -> None: ...


class OnADisk(BehindProxy):
    """A place with one server, whose disk can be faulty as well."""

    _disk: Disk
    _server: _Server

    def impossible(self) -> Collection[str]:
        return () if self._disk.is_ours else (SLOW, FULL)

    async def _slow(self, rng: random.Random, bots: Bots) -> None:
        with self._disk.slow(rng.randint(5, 60)):
            await asyncio.sleep(rng.uniform(0.5, 3.0))

    async def _fill(self, rng: random.Random, bots: Bots) -> None:
        """Redis ends at the first change that it cannot flush, PostgreSQL may end."""
        with self._disk.full():
            await asyncio.sleep(rng.uniform(0.3, 2.0))
        await asyncio.to_thread(self._server.revive)

    faults: ClassVar[Mapping[str, Fault]] = {
        **BehindProxy.faults,
        SLOW: _slow,
        FULL: _fill,
    }
