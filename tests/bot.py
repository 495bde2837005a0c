"""A bot in a process of its own: changes sessions, and says what came of each change.

``work`` starts it with its orders in JSON; it prints its answer in JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import botsessions as bs
from tests.changes import Load, Log

# The code under test in every process is the one that is under test in this.
_ROOT, _SOURCE = Path(__file__).parents[1], Path(bs.__file__).parents[1]
_PATIENCE = 60
_TOLD = ("acknowledged", "refused", "unknown")


async def work(number: int, **orders: Any) -> dict[str, list[tuple[str, int]]]:
    """Let a process work, and return what came of its changes."""
    orders = {"first": 1 + number * 1_000_000_000, **orders}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bot", json.dumps(orders)),
        env={**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_SOURCE}"},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(orders["seconds"] + _PATIENCE):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0
    answer: dict[str, list[tuple[str, int]]] = json.loads(said)
    return answer


def told(answers: list[dict[str, list[tuple[str, int]]]]) -> Log:
    """Return what all the processes were told as one log."""
    log = Log()
    for what in _TOLD:
        getattr(log, what).extend(
            (bs.SessionKey.parse(key), number)
            for answer in answers
            for key, number in answer[what]
        )
    return log


async def _opened(url: str, options: dict[str, Any]) -> bs.SessionStore:
    """Open a store; wait for a server that is just away."""
    store = bs.open_store(url, **options)
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                await store.get(bs.SessionKey(name="nobody"))
            except bs.BackendUnavailableError:
                await asyncio.sleep(0.1)
            else:
                return store


async def _work(
    url: str, seed: int, seconds: float, first: int, options: dict[str, Any]
) -> dict[str, list[tuple[str, int]]]:
    async with await _opened(url, options) as store:
        load = Load(store, seed, callers=40, keys=300, first=first)
        async with load:
            await asyncio.sleep(seconds)
    return {
        what: [(str(key), number) for key, number in getattr(load.log, what)]
        for what in _TOLD
    }


if __name__ == "__main__":
    json.dump(asyncio.run(_work(**json.loads(sys.argv[1]))), sys.stdout)
