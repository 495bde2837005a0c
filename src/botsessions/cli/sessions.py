"""What the commands about stored sessions find out, by the public verbs alone.

A session that cannot be read stops nothing here: it is found and named. ``app`` shows
the results.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botsessions.cli.handlers import Session
from botsessions.codec import Codec
from botsessions.errors import CorruptRecordError
from botsessions.keys import SessionKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from botsessions.store import SessionStore

Entry = tuple[SessionKey, Session | CorruptRecordError]

_BIGGEST = 5


@dataclass(frozen=True, slots=True)
class Statistics:
    """How many sessions there are, of what kinds, and how much they take."""

    kinds: Counter[str]
    bytes: int
    biggest: list[tuple[str, int]]
    unreadable: list[str]


async def walk(
    store: SessionStore, after: SessionKey | None = None, **parts: Any
) -> AsyncGenerator[Entry]:
    """Walk sessions like ``store.items``, past those that cannot be read."""
    last = after
    while True:
        try:
            async for key, session in store.items(after=last, **parts):
                yield key, session
                last = key
        except CorruptRecordError:
            async for key in store.keys(after=last, **parts):
                yield key, await _read(store, key)
                last = key
                break
        else:
            return


async def page(
    store: SessionStore, limit: int, after: SessionKey | None, **parts: Any
) -> tuple[list[Entry], bool]:
    """Return some sessions, and whether there are more behind them."""
    found: list[Entry] = []
    async with aclosing(walk(store, after, **parts)) as sessions:
        async for item in sessions:
            if len(found) == limit:
                return found, True
            found.append(item)
    return found, False


async def statistics(store: SessionStore) -> Statistics:
    """Look at every session once."""
    codec = Codec()
    kinds: Counter[str] = Counter()
    biggest: list[tuple[int, str]] = []
    total = 0
    unreadable = []
    async for key, session in walk(store):
        kinds[_kind(key)] += 1
        if isinstance(session, CorruptRecordError):
            unreadable.append(str(key))
            continue
        size = len(codec.encode(session))
        total += size
        biggest = sorted([*biggest, (-size, str(key))])[:_BIGGEST]
    return Statistics(kinds, total, [(key, -n) for n, key in biggest], unreadable)


async def _read(store: SessionStore, key: SessionKey) -> Session | CorruptRecordError:
    try:
        return await store.get(key)
    except CorruptRecordError as exc:
        return exc


def _kind(key: SessionKey) -> str:
    """Return the parts that a key has, as its text calls them: chat+user."""
    return "+".join(part.partition("=")[0] for part in str(key).split("/"))
