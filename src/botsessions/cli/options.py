"""The arguments and options that commands share: how they are written, and read.

``app`` declares its commands with them. Whatever is wrong with one is a usage error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from botsessions import MemoryBackend, SessionKey, SessionStore, open_store
from botsessions.backends import urls
from botsessions.cli import handlers
from botsessions.errors import InvalidKeyError
from botsessions.transfer.side import Side

if TYPE_CHECKING:
    from collections.abc import Callable

    from botsessions import Backend


# With this begins the name of a variable that has a URL with a password.
_ENV = "env:"
# What may have a password, as a URL has it; its beginning may have been forgotten.
is_like_url = re.compile(r":.*@|://.*\?", re.DOTALL).search


def opened(url: str, namespace: str, **options: Any) -> SessionStore:
    """Make the store of a command; a SQLite file that is missing is made with it."""
    return open_store(url, namespace=namespace, **options)


def existing(url: str, namespace: str) -> SessionStore:
    """Make the store of a command that has no use for a new and empty file."""
    options = {"create": False} if urlsplit(url).scheme == "sqlite" else {}
    return opened(url, namespace, **options)


def compared(url: str, namespace: str) -> SessionStore:
    """Make the store of a command that compares with what is there, if anything is."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and not _sqlite_file(parts.path).exists():
        return opened("memory://", namespace)
    return existing(url, namespace)


def side(store: SessionStore, namespace: str) -> Side:
    """Return an open store's records, for what takes them as they are."""
    return Side(store._backend, namespace)  # noqa: SLF001 - a store has no use for it


def _place(url: str) -> tuple[object, ...]:
    """Return what two URLs of the same store have in common, as far as they tell."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return (parts.scheme, _sqlite_file(parts.path).resolve())
    # Not hostname and port: there may be several of them.
    return (parts.scheme, urls.hosts(parts), parts.path, parts.query)


def _sqlite_file(path: str) -> Path:
    return Path(unquote(path).removeprefix("/"))


def address(url: str) -> str:
    """Return a URL without what could be secret: user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{urls.login_and_hosts(parts)[1]}{parts.path}"


def written(text: str) -> str:
    """Return a URL, or for ``env:NAME`` the one that an environment variable has.

    Everybody on the machine can read the arguments of a program while it runs.
    """
    if not text.startswith(_ENV):
        return text
    name = text.removeprefix(_ENV)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
        raise typer.BadParameter(f"write {_ENV}NAME for an environment variable")
    if not (url := os.environ.get(name)):
        raise typer.BadParameter(f"the environment variable {name} is not set or empty")
    return url


def _url(text: str) -> str:
    url = written(text)
    try:
        open_store(url)  # which opens no file yet
    except (TypeError, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from exc
    return url


def _lasting(text: str) -> str:
    url = _url(text)
    if urlsplit(url).scheme == "memory":
        raise typer.BadParameter(
            "memory:// is new each time, and gone with this command"
        )
    return url


def _other(context: typer.Context, url: str) -> str:
    if _place(url) == _place(context.params["src"]):
        raise typer.BadParameter("this is SRC itself")
    return url


def _namespace(text: str) -> str:
    try:
        SessionStore(MemoryBackend(), namespace=text)
    except ValueError as exc:
        # It may be a URL that was meant for another option.
        raise typer.BadParameter("use 1 to 64 of letters, digits, _ . -") from exc
    return text


def _key(text: str) -> SessionKey:
    try:
        return SessionKey.parse(text)
    except InvalidKeyError as exc:
        if is_like_url(text):  # of which the reason may quote a part
            raise typer.BadParameter(
                "it is no key, in which a : is written %3A; or is it the URL of a "
                "store? That belongs to --store"
            ) from None
        raise typer.BadParameter(str(exc)) from exc


def _part(tag: str, field: str) -> Callable[[str], Any]:
    """Return what reads one part of a key, written as in the key."""

    def read(text: str) -> Any:
        if "/" in text:
            raise typer.BadParameter("it is one part of a key, so it has no slash")
        return getattr(_key(f"{tag}={text}"), field)

    return read


def _handler(reference: str) -> handlers.Handler:
    try:
        return handlers.load(reference)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def _factory(reference: str) -> Callable[..., Backend]:
    try:
        factory: Callable[..., Backend] = handlers.imported(reference)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    if not callable(factory):
        raise typer.BadParameter(f"{reference} is no function and no class")
    return factory


def _check(name: str) -> str:
    # Not before: whoever has no use for the kit does not pay for it.
    from botsessions.conformance.run import named  # noqa: PLC0415

    try:
        return named(name).name
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


Url = Annotated[
    str,
    typer.Option(
        "--store",
        parser=_url,
        metavar="URL",
        envvar="BOTSESSIONS_STORE",
        help="The store, such as sqlite:///sessions.db, or env:NAME.",
    ),
]
Src = Annotated[
    str,
    typer.Argument(
        parser=_lasting,
        metavar="SRC",
        help="The store to copy, or env:NAME; it may be in use.",
    ),
]
Dst = Annotated[
    str,
    typer.Argument(
        parser=_lasting,
        callback=_other,
        metavar="DST",
        help="The store to copy to, or env:NAME.",
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        parser=_namespace, metavar="NAME", help="The namespace of the bot's sessions."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Key = Annotated[
    SessionKey,
    typer.Argument(parser=_key, metavar="KEY", help="Such as chat=-100/user=42."),
]
After = Annotated[
    SessionKey | None,
    typer.Option(parser=_key, metavar="KEY", help="Begin behind this key."),
]
Chat = Annotated[
    Any,
    typer.Option(
        parser=_part("chat", "chat_id"),
        metavar="ID",
        help="Only this chat; a text id is marked s:.",
    ),
]
User = Annotated[
    Any,
    typer.Option(
        parser=_part("user", "user_id"),
        metavar="ID",
        help="Only this user; a text id is marked s:.",
    ),
]
Topic = Annotated[
    Any,
    typer.Option(
        parser=_part("topic", "topic_id"), metavar="ID", help="Only this topic."
    ),
]
Bot = Annotated[
    Any,
    typer.Option(parser=_part("bot", "bot_id"), metavar="ID", help="Only this bot."),
]
Name = Annotated[
    Any,
    typer.Option(parser=_part("name", "name"), metavar="NAME", help="Only this name."),
]
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="How many at most.")]
Factory = Annotated[
    Any,
    typer.Argument(
        parser=_factory,
        metavar="FACTORY",
        help="MODULE:NAME of what returns a new backend, each over the same data.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        parser=_check, metavar="CHECK", help="Only this check; may be repeated."
    ),
]
Timelines = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY",
        file_okay=False,
        help="Where to draw what failed with calls that overlap (SVG).",
    ),
]
Handler = Annotated[
    Any,
    typer.Option(
        parser=_handler,
        metavar="MODULE:FUNCTION",
        help="What makes the new session of a session and an update.",
    ),
]
