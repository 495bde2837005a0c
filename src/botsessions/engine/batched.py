"""The engine for backends that one has to wait for: many operations, one commit.

Operations of a key wait in its *lane*, in call order. A *writer* takes the lanes that
are ready, loads their records at once, applies the operations (``fold``), commits all
writes at once, and only then answers. While it waits the next batch gathers. A lane
that lost against another process sleeps and runs again; one whose write got no answer
is settled by the record that a reload shows (``rules.settle``). Callers wait on futures
only: nobody but the writers and the ``reader`` awaits the backend (``calls``), so that
a cancelled caller leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from botsessions.engine import rules
from botsessions.engine.calls import Calls, own, wake
from botsessions.engine.fold import Fold, Guard, Operation
from botsessions.engine.gate import Gate
from botsessions.engine.lane import Lane, State
from botsessions.engine.pace import MAX_FUNCTION_SECONDS, Pace, share
from botsessions.engine.reader import Reader
from botsessions.engine.rules import Verdict
from botsessions.errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    OutcomeUnknownError,
    SessionError,
)
from botsessions.record import Write

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection, Iterable, Mapping
    from contextvars import Context

    from botsessions.backend import Backend, Outcome
    from botsessions.codec import Codec
    from botsessions.engine.calls import Worker
    from botsessions.record import Loaded, Record

    Found = Mapping[str, Record | BackendError | None]

MAX_BATCH_BYTES = 16 * 1024 * 1024
# How often, in each timeout, it is looked at who waits for too long.
LOOKS = 10
# For how many looks more a write that was sent may still be answered.
EXTRA_LOOKS = 2
# So many lanes are answered in one turn of the loop: if all callers of a large batch
# went on at once, the turn would be long, and what they make would pile up before any
# of it is done with, which keeps the garbage collector busy.
AT_ONCE = 8
# Behind every moment that a clock can show.
FOREVER = 1 << 62


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
        self._rng = rng
        self._timer = timer
        self._loop = asyncio.get_running_loop()
        self._gate = Gate(max_pending)
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[Lane] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._free_writers = backend.concurrent_batches
        self._pace = Pace()
        self._watch: asyncio.TimerHandle | None = None
        # A backend that waits until a write's end has a moment left to say so.
        self._calls = Calls(backend, self._window + timeout / LOOKS)
        self._reader = Reader(self._calls, codec, self._gate, prefix=prefix)
        for number in range(backend.concurrent_batches):
            self._calls.start(self._write, f"botsessions-writer-{number}", self._ended)
        self._calls.start(self._reader.work, "botsessions-reader", self._ended)

    # What the store calls. Each returns a future; to wait for it is the caller's part.

    def get_now(self, key: str) -> dict[Any, Any] | None:
        """Read one session at once, if the backend can without waiting; else None."""
        return self._reader.get_now(key)

    def get(self, key: str) -> asyncio.Future[dict[Any, Any]]:
        """Read one session with the next load that starts after this call."""
        future = self._reader.get(key, self._loop.time() + self._timeout)
        if self._watch is None:
            self._look_later()
        return future

    def update(
        self,
        key: str,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]],
        *,
        guard: Guard | None = None,
        policy: rules.Policy | None = None,
        context: Context | None = None,
    ) -> asyncio.Future[dict[Any, Any]]:
        """Queue a function; it runs in the caller's context, on the event loop.

        With a ``guard`` it fails with ``LockLostError`` unless that record is as it
        says. A ``policy`` of its own is the key's from now on, until it is idle.
        """
        context = copy_context() if context is None else context
        return self._queue(key, function, context, None, guard, policy)

    def put(
        self, key: str, body: bytes, *, guard: Guard | None = None
    ) -> asyncio.Future[None]:
        """Queue the replacement of a session by a packed one."""
        return self._queue(key, None, None, body, guard)

    def delete(self, key: str, *, guard: Guard | None = None) -> asyncio.Future[None]:
        """Queue the removal of a session."""
        return self._queue(key, None, None, None, guard)

    async def aclose(self) -> None:
        """Refuse new operations, finish those that wait, fail what cannot finish.

        Takes little longer than an operation may take.
        """
        self._gate.close("the store is closed; open a new one")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout * (1 + (EXTRA_LOOKS + 2) / LOOKS)):
                await self._gate.emptied()
        self._calls.cancel()
        await self._calls.ended()
        self._fail_everything()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Leave nobody waiting when a worker ends: closed, cancelled, or broken."""
        broken = None if task.cancelled() else task.exception()
        if broken is not None:
            self._gate.close(f"the store broke down: {broken!r}; open a new one")
        self._gate.close("the store ended with its event loop; open a new one")
        # As long as another works, what it answers is true, and ours would not be.
        if self._calls.cancel() == 0:
            self._fail_everything()

    def _queue(  # noqa: PLR0913, PLR0917 - what the calls above say
        self,
        key: str,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]] | None,
        context: Context | None,
        body: bytes | None,
        guard: Guard | None,
        policy: rules.Policy | None = None,
    ) -> asyncio.Future[Any]:
        self._gate.enter()
        future: asyncio.Future[Any] = self._loop.create_future()
        deadline = self._loop.time() + self._timeout
        operation = Operation(future, deadline, function, context, body, guard)
        key = self._prefix + key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        lane.waiting.append(operation)
        if guard is not None:
            guard.changes += 1
            lane.guarded = True
        if policy is not None:
            lane.policy = policy
        if lane.state is State.IDLE:
            self._make_ready(lane)
        if self._watch is None:
            self._look_later()
        return future

    def _make_ready(self, lane: Lane) -> None:
        lane.state = State.READY
        self._ready.append(lane)
        if self._idle:
            wake(self._idle.pop())

    # The watch.

    def _look_later(self) -> None:
        self._watch = self._loop.call_later(self._timeout / LOOKS, self._look)

    def _look(self) -> None:
        """End what takes too long: calls on the backend, and waiting for them.

        One timer for all, since a timer for each would cost more than the rest.
        """
        self._watch = None
        now = self._loop.time()
        self._calls.stop_late(now)
        self._reader.fail_late(now, self._too_late_to_read)
        for lane in self._lanes.values():
            self._fail_late(lane, now)
        if self._gate.pending or self._calls.under_way():
            self._look_later()

    def _fail_late(self, lane: Lane, now: float) -> None:
        """Answer those whose time is over, and leave them out of what comes.

        What is under way has a little longer: its answer may still tell for certain.
        """
        if lane.state is State.SENT:
            now -= self._timeout * EXTRA_LOOKS / LOOKS
        late = [
            operation
            for operations in (lane.taken, lane.waiting)
            for operation in operations
            if now >= operation.deadline
        ]
        if not late:
            return
        for operation in late:
            operation.fail(self._too_late(lane, operation))
        self._drop_answered(lane)
        if lane.state is State.COMPUTED:
            lane.state = State.TAKEN  # what was computed with them must not go out

    def _too_late(self, lane: Lane, operation: Operation) -> SessionError:
        name, limit = self._name(lane.key), f"within {self._timeout:g} s"
        if lane.is_in_doubt() and operation.changes:
            return self._unknown(lane, limit)
        if lane.retries and lane.doubtful is None:
            return ConflictError(
                f"no change of {name} got through {limit}, others were faster each "
                "time; nothing was written. Try again"
            )
        return BackendUnavailableError(
            f"no answer for {name} {limit}; nothing was written. Try again"
        )

    def _too_late_to_read(self, key: str) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"no answer for {self._name(key)} within {self._timeout:g} s. Try again"
        )

    def _drop_answered(self, lane: Lane) -> None:
        """Leave out who was answered or cancelled, unless its change is under way."""
        if lane.doubtful is None and lane.state is not State.SENT:
            lane.taken = self._kept(lane.taken)
        lane.waiting = deque(self._kept(lane.waiting))

    def _kept(self, operations: Collection[Operation]) -> list[Operation]:
        kept = [operation for operation in operations if not operation.future.done()]
        if len(kept) < len(operations):
            self._gate.leave(len(operations) - len(kept))
            for operation in operations:
                if operation.guard is not None and operation.future.done():
                    operation.guard.leave()
        return kept

    # The writers.

    async def _write(self, worker: Worker) -> None:
        while True:
            if not self._ready:
                idle = self._loop.create_future()
                self._idle.append(idle)
                await idle
                continue
            batch = self._take(share(len(self._ready), self._free_writers))
            if batch:
                self._free_writers -= 1
                await self._flush(worker, batch)
                self._free_writers += 1
                # Let the callers that were just answered join the next batch.
                await asyncio.sleep(0)

    def _take(self, most: int) -> list[Lane]:
        """Take lanes that are ready, as many as there is time for.

        Those who were cancelled are left out.
        """
        batch: list[Lane] = []
        operations = self._pace.operations_in_time()
        while self._ready and len(batch) < most and operations > 0:
            lane = self._ready.popleft()
            lane.state = State.TAKEN
            if lane.doubtful is None:
                lane.taken += lane.waiting
                lane.waiting.clear()
                lane.taken = self._kept(lane.taken)
                waits = bool(lane.taken)
            else:
                waits = not all(operation.future.done() for operation in lane.taken)
            if waits:
                batch.append(lane)
                operations -= len(lane.taken)
            else:
                self._done(lane)
        return batch

    def _unknown(self, lane: Lane, when: str) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"no answer for {self._name(lane.key)} {when}: the change may have been "
            "applied once, or not at all. Read before you repeat it"
        )

    def _release(self, lane: Lane) -> None:
        """Take a lane out of its batch: ready if something waits, else forgotten."""
        if lane.taken or lane.waiting:
            self._make_ready(lane)
        else:
            lane.state = State.IDLE
            del self._lanes[lane.key]

    def _sleep(self, lane: Lane) -> None:
        lane.state = State.ASLEEP
        lane.retries += 1
        self._loop.call_later(
            rules.backoff(lane.retries, self._rng), self._make_ready, lane
        )

    async def _flush(self, worker: Worker, batch: list[Lane]) -> None:
        keys = [lane.key for lane in batch]
        guarded = [lane for lane in batch if lane.guarded]
        if guarded:
            keys = list(dict.fromkeys([*keys, *self._guard_keys(guarded)]))
        try:
            loaded = await self._calls.load(worker, keys)
        except BackendError as exc:
            if len(batch) > 1 and not isinstance(exc, BackendUnavailableError):
                middle = len(batch) // 2
                for half in (batch[:middle], batch[middle:]):
                    await self._flush(worker, half)
                return
            for lane in batch:
                self._not_done(lane, exc)
            return
        found = dict(zip(keys, loaded.records, strict=True)) if guarded else {}
        lanes, writes = self._compute(batch, loaded, found)
        if writes:
            await self._commit(worker, lanes, writes)

    def _guard_keys(self, lanes: list[Lane]) -> list[str]:
        return [
            self._prefix + operation.guard.key
            for lane in lanes
            for operation in lane.taken
            if operation.guard is not None
        ]

    def _compute(
        self, batch: list[Lane], loaded: Loaded, found: Found
    ) -> tuple[list[Lane], list[Write]]:
        """Run the functions of a batch, as far as time and size allow.

        ``found`` are the same records by key, and those of guards, if there are any.
        """
        started = self._timer()
        ends = started + MAX_FUNCTION_SECONDS

        def out_of_time() -> bool:
            return self._timer() > ends

        lanes: list[Lane] = []
        writes: list[Write] = []
        left: list[Lane] = []
        size = operations = 0
        # Behind the records of the batch are those of guards.
        pairs = zip(batch, loaded.records, strict=False)
        for turn, (lane, record) in enumerate(pairs):
            if isinstance(record, BackendError):
                self._not_done(lane, record)
                continue
            if turn and (size > MAX_BATCH_BYTES or out_of_time()):
                lane.state = State.READY
                left.append(lane)
                continue
            operations += len(lane.taken)
            guards = found if lane.guarded else None
            write = self._next_write(lane, record, loaded.now, guards, out_of_time)
            if write is not None:
                lanes.append(lane)
                writes.append(write)
                size += len(write.record.value)
        self._pace.learn(self._timer() - started, operations)
        # What had no turn comes first in the next batch.
        self._ready.extendleft(reversed(left))
        if left and self._idle:
            wake(self._idle.pop())
        return lanes, writes

    def _next_write(
        self,
        lane: Lane,
        record: Record | None,
        now: int,
        guards: Found | None,
        out_of_time: Callable[[], bool],
    ) -> Write | None:
        """Settle a doubtful write or compute a new one; None if nothing is to be sent.

        In the latter case the lane has been answered and released.
        """
        if lane.doubtful is not None:
            verdict = rules.settle(lane.doubtful, record, now)
            if verdict is Verdict.NOT_YET:
                not_after = self._not_after(record, now)
                if guards is not None:
                    end = self._end_of_lease(lane, guards, now)
                    # Whoever lost the lock meanwhile must not send anything later.
                    not_after = min(end or lane.doubtful.not_after, not_after)
                return lane.doubtful._replace(not_after=not_after)
            if verdict is Verdict.LANDED:
                self._answer(lane)
                return None
            if verdict is Verdict.UNKNOWN:
                self._fail_changes(lane)
            lane.doubtful = None
            self._drop_answered(lane)
        not_after = self._not_after(record, now)
        if guards is not None:
            self._fail_lost(lane, guards, now)
            not_after = min(self._end_of_lease(lane, guards, now) or now, not_after)
        if not lane.taken:
            self._done(lane)
            return None
        return self._fold(lane, record, now, not_after, out_of_time)

    def _fail_lost(self, lane: Lane, guards: Found, now: int) -> None:
        """Answer those whose lock is not theirs any more, and leave them out."""
        for operation in lane.taken:
            if operation.guard is None:
                continue
            held = guards[self._prefix + operation.guard.key]
            if isinstance(held, BackendError):
                operation.fail(own(held))
            elif not _holds(held, operation.guard, now):
                operation.guard.is_lost = True
                operation.fail(rules.lock_lost(self._name(lane.key)))
        self._drop_answered(lane)

    def _end_of_lease(self, lane: Lane, guards: Found, now: int) -> int | None:
        """Return until when all with a guard may write; None if one may not any more.

        Far away if there is none.
        """
        end = FOREVER
        for operation in lane.taken:
            if operation.guard is not None:
                held = guards[self._prefix + operation.guard.key]
                if isinstance(held, BackendError) or held is None:
                    return None
                if not _holds(held, operation.guard, now):
                    return None
                end = min(end, FOREVER if held.expires_at is None else held.expires_at)
        return end

    def _fail_changes(self, lane: Lane) -> None:
        """Tell those whose change may have landed; the others can run again."""
        unknown = self._unknown(lane, "that its record remembers")
        for operation in lane.taken:
            if operation.changes:
                operation.doubt()
                operation.fail(own(unknown))

    def _fold(
        self,
        lane: Lane,
        record: Record | None,
        now: int,
        not_after: int,
        out_of_time: Callable[[], bool],
    ) -> Write | None:
        before = b"" if record is None or record.is_gone(now) else record.value
        fold = Fold(self._codec, self._policy, self._name(lane.key), before)
        reached = fold.apply(lane.taken, out_of_time)
        if reached < len(lane.taken):
            for operation in lane.taken[reached:]:
                operation.changes = False  # whatever it was in an earlier attempt
            lane.waiting.extendleft(reversed(lane.taken[reached:]))
            del lane.taken[reached:]
        value = fold.value()
        # An operation that raised writes nothing, not even a later end.
        if fold.succeeded and (value or before):
            token = rules.new_token(self._rng)
            policy = lane.policy or self._policy
            following = rules.next_record(
                policy, record, value, now, token, anew=fold.anew
            )
            if value != before or (
                record is not None and following.expires_at != record.expires_at
            ):
                return Write(
                    lane.key,
                    None if record is None else record.version,
                    following,
                    not_after,
                )
        # Nothing changed. Every operation was called before the load was sent, so what
        # it saw was current, and it can be answered without a write.
        self._answer(lane)
        return None

    def _not_after(self, record: Record | None, now: int) -> int:
        return rules.not_after(record, now, int(self._window * 1000))

    async def _commit(
        self, worker: Worker, lanes: list[Lane], writes: list[Write]
    ) -> None:
        """Send writes; a definite failure of several is split: one may fail alone."""
        for lane in lanes:
            lane.state = State.SENT
        try:
            landed = await self._calls.commit(worker, writes)
        except OutcomeUnknownError as exc:
            for lane, write in zip(lanes, writes, strict=True):
                self._told(lane, write, exc)
        except BackendError as exc:
            # One that is out of reach would fail each half as well.
            if len(lanes) > 1 and not isinstance(exc, BackendUnavailableError):
                await self._split(worker, lanes, writes)
                return
            for lane, write in zip(lanes, writes, strict=True):
                self._told(lane, write, exc)
        else:
            told = zip(lanes, writes, landed, strict=True)
            for turn, (lane, write, outcome) in enumerate(told, 1):
                self._told(lane, write, outcome)
                if not turn % AT_ONCE:
                    await asyncio.sleep(0)

    def _told(self, lane: Lane, write: Write, outcome: Outcome) -> None:
        """Act on what the backend says of one write."""
        if isinstance(outcome, OutcomeUnknownError):
            lane.doubtful = write
            self._sleep(lane)
        elif isinstance(outcome, BackendError):
            self._not_done(lane, outcome)
        elif outcome:
            self._answer(lane)
        else:
            # If the write was doubtful before, a conflict proves nothing: an earlier
            # copy may have landed and been replaced. The record will tell.
            self._sleep(lane)
            self._fail_late(lane, self._loop.time())

    async def _split(
        self, worker: Worker, lanes: list[Lane], writes: list[Write]
    ) -> None:
        for lane in lanes:
            lane.state = State.COMPUTED  # what was sent has certainly not landed
        middle = len(lanes) // 2
        await self._commit(worker, lanes[:middle], writes[:middle])
        left, writes_left = [], []
        for lane, write in zip(lanes[middle:], writes[middle:], strict=True):
            if lane.state is State.COMPUTED:
                left.append(lane)
                writes_left.append(write)
            else:
                self._release(lane)
        if left:
            await self._commit(worker, left, writes_left)

    def _not_done(self, lane: Lane, error: BackendError) -> None:
        """Pass on a definite failure, unless an earlier attempt is still in doubt."""
        if lane.doubtful is None:
            self._fail(lane, error)
        else:
            self._sleep(lane)

    def _answer(self, lane: Lane) -> None:
        lane.doubtful = None
        for operation in lane.taken:
            operation.answer()
        self._done(lane)

    def _fail(self, lane: Lane, error: SessionError) -> None:
        for operation in lane.taken:
            operation.fail(own(error))
        self._done(lane)

    def _done(self, lane: Lane) -> None:
        self._gate.leave(len(lane.taken))
        if lane.guarded:
            self._settle(lane.taken, in_doubt=lane.doubtful is not None)
        lane.taken = []
        lane.doubtful = None
        lane.retries = 0
        self._release(lane)

    @staticmethod
    def _settle(operations: Iterable[Operation], *, in_doubt: bool) -> None:
        """Tell guards that these are over, or given up while they may still land."""
        for operation in operations:
            if in_doubt and operation.changes:
                operation.doubt()
            if operation.guard is not None:
                operation.guard.leave()

    def _fail_everything(self) -> None:
        """Leave no caller hanging: the engine ends here."""
        if self._watch is not None:
            self._watch.cancel()
        for lane in self._lanes.values():
            for operation in lane.taken:
                if lane.is_in_doubt() and operation.changes:
                    unknown = self._unknown(lane, "before the store was closed")
                    operation.fail(unknown)
                else:
                    operation.fail(self._gate.refusal())
            for operation in lane.waiting:
                operation.fail(self._gate.refusal())
            self._settle(lane.taken, in_doubt=lane.is_in_doubt())
            self._settle(lane.waiting, in_doubt=False)
        self._lanes.clear()
        self._ready.clear()
        self._idle.clear()
        self._reader.fail(self._gate.refusal())
        self._gate.leave(self._gate.pending)

    def _name(self, key: str) -> str:
        return key.removeprefix(self._prefix)


def _holds(found: Record | None, guard: Guard, now: int) -> bool:
    return found is not None and found.value == guard.value and not found.is_gone(now)
