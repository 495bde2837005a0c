"""What the tests that take servers away have in common."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import botsessions as bs
    from tests.changes import Log
    from tests.servers.redis import RedisServer


@contextmanager
def hanging(server: RedisServer) -> Iterator[None]:
    server.send(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send(signal.SIGCONT)


async def lost(store: bs.SessionStore, log: Log, *others: Log) -> int:
    """Count what was acknowledged and is gone; nothing else may be wrong."""
    found = [
        (key, number)
        async for key, session in store.items()
        for number in session["log"]
    ]
    assert len(found) == len(set(found)), "applied twice"
    assert not set(log.refused) & set(found), "told that nothing was written"
    known = [*log.acknowledged, *log.unknown]
    for other in others:
        known += [*other.acknowledged, *other.unknown]
    assert set(found) <= set(known), "out of nothing"
    return len(set(log.acknowledged) - set(found))
