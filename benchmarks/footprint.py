"""Resident memory of 100,000 sessions of 163 bytes, a process for each rival."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, figure
from benchmarks.sessions import SESSIONS

SESSIONS_KEPT = 100_000
ROUNDS = 3


async def report() -> list[Row]:
    rows = []
    for name, target in (("botsessions", 500), ("aiogram", 2888)):
        for session in ("163 B flat", "163 B nested"):
            values = [_measure(name, session) for _ in range(ROUNDS)]
            rows.append(figure(f"{name}, {session}: a session", values, target, " B"))
    return rows


def _measure(rival: str, session: str) -> float:
    command = [sys.executable, "-m", "benchmarks.footprint", rival, session]
    return float(subprocess.check_output(command, text=True))  # noqa: S603 - our own


async def _grow(rival: str, session: str) -> float:
    rivals = {"botsessions": _botsessions, "aiogram": _aiogram}
    content = SESSIONS[session]
    await rivals[rival](content, range(1000))
    gc.collect()
    before = _resident()
    kept = await rivals[rival](content, range(1000, 1000 + SESSIONS_KEPT))
    gc.collect()
    used = _resident() - before
    assert kept is not None
    return used / SESSIONS_KEPT


async def _botsessions(content: dict[str, Any], numbers: range) -> object:
    from botsessions import MemoryBackend, SessionKey, SessionStore  # noqa: PLC0415 - measured

    store = SessionStore(MemoryBackend())
    for n in numbers:
        await store.put(SessionKey(chat_id=n, user_id=n), {**content, "seen": n})
    return store


async def _aiogram(content: dict[str, Any], numbers: range) -> object:
    from aiogram.fsm.storage.base import StorageKey  # noqa: PLC0415 - measured
    from aiogram.fsm.storage.memory import MemoryStorage  # noqa: PLC0415 - measured

    storage = MemoryStorage()
    for n in numbers:
        # What a bot would put there: values of its own, not one shared object.
        fresh = {name: _own(value) for name, value in content.items()}
        await storage.set_data(StorageKey(1, n, n), {**fresh, "seen": n})
    return storage


def _own(value: Any) -> Any:
    if isinstance(value, str):
        return value[:1] + value[1:]
    if isinstance(value, list):
        return list(map(_own, value))
    if isinstance(value, dict):
        return {name: _own(inner) for name, inner in value.items()}
    return value


def _resident() -> int:
    status = Path("/proc/self/statm").read_text()
    return int(status.split()[1]) * 4096


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(_grow(*sys.argv[1:]))))
