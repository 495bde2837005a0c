"""What python-telegram-bot's ``PicklePersistence`` keeps, for ``adapters.telegram``.

One file with ``user_data``, ``chat_data``, ``bot_data``, ``callback_data`` and
``conversations``, or one for each, if the bot was told ``single_file=False``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botsessions.cli.imports import files, layouts
from botsessions.cli.imports.carry import Left, Taken
from botsessions.cli.imports.pickles import mapping
from botsessions.cli.imports.plain import written
from botsessions.kept import telegram as kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from botsessions.keys import SessionKey

_KINDS = ("user_data", "chat_data", "bot_data", "callback_data", "conversations")
# ConversationHandler.END; what has ended is not kept.
_ENDED = (None, -1)
_NO_ID = 1 << 63


class PicklePersistence:
    """The file of a bot, or the files whose names begin so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[Taken | Left] = []
        self.room = 0

    async def open(self, on_progress: Callable[[str, int], None]) -> int:
        """Read all there is; ValueError if it is none of theirs."""
        kinds = {kind: Path(f"{self._path}_{kind}") for kind in _KINDS}
        several = {kind: path for kind, path in kinds.items() if path.exists()}
        if several and self._path.exists():
            raise ValueError(
                f"both {self._path} and {next(iter(several.values()))} are there; move "
                "away what the bot does not use (single_file=)"
            )
        content = {}
        if several:
            for kind, path in several.items():
                content[kind] = self._read(path, on_progress)
        else:
            value = self._read(self._path, on_progress)
            whole = mapping(value)
            if not whole or not whole.keys() <= set(_KINDS):
                expected = "what a PicklePersistence writes"
                raise files.refusal(self._path, value, expected)
            content = whole
        for kind in _KINDS:
            self._found += _READ[kind](content.get(kind))
        return len(self._found)

    async def entries(self) -> AsyncIterator[Taken | Left | None]:
        """Give what is in it."""
        for entry in self._found:
            yield entry

    def _read(self, path: Path, on_progress: Callable[[str, int], None]) -> Any:
        content = files.read(path, on_progress)
        self._found += [Left(str(path), why) for why in content.warnings]
        self.room += content.room
        return content.value


def _users(content: Any) -> Iterator[Taken | Left]:
    yield from _dicts("user_data", "user", kept.user_key, content)


def _chats(content: Any) -> Iterator[Taken | Left]:
    yield from _dicts("chat_data", "chat", kept.chat_key, content)


def _dicts(
    kind: str, part: str, key: Callable[[int], SessionKey], content: Any
) -> Iterator[Taken | Left]:
    yield from _no_dict(kind, content)
    for number, value in _pairs(content):
        place = f"{kind}[{written(number)}]"
        if type(number) is not int:
            yield Left(place, f"a {part} is an int")
        elif mapping(value) != {}:
            yield _taken(place, partial(key, number), value)


def _bot(content: Any) -> Iterator[Taken | Left]:
    if content is not None and mapping(content) != {}:
        yield Taken("bot_data", kept.BOT_KEY, content)


def _keyboards(content: Any) -> Iterator[Taken | Left]:
    if not content:
        return
    place = "callback_data"
    if type(content) is not tuple or len(content) != 2:
        yield Left(place, "it is no pair of keyboards and queries")
        return
    keyboards, queries = content
    found: dict[str, kept.Keyboard] = {}
    for keyboard in keyboards if type(keyboards) is list else ():
        match keyboard:
            case (str(uuid), float(used), buttons) if mapping(buttons) is not None:
                found[uuid] = kept.Keyboard(uuid, used, [], buttons)
            case _:
                yield Left(place, "a keyboard is its id, when it was used, and buttons")
    yield from _no_dict(f"{place}'s queries", queries)
    for query, uuid in _pairs(queries):
        if type(uuid) is str:
            unknown = kept.Keyboard(uuid, None, [], None)
            found.setdefault(uuid, unknown).queries.append(query)
        else:
            yield Left(place, "a query belongs to the id of a keyboard")
    for uuid, keyboard in found.items():
        key = partial(kept.keyboard_key, uuid)
        yield _taken(f"{place}[{written(uuid)}]", key, keyboard.record())


def _conversations(content: Any) -> Iterator[Taken | Left]:
    yield from _no_dict("conversations", content)
    for handler, states in _pairs(content):
        yield from _no_dict(f"conversations[{written(handler)}]", states)
        for ids, state in _pairs(states):
            place = f"conversations[{written(handler)}][{written(ids)}]"
            if state in _ENDED:
                continue
            if type(handler) is not str or not _is_key(ids):
                yield Left(place, "a conversation has a tuple of ids")
                continue
            key = partial(kept.conversation_key, handler, ids)
            record = kept.Conversation(ids, state).record()
            yield _taken(place, key, record, whole=True)


def _is_key(key: Any) -> bool:
    return type(key) is tuple and all(
        type(part) is str or (type(part) is int and abs(part) < _NO_ID) for part in key
    )


def _taken(
    place: str, key: Callable[[], SessionKey], session: Any, *, whole: bool = False
) -> Taken | Left:
    try:
        return Taken(place, layouts.key(key), session, whole=whole)
    except ValueError as exc:
        return Left(place, str(exc))


def _pairs(content: Any) -> list[tuple[Any, Any]]:
    return list((mapping(content) or {}).items())


def _no_dict(place: str, content: Any) -> Iterator[Left]:
    if content is not None and mapping(content) is None:
        yield Left(place, f"it is {files.described(content)}, and no dict")


_READ: dict[str, Callable[[Any], Iterator[Taken | Left]]] = {
    "user_data": _users,
    "chat_data": _chats,
    "bot_data": _bot,
    "callback_data": _keyboards,
    "conversations": _conversations,
}
