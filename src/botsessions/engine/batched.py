"""The engine for backends that one has to wait for: many operations, one commit.

Operations of a key wait in its *lane*, in call order. A *writer* takes the lanes that
are ready, loads their records at once, applies the operations (``fold``), commits all
writes at once, and only then answers. While it waits the next batch gathers. A *reader*
does the same for ``get``. A lane that lost against another process sleeps and runs
again; one whose write got no answer is settled by the record that a reload shows
(``rules.settle``). Callers wait on futures only: nobody but the writers and the reader
awaits the backend, so that a cancelled caller leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions.engine import rules
from botsessions.engine.fold import Fold, Operation
from botsessions.engine.rules import Verdict
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    CorruptRecordError,
    OutcomeUnknownError,
    OverloadedError,
    SessionError,
    StoreClosedError,
)
from botsessions.record import Write

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from botsessions.backend import Backend
    from botsessions.codec import Codec
    from botsessions.record import Loaded, Record

T = TypeVar("T")

MAX_ROWS = 512
MAX_BATCH_BYTES = 16 * 1024 * 1024
# How long functions may hold the event loop before what is done goes out.
MAX_FUNCTION_SECONDS = 0.005


class _State(enum.Enum):
    """Where a lane is; a key is in one batch at a time."""

    IDLE = enum.auto()
    READY = enum.auto()
    TAKEN = enum.auto()
    ASLEEP = enum.auto()


class _Lane:
    """What waits for one key, in call order, and the write that awaits its verdict."""

    __slots__ = ("doubtful", "key", "retries", "state", "taken", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.waiting: deque[Operation] = deque()
        self.taken: list[Operation] = []
        self.state = _State.IDLE
        self.retries = 0
        self.doubtful: Write | None = None


class _Worker:
    """A task that awaits the backend, and until when it does so.

    A timer for each call would cost more than the call's own bookkeeping; the engine
    has one, and moves it when it fires.
    """

    __slots__ = ("late", "task", "until")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.until: float | None = None
        self.late = False


class BatchedEngine:
    """Carries out operations over one backend on one event loop.

    ``timeout`` (seconds) bounds each operation; ``max_pending`` how many may wait.
    ``timer`` (seconds) measures how long functions take; ``rng`` makes tokens and
    jitter. Must be made on the running loop; ``prefix`` goes before each key.
    """

    def __init__(  # noqa: PLR0913 - everything it depends on is an argument
        self,
        backend: Backend,
        codec: Codec,
        policy: rules.Policy,
        *,
        prefix: str,
        timeout: float,
        max_pending: int,
        rng: random.Random,
        timer: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._codec = codec
        self._policy = policy
        self._prefix = prefix
        self._timeout = timeout
        # Half of the time to commit in, the other half to find out what happened.
        self._window = timeout / 2
        self._max_pending = max_pending
        self._rng = rng
        self._timer = timer
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[_Lane] = deque()
        self._reads: dict[str, list[asyncio.Future[Any]]] = {}
        self._pending = 0
        self._drained = asyncio.Event()
        self._closed: StoreClosedError | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._idle_reader: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._workers: list[_Worker] = []
        for number in range(backend.concurrent_batches):
            self._start(self._write_on, f"botsessions-writer-{number}")
        self._start(self._read_on, "botsessions-reader")

    # What the store calls. Each returns a future; to wait for it is the caller's part.

    def get(self, key: str) -> asyncio.Future[dict[Any, Any]]:
        """Read one session with the next load that starts after this call."""
        self._admit()
        future = self._loop.create_future()
        key = self._prefix + key
        waiting = self._reads.get(key)
        if waiting is None:
            self._reads[key] = [future]
        else:
            waiting.append(future)
        if self._idle_reader is not None:
            self._idle_reader.set_result(None)
            self._idle_reader = None
        return future

    def update(
        self, key: str, function: Callable[[dict[Any, Any]], Mapping[Any, Any]]
    ) -> asyncio.Future[dict[Any, Any]]:
        """Queue a function; it runs in the caller's context, on the event loop."""
        return self._queue(key, function=function, context=copy_context())

    def put(self, key: str, body: bytes) -> asyncio.Future[None]:
        """Queue the replacement of a session by a packed one."""
        return self._queue(key, body=body)

    def delete(self, key: str) -> asyncio.Future[None]:
        """Queue the removal of a session."""
        return self._queue(key)

    async def aclose(self) -> None:
        """Refuse new operations, finish those that wait, fail what cannot finish.

        Takes at most as long as an operation may take.
        """
        if self._closed is None:
            self._closed = StoreClosedError("the store is closed; open a new one")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout * 1.5):
                while self._pending:
                    self._drained.clear()
                    await self._drained.wait()
        tasks = [worker.task for worker in self._workers if worker.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_everything()

    # Admission.

    def _admit(self) -> None:
        if self._closed is not None:
            raise StoreClosedError(*self._closed.args)
        if self._pending >= self._max_pending:
            raise OverloadedError(
                f"{self._pending:,} calls are waiting already; this one did nothing. "
                "Slow down, or open the store with a larger max_pending"
            )
        self._pending += 1

    def _queue(self, key: str, **what: Any) -> asyncio.Future[Any]:
        self._admit()
        future: asyncio.Future[Any] = self._loop.create_future()
        operation = Operation(future, self._loop.time() + self._timeout, **what)
        key = self._prefix + key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        lane.waiting.append(operation)
        if lane.state is _State.IDLE:
            self._make_ready(lane)
        return future

    def _make_ready(self, lane: _Lane) -> None:
        lane.state = _State.READY
        self._ready.append(lane)
        if self._idle:
            self._idle.pop().set_result(None)

    # The workers, and how long they wait.

    def _start(
        self, work: Callable[[_Worker], Coroutine[Any, Any, None]], name: str
    ) -> None:
        worker = _Worker()
        self._workers.append(worker)
        # An empty context: a worker outlives the call that happened to start it.
        worker.task = self._loop.create_task(work(worker), name=name, context=Context())

    async def _call(
        self, worker: _Worker, work: Coroutine[Any, Any, T], limit: float
    ) -> T:
        """Await the backend; raise TimeoutError when it takes longer than the limit."""
        worker.until = self._loop.time() + limit
        if self._watch is None or self._watch.when() > worker.until:
            self._watch_until(worker.until)
        try:
            return await work
        except asyncio.CancelledError:
            if not worker.late:
                raise
            raise TimeoutError(f"no answer within {limit:.3g} s") from None
        finally:
            worker.until = None
            if worker.late:
                worker.late = False
                assert worker.task is not None  # noqa: S101 - it is running this
                worker.task.uncancel()

    def _watch_until(self, when: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Stop the calls whose time is over; look again when the next one's is."""
        self._watch = None
        now = self._loop.time()
        for worker in self._workers:
            if worker.until is None or worker.late or worker.task is None:
                continue
            if worker.until <= now:
                worker.late = True
                worker.task.cancel()
            elif self._watch is None or worker.until < self._watch.when():
                self._watch_until(worker.until)

    # The writers.

    async def _write_on(self, worker: _Worker) -> None:
        try:
            while True:
                if not self._ready:
                    idle = self._loop.create_future()
                    self._idle.append(idle)
                    await idle
                    continue
                batch = self._take()
                if batch:
                    await self._flush(worker, batch)
                    # Let the callers that were just answered join the next batch.
                    await asyncio.sleep(0)
        finally:
            self._fail_everything()

    def _take(self) -> list[_Lane]:
        """Take the lanes that are ready, without what is cancelled or too late."""
        now = self._loop.time()
        batch: list[_Lane] = []
        while self._ready and len(batch) < MAX_ROWS:
            lane = self._ready.popleft()
            lane.state = _State.TAKEN
            if lane.doubtful is None:
                lane.taken += lane.waiting
                lane.waiting.clear()
            lane.taken = [
                operation
                for operation in lane.taken
                if not self._is_over(lane, operation, now)
            ]
            if lane.taken:
                batch.append(lane)
            else:
                self._done(lane)
        return batch

    def _is_over(self, lane: _Lane, operation: Operation, now: float) -> bool:
        if not operation.future.done():
            if now < operation.deadline:
                return False
            operation.fail(self._too_late(lane))
        elif lane.doubtful is not None:
            # Its caller is gone, but its write may have landed: it stays a part of it.
            return now >= operation.deadline and self._finish(1)
        return self._finish(1)

    def _too_late(self, lane: _Lane) -> SessionError:
        if lane.doubtful is not None:
            return OutcomeUnknownError(
                f"no answer for {self._name(lane.key)} within {self._timeout:g} s: the change may "
                "have been applied once, or not at all. Read before you repeat it"
            )
        if lane.retries:
            return ConflictError(
                f"{self._name(lane.key)} was changed by other processes {lane.retries} times within "
                f"{self._timeout:g} s; nothing was written. Try again"
            )
        return BackendUnavailableError(
            f"{self._name(lane.key)} had no turn within {self._timeout:g} s; nothing was written"
        )

    def _finish(self, count: int) -> bool:
        self._pending -= count
        if not self._pending:
            self._drained.set()
        return True

    def _release(self, lane: _Lane) -> None:
        """Take a lane out of its batch: ready if something waits, else forgotten."""
        if lane.taken or lane.waiting:
            self._make_ready(lane)
        else:
            lane.state = _State.IDLE
            del self._lanes[lane.key]

    def _sleep(self, lane: _Lane) -> None:
        lane.state = _State.ASLEEP
        lane.retries += 1
        self._loop.call_later(
            rules.backoff(lane.retries, self._rng), self._make_ready, lane
        )

    async def _flush(self, worker: _Worker, batch: list[_Lane]) -> None:
        try:
            keys = [lane.key for lane in batch]
            loaded = await self._load(worker, keys, self._limit(batch))
        except BackendError as exc:
            for lane in batch:
                if lane.doubtful is None:
                    self._fail(lane, exc)
                else:
                    self._sleep(lane)
            return
        ends = self._timer() + MAX_FUNCTION_SECONDS

        def out_of_time() -> bool:
            return self._timer() > ends

        writes: dict[_Lane, Write] = {}
        size = 0
        for lane, record in zip(batch, loaded.records, strict=True):
            if writes and (size > MAX_BATCH_BYTES or out_of_time()):
                self._release(lane)
                continue
            write = self._next_write(lane, record, loaded.now, out_of_time)
            if write is not None:
                writes[lane] = write
                size += len(write.record.value)
        if writes:
            await self._commit(worker, writes)

    def _next_write(
        self,
        lane: _Lane,
        record: Record | None,
        now: int,
        out_of_time: Callable[[], bool],
    ) -> Write | None:
        """Settle a doubtful write or compute a new one; None if nothing is to be sent.

        In the latter case the lane has been answered and released.
        """
        if lane.doubtful is not None:
            verdict = rules.settle(lane.doubtful, record, now)
            if verdict is Verdict.NOT_YET:
                return lane.doubtful
            if verdict is Verdict.LANDED:
                self._answer(lane)
                return None
            if verdict is Verdict.UNKNOWN:
                self._fail(lane, self._vanished(lane))
                return None
            lane.doubtful = None
            self._drop_cancelled(lane)
            if not lane.taken:
                self._done(lane)
                return None
        return self._fold(lane, record, now, out_of_time)

    def _drop_cancelled(self, lane: _Lane) -> None:
        kept = [operation for operation in lane.taken if not operation.future.done()]
        self._finish(len(lane.taken) - len(kept))
        lane.taken = kept

    def _vanished(self, lane: _Lane) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"no answer came for {self._name(lane.key)}, and its record has changed too often since "
            "to tell: the change may have been applied once, or not at all"
        )

    def _fold(
        self,
        lane: _Lane,
        record: Record | None,
        now: int,
        out_of_time: Callable[[], bool],
    ) -> Write | None:
        before = b"" if record is None or record.is_dead(now) else record.value
        fold = Fold(self._codec, self._policy, self._name(lane.key), before)
        reached = fold.apply(lane.taken, out_of_time)
        if reached < len(lane.taken):
            lane.waiting.extendleft(reversed(lane.taken[reached:]))
            del lane.taken[reached:]
        value = fold.value()
        if value or before:
            token = rules.new_token(self._rng)
            following = rules.next_record(self._policy, record, value, now, token)
            if value != before or (
                record is not None and following.expires_at != record.expires_at
            ):
                return Write(
                    lane.key,
                    None if record is None else record.version,
                    following,
                    rules.not_after(record, now, int(self._window * 1000)),
                )
        # Nothing changed. Every operation was called before the load was sent, so what
        # it saw was current, and it can be answered without a write.
        self._answer(lane)
        return None

    async def _commit(
        self, worker: _Worker, writes: Mapping[_Lane, Write]
    ) -> None:
        """Send writes; a definite failure of several is split, so that one fails alone."""
        lanes = list(writes)
        try:
            work = self._backend.commit(list(writes.values()))
            landed = await self._call(worker, work, self._limit(lanes))
            if len(landed) != len(lanes):
                raise OutcomeUnknownError("the backend gave an answer too few or many")
        except BackendError as exc:
            if len(lanes) == 1 or isinstance(exc, BackendUnavailableError):
                for lane in lanes:
                    if lane.doubtful is None:
                        self._fail(lane, exc)
                    else:
                        self._sleep(lane)
                return
            middle = len(lanes) // 2
            for half in (lanes[:middle], lanes[middle:]):
                await self._commit(worker, {lane: writes[lane] for lane in half})
        except Exception:  # noqa: BLE001 - unknown: the records will tell
            for lane, write in writes.items():
                lane.doubtful = write
                self._sleep(lane)
        else:
            for lane, did in zip(lanes, landed, strict=True):
                # If the write was doubtful before, a conflict proves nothing: an earlier
                # copy may have landed and been replaced. The record will tell.
                if did:
                    self._answer(lane)
                else:
                    self._sleep(lane)

    async def _load(
        self, worker: _Worker, keys: Sequence[str], limit: float
    ) -> Loaded:
        try:
            loaded = await self._call(worker, self._backend.load(keys), limit)
        except BackendError:
            raise
        except TimeoutError as exc:
            raise BackendUnavailableError(
                f"the backend did not answer within {limit:.3g} s; nothing was written"
            ) from exc
        except Exception as exc:
            raise BackendError(f"the backend could not read: {exc!r}") from exc
        if len(loaded.records) != len(keys):
            raise BackendError("the backend gave a record too few or too many")
        return loaded

    def _limit(self, batch: Sequence[_Lane]) -> float:
        """Return how long the backend may take: no longer than an operation can wait."""
        earliest = min(lane.taken[0].deadline for lane in batch)
        left = max(earliest - self._loop.time(), 0.0)
        return min(left, self._window) + self._window / 10

    def _answer(self, lane: _Lane) -> None:
        for operation in lane.taken:
            operation.answer()
        self._done(lane)

    def _fail(self, lane: _Lane, error: SessionError) -> None:
        for operation in lane.taken:
            operation.fail(_own(error))
        self._done(lane)

    def _done(self, lane: _Lane) -> None:
        self._finish(len(lane.taken))
        lane.taken = []
        lane.doubtful = None
        lane.retries = 0
        self._release(lane)

    def _fail_everything(self) -> None:
        """Leave no caller hanging: the engine ends here (closed, or its loop is)."""
        if self._closed is None:
            self._closed = StoreClosedError(
                "the store ended with its event loop; open a new one"
            )
        closed = self._closed
        for lane in list(self._lanes.values()):
            in_doubt = lane.doubtful is not None or lane.state is _State.TAKEN
            for operation in lane.taken:
                operation.fail(
                    self._too_late(lane)
                    if in_doubt
                    else StoreClosedError(*closed.args)
                )
            for operation in lane.waiting:
                operation.fail(StoreClosedError(*closed.args))
        self._lanes.clear()
        self._ready.clear()
        self._idle.clear()
        self._idle_reader = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for futures in self._reads.values():
            for future in futures:
                if not future.done():
                    future.set_exception(StoreClosedError(*closed.args))
        self._reads.clear()
        self._finish(self._pending)

    # The reader.

    async def _read_on(self, worker: _Worker) -> None:
        try:
            while True:
                if not self._reads:
                    self._idle_reader = self._loop.create_future()
                    await self._idle_reader
                    continue
                keys = list(self._reads)[:MAX_ROWS]
                await self._read(worker, {key: self._reads.pop(key) for key in keys})
        finally:
            self._fail_everything()

    async def _read(
        self, worker: _Worker, batch: dict[str, list[asyncio.Future[Any]]]
    ) -> None:
        count = sum(map(len, batch.values()))
        try:
            loaded = await self._load(worker, list(batch), self._timeout)
        except BackendError as exc:
            for future in (future for futures in batch.values() for future in futures):
                if not future.done():
                    future.set_exception(_own(exc))
        else:
            for (key, futures), record in zip(
                batch.items(), loaded.records, strict=True
            ):
                dead = record is None or record.is_dead(loaded.now)
                self._answer_reads(key, futures, None if dead else record)
        finally:
            self._finish(count)

    def _answer_reads(
        self, key: str, futures: list[asyncio.Future[Any]], record: Record | None
    ) -> None:
        for future in futures:
            if future.done():
                continue
            try:
                session = {} if record is None else self._codec.decode(record.value)
            except CorruptRecordError as exc:
                future.set_exception(rules.corrupt(self._name(key), exc))
            else:
                future.set_result(session)

    def _name(self, key: str) -> str:
        return key.removeprefix(self._prefix)


def _own(error: SessionError) -> SessionError:
    """Return an exception object for one caller: a traceback grows where it is raised."""
    own = type(error)(*error.args)
    own.__cause__ = error.__cause__ or error
    return own
