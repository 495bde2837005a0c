"""What the commands about stored sessions find out, by the public verbs alone.

A session that cannot be read stops nothing here: it is found and named. ``app`` shows
the results.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from botsessions.cli.handlers import Session
from botsessions.codec import Codec
from botsessions.errors import CorruptRecordError
from botsessions.keys import SessionKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from botsessions.store import SessionStore

Entry = tuple[SessionKey, Session | CorruptRecordError]

_BIGGEST = 5
# Read at the same time, so that the store can fetch them together.
_BATCH = 200


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
    """Walk sessions like ``store.items``, past those that cannot be read.

    ``items`` would have to be started again behind each of those.
    """
    batch: list[SessionKey] = []
    async with aclosing(_keys(store, after, parts)) as keys:
        async for key in keys:
            batch.append(key)
            if len(batch) == _BATCH:
                for entry in await _entries(store, batch, after, parts):
                    yield entry
                after, batch = key, []
    for entry in await _entries(store, batch, after, parts):
        yield entry


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


def is_foreign(exc: Exception) -> TypeGuard[CorruptRecordError]:
    """Tell whether a session is sound, but holds classes of the application."""
    return isinstance(exc, CorruptRecordError) and exc.unknown_type is not None


def explained(exc: Exception) -> str:
    """Return a message, for a session of unknown classes in the command line's words.

    The library's words are for the bot: here no class can be registered, and to replace
    such a session would lose what is sound.
    """
    if not is_foreign(exc):
        return str(exc)
    before, tag, _ = str(exc).partition(repr(exc.unknown_type))
    return (
        f"{before}{tag}, and the command line does not know the classes of the "
        "application; nothing is wrong with the session, leave it to the bot"
    )


def _keys(
    store: SessionStore, after: SessionKey | None, parts: dict[str, Any]
) -> AsyncGenerator[SessionKey]:
    return store.keys(after=after, **parts)


async def _entries(
    store: SessionStore,
    keys: list[SessionKey],
    after: SessionKey | None,
    parts: dict[str, Any],
) -> list[Entry]:
    """Read the sessions with these keys, which follow ``after`` in the listing."""
    found = await asyncio.gather(*[_read(store, key) for key in keys])
    entries = list(zip(keys, found, strict=True))
    if {} not in found:
        return entries
    # What is empty may be gone since it was listed: then it is not listed again.
    listed = set()
    async with aclosing(_keys(store, after, parts)) as again:
        async for key in again:
            if str(key) > str(keys[-1]):
                break
            listed.add(key)
    return [(key, session) for key, session in entries if session or key in listed]


async def _read(store: SessionStore, key: SessionKey) -> Session | CorruptRecordError:
    try:
        return await store.get(key)
    except CorruptRecordError as exc:
        return exc


def _kind(key: SessionKey) -> str:
    """Return the parts that a key has, as its text calls them: chat+user."""
    return "+".join(part.partition("=")[0] for part in str(key).split("/"))
