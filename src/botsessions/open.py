"""From a URL to a store: the one place that knows every backend by its scheme.

Backends are imported when their scheme is asked for, so that no driver is loaded, or
need be installed, for a store that is not used.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from botsessions.errors import MissingDependencyError
from botsessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from botsessions.backend import Backend


def open_store(url: str, **options: Any) -> SessionStore:
    """Make the store that a URL names; ``async with`` or its first use opens it.

    ``memory://`` · ``sqlite:///relative.db`` · ``sqlite:////absolute/path.db``

    Options are those of ``SessionStore`` (``namespace``, ``ttl``, ``types``, …) and of
    the backend (``durability="normal"``); the backend's may also stand in the URL
    (``sqlite:///bot.db?durability=normal``). An unknown scheme raises ValueError, an
    unknown option TypeError, a missing driver ``MissingDependencyError``.
    """
    parts = urlsplit(url)
    make = _SCHEMES.get(parts.scheme)
    if make is None:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ValueError(f"no store for the scheme {parts.scheme!r}; known: {known}")
    store_options = {
        name: options.pop(name) for name in list(options) if name in _STORE_OPTIONS
    }
    in_url = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=False))
    return SessionStore(make(parts, {**in_url, **options}), **store_options)


def _memory(parts: SplitResult, options: dict[str, Any]) -> Backend:
    if parts.netloc or parts.path.strip("/"):
        raise ValueError("memory:// takes no path: each such store is new and its own")
    return _make("botsessions.backends.memory", "MemoryBackend", None, options)


def _sqlite(parts: SplitResult, options: dict[str, Any]) -> Backend:
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or not path:
        raise ValueError(
            "write sqlite:///file.db for a file in this directory, "
            "sqlite:////path/to/file.db for an absolute path"
        )
    options = {"path": path, **options}
    return _make("botsessions.backends.sqlite", "SQLiteBackend", None, options)


def _make(
    module: str, name: str, extra: str | None, options: dict[str, Any]
) -> Backend:
    try:
        backend = getattr(import_module(module), name)
    except ModuleNotFoundError as exc:
        package = "botsessions" if extra is None else f"botsessions[{extra}]"
        raise MissingDependencyError(
            f"{name} needs {exc.name}; install it with: pip install '{package}'"
        ) from exc
    known = inspect.signature(backend).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        choice = sorted(_STORE_OPTIONS | (set(known) - {"path"}))
        raise TypeError(
            f"unknown option {unknown[0]!r}; choose from {', '.join(choice)}"
        )
    made: Backend = backend(**options)
    return made


_SCHEMES: dict[str, Callable[[SplitResult, dict[str, Any]], Backend]] = {
    "memory": _memory,
    "sqlite": _sqlite,
}
_STORE_OPTIONS = frozenset(inspect.signature(SessionStore).parameters) - {"backend"}
