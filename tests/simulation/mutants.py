"""Faults planted in the product, to prove that the simulation sees them.

A mutant replaces snippets of a module's source (each must be there exactly once, so
that no mutant outlives what it changes) and swaps the code of the functions concerned,
for as long as it is planted. Nothing on disk changes, and no class exists twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """One planted fault: where it is, what stands there, what stands there instead.

    ``plan`` names the plan on which it is hunted, the one that shows it soonest.
    """

    name: str
    plan: str
    module: str
    changes: dict[str, str]

    def __str__(self) -> str:
        return self.name

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Let the functions of the module be the mutated ones."""
        module = importlib.import_module(self.module)
        mutated = dict(_codes(compile(self._source(), f"<{self.name}>", "exec")))
        swapped = []
        for function in _functions(vars(module), self.module):
            code = mutated.get(function.__qualname__)
            if code is not None:
                swapped.append((function, function.__code__))
                function.__code__ = code
        try:
            yield
        finally:
            for function, code in swapped:
                function.__code__ = code

    def _source(self) -> str:
        source = inspect.getsource(importlib.import_module(self.module))
        for snippet, replacement in self.changes.items():
            if source.count(snippet) != 1:
                raise AssertionError(
                    f"mutant {self.name!r} needs care: {self.module} has "
                    f"{source.count(snippet)} places like this, not one:\n{snippet}"
                )
            source = source.replace(snippet, replacement)
        return source


def _codes(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    """Walk the code of all functions in a piece of code."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant.co_qualname, constant
            yield from _codes(constant)


def _functions(namespace: dict[str, object], module: str) -> Iterator[FunctionType]:
    """Walk the functions and methods that a module defines."""
    for value in namespace.values():
        if isinstance(value, FunctionType) and value.__module__ == module:
            yield inspect.unwrap(value)
        elif isinstance(value, type) and value.__module__ == module:
            yield from _functions(dict(vars(value)), module)


_RECORD = "botsessions.record"
_RULES = "botsessions.engine.rules"
_FOLD = "botsessions.engine.fold"
_BATCHED = "botsessions.engine.batched"
_READER = "botsessions.engine.reader"
_GATE = "botsessions.engine.gate"
_INLINE = "botsessions.engine.inline"
_STORE = "botsessions.store"
_MEMORY = "botsessions.backends.memory"
# What the simulation itself has for a server and a network: they can be wrong as well.
_SERVER = "tests.simulation.server"
_REQUEST = "tests.simulation.request"

MUTANTS = [
    # The backend.
    Mutant(
        "no version compare",
        "several processes",
        _MEMORY,
        {
            "if (found.version if found is not None else None) != write.expected:": (
                "if False:"
            )
        },
    ),
    Mutant(
        "token ignored in the compare",
        "late and twice",
        _MEMORY,
        {
            "if (found.version if found is not None else None) != write.expected:": (
                "if (found and found.version.counter) != "
                "(write.expected and write.expected.counter):"
            )
        },
    ),
    Mutant(
        "not_after ignored by the backend",
        "expiry and faults",
        _MEMORY,
        {"if self.now() >= write.not_after:": "if False:"},
    ),
    Mutant(
        "tombstone swept at once",
        "swept at once",
        _MEMORY,
        {"end = self.now() - GRACE_MS": "end = self.now()"},
    ),
    # Versions, tokens, verdicts, ends.
    Mutant(
        "no ring",
        "lost answers",
        _RECORD,
        {"return token + record.ring[: 8 * (RING_LENGTH - 1)]": 'return b""'},
    ),
    Mutant(
        "only the head of the ring is asked",
        "created and deleted",
        _RULES,
        {
            "if write.record.version.token in remembered:": (
                "if write.record.version.token in remembered[:1]:"
            )
        },
    ),
    Mutant(
        "counter restarts after a delete",
        "created and deleted",
        _RULES,
        {
            "Version(record.version.counter + 1, token)": (
                "Version(record.version.counter + 1 if record.value else 1, token)"
            )
        },
    ),
    Mutant(
        "lost if somebody else's creation is there",
        "created and deleted",
        _RULES,
        {"return Verdict.LOST if whole else Verdict.UNKNOWN": "return Verdict.LOST"},
    ),
    Mutant(
        "lost if the ring has forgotten",
        "created and deleted",
        _RULES,
        {"if write.expected.token in remembered:": "if True:"},
    ),
    Mutant(
        "blind retry under a new token",
        "late and refused",
        _RULES,
        {
            "return Verdict.UNKNOWN if revives else Verdict.NOT_YET": (
                "return Verdict.LOST"
            )
        },
    ),
    Mutant(
        "sent again with an end that is over",
        "one loss",
        _BATCHED,
        {"lane.doubtful._replace(not_after=not_after)": ("lane.doubtful")},
    ),
    Mutant(
        "sent again to revive what has expired",
        "expiry and faults",
        _BATCHED,
        {
            "lane.doubtful._replace(not_after=not_after)": (
                "lane.doubtful._replace(not_after=now + int(self._window * 1000))"
            )
        },
    ),
    Mutant(
        "no end to not_after",
        "swept behind one's back",
        _RULES,
        {"end = now + window": "end = now + 10**9"},
    ),
    Mutant(
        "expired session revived: not_after ignores its end",
        "expiry",
        _RULES,
        {"return min(end, record.expires_at)": "return end"},
    ),
    Mutant(
        "the end of a session never moves",
        "expiry",
        _RULES,
        {"if 0 <= moved <= self.ttl // 10 else end": "if 0 <= moved else end"},
    ),
    # Outcomes.
    Mutant(
        "unknown taken for success",
        "lost answers",
        _BATCHED,
        {"lane.doubtful = write": "return self._answer(lane)"},
    ),
    Mutant(
        "unknown taken for failure, and run again",
        "lost answers",
        _BATCHED,
        {"lane.doubtful = write": "lane.doubtful = None"},
    ),
    Mutant(
        "unknown told as failure",
        "silence",
        _BATCHED,
        {"lane.doubtful = write": "return self._fail(lane, BackendError())"},
    ),
    Mutant(
        "unknown of one write taken for a conflict",
        "several servers, one of them away",
        _BATCHED,
        {"lane.doubtful = write": "pass"},
    ),
    Mutant(
        "record that cannot be read taken for none",
        "several servers, one of them away",
        _BATCHED,
        {
            "                self._not_done(lane, record)\n                continue": (
                "                record = None"
            )
        },
    ),
    Mutant(
        "record that cannot be read shown as none",
        "several servers, one of them away",
        _READER,
        {
            "                self._refuse(reads, record)\n                continue": (
                "                record = None"
            )
        },
    ),
    Mutant(
        "conflict of a doubtful write taken for a loss",
        "late and refused",
        _BATCHED,
        {
            "        elif outcome:\n": (
                "        elif [setattr(lane, 'doubtful', None)] and outcome:\n"
            )
        },
    ),
    Mutant(
        "failure of a doubtful write taken for a failure",
        "late and refused",
        _BATCHED,
        {
            "        if lane.doubtful is None:\n            self._fail(lane, error)": (
                "        if True:\n            self._fail(lane, error)"
            )
        },
    ),
    Mutant(
        "doubtful at the deadline told as failure",
        "no time",
        _BATCHED,
        {
            "if lane.is_in_doubt() and operation.changes:\n            return": (
                "if False:\n            return"
            )
        },
    ),
    Mutant(
        "one bad row fails the whole batch",
        "one poisoned key",
        _BATCHED,
        {
            "if len(lanes) > 1 and not isinstance(exc, BackendUnavailableError):": (
                "if False:"
            )
        },
    ),
    Mutant(
        "unknown told to those who changed nothing",
        "no time",
        _BATCHED,
        {
            "if lane.is_in_doubt() and operation.changes:\n            return": (
                "if lane.is_in_doubt():\n            return"
            )
        },
    ),
    Mutant(
        "unknown told to those who could run again",
        "expiry and faults",
        _BATCHED,
        {
            "            if operation.changes:\n                operation.doubt": (
                "            if True:\n                operation.doubt"
            )
        },
    ),
    Mutant(
        "what may have landed is run again",
        "created and deleted",
        _BATCHED,
        {
            "            if operation.changes:\n                operation.doubt": (
                "            if False:\n                operation.doubt"
            )
        },
    ),
    # Who is answered, when, and with what.
    Mutant(
        "answer before the commit",
        "several processes",
        _BATCHED,
        {
            "            await self._commit(worker, lanes, writes)\n": (
                "            [o.answer() for lane in lanes for o in lane.taken]\n"
                "            await self._commit(worker, lanes, writes)\n"
            )
        },
    ),
    Mutant(
        "late joiner answered from an older load",
        "watchers",
        _BATCHED,
        {
            "            write = self._next_write(": (
                "            if lane.doubtful is None:\n"
                "                lane.taken += lane.waiting\n"
                "                lane.waiting.clear()\n"
                "            write = self._next_write("
            )
        },
    ),
    Mutant(
        "no change answered without a current read",
        "several processes",
        _BATCHED,
        {
            "            write = self._next_write(": (
                "            known = self.__dict__.setdefault('known', {})\n"
                "            record = known.get(lane.key, record)\n"
                "            write = self._next_write("
            ),
            "        if isinstance(outcome, OutcomeUnknownError):\n": (
                "        known = self.__dict__.setdefault('known', {})\n"
                "        known.pop(lane.key, None)\n"
                "        if outcome is True:\n"
                "            known[lane.key] = write.record\n"
                "        if isinstance(outcome, OutcomeUnknownError):\n"
            ),
        },
    ),
    Mutant(
        "conflict answers those that raised",
        "several processes",
        _BATCHED,
        {
            "        elif outcome:\n": (
                "        elif ([o.answer() for o in lane.taken if o.error]"
                ", outcome)[1]:\n"
            )
        },
    ),
    Mutant(
        "conflict loses those that raised",
        "several processes",
        _BATCHED,
        {
            "            self._fail_late(lane, self._loop.time())\n": (
                "            lane.taken = [o for o in lane.taken if not o.error]\n"
                "            self._fail_late(lane, self._loop.time())\n"
            )
        },
    ),
    Mutant(
        "get served from memory of an earlier load",
        "several processes",
        _READER,
        {
            "            gone = record is None or record.is_gone(loaded.now)\n": (
                "            seen = self.__dict__.setdefault('seen', {})\n"
                "            record = seen.setdefault(key, record)\n"
                "            gone = record is None or record.is_gone(loaded.now)\n"
            )
        },
    ),
    Mutant(
        "get answered by a load that was sent before it",
        "one process, many callers",
        _READER,
        {
            "            gone = record is None or record.is_gone(loaded.now)\n": (
                "            futures += self._waiting.pop(key, [])\n"
                "            gone = record is None or record.is_gone(loaded.now)\n"
            )
        },
    ),
    Mutant(
        "expired row served to get",
        "expiry",
        _READER,
        {
            "gone = record is None or record.is_gone(loaded.now)": (
                "gone = record is None or not record.value"
            )
        },
    ),
    Mutant(
        "expired row served to update",
        "expiry",
        _BATCHED,
        {
            'b"" if record is None or record.is_gone(now) else': (
                'b"" if record is None else'
            )
        },
    ),
    Mutant(
        "tombstone ends when the clock is set back",
        "clock corrected",
        _RECORD,
        {"return not self.value or self.is_dead(now)": "return self.is_dead(now)"},
    ),
    Mutant(
        "a function that raised writes a later end",
        "expiry",
        _BATCHED,
        {"if fold.succeeded and (value or before):": "if value or before:"},
    ),
    Mutant(
        "combined updates share a flat session",
        "one process, many callers",
        _FOLD,
        {"return self._spare.copy()": "return self._spare"},
    ),
    Mutant(
        "combined updates share the inside of a session",
        "one process, many callers",
        _FOLD,
        {"None if gc.is_tracked(copy) else copy.copy()": "copy.copy()"},
    ),
    Mutant(
        "two gets share a session",
        "overload",
        _READER,
        {
            "                future.set_result(session)\n": (
                "                first = futures[0]\n"
                "                if first.done() and not first.cancelled():\n"
                "                    session = first.result()\n"
                "                future.set_result(session)\n"
            )
        },
    ),
    # Lanes, slots, wake-ups.
    Mutant(
        "a key in flight twice",
        "two batches at once",
        _BATCHED,
        {
            "        if lane.state is State.IDLE:\n": (
                "        if lane.state is not State.READY:\n"
            )
        },
    ),
    Mutant(
        "a cancelled call keeps its slot",
        "cancelled",
        _BATCHED,
        {
            "        if len(kept) < len(operations):\n": "        if False:\n",
        },
    ),
    Mutant(
        "nobody looks who waits for too long",
        "no time",
        _BATCHED,
        {"            self._fail_late(lane, now)\n": "            pass\n"},
    ),
    Mutant(
        "nobody looks for reads that take too long",
        "slow",
        _BATCHED,
        {
            "        self._reader.fail_late(now, self._too_late_to_read)\n": (
                "        pass\n"
            )
        },
    ),
    Mutant(
        "a call on the backend may take for ever",
        "silence",
        _BATCHED,
        {"        self._calls.stop_late(now)\n": "        pass\n"},
    ),
    Mutant(
        "told that it was too late, and sent with the other half",
        "split and slow",
        _BATCHED,
        {"lane.state = State.TAKEN  # what": "pass  # what"},
    ),
    Mutant(
        "told that it was too late, and applied all the same",
        "slow",
        _BATCHED,
        {
            "operation))\n        self._drop_answered(lane)\n": "operation))\n",
        },
    ),
    Mutant(
        "lost wake-up after a back-off",
        "several processes",
        _BATCHED,
        {"self._rng), self._make_ready, lane": "self._rng), self._ready.append, lane"},
    ),
    Mutant(
        "what came during a commit is forgotten",
        "one process, many callers",
        _BATCHED,
        {"if lane.taken or lane.waiting:": "if lane.taken:"},
    ),
    Mutant(
        "calls for which no time was left are forgotten",
        "one process, many callers",
        _BATCHED,
        {"lane.waiting.extendleft(reversed(lane.taken[reached:]))": "pass"},
    ),
    Mutant(
        "keys for which no time was left are forgotten",
        "two batches at once",
        _BATCHED,
        {"self._ready.extendleft(reversed(left))": "pass"},
    ),
    # A server that crashes.
    Mutant(
        "acknowledged before it is durable",
        "the server crashes",
        _SERVER,
        {"if not self._undurable:": "if True:"},
    ),
    Mutant(
        "shown before it is durable",
        "the server crashes",
        _SERVER,
        {
            "        if self._disk is None:\n            return at_once": (
                "        if True:\n            return at_once"
            )
        },
    ),
    Mutant(
        "refused because of what is not durable",
        "the server crashes, created and deleted",
        _REQUEST,
        {
            "durable = server.when_durable()": (
                "durable = server.when_durable() if any(landed) else None"
            )
        },
    ),
    Mutant(
        "a restart forgets what was deleted",
        "the server crashes, created and deleted",
        _SERVER,
        {
            "for key, record in self._durable.items():": (
                "for key, record in [i for i in self._durable.items() if i[1].value]:"
            )
        },
    ),
    Mutant(
        "a restart forgets one record",
        "the server crashes",
        _SERVER,
        {
            "self.lost += len(self._undurable)": (
                "self.lost += bool(self._durable and self._durable.popitem())"
            )
        },
    ),
    Mutant(
        "gone for a moment: readers do not wait for what is being made durable",
        "the server crashes while sessions expire",
        _SERVER,
        {"if self._disk is None or not self._disk.readers_wait:": "if True:"},
    ),
    # Clocks.
    Mutant(
        "an update goes by the clock of its process",
        "no clock goes right, and sessions expire",
        _BATCHED,
        {
            "write = self._next_write(lane, record, loaded.now,": (
                "now = int(10**9 + 1000 * self._loop.time())\n"
                "            write = self._next_write(lane, record, now,"
            )
        },
    ),
    Mutant(
        "a read goes by the clock of its process",
        "no clock goes right, and sessions expire",
        _READER,
        {
            "gone = record is None or record.is_gone(loaded.now)": (
                "now = int(10**9 + 1000 * self._loop.time())\n"
                "            gone = record is None or record.is_gone(now)"
            )
        },
    ),
    Mutant(
        "a new session is as old as the one before",
        "expiry and faults",
        _RULES,
        {
            "created_at = now if anew else record.created_at": (
                "created_at = record.created_at"
            )
        },
    ),
    Mutant(
        "the counter wraps",
        "created and deleted",
        _RULES,
        {
            "Version(record.version.counter + 1, token)": (
                "Version((record.version.counter + 1) % 4, token)"
            )
        },
    ),
    Mutant(
        "the second half of a split is told that it failed",
        "one poisoned key",
        _BATCHED,
        {
            "            await self._commit(worker, left, writes_left)": (
                "            [self._fail(lane, BackendError()) for lane in left]"
            )
        },
    ),
    # Reading without waiting.
    Mutant(
        "expired row served to a get that need not wait",
        "data on this machine",
        _READER,
        {
            "        if record is None or record.is_gone(loaded.now):\n": (
                "        if record is None or not record.value:\n"
            )
        },
    ),
    Mutant(
        "what cannot be read at once is shown as none",
        "data on this machine",
        _READER,
        {"            raise record\n": "            return {}\n"},
    ),
    Mutant(
        "a get that need not wait is served from memory",
        "data on this machine",
        _READER,
        {
            "loaded = self._calls.load_now((key,))": (
                "seen = self.__dict__.setdefault('seen', {})\n"
                "        loaded = seen.get(key) or self._calls.load_now((key,))\n"
                "        seen[key] = loaded"
            )
        },
    ),
    # The engine in front of records in this process.
    Mutant(
        "expired row served, inline",
        "data in this process expire",
        _INLINE,
        {"if entry.is_gone(self._backend.now()):": "if not entry.value:"},
    ),
    Mutant(
        "a function that raised has changed the session, inline",
        "data in this process",
        _INLINE,
        {
            "        except TypeError:\n            rules.check_function(function)\n": (
                "        except Exception:\n"
                "            records[text] = packb(session, None, PLAIN)\n"
            )
        },
    ),
    Mutant(
        "two stores have a record of their own, inline",
        "data in this process",
        _INLINE,
        {"self._records = table.records": "self._records = dict(table.records)"},
    ),
    # Walks, and what is swept.
    Mutant(
        "a walk comes upon what has expired",
        "walks",
        _STORE,
        {"if record.is_gone(page.now) or not": "if not record.value or not"},
    ),
    Mutant(
        "a walk comes upon what was deleted",
        "walks",
        _STORE,
        {"if record.is_gone(page.now) or not": "if record.value == b'-' or not"},
    ),
    Mutant(
        "a walk comes upon locks",
        "locked by some",
        _STORE,
        {"if after is not None else BEHIND_LOCKS": "if after is not None else ''"},
    ),
    Mutant(
        "a walk ends with its first page",
        "walks",
        _STORE,
        {
            "                if not wanted or _has(key, wanted):\n"
            "                    yield key, record\n": (
                "                if not wanted or _has(key, wanted):\n"
                "                    yield key, record\n"
                "            break\n"
            )
        },
    ),
    Mutant(
        "nothing is swept",
        "swept at once",
        _MEMORY,
        {"                    len(dead) < limit\n": "                    False\n"},
    ),
    # Locks among calls that know nothing of them.
    Mutant(
        "the guard is forgotten after a conflict",
        "locked by some",
        _BATCHED,
        {
            "been replaced. The record will tell.\n": (
                "been replaced. The record will tell.\n"
                "            lane.guarded = False\n"
            )
        },
    ),
    Mutant(
        "a lock guards nothing",
        "everything",
        _BATCHED,
        {
            "        return self._queue(key, None, None, body, guard)": (
                "        return self._queue(key, None, None, body, None)"
            ),
            "context, None, guard, policy)": "context, None, None, policy)",
        },
    ),
    # Giving up too soon, or for another's trouble.
    Mutant(
        "a conflict is told at once",
        "crashes",
        _BATCHED,
        {
            "            self._sleep(lane)\n"
            "            self._fail_late(lane, self._loop.time())\n": (
                "            if lane.doubtful is None:\n"
                "                return self._fail(lane, ConflictError())\n"
                "            self._sleep(lane)\n"
            )
        },
    ),
    Mutant(
        "a write that was lost on its way is not sent again",
        "silence",
        _BATCHED,
        {
            "            if verdict is Verdict.NOT_YET:\n": (
                "            if verdict is Verdict.NOT_YET:\n"
                "                self._fail(lane, BackendError())\n"
                "                return None\n"
                "            if False:\n"
            )
        },
    ),
    Mutant(
        "what cannot be loaded fails all that was loaded with it",
        "expiry and faults",
        _BATCHED,
        {
            "if len(batch) > 1 and not isinstance(exc, BackendUnavailableError):": (
                "if False:"
            )
        },
    ),
    Mutant(
        "what cannot be read fails all that was read with it",
        "several servers, one of them away",
        _READER,
        {
            "if len(batch) > 1 and not isinstance(exc, BackendUnavailableError):": (
                "if False:"
            )
        },
    ),
    Mutant(
        "overloaded by one less than may wait",
        "overload",
        _GATE,
        {"if self.pending >= self._most:": "if self.pending + 1 >= self._most:"},
    ),
    Mutant(
        "a slot is given back twice",
        "one process, many callers",
        _READER,
        {"self._gate.leave(sum(": "self._gate.leave(1 + sum("},
    ),
    Mutant(
        "a lock is told lost before its lease is over",
        "locked by some",
        _BATCHED,
        {
            "elif not _holds(held, operation.guard, now):": (
                "elif not _holds(held, operation.guard, now + 500):"
            )
        },
    ),
    # What takes too long, or ends by itself.
    Mutant(
        "letting go of a lock takes for ever",
        "locked by some",
        "botsessions.lock.locks",
        {
            "if ending is not None and await asyncio.shield(ending):": (
                "await asyncio.sleep(100)\n"
                "        if ending is not None and await asyncio.shield(ending):"
            )
        },
    ),
    Mutant(
        "a walk rests at each page",
        "walks",
        _STORE,
        {
            "async for page in backend.list_pages(prefix, begin, _PAGE):\n": (
                "async for page in backend.list_pages(prefix, begin, _PAGE):\n"
                "            await asyncio.sleep(0.1)\n"
            )
        },
    ),
    Mutant(
        "a walk is cancelled, and by nobody",
        "walks",
        _STORE,
        {"wanted = _wanted(parts)\n": "raise asyncio.CancelledError\n"},
    ),
    Mutant(
        "a walk ends at a page that gets no answer",
        "walks",
        _STORE,
        {
            "        async for page in backend.list_pages(prefix, begin, _PAGE):\n": (
                "        async def pages():\n"
                "            try:\n"
                "                async for page in backend.list_pages("
                "prefix, begin, _PAGE):\n"
                "                    yield page\n"
                "            except BackendError:\n"
                "                pass\n"
                "        async for page in pages():\n"
            )
        },
    ),
]
