"""Another library's keys in a Redis database: read in bounded steps, never changed.

Used by ``aiogram`` and ``telebot``. The driver is loaded when it is needed.
"""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from botsessions.backends import urls
from botsessions.errors import BackendUnavailableError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from redis.asyncio import Redis

Command = tuple[str | bytes, ...]

_PAGE = 1000
# Seconds for one answer; one of a thousand keys may hold much.
_PATIENCE = 60.0


def check_url(url: str) -> None:
    """Raise ValueError, without repeating a password, for what is no such URL."""
    parts = urls.split(url)
    urls.check_readable(parts)
    database = re.fullmatch(r"/?[0-9]*", parts.path) or parts.scheme == "unix"
    if (
        parts.scheme not in {"redis", "rediss", "unix"}
        or not database
        or len(urls.hosts(parts)) > 1
    ):
        raise ValueError("write redis://host:6379/0, rediss://… or unix:///path.sock")


class Reader:
    """A connection to one database; ``opened`` makes it."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def keys(
        self, prefix: str, on_progress: Callable[[int], None]
    ) -> list[bytes]:
        """Return all keys that begin so, in order, each once."""
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
        found: set[bytes] = set()
        async for key in self._client.scan_iter(match=pattern, count=_PAGE):
            found.add(_bytes(key))
            if len(found) % _PAGE == 0:
                on_progress(len(found))
        return sorted(found)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers, with an exception in the place of one that failed."""
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Reader]:
    """Connect; whatever the driver raises then is a BackendUnavailableError."""
    try:
        from redis import RedisError  # noqa: PLC0415
        from redis.asyncio import Redis  # noqa: PLC0415

        from botsessions.backends.redis_nodes import (  # noqa: PLC0415
            without_arguments,
        )
        from botsessions.backends.redis_url import read_by_driver  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise MissingDependencyError(
            f"to read from Redis takes {exc.name}; "
            "install it with: pip install 'botsessions[redis]'"
        ) from exc
    parts = urls.split(url)
    try:
        pool = read_by_driver(
            parts, parts, socket_timeout=_PATIENCE, socket_connect_timeout=5.0
        )
    except TypeError as exc:
        raise ValueError(str(exc)) from exc
    client = Redis.from_pool(pool)
    try:
        yield Reader(client)
    except (RedisError, OSError) as exc:
        without_arguments(exc)
        raise BackendUnavailableError(f"the Redis to import from: {exc}") from exc
    finally:
        await client.aclose()


def answered(answer: Any) -> Any:
    """Return an answer, or raise ValueError if the server refused to give one."""
    if isinstance(answer, Exception):
        raise ValueError(f"it cannot be read: {answer}")  # noqa: TRY004 - the server's
    return answer


def object_in(value: bytes | str) -> dict[str, Any]:
    """Return the JSON object that a value is, as the libraries write it, or ValueError.

    They write NaN, and of two equal names take the second.
    """
    try:
        found = json.loads(value)
    except RecursionError:
        raise ValueError("its data are nested too deeply") from None
    except ValueError as exc:
        raise ValueError(f"its data are no JSON: {exc}") from exc
    if type(found) is not dict:
        raise ValueError(f"its data are no JSON object, but {type(found).__name__}")
    return found


def text(value: bytes | str) -> str:
    """Return a text that Redis has, or raise ValueError."""
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None


def shown(key: bytes) -> str:
    """Return a key, whatever it is, to be read by a person."""
    return key.decode(errors="backslashreplace")


def ends_in(*milliseconds: int) -> int | None:
    """Return the latest of some ends as PTTL gives them, None for no end.

    -2 is a key that is gone, and -1 one that stays.
    """
    there = [end for end in milliseconds if end != -2]
    return None if not there or min(there) < 0 else max(there)


def _bytes(value: bytes | str) -> bytes:
    # It is a str if the URL says decode_responses.
    return value.encode() if isinstance(value, str) else value
