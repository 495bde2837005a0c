"""The read side of the batched engine: each ``get`` rides on the next load.

Where the backend can read without waiting it is a load of its own, at once.

A read never waits behind writes and is never answered from an earlier load, so it sees
whatever was acknowledged before it was called.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from botsessions.engine import rules
from botsessions.engine.calls import own, wake
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    CorruptRecordError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from botsessions.codec import Codec
    from botsessions.engine.calls import Calls, Worker
    from botsessions.engine.gate import Gate
    from botsessions.record import Record

MAX_KEYS = 512

_Future = asyncio.Future[dict[Any, Any]]
# Who waits for an answer, and until when (the loop's time).
_Read = tuple[_Future, float]


class Reader:
    """Gathers reads and answers them, one load after the other."""

    def __init__(self, calls: Calls, codec: Codec, gate: Gate, *, prefix: str) -> None:
        self._calls = calls
        self._codec = codec
        self._gate = gate
        self._prefix = prefix
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[_Read]] = {}
        self._taken: dict[str, list[_Read]] = {}
        self._idle: asyncio.Future[None] | None = None

    def get(self, key: str, deadline: float) -> _Future:
        """Queue the read of one key."""
        self._gate.enter()
        future = self._loop.create_future()
        self._waiting.setdefault(self._prefix + key, []).append((future, deadline))
        if self._idle is not None:
            wake(self._idle)
            self._idle = None
        return future

    def get_now(self, key: str) -> dict[Any, Any] | None:
        """Read one key at once, if the backend can without waiting; else None."""
        if self._gate.closed is not None:
            raise self._gate.refusal()
        key = self._prefix + key
        loaded = self._calls.load_now((key,))
        if loaded is None:
            return None
        [record] = loaded.records
        if isinstance(record, BackendError):
            raise record
        if record is None or record.is_gone(loaded.now):
            return {}
        return self._session(key, record)

    async def work(self, worker: Worker) -> None:
        """Answer reads until cancelled."""
        while True:
            if not self._waiting:
                self._idle = self._loop.create_future()
                await self._idle
                continue
            keys = list(self._waiting)[:MAX_KEYS]
            self._taken = {key: self._waiting.pop(key) for key in keys}
            await self._read(worker, self._taken)
            self._gate.leave(sum(map(len, self._taken.values())))
            self._taken = {}

    def fail(self, error: BackendError) -> None:
        """Give all that wait an error."""
        self._idle = None
        for batch in (self._taken, self._waiting):
            for reads in batch.values():
                self._refuse(reads, error)
        self._waiting.clear()

    def fail_late(self, now: float, error: Callable[[str], BackendError]) -> None:
        """Give an error to those whose time is over; read nothing for nobody."""
        for batch in (self._taken, self._waiting):
            for key, reads in batch.items():
                for future, deadline in reads:
                    if now >= deadline and not future.done():
                        future.set_exception(error(key))
        for key, reads in list(self._waiting.items()):
            kept = [read for read in reads if not read[0].done()]
            self._gate.leave(len(reads) - len(kept))
            if kept:
                self._waiting[key] = kept
            else:
                del self._waiting[key]

    async def _read(self, worker: Worker, batch: dict[str, list[_Read]]) -> None:
        try:
            loaded = await self._calls.load(worker, list(batch))
        except BackendError as exc:
            if len(batch) > 1 and not isinstance(exc, BackendUnavailableError):
                keys = list(batch)
                for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                    await self._read(worker, {key: batch[key] for key in half})
                return
            for reads in batch.values():
                self._refuse(reads, exc)
            return
        pairs = zip(batch.items(), loaded.records, strict=True)
        for (key, reads), record in pairs:
            if isinstance(record, BackendError):
                self._refuse(reads, record)
                continue
            gone = record is None or record.is_gone(loaded.now)
            self._answer(key, reads, None if gone else record)

    def _answer(self, key: str, reads: list[_Read], record: Record | None) -> None:
        for future, _ in reads:
            if future.done():
                continue
            try:
                session = {} if record is None else self._session(key, record)
            except (CorruptRecordError, MemoryError) as exc:
                future.set_exception(exc)
            else:
                future.set_result(session)

    def _session(self, key: str, record: Record) -> dict[Any, Any]:
        try:
            return self._codec.decode(record.value)
        except CorruptRecordError as exc:
            raise rules.corrupt(key.removeprefix(self._prefix), exc) from exc

    @staticmethod
    def _refuse(reads: list[_Read], error: BackendError) -> None:
        for future, _ in reads:
            if not future.done():
                future.set_exception(own(error))
