"""The command line in this process, and stores for it."""

from __future__ import annotations

import asyncio
import io
import os
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest

from botsessions import (
    Record,
    SessionKey,
    SQLiteBackend,
    Version,
    Write,
    open_store,
)
from botsessions.cli import main
from tests.cli.tool import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Cli = Callable[..., Result]


@pytest.fixture
def cli(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """Return what runs a command here, on ``bot.db`` in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("BOTSESSIONS_STORE", "sqlite:///bot.db")

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(arguments)
        return Result(code, *capsys.readouterr())

    return run


class Sessions:
    """The sessions in ``bot.db``, as a program sees them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """Return all sessions but what replays keep about themselves."""

        async def read() -> dict[str, Any]:
            async with open_store(f"sqlite:///{self._path}") as store:
                return {str(k): v async for k, v in store.items() if k.name is None}

        return asyncio.run(read())

    def put(
        self, sessions: Mapping[SessionKey, dict[Any, Any]], **options: Any
    ) -> None:
        """Store sessions; none of them makes the file all the same."""

        async def put() -> None:
            url = f"sqlite:///{self._path}"
            async with open_store(url, **options) as store:
                for key, session in sessions.items():
                    await store.put(key, session)

        asyncio.run(put())

    def keys(self) -> list[str]:
        """Return all keys, those of what replays keep about themselves, too."""

        async def keys() -> list[str]:
            async with open_store(f"sqlite:///{self._path}") as store:
                return [str(key) async for key in store.keys()]

        return asyncio.run(keys())

    def spoil(self, *keys: SessionKey) -> None:
        """Make sessions unreadable."""

        async def spoil() -> None:
            backend = SQLiteBackend(self._path)
            await backend.open()
            names = [f"sessions/{key}" for key in keys]
            now, records = await backend.load(names)
            for name, record in zip(names, records, strict=True):
                assert isinstance(record, Record)
                version = Version(record.version.counter + 1, 0)
                junk = record._replace(version=version, value=b"junk")
                write = Write(name, record.version, junk, now + 10_000)
                assert await backend.commit([write]) == [True]
            await backend.aclose()

        asyncio.run(spoil())


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    """Return the sessions that the command line works on."""
    return Sessions(tmp_path / "bot.db")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Return random numbers; the report of a failure says how to get the same."""
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    request.node.add_report_section("setup", "seed", f"run it again with SEED={seed}")
    return random.Random(seed)
