"""Apply the waiting operations of one key, in order, to what was loaded.

Pure but for the callers' functions: given a session's bytes, it computes each
operation's answer and the bytes that follow. Nothing is answered here; ``batched`` does
that once the commit on which the answers rest is acknowledged.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from botsessions.codec import EMPTY, holds, seal
from botsessions.engine import rules
from botsessions.errors import CorruptRecordError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Context

    from botsessions.codec import Codec


class Guard:
    """A record that must be there, alive and with this value, for an operation to land.

    It is a lock's: whoever holds the lock may write as long as it says so. ``changes``
    counts the operations under it that may still land, also when nobody waits for them
    any more; who waits until there are none does so for ``settled``. It ``is_doubtful``
    once one of them was given up and may land for ever so, and ``is_lost`` once one was
    refused because the record was not there.
    """

    __slots__ = ("changes", "is_doubtful", "is_lost", "key", "settled", "value")

    def __init__(self, key: str, value: bytes) -> None:
        self.key = key
        self.value = value
        self.changes = 0
        self.is_doubtful = False
        self.is_lost = False
        self.settled: asyncio.Future[None] | None = None

    def leave(self) -> None:
        """Count out an operation that will not land any more, or has."""
        self.changes -= 1
        if not self.changes and self.settled is not None and not self.settled.done():
            self.settled.set_result(None)


class Operation:
    """One call that waits: an update, a put (``body``), or a delete (neither).

    ``result`` or ``error`` is its answer as last computed, valid only if the commit
    that it rests on lands; ``changes`` tells whether it is a part of that commit.
    """

    __slots__ = (
        "body",
        "changes",
        "context",
        "deadline",
        "error",
        "function",
        "future",
        "guard",
        "result",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - what a call says
        self,
        future: asyncio.Future[Any],
        deadline: float,
        function: Callable[[dict[Any, Any]], Mapping[Any, Any]] | None,
        context: Context | None,
        body: bytes | None,
        guard: Guard | None,
    ) -> None:
        self.future = future
        self.deadline = deadline
        self.function = function
        self.context = context
        self.body = body
        self.guard = guard
        self.result: dict[Any, Any] | None = None
        self.error: BaseException | None = None
        self.changes = False

    def doubt(self) -> None:
        """Note that nobody will know whether it lands."""
        if self.guard is not None:
            self.guard.is_doubtful = True

    def answer(self) -> None:
        """Give the caller what was computed, unless it was cancelled meanwhile."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.fail(self.error)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error, unless it was cancelled meanwhile."""
        if self.future.done():
            return
        if isinstance(error, StopIteration):
            # A future cannot carry one, and no coroutine can raise one (PEP 479).
            wrapped = RuntimeError("the function given to update raised StopIteration")
            wrapped.__cause__ = error
            error = wrapped
        self.future.set_exception(error)


class Fold:
    """The state of one session while operations are applied to it.

    ``succeeded`` tells whether any of them did, ``anew`` whether there was no session
    at some moment: what there is now was made since.
    """

    __slots__ = (
        "_alive",
        "_body",
        "_codec",
        "_key",
        "_policy",
        "_spare",
        "_value",
        "anew",
        "succeeded",
    )

    def __init__(
        self, codec: Codec, policy: rules.Policy, key: str, value: bytes
    ) -> None:
        self._codec = codec
        self._policy = policy
        self._key = key
        # The session is ``_value`` (sealed, as loaded; empty if there is none) until an
        # operation changes it to ``_body``; ``_spare`` is a flat copy of it, if any.
        self._alive = bool(value)
        self._value = value
        self._body: bytes | None = None
        self._spare: dict[Any, Any] | None = None
        self.succeeded = False
        self.anew = not value

    def apply(
        self, operations: Sequence[Operation], out_of_time: Callable[[], bool]
    ) -> int:
        """Compute the answers of operations in order; return how many were reached.

        Stops early, but not before the first, when ``out_of_time`` says so.
        """
        for count, operation in enumerate(operations, 1):
            operation.error = operation.result = None
            operation.changes = True
            try:
                if operation.function is not None:
                    self._update(operation)
                elif operation.body is not None:
                    self._alive, self._body, self._spare = True, operation.body, None
                else:
                    self._end()
            except BaseException as exc:  # noqa: BLE001 - it is the caller's, as it is
                operation.error = exc
                operation.changes = False
            else:
                self.succeeded = True
            if not count % 4 and out_of_time():
                return count
        return len(operations)

    def value(self) -> bytes:
        """Return the sealed bytes that the session has come to (empty if deleted)."""
        if not self._alive:
            return b""
        return self._value if self._body is None else seal(self._body)

    def _update(self, operation: Operation) -> None:
        session = self._session()
        assert operation.function is not None  # noqa: S101 - for the type checker
        assert operation.context is not None  # noqa: S101
        new = operation.context.run(operation.function, session)
        if type(new) is not dict:
            new = rules.check_returned(new)
        body, copy = self._codec.pack(new)
        self._policy.check_size(body)
        operation.result = copy
        if body == EMPTY:
            # It reads like no session from now on, so nothing is kept of it.
            operation.changes = self._alive
            self._end()
            return
        if self._body is not None:
            operation.changes = body != self._body
        elif self._alive:
            operation.changes = not holds(self._value, body)
        self._alive = True
        self._body = body
        self._spare = None if gc.is_tracked(copy) else copy.copy()

    def _end(self) -> None:
        self._alive, self._body, self._spare = False, None, None
        self.anew = True

    def _session(self) -> dict[Any, Any]:
        """Return the session as it stands, in a dict of its own."""
        if not self._alive:
            return {}
        if self._spare is not None:
            return self._spare.copy()
        if self._body is not None:
            return self._codec.unpack(self._body)
        try:
            return self._codec.decode(self._value)
        except CorruptRecordError as exc:
            raise rules.corrupt(self._key, exc) from exc
