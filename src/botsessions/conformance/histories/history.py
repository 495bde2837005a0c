"""What the callers did and were told: every call, from its beginning to its answer.

Each change carries an id of its own and leaves it in the session, behind those that it
found there: a session's content is the list of the changes that made it. A ``put``
leaves its id alone, a ``delete`` none. So each answer shows the whole order of events,
and ``order`` and ``linearizability`` can judge it. A counter shows how many came before
instead (``counters``). ``recording`` writes such histories, ``shrink`` and ``timeline``
make one that was rejected readable.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import re
import sys
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping


class _HasKey(Protocol):
    @property
    def key(self) -> str: ...


_Keyed = TypeVar("_Keyed", bound=_HasKey)
Ids: TypeAlias = tuple[int, ...]

# What ``Shape`` makes of ids.
_FLAT = re.compile(r"(-?[0-9]{1,20} )*")
# How many ids of a content are shown.
_SHOWN = 8

# The return time of a call that may take effect at any later moment.
NEVER = sys.maxsize


class Violation(AssertionError):  # noqa: N818 - it names what it is
    """A law was broken, and this is how one can tell.

    ``calls`` are those that show it; the message lists them.
    """

    def __init__(self, message: str, *calls: Any) -> None:
        self.calls = tuple(dict.fromkeys(calls))
        super().__init__(message + listed(*self.calls))


class Verb(enum.StrEnum):
    """What a call asks for."""

    GET = "get"
    OBSERVE = "update (no change)"
    """An update whose function returns what it was given."""
    REFUSE = "update (raises)"
    """An update whose function changes its dict and then raises ``Refused``."""
    UPDATE = "update"
    PUT = "put"
    DELETE = "delete"


READS = (Verb.GET, Verb.OBSERVE, Verb.REFUSE)
CHANGES = (Verb.UPDATE, Verb.PUT)


class Outcome(enum.Enum):
    """What the caller may conclude from the answer."""

    DONE = "done"
    """It took effect once, between call and return."""
    FAILED = "failed"
    """It took no effect and never will."""
    UNKNOWN = "unknown"
    """It took or will take effect once or never (also: cancelled, not yet answered)."""


@dataclasses.dataclass(slots=True, eq=False)
class Call:
    """One call and its answer.

    ``called`` and ``returned`` are ticks: what returned before another was called has a
    lower one. ``called_at`` and ``returned_at`` are the server's clock then (ms).
    ``saw`` is the content of the answered session, ``count`` its number if it is a
    counter; of these a call has one at most.
    """

    id: int
    key: str
    verb: Verb
    called: int
    called_at: int = 0
    process: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    returned: int = NEVER
    returned_at: int = NEVER
    saw: Ids | None = None
    note: str = ""
    count: int | None = None

    @property
    def end(self) -> int:
        """The tick by which it has taken effect, if it does."""
        return self.returned if self.outcome is Outcome.DONE else NEVER

    def __str__(self) -> str:
        answer = self.note or self.outcome.value
        if self.saw is not None:
            answer = f"{answer}, saw {shown(self.saw)}"
        if self.count is not None:
            answer = f"{answer}, count {self.count}"
        end = "…" if self.returned == NEVER else self.returned
        return (
            f"#{self.id} {self.verb} {self.key} by {self.process or 'a caller'} "
            f"[{self.called}, {end}]: {answer}"
        )


class History:
    """The calls of one run, in the order in which they began.

    ``tick`` tells the moment of an event; unless given, the history counts. Workers in
    several processes of one machine take ``time.monotonic_ns``, and ids of their own:
    ``first`` and, to the next one, ``stride`` (worker 2 of 8: ``first=2, stride=8``).
    Calls with a common tick count as simultaneous. ``now`` is the server's clock in
    milliseconds, if anybody judges it. ``keep`` gets each call when it begins and again
    when it ends, for a file that survives the process.
    """

    def __init__(
        self,
        now: Callable[[], int] = lambda: 0,
        *,
        tick: Callable[[], int] | None = None,
        first: int = 1,
        stride: int = 1,
        keep: Callable[[Call], object] = lambda call: None,  # noqa: ARG005 - none does
    ) -> None:
        if not 1 <= first <= stride:
            raise ValueError("first is 1 or more, 0 is no id, and at most the stride")
        self._now = now
        self._tick = tick if tick is not None else itertools.count(1).__next__
        self._ids = itertools.count(first, stride)
        self._keep = keep
        self.calls: list[Call] = []

    def tick(self) -> int:
        """Return this moment."""
        return self._tick()

    def begin(self, key: str, verb: Verb, process: str = "") -> Call:
        """Note that a call begins now."""
        call = Call(next(self._ids), key, verb, self.tick(), self._now(), process)
        self.calls.append(call)
        self._keep(call)
        return call

    def end(
        self,
        call: Call,
        outcome: Outcome,
        saw: Ids | None = None,
        note: str = "",
        *,
        count: int | None = None,
    ) -> None:
        """Note the answer to a call."""
        call.returned, call.returned_at = self.tick(), self._now()
        call.outcome, call.saw, call.note, call.count = outcome, saw, note, count
        self._keep(call)


class Refused(Exception):  # noqa: N818 - it is what the function says, not a failure
    """Raised by the function of ``Verb.REFUSE``; ``ids`` is what it was given."""

    def __init__(self, ids: Ids) -> None:
        super().__init__()
        self.ids = ids


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """How a session holds its ids: in a nested list, or flat, as one string.

    The engine treats the two differently. Functions work on the very dict that they are
    given, so that a dict which two of them share gives itself away.
    """

    flat: bool

    def session(self, *ids: int) -> dict[str, Any]:
        """Return a session of this content."""
        return {"ids": "".join(f"{i} " for i in ids) if self.flat else list(ids)}

    def function(self, call: Call) -> Callable[[dict[Any, Any]], Mapping[Any, Any]]:
        """Return the function that carries out one of the updates."""

        def apply(session: dict[Any, Any]) -> Mapping[Any, Any]:
            ids = ids_of(session)
            if call.verb is Verb.OBSERVE:
                return session
            self._append(session, call.id)
            if call.verb is Verb.REFUSE:
                raise Refused(ids)
            return session

        return apply

    def spoil(self, session: dict[Any, Any]) -> None:
        """Do to an answer what its owner may do to it."""
        self._append(session, -1)
        session["spoilt"] = True

    def _append(self, session: dict[Any, Any], number: int) -> None:
        if self.flat:
            session["ids"] = f"{session.get('ids', '')}{number} "
        else:
            session.setdefault("ids", []).append(number)


def ids_of(session: Mapping[Any, Any]) -> Ids:
    """Return the content of a session; a missing one has none."""
    ids = session.get("ids", [])
    if session.keys() <= {"ids"}:
        if isinstance(ids, str) and _FLAT.fullmatch(ids):
            return tuple(map(int, ids.split()))
        if isinstance(ids, list) and all(type(number) is int for number in ids):
            return tuple(ids)
    raise Violation(f"a session holds what nobody wrote: {dict(session)!r}")


def shown(ids: Ids, near: int | None = None) -> str:
    """Return a content as text, short enough for a message: its end, or near an id."""
    end = len(ids) if near is None else ids.index(near) + _SHOWN // 2
    start = max(0, min(end, len(ids)) - _SHOWN)
    text = " ".join(map(str, ids[start : start + _SHOWN]))
    more = " …" if start + _SHOWN < len(ids) else ""
    return f"<{'… ' if start else ''}{text}{more}>"


def listed(*calls: object) -> str:
    """Return calls as lines of a message."""
    return "".join(f"\n    {call}" for call in calls)


def require_one_key(calls: Collection[Call]) -> None:
    """Raise ``ValueError`` unless all are calls of one key, each with its own id.

    Anything else would be taken for a fault of the store.
    """
    if len({call.key for call in calls}) > 1:
        raise ValueError("calls of several keys: judge each key by itself")
    by_id: dict[int, Call] = {}
    for call in calls:
        if by_id.setdefault(call.id, call) is not call:
            raise ValueError(
                "two calls have one id; give each History its first, and the stride"
                + listed(by_id[call.id], call)
            )


def by_key(calls: Iterable[_Keyed]) -> dict[str, list[_Keyed]]:
    """Return the calls of each key, in their order."""
    groups: dict[str, list[_Keyed]] = {}
    for call in calls:
        groups.setdefault(call.key, []).append(call)
    return groups
