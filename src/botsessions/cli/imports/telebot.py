"""What telebot's storages keep, for ``botsessions.adapters.telebot``.

Both hold ``{"state": …, "data": …}`` under a text, ``telebot:<bot>:<chat>:<user>``: the
pickle as a dict, Redis as a hash whose data are JSON. A business connection and a topic
may stand behind the bot. Before telebot 4.23 it was ``{user: {"state": …, "data": …}}``
under the chat: in the pickle as an int, in Redis as ``telebot_<chat>``, all of it JSON.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botsessions.cli.imports import files, layouts, pickles, redis
from botsessions.cli.imports.carry import Left, Taken
from botsessions.cli.imports.plain import written
from botsessions.kept import telebot as kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from botsessions.keys import SessionKey

_RECORD = {"state", "data"}
# A bot that gives set_state a State leaves the object itself in its pickle.
_STATES = {
    f"telebot.{module}.State"
    for module in ("states", "handler_backends", "asyncio_handler_backends")
}
_PAGE = 250

# What follows the prefix in a key of Redis before telebot 4.23.
_is_old = re.compile(rb"_?(-?[1-9][0-9]{0,18})").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the bot's storage writes; ``bot_id`` is for keys that have none."""

    prefix: str = "telebot"
    separator: str = ":"
    bot_id: int | None = None
    with_business_connection_id: bool = False
    with_thread_id: bool = False

    def key(self, text: str) -> SessionKey:
        """Return the key of ``telebot:<bot>:<chat>:<user>``, or raise ValueError."""
        start = self.prefix + self.separator
        if not text.startswith(start):
            raise ValueError(f"it does not begin with {start}; see --prefix")
        fields = [
            layouts.BOT._replace(optional=True),
            *[layouts.BUSINESS] * self.with_business_connection_id,
            *[layouts.TOPIC] * self.with_thread_id,
            layouts.CHAT,
            layouts.USER,
        ]
        ids = text.removeprefix(start)
        found = layouts.readings(ids, self.separator, fields)
        ours = [parts for parts in found if parts.get("bot_id") == self.bot_id]
        if self.bot_id is not None and ours:
            found = ours
        advice = "see --bot and the --with options"
        return self._of_a_bot(layouts.the_one(found, advice))

    def old_key(self, chat_id: Any, user_id: Any) -> SessionKey:
        """Return the key of what was written before telebot 4.23."""
        return self._of_a_bot({"chat_id": chat_id, "user_id": user_id})

    def _of_a_bot(self, parts: layouts.Reading) -> SessionKey:
        bot_id = parts.get("bot_id", self.bot_id)
        if bot_id is None:
            raise ValueError("its key does not say of which bot it is: add --bot")
        return layouts.key(
            kept.state_key,
            parts["chat_id"],
            parts["user_id"],
            parts.get("business_connection_id"),
            parts.get("topic_id"),
            bot_id,
        )


class PickleStorage:
    """The file of a ``StatePickleStorage``."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        self._found: list[Taken | Left] = []
        self.room = 0

    async def open(self, on_progress: Callable[[str, int], None]) -> int:
        """Read the file; ValueError if it is none of theirs."""
        loaded = files.read(self._path, on_progress)
        self.room = loaded.room
        content = pickles.mapping(loaded.value)
        if content is None:
            expected = "what a StatePickleStorage writes"
            raise files.refusal(self._path, loaded.value, expected)
        self._found = [Left(str(self._path), why) for why in loaded.warnings]
        for name, value in content.items():
            if type(name) is int and (users := pickles.mapping(value)) is not None:
                self._found += _old_entries(written(name), name, users, self._layout)
            elif type(name) is str:
                shown = layouts.shown(name)
                self._found.append(_entry(shown, self._layout, name, value))
            else:
                why = "it is no session of telebot"
                self._found.append(Left(written(name), why))
        return len(self._found)

    async def entries(self) -> AsyncIterator[Taken | Left | None]:
        """Give what it has."""
        for entry in self._found:
            yield entry


class RedisStorage:
    """The keys of one prefix in a Redis database."""

    room = sys.maxsize  # each value is there once

    def __init__(self, reader: redis.Reader, layout: Layout) -> None:
        self._reader = reader
        self._layout = layout
        self._new: list[bytes] = []
        self._old: list[tuple[bytes, int]] = []

    async def open(self, on_progress: Callable[[str, int], None]) -> int:
        """Find the keys."""
        layout = self._layout
        keys = await self._reader.keys(
            layout.prefix, lambda count: on_progress(f"{count:,} keys", count)
        )
        new = (layout.prefix + layout.separator).encode()
        for key in keys:
            if key.startswith(new):
                self._new.append(key)
            elif chat := _is_old(key.removeprefix(layout.prefix.encode())):
                self._old.append((key, int(chat[1])))
        return len(self._new) + len(self._old)

    async def entries(self) -> AsyncIterator[Taken | Left | None]:
        """Read them."""
        for start in range(0, len(self._new), _PAGE):
            page = self._new[start : start + _PAGE]
            for key, answers in await self._ask(page, ("HMGET", "state", "data")):
                yield self._new_entry(key, *answers)
        for start in range(0, len(self._old), _PAGE):
            chats = dict(self._old[start : start + _PAGE])
            for key, answers in await self._ask(list(chats), ("GET",)):
                chat = chats[key]
                for entry in self._old_entries(key, chat, *answers):
                    yield entry

    async def _ask(
        self, keys: list[bytes], command: tuple[str, ...]
    ) -> list[tuple[bytes, tuple[Any, Any]]]:
        """Return each key with what it holds and when it ends."""
        name, *arguments = command
        commands: list[redis.Command] = []
        for key in keys:
            commands += [(name, key, *arguments), ("PTTL", key)]
        answers = iter(await self._reader.ask(commands))
        return list(zip(keys, zip(answers, answers, strict=True), strict=True))

    def _new_entry(self, key: bytes, found: Any, end: Any) -> Taken | Left | None:
        place = redis.shown(key)
        try:
            state, data = redis.answered(found)
            record = {
                "state": None if state is None else redis.text(state),
                "data": {} if data is None else redis.object_in(data),
            }
            name = redis.text(key)
        except ValueError as exc:
            return Left(place, str(exc))
        if state is None and data is None:
            return None
        return _entry(place, self._layout, name, record, redis.ends_in(end))

    def _old_entries(
        self, key: bytes, chat: int, found: Any, end: Any
    ) -> Iterator[Taken | Left]:
        place = redis.shown(key)
        try:
            content = redis.answered(found)
            if content is None:
                return
            users: dict[Any, Any] = {}
            for user, record in redis.object_in(content).items():
                users[int(user)] = record
        except ValueError as exc:
            yield Left(place, str(exc))
            return
        yield from _old_entries(place, chat, users, self._layout, redis.ends_in(end))


def _old_entries(
    place: str,
    chat: int,
    users: dict[Any, Any],
    layout: Layout,
    expires_in: int | None = None,
) -> Iterator[Taken | Left]:
    for user, record in users.items():
        shown = f"{place} {written(user)}"
        yield _entry(shown, layout, (chat, user), record, expires_in)


def _entry(
    place: str,
    layout: Layout,
    name: str | tuple[Any, Any],
    value: Any,
    expires_in: int | None = None,
) -> Taken | Left:
    record = pickles.mapping(value)
    data = {} if record is None else record.get("data", {})
    is_data = isinstance(data, pickles.Foreign) or type(data) is dict
    if record is None or not {"state"} <= record.keys() <= _RECORD or not is_data:
        return Left(place, "it is no session of telebot, with a state and data")
    try:
        key = layout.key(name) if isinstance(name, str) else layout.old_key(*name)
    except ValueError as exc:
        return Left(place, str(exc))
    session = kept.state_record(_state(record["state"]), data)
    return Taken(place, key, session, expires_in)


def _state(value: Any) -> Any:
    """Return the name of a State, as the adapter keeps it; anything else as it is."""
    if isinstance(value, pickles.Foreign) and value.name in _STATES:
        name = (pickles.mapping(value.state) or {}).get("name")
        return value if name is None else name
    return value
