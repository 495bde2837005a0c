"""How long until a bot can work: the import, and a store with its first answer."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from benchmarks.measure import Row, figure

ROUNDS = 11

_IMPORT = """
import time; t = time.perf_counter(); import botsessions; print(time.perf_counter() - t)
"""
_NAMES = """
import time; t = time.perf_counter()
from botsessions import SessionKey, chat_user_key, open_store
print(time.perf_counter() - t)
"""
_FIRST_GET = """
import asyncio, sys, time
from botsessions import SessionKey, open_store
async def main():
    started = time.perf_counter()
    async with open_store("sqlite:///" + sys.argv[1]) as store:
        await store.get(SessionKey(chat_id=1))
        print(time.perf_counter() - started)
asyncio.run(main())
"""


async def report() -> list[Row]:
    with tempfile.NamedTemporaryFile() as file:
        new = [_milliseconds(_FIRST_GET, f"{file.name}{n}.db") for n in range(ROUNDS)]
        again = [_milliseconds(_FIRST_GET, f"{file.name}{n}.db") for n in range(ROUNDS)]
    return [
        figure("import botsessions", _each(_IMPORT), 60, "ms"),
        figure("import of the names a bot uses", _each(_NAMES), 200, "ms"),
        figure("SQLite: open a new file and get, driver loaded", new, 30, "ms"),
        figure("SQLite: open an existing file and get", again, 30, "ms"),
    ]


def _each(code: str) -> list[float]:
    return [_milliseconds(code) for _ in range(ROUNDS)]


def _milliseconds(code: str, *arguments: str) -> float:
    command = [sys.executable, "-c", code, *arguments]
    return float(subprocess.check_output(command, text=True)) * 1000  # noqa: S603 - our own
