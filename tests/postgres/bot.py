"""A bot in a process of its own: changes sessions, and says what came of each change.

Started by ``test_processes`` with its orders in JSON; it prints its answer in JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import botsessions as bs
from tests.changes import Load


async def opened(url: str, options: dict[str, Any]) -> bs.SessionStore:
    """Open a store; wait for a server that is just away."""
    store = bs.open_store(url, **options)
    async with asyncio.timeout(30):
        while True:
            try:
                await store.get(bs.SessionKey(name="nobody"))
            except bs.BackendUnavailableError:
                await asyncio.sleep(0.1)
            else:
                return store


async def work(
    url: str, seed: int, seconds: float, first: int, options: dict[str, Any]
) -> dict[str, list[tuple[str, int]]]:
    async with await opened(url, options) as store:
        load = Load(store, seed, callers=40, keys=300, first=first)
        async with load:
            await asyncio.sleep(seconds)
    return {
        what: [(str(key), number) for key, number in getattr(load.log, what)]
        for what in ("acknowledged", "refused", "unknown")
    }


if __name__ == "__main__":
    json.dump(asyncio.run(work(**json.loads(sys.argv[1]))), sys.stdout)
