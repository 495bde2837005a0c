"""Changes with numbers of their own, to hold what is stored against what was told."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Self

import botsessions as bs


class Log:
    """Notes changes with ids of their own, and holds the sessions against them.

    ``first`` keeps the ids of several processes apart.
    """

    def __init__(self, first: int = 1) -> None:
        self._ids = itertools.count(first)
        self.acknowledged: list[tuple[bs.SessionKey, int]] = []
        self.refused: list[tuple[bs.SessionKey, int]] = []
        self.unknown: list[tuple[bs.SessionKey, int]] = []

    async def note(self, store: bs.SessionStore, key: bs.SessionKey) -> None:
        """Append a number to a session, and remember what the store said of it."""
        number = next(self._ids)
        try:
            await store.update(key, lambda s: {"log": [*s.get("log", []), number]})
        except bs.OutcomeUnknownError:
            self.unknown.append((key, number))
        except (bs.BackendError, bs.ConflictError):
            self.refused.append((key, number))
        else:
            self.acknowledged.append((key, number))

    async def check(self, store: bs.SessionStore) -> None:
        """Hold everything that is stored against what was told."""
        found = [
            (key, number)
            async for key, session in store.items()
            for number in session["log"]
        ]
        assert len(found) == len(set(found)), "applied twice"
        assert set(self.acknowledged) <= set(found), "acknowledged and lost"
        assert not set(self.refused) & set(found), "told that nothing was written"


class Load:
    """Callers that note changes in a few sessions for as long as it is entered."""

    def __init__(
        self,
        store: bs.SessionStore,
        seed: int,
        *,
        callers: int = 20,
        keys: int = 50,
        first: int = 1,
    ) -> None:
        self.log = Log(first)
        self._store = store
        self._rng = random.Random(seed)
        self._keys = [bs.SessionKey(chat_id=number) for number in range(keys)]
        self._count = callers
        self._callers: list[asyncio.Task[None]] = []
        self._over = False

    async def __aenter__(self) -> Self:
        self._callers = [asyncio.create_task(self._call()) for _ in range(self._count)]
        await self.served(within=10)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._over = True
        await asyncio.gather(*self._callers)

    async def served(self, within: float) -> None:
        """Wait until so many changes went through that some of them began just now."""
        enough = len(self.log.acknowledged) + 2 * self._count
        async with asyncio.timeout(within):
            while len(self.log.acknowledged) < enough:  # noqa: ASYNC110 - a busy list
                await asyncio.sleep(0.001)

    async def _call(self) -> None:
        while not self._over:
            await self.log.note(self._store, self._rng.choice(self._keys))
            await asyncio.sleep(0.001)
