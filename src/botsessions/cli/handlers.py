"""What ``replay`` does with an update: the default, and the user's own by name.

A handler is a pure function of a session and an update that returns the new session.
``replay`` calls it; ``options`` loads it, and what makes backends for ``conform``.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from botsessions.blame import described

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
    if module.endswith(".py"):
        named = ".".join(Path(module).with_suffix("").parts)
        raise ValueError(
            f"{reference}: name the module, not its file: {named}:{name or 'function'}"
        )
    if not module or not all(map(str.isidentifier, name.split("."))):
        raise ValueError(f"{reference!r} is not of the form module:function")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return operator.attrgetter(name)(import_module(module))
    except (Exception, SystemExit) as exc:  # the module is the user's
        raise ValueError(f"{reference}: {described(exc)}") from exc
