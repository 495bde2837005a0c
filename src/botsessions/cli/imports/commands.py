"""``import-from``: a command for each kind of source, and what they have in common.

Each coroutine returns its exit code, as those of ``app``, which adds these to its own.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from botsessions.cli import options, output, reports
from botsessions.cli.imports import aiogram, layouts, redis, telebot, telegram
from botsessions.cli.imports.carry import LEFT, Run
from botsessions.cli.jsonl import Outcome

if TYPE_CHECKING:
    from botsessions.cli.imports.carry import Source

# As of `import`: complete, but something was left out.
_INCOMPLETE = 3

app = typer.Typer(
    help="Take sessions over from another library. Without --write it is a dry run: "
    "everything is read and compared with the store, and nothing is written."
)


def _redis_url(text: str) -> str:
    url = options.written(text)
    try:
        redis.check_url(url)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    return url


def _separator(text: str) -> str:
    if not layouts.is_separator(text):
        raise typer.BadParameter("it has no letter, no digit and no minus, as ids have")
    return text


RedisUrl = Annotated[
    str,
    typer.Argument(
        parser=_redis_url,
        metavar="URL",
        help="Such as redis://localhost:6379/0, or env:NAME.",
    ),
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The bot's pickle file.")]
Write = Annotated[
    bool,
    typer.Option("--write", help="Write. Without it this only says what it would do."),
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Take over a session without the values in it that cannot be; unless "
        "told, it is left out.",
    ),
]
Bot = Annotated[
    int | None,
    typer.Option(
        "--bot",
        min=1,
        metavar="ID",
        help="Whose sessions these are, where their keys do not say it: the number "
        "before the colon in the bot's token.",
    ),
]
Prefix = Annotated[
    str, typer.Option(metavar="TEXT", help="How the bot's keys begin, as it was told.")
]
Separator = Annotated[
    str,
    typer.Option(
        parser=_separator, metavar="TEXT", help="What is between the ids of a key."
    ),
]
WithBot = Annotated[
    bool,
    typer.Option(
        "--with-bot-id", help="Keys have the bot's id: the key builder was told so."
    ),
]
WithBusiness = Annotated[
    bool,
    typer.Option(
        "--with-business-connection-id", help="Keys may have a business connection."
    ),
]
WithThread = Annotated[
    bool,
    typer.Option("--with-thread-id", help="Keys may have a topic (thread) of a forum."),
]
WithDestiny = Annotated[
    bool,
    typer.Option(
        "--with-destiny", help="Keys have a destiny: the key builder was told so."
    ),
]


@app.command("aiogram-redis")
async def aiogram_redis(  # noqa: PLR0913 - one for each option
    context: typer.Context,
    redis_url: RedisUrl,
    url: options.Url,
    *,
    bot: Bot = None,
    prefix: Prefix = "fsm",
    separator: Separator = ":",
    with_bot_id: WithBot = False,
    with_business_connection_id: WithBusiness = False,
    with_thread_id: WithThread = False,
    with_destiny: WithDestiny = False,
    write: Write = False,
    partial: Partial = False,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> int:
    """Take over what aiogram's RedisStorage keeps; say how its DefaultKeyBuilder is."""
    if (bot is None) != with_bot_id:
        raise typer.BadParameter(
            "whose sessions are these? Give --bot ID, or --with-bot-id if their keys "
            "say it",
            context,
        )
    layout = aiogram.Layout(
        prefix=prefix,
        separator=separator,
        bot_id=bot,
        with_bot_id=with_bot_id,
        with_business_connection_id=with_business_connection_id,
        with_thread_id=with_thread_id,
        with_destiny=with_destiny,
    )
    async with redis.opened(redis_url) as reader:
        source = aiogram.RedisStorage(reader, layout)
        name = options.address(redis_url)
        to = _Destination(url, namespace, write=write, partial=partial, json=json)
        return await to.take(name, source, nothing=f"no key begins with {prefix}")


@app.command("ptb-pickle")
async def ptb_pickle(  # noqa: PLR0913
    file: File,
    url: options.Url,
    *,
    write: Write = False,
    partial: Partial = False,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> int:
    """Take over what python-telegram-bot's PicklePersistence keeps.

    FILE is its filepath. With single_file=False, too: then it is how the names of its
    files begin. Nothing in them is executed, whatever it says.
    """
    to = _Destination(url, namespace, write=write, partial=partial, json=json)
    return await to.take(str(file), telegram.PicklePersistence(file))


@app.command("telebot-redis")
async def telebot_redis(  # noqa: PLR0913
    redis_url: RedisUrl,
    url: options.Url,
    *,
    bot: Bot = None,
    prefix: Prefix = "telebot",
    separator: Separator = ":",
    with_business_connection_id: WithBusiness = False,
    with_thread_id: WithThread = False,
    write: Write = False,
    partial: Partial = False,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> int:
    """Take over what pyTelegramBotAPI's StateRedisStorage keeps."""
    layout = telebot.Layout(
        prefix=prefix,
        separator=separator,
        bot_id=bot,
        with_business_connection_id=with_business_connection_id,
        with_thread_id=with_thread_id,
    )
    async with redis.opened(redis_url) as reader:
        source = telebot.RedisStorage(reader, layout)
        name = options.address(redis_url)
        to = _Destination(url, namespace, write=write, partial=partial, json=json)
        return await to.take(name, source, nothing=f"no key begins with {prefix}")


@app.command("telebot-pickle")
async def telebot_pickle(  # noqa: PLR0913
    file: File,
    url: options.Url,
    *,
    bot: Bot = None,
    prefix: Prefix = "telebot",
    separator: Separator = ":",
    with_business_connection_id: WithBusiness = False,
    with_thread_id: WithThread = False,
    write: Write = False,
    partial: Partial = False,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> int:
    """Take over what pyTelegramBotAPI's StatePickleStorage keeps.

    Nothing in the file is executed, whatever it says.
    """
    layout = telebot.Layout(
        prefix=prefix,
        separator=separator,
        bot_id=bot,
        with_business_connection_id=with_business_connection_id,
        with_thread_id=with_thread_id,
    )
    to = _Destination(url, namespace, write=write, partial=partial, json=json)
    return await to.take(str(file), telebot.PickleStorage(file, layout))


class _Destination:
    """Where to, and how: what all of these commands are told."""

    def __init__(
        self, url: str, namespace: str, *, write: bool, partial: bool, json: bool
    ) -> None:
        self._url = url
        self._namespace = namespace
        self._write = write
        self._partial = partial
        self._json = json

    async def take(self, name: str, source: Source, *, nothing: str = "") -> int:
        """Take over what a source has, or say what would happen; return the exit code.

        With ``nothing`` a source that has nothing is a wrong one: ValueError.
        """
        with output.progress() as show:
            total = await source.open(show)
        if nothing and not total:
            raise ValueError(
                f"{name}: {nothing}; see --prefix, and the database in the URL"
            )
        make = options.opened if self._write else options.compared
        problems = reports.Some("cannot be carried over")
        changes = reports.Some("is carried over, but changed")
        async with make(self._url, self._namespace) as store:
            with output.progress(total) as show:
                summary = await Run(
                    options.side(store, self._namespace),
                    write=self._write,
                    partial=self._partial,
                    rng=random.Random(),
                    on_problem=problems,
                    on_change=changes,
                ).run(source, partial(show, "import"))
        reports.carried(
            name, summary, problems, changes, written=self._write, json=self._json
        )
        if not self._write:
            output.note("this was a dry run, nothing is written; to do it add --write")
        left = summary.outcomes[LEFT] + summary.outcomes[Outcome.DIFFERENT]
        return _INCOMPLETE if left else 0
