"""The arguments and options that commands share: how they are written, and read.

``app`` declares its commands with them. Whatever is wrong with one is a usage error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from botsessions import MemoryBackend, SessionKey, SessionStore, open_store
from botsessions.cli import handlers
from botsessions.errors import InvalidKeyError

if TYPE_CHECKING:
    from collections.abc import Callable


def opened(url: str, namespace: str, **options: Any) -> SessionStore:
    """Make the store of a command; a SQLite file that is missing is made with it."""
    return open_store(url, namespace=namespace, **options)


def existing(url: str, namespace: str) -> SessionStore:
    """Make the store of a command that has no use for a new and empty file."""
    options = {"create": False} if urlsplit(url).scheme == "sqlite" else {}
    return opened(url, namespace, **options)


def address(url: str) -> str:
    """Return a URL without what could be secret: user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _url(text: str) -> str:
    try:
        urlsplit(text)
    except ValueError:
        # Its message would repeat the user and the password.
        raise typer.BadParameter("this is no URL") from None
    try:
        open_store(text)  # which opens no file yet
    except (TypeError, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from exc
    return text


def _namespace(text: str) -> str:
    try:
        SessionStore(MemoryBackend(), namespace=text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    return text


def _key(text: str) -> SessionKey:
    try:
        return SessionKey.parse(text)
    except InvalidKeyError as exc:
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


Url = Annotated[
    str,
    typer.Option(
        "--store",
        parser=_url,
        metavar="URL",
        envvar="BOTSESSIONS_STORE",
        help="The store, such as sqlite:///sessions.db.",
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
Handler = Annotated[
    Any,
    typer.Option(
        parser=_handler,
        metavar="MODULE:FUNCTION",
        help="What makes the new session of a session and an update.",
    ),
]
