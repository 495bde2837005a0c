"""What aiogram's ``RedisStorage`` keeps, for ``botsessions.adapters.aiogram``.

Two Redis keys are one session: ``fsm:<chat>:<user>:state``, a text, and ``…:data``, a
JSON object. Between them may stand a bot, a business connection, a topic and a destiny,
as the bot's ``DefaultKeyBuilder`` was told, and as the options here repeat.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botsessions.cli.imports import layouts, redis
from botsessions.cli.imports.carry import Left, Taken
from botsessions.kept import aiogram as kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from botsessions.keys import SessionKey

_PARTS = (b"state", b"data")
_PAGE = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the bot's key builder writes; ``bot_id`` is for keys that have none."""

    prefix: str = "fsm"
    separator: str = ":"
    bot_id: int | None = None
    with_bot_id: bool = False
    with_business_connection_id: bool = False
    with_thread_id: bool = False
    with_destiny: bool = False

    def key(self, text: str) -> SessionKey:
        """Return the key of ``fsm:<chat>:<user>``, or raise ValueError."""
        fields = [
            *[layouts.BOT] * self.with_bot_id,
            *[layouts.BUSINESS] * self.with_business_connection_id,
            layouts.CHAT,
            *[layouts.TOPIC] * self.with_thread_id,
            layouts.USER,
            *[layouts.NAME] * self.with_destiny,
        ]
        ids = text.removeprefix(self.prefix + self.separator)
        found = layouts.readings(ids, self.separator, fields)
        parts = layouts.the_one(found, "see the --with options")
        if self.bot_id is not None:
            if parts["chat_id"] == self.bot_id:
                raise ValueError("it begins with the bot's id: add --with-bot-id")
            parts["bot_id"] = self.bot_id
        destiny = parts.pop("name", kept.DEFAULT_DESTINY)
        return layouts.key(kept.state_key, **parts, destiny=destiny)


class RedisStorage:
    """The keys of one prefix in a Redis database."""

    room = sys.maxsize  # each value is there once

    def __init__(self, reader: redis.Reader, layout: Layout) -> None:
        self._reader = reader
        self._layout = layout
        self._places: list[bytes] = []
        self._strange: list[bytes] = []

    async def open(self, on_progress: Callable[[str, int], None]) -> int:
        """Find the keys."""
        layout = self._layout
        keys = await self._reader.keys(
            layout.prefix + layout.separator,
            lambda count: on_progress(f"{count:,} keys", count),
        )
        places = set()
        for key in keys:
            place, _, part = key.rpartition(layout.separator.encode())
            if part in _PARTS:
                places.add(place)
            elif part != b"lock":  # of a RedisEventIsolation
                self._strange.append(key)
        self._places = sorted(places)
        return len(self._places) + len(self._strange)

    async def entries(self) -> AsyncIterator[Taken | Left | None]:
        """Read them."""
        for key in self._strange:
            why = "it ends in neither state nor data, as a RedisStorage's keys do"
            yield Left(redis.shown(key), why)
        separator = self._layout.separator.encode()
        for start in range(0, len(self._places), _PAGE):
            page = self._places[start : start + _PAGE]
            answers = await self._reader.ask(
                [
                    (command, place + separator + part)
                    for place in page
                    for part in _PARTS
                    for command in ("GET", "PTTL")
                ]
            )
            for number, place in enumerate(page):
                yield self._entry(place, *answers[4 * number : 4 * number + 4])

    def _entry(
        self, place: bytes, state: Any, state_end: Any, data: Any, data_end: Any
    ) -> Taken | Left | None:
        try:
            key = self._layout.key(redis.text(place))
            session = kept.state_record(
                None if redis.answered(state) is None else redis.text(state),
                {} if redis.answered(data) is None else redis.object_in(data),
            )
        except ValueError as exc:
            return Left(redis.shown(place), str(exc))
        expires_in = redis.ends_in(state_end, data_end)
        return Taken(redis.shown(place), key, session, expires_in) if session else None
