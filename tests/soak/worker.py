"""One process of a round: callers on a store, until the other end closes its input.

Gets its orders in JSON. With ``look`` it does something else: it reads each of these
keys once everything is calm, alone and in a listing, and writes that down as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import sys
import threading
import time
import traceback
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botsessions as bs
from botsessions.conformance.histories.history import Outcome, Verb
from tests.soak import wrong
from tests.soak.caller import (
    Blocking,
    Caller,
    Means,
    content,
    pause_blocking,
    run_blocking,
)
from tests.soak.journal import Journal, Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds for which a store may refuse to be read when all faults are over.
_PATIENCE = 40.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What one process is to do."""

    url: str
    options: dict[str, Any]
    ttl: float
    """Seconds of life of the sessions that end."""
    journal: str
    first: int
    seed: int
    callers: int = 8
    think: float = 0.01
    threads: bool = False
    """Whether the callers are threads on the blocking face."""
    look: list[str] = dataclasses.field(default_factory=list)
    wrong: str | None = None
    """Which of the wrong backends is to be put before the right one."""

    def store(self, **more: Any) -> bs.SessionStore:
        """Return a new store; it opens when it is used."""
        store = bs.open_store(self.url, **self.options, **more)
        if self.wrong is None:
            return store
        names = {"namespace", "timeout"} & self.options.keys()
        options = {name: self.options[name] for name in names}
        backend = wrong.BACKENDS[self.wrong](store._backend)
        return bs.SessionStore(backend, **options, **more)

    def blocking_store(self, **more: Any) -> bs.SyncSessionStore:
        """Return the same with its blocking face."""
        return bs.open_sync_store(self.url, **self.options, **more)

    def dice(self) -> Iterator[random.Random]:
        """Return dice for each caller."""
        for number in range(self.callers):
            yield random.Random(self.seed * 1000 + number)


async def _tasks(orders: Orders, journal: Journal, over: threading.Event) -> None:
    # Not entered: a server that is just away is found by the first call that it serves.
    async with (
        aclosing(orders.store()) as endless,
        aclosing(orders.store(ttl=orders.ttl)) as brief,
    ):
        means = Means(endless, brief, journal, asyncio.sleep, {})
        callers = [Caller(means, rng, orders.think) for rng in orders.dice()]
        await asyncio.gather(*(caller.run(over.is_set) for caller in callers))


def _threads(orders: Orders, journal: Journal, over: threading.Event) -> None:
    with (
        closing(orders.blocking_store()) as endless,
        closing(orders.blocking_store(ttl=orders.ttl)) as brief,
    ):
        stores = (Blocking(endless), Blocking(brief))
        means = Means(*stores, journal, pause_blocking, {})
        threads = [
            threading.Thread(
                target=lambda caller: run_blocking(caller.run(over.is_set)),
                args=[Caller(means, rng, orders.think)],
            )
            for rng in orders.dice()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


async def _look(orders: Orders, journal: Journal) -> None:
    async with (
        aclosing(orders.store()) as endless,
        aclosing(orders.store(ttl=orders.ttl)) as brief,
    ):
        for text in orders.look:
            store = brief if kind_of(text) is Kind.BRIEF else endless
            await _read(store, journal, text)
        began = time.monotonic_ns()
        listed = {str(key): session async for key, session in endless.items()}
        for text in sorted(listed.keys() - set(orders.look)):
            journal.oddity(text, "there is a session that nobody wrote")
        for text in orders.look:
            # Ended ones are not listed, and both kinds are in one namespace.
            call = journal.begin(text, Verb.GET, began)
            saw = content(kind_of(text), listed.get(text, {}))
            journal.end(call, Outcome.DONE, saw)


async def _read(store: bs.SessionStore, journal: Journal, text: str) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        call = journal.begin(text, Verb.GET)
        try:
            session = await store.get(bs.SessionKey.parse(text))
        except bs.BackendError as exc:
            journal.end(call, Outcome.FAILED, note=type(exc).__name__)
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.05)
        else:
            journal.end(call, Outcome.DONE, content(kind_of(text), session))
            return


def main() -> int:
    """Work, and return 1 if that came to a bad end."""
    orders = Orders(**json.loads(sys.stdin.readline()))
    journal = Journal(Path(orders.journal), orders.first)
    over = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        if orders.look:
            asyncio.run(_look(orders, journal))
        elif orders.threads:
            _threads(orders, journal, over)
        else:
            asyncio.run(_tasks(orders, journal, over))
    except Exception:  # noqa: BLE001 - whatever it is, it is to be reported
        journal.oddity("", traceback.format_exc())
        return 1
    finally:
        journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
