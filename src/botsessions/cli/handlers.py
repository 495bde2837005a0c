"""What ``replay`` does with an update: the default, and the user's own by name.

A handler is a pure function of a session and an update that returns the new session.
``replay`` calls it; ``options`` loads it, and what makes backends for ``conform``.
"""

from __future__ import annotations

import inspect
import operator
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

Session = dict[Any, Any]
Update = dict[str, Any]
Handler = Callable[[Session, Update], Mapping[Any, Any]]


def count(session: Session, _: Update) -> Session:
    """Count the updates of a session (what ``replay`` does without a handler)."""
    return {**session, "count": session.get("count", 0) + 1}


def load(reference: str) -> Handler:
    """Import ``module:function``, from here too; raise ValueError if that fails."""
    handler: Handler = imported(reference)
    if not callable(handler) or inspect.iscoroutinefunction(handler):
        raise ValueError(
            f"{reference} must be a plain function of a session and an update"
        )
    return handler


def imported(reference: str) -> Any:
    """Return what ``module:name`` names, found from here too, or raise ValueError."""
    module, _, name = reference.partition(":")
    if not module or not all(map(str.isidentifier, name.split("."))):
        raise ValueError(f"{reference!r} is not of the form module:function")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return operator.attrgetter(name)(import_module(module))
    except (Exception, SystemExit) as exc:  # the module is the user's
        raise ValueError(f"{reference}: {described(exc)}") from exc


def described(exc: BaseException) -> str:
    """Say what the user's code raised, and where: ``KeyError: 'x' (bot.py, line 12)``.

    It is the innermost line of the user's own, not one of a library that it called.
    """
    not_theirs = sys.stdlib_module_names | {"botsessions"}
    places = []
    for frame, number in traceback.walk_tb(exc.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        file = Path(frame.f_code.co_filename)
        # What a dataclass generates has no file.
        if package not in not_theirs and not file.name.startswith("<"):
            places.append((file, number))
    # The first is the handler, which may be installed like a library itself.
    installed = {"site-packages", "dist-packages"}
    own = [place for place in places if installed.isdisjoint(place[0].parts)]
    where = [f" ({file.name}, line {number})" for file, number in own or places[:1]]
    what = ": ".join(filter(None, [type(exc).__name__, str(exc)]))
    return what + "".join(where[-1:])
