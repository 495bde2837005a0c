"""What the callers did and were told: every call, from its beginning to its answer.

Each change carries an id of its own and leaves it in the session, behind those that it
found there: a session's content is the list of the changes that made it. A ``put``
leaves its id alone, a ``delete`` none. So each answer shows the whole order of events,
and ``order``, ``linearizability`` and ``moments`` can judge it.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Ids: TypeAlias = tuple[int, ...]

# The return time of a call that may take effect at any later moment.
NEVER = sys.maxsize


class Violation(AssertionError):  # noqa: N818 - it names what it is
    """A law was broken, and this is how one can tell."""


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
    ``saw`` is the content of the answered session.
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

    @property
    def end(self) -> int:
        """The tick by which it has taken effect, if it does."""
        return self.returned if self.outcome is Outcome.DONE else NEVER

    def __str__(self) -> str:
        answer = self.note or self.outcome.value
        if self.saw is not None:
            answer = f"{answer}, saw {shown(self.saw)}"
        end = "…" if self.returned == NEVER else self.returned
        return (
            f"#{self.id} {self.verb} {self.key} by {self.process or 'a caller'} "
            f"[{self.called}, {end}]: {answer}"
        )


class History:
    """The calls of one run, in the order in which they began."""

    def __init__(self, now: Callable[[], int] = lambda: 0) -> None:
        self._now = now
        self._ticks = itertools.count(1)
        self.calls: list[Call] = []

    def tick(self) -> int:
        """Return the next moment; no two events share one."""
        return next(self._ticks)

    def begin(self, key: str, verb: Verb, process: str = "") -> Call:
        """Note that a call begins now."""
        number = len(self.calls) + 1
        call = Call(number, key, verb, self.tick(), self._now(), process)
        self.calls.append(call)
        return call

    def end(
        self, call: Call, outcome: Outcome, saw: Ids | None = None, note: str = ""
    ) -> None:
        """Note the answer to a call."""
        call.returned, call.returned_at = self.tick(), self._now()
        call.outcome, call.saw, call.note = outcome, saw, note


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
    ids = session.get("ids", ())
    if session.keys() - {"ids"}:
        raise Violation(f"a session holds what nobody wrote: {dict(session)!r}")
    return tuple(map(int, ids.split() if isinstance(ids, str) else ids))


def shown(ids: Ids) -> str:
    """Return a content as text, short enough for a message."""
    text = " ".join(map(str, ids[-8:]))
    return f"<{'… ' if len(ids) > 8 else ''}{text}>"


def listed(*calls: Call) -> str:
    """Return calls as lines of a message."""
    return "".join(f"\n    {call}" for call in calls)
