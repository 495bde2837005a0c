"""From a URL to a store: the one place that knows every backend by its scheme.

Backends are imported when their scheme is asked for, so that no driver is loaded, or
need be installed, for a store that is not used.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from botsessions.backends import urls
from botsessions.errors import MissingDependencyError
from botsessions.store import SessionStore
from botsessions.sync_store import SyncSessionStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from botsessions.backend import Backend


def open_store(url: str, **options: Any) -> SessionStore:
    """Make the store that a URL names; ``async with`` or its first use opens it.

    ``memory://`` · ``sqlite:///relative.db`` · ``sqlite:////absolute/path.db`` ·
    ``postgresql://user@host/database`` · ``redis://host:6379/0``, ``rediss://…`` (TLS),
    ``unix:///redis.sock``, ``redis+sentinel://host:26379,…/master``,
    ``redis+cluster://host:6379,…`` (the same with ``valkey``)

    Options are those of ``SessionStore`` (``namespace``, ``ttl``, ``types``, …) and of
    the backend (``durability="normal"``); a backend's option that is text may also
    stand in the URL (``sqlite:///bot.db?durability=normal``). A URL that names no store
    raises ValueError, an unknown option TypeError, a missing driver
    ``MissingDependencyError``.
    """
    backend, store_options = _parts(url, options, "open_store")
    return SessionStore(backend, **store_options)


def open_sync_store(url: str, **options: Any) -> SyncSessionStore:
    """Make the blocking store that a URL names; the same URLs, options and errors."""
    backend, store_options = _parts(url, options, "open_sync_store")
    return SyncSessionStore(backend, **store_options)


def _parts(
    url: str, options: dict[str, Any], caller: str
) -> tuple[Backend, dict[str, Any]]:
    """Return the backend of a URL, and what of the options is the store's."""
    if not isinstance(url, str):
        raise TypeError(
            f"{caller} takes a URL as a str, not {type(url).__name__}; "
            "for the path of a file use sqlite:///path, or SQLiteBackend(path)"
        )
    parts = urls.split(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise ValueError(
            f"no store for the scheme {parts.scheme!r}; known: {known}. "
            "For a SQLite file write sqlite:///file.db"
        )
    store_options = {
        name: options.pop(name) for name in list(options) if name in _STORE_OPTIONS
    }
    return scheme.backend(url, parts, options, caller), store_options


class _Scheme(NamedTuple):
    """Which backend a scheme stands for, and what of a URL that backend is given."""

    module: str
    name: str
    extra: str | None
    place: Callable[[str, SplitResult], dict[str, Any]]
    """What the URL says but for its query, as arguments; it may refuse the URL."""
    texts: frozenset[str]
    """The options that may stand in the query."""
    takes_query: bool = False
    """Whether the place takes what else stands there, for its driver."""

    def backend(
        self, url: str, parts: SplitResult, options: dict[str, Any], caller: str
    ) -> Backend:
        """Make the backend; an unknown option is refused before anything happens."""
        make = self._imported()
        place = self.place(url, parts)
        known = set(inspect.signature(make).parameters) - set(place)
        _check_options(options, known | _STORE_OPTIONS, caller)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if not self.takes_query:
            _check_options(query, self.texts, "a URL of this scheme")
        ours = {name: query[name] for name in query if name in self.texts}
        made: Backend = make(**place, **{**ours, **options})
        return made

    def _imported(self) -> Any:
        try:
            return getattr(import_module(self.module), self.name)
        except ModuleNotFoundError as exc:
            extra = "" if self.extra is None else f"[{self.extra}]"
            raise MissingDependencyError(
                f"{self.name} needs {exc.name}; install it with: "
                f"pip install 'botsessions{extra}'"
            ) from exc


def _check_options(
    options: dict[str, Any], known: set[str] | frozenset[str], where: str
) -> None:
    for name in options:
        if name not in known:
            choice = ", ".join(sorted(known)) or "nothing"
            raise TypeError(f"unknown option {name!r}; {where} takes {choice}")


def _memory(_: str, parts: SplitResult) -> dict[str, Any]:
    if parts.netloc or parts.path.strip("/") or parts.fragment:
        raise ValueError("memory:// takes no path: each such store is new and its own")
    return {}


def _sqlite(url: str, parts: SplitResult) -> dict[str, Any]:
    path = unquote(parts.path).removeprefix("/")
    if path == ":memory:":
        raise ValueError("for a store in memory write memory://")
    if parts.fragment or "#" in url:
        raise ValueError("write the # in the name of a file as %23")
    if not url.startswith("sqlite:///") or not path:
        raise ValueError(
            "write sqlite:///file.db for a file in this directory, "
            "sqlite:////path/to/file.db for an absolute path"
        )
    return {"path": path}


def _postgres(_: str, parts: SplitResult) -> dict[str, Any]:
    return {"dsn": _without(parts, _POSTGRES_TEXTS)}


def _redis(_: str, parts: SplitResult) -> dict[str, Any]:
    return {"url": _without(parts, _REDIS_TEXTS)}


def _without(parts: SplitResult, ours: frozenset[str]) -> str:
    """Return the URL with what is the driver's in its query, just as it stands there.

    What is no pair stays, too: it may be the end of a password, and is to be refused.
    So is a path that would be a host when it is put together again.
    """
    urls.check_readable(parts)
    theirs = [
        pair for pair in parts.query.split("&") if pair.partition("=")[0] not in ours
    ]
    return parts._replace(query="&".join(theirs)).geturl()


_POSTGRES_TEXTS = frozenset({"schema", "table", "application_name"})
_REDIS_TEXTS = frozenset({"client_name"})
_REDIS = _Scheme(
    "botsessions.backends.redis",
    "RedisBackend",
    "redis",
    _redis,
    _REDIS_TEXTS,
    takes_query=True,
)
_SCHEMES = {
    "memory": _Scheme(
        "botsessions.backends.memory", "MemoryBackend", None, _memory, frozenset()
    ),
    "sqlite": _Scheme(
        "botsessions.backends.sqlite",
        "SQLiteBackend",
        None,
        _sqlite,
        frozenset({"durability"}),
    ),
    "postgresql": _Scheme(
        "botsessions.backends.postgres",
        "PostgresBackend",
        "postgres",
        _postgres,
        _POSTGRES_TEXTS,
        takes_query=True,
    ),
    **dict.fromkeys(
        (
            *("redis", "rediss", "valkey", "valkeys", "unix"),
            *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
            *("valkey+sentinel", "valkeys+sentinel"),
            *("valkey+cluster", "valkeys+cluster"),
        ),
        _REDIS,
    ),
}
_STORE_OPTIONS = frozenset(inspect.signature(SessionStore).parameters) - {"backend"}
