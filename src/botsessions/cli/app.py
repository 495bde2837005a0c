"""The commands: what each takes, does, and prints.

Each is a coroutine that returns its exit code (None for 0), or returns a function that
does, if it is to block without an event loop; ``run`` carries it out and turns its
failures into one line. ``options`` has what they share, ``sessions`` and
``replay``, ``jsonl`` and ``transfer`` do the work, ``reports`` and ``output`` print.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable  # noqa: TC003 - typer reads what is returned
from functools import partial
from typing import Annotated

import typer

import botsessions
from botsessions import transfer
from botsessions.blame import described
from botsessions.cli import json_form, jsonl, options, output, reports, sessions
from botsessions.cli.imports import commands
from botsessions.cli.replay import Replay
from botsessions.cli.routing import Outcome
from botsessions.cli.source import Source, interruptible, standard_input
from botsessions.errors import SessionError

# A replay has much under way at once, and its handler may be slow.
_REPLAY_TIMEOUT = 50.0
# Not 1, after which a command is to be run again.
_INCOMPLETE = 3

app = typer.Typer(
    help="Look at a bot's sessions, change and move them, replay recorded updates.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

app.add_typer(commands.app, name="import-from")


@app.command()
async def replay(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The recording; - is standard input.")
    ],
    url: options.Url,
    *,
    handler: options.Handler = "botsessions.cli.handlers:count",
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> int:
    """Put recorded updates through a handler; go on where an earlier run stopped."""
    source = Source(file)
    if source.path is None:
        output.note(f"{file} cannot be read again, so this replay cannot be resumed")
    async with options.opened(url, namespace, timeout=_REPLAY_TIMEOUT) as store:
        with output.progress(source.size) as show:
            summary = await Replay(
                store,
                source,
                handler,
                on_problem=reports.Problems(),
                on_wave=partial(show, "replay"),
            ).run()
    reports.replay(file, summary, json=json)
    failed = summary.outcomes[Outcome.FAILED]
    if not failed:
        return 0
    output.note(
        f"{failed:,} {'line' if failed == 1 else 'lines'} failed, the other updates "
        "are applied; running this again applies the whole file once more"
    )
    return _INCOMPLETE


@app.command("list")
async def list_(  # noqa: PLR0913 - one for each option
    url: options.Url,
    *,
    chat: options.Chat = None,
    user: options.User = None,
    topic: options.Topic = None,
    name: options.Name = None,
    bot: options.Bot = None,
    limit: options.Limit = 50,
    after: options.After = None,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> None:
    """List sessions in the order of their keys, a page at a time."""
    parts = {
        "chat_id": chat,
        "user_id": user,
        "topic_id": topic,
        "bot_id": bot,
        "name": name,
    }
    given = {part: value for part, value in parts.items() if value is not None}
    async with options.existing(url, namespace) as store:
        found, more = await sessions.page(store, limit, after, **given)
    if not found:
        output.note("no such sessions")
    reports.listing(found, json=json)
    if more:
        how = "add" if after is None else "go on with"
        output.note(f"there are more: {how} --after {found[-1][0]}")


@app.command()
async def show(
    key: options.Key,
    url: options.Url,
    *,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> None:
    """Show one session in full, with its exact types."""
    async with options.existing(url, namespace) as store:
        session = await store.get(key)
    if not session:
        raise SessionError(f"there is no session {key}, or it is empty or expired")
    if json:
        output.document(json_form.shown(session))
    else:
        output.python(session)


@app.command()
async def put(
    key: options.Key,
    text: Annotated[
        str,
        typer.Argument(metavar="JSON", help="The session; - reads standard input."),
    ],
    url: options.Url,
    *,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> None:
    """Replace one session, whatever was there."""
    with interruptible():
        raw = standard_input().read() if text == "-" else os.fsencode(text)
    session = json_form.read(raw)
    if type(session) is not dict:
        raise ValueError('a session is a JSON object, such as {"step": "name"}')
    async with options.opened(url, namespace) as store:
        await store.put(key, session)
    reports.done("stored", key, json=json)


@app.command()
async def delete(
    key: options.Key,
    url: options.Url,
    *,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> None:
    """Remove one session; a missing one is no error."""
    async with options.existing(url, namespace) as store:
        await store.delete(key)
    reports.done("deleted", key, json=json)


@app.command()
async def copy(
    src: options.Src,
    dst: options.Dst,
    *,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> int:
    """Copy all sessions to another store, exactly; run again, it catches up."""
    async with (
        options.existing(src, namespace) as source,
        options.opened(dst, namespace) as destination,
    ):
        with output.progress() as show:
            summary = await transfer.copy(
                options.side(source, namespace),
                options.side(destination, namespace),
                rng=random.Random(),
                on_progress=lambda number, done: show(
                    f"pass {number}: {done:,} sessions", done
                ),
            )
    reports.copy(src, dst, namespace, summary, json=json)
    return _INCOMPLETE if summary.last.own else 0


@app.command()
async def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="To be written; - is standard output.")
    ],
    url: options.Url,
    *,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> None:
    """Write all sessions to a file of JSON lines, with their exact types."""
    problems = reports.Unreadable()
    async with options.existing(url, namespace) as store:
        with output.progress() as show, output.lines_to(file) as write:
            count = await jsonl.export(
                options.side(store, namespace),
                write,
                on_problem=problems,
                on_progress=lambda done: show(f"{done:,} sessions", done),
            )
    reports.exported(file, count, problems.count, json=json)


@app.command("import")
async def import_(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="What export wrote; - is standard input."),
    ],
    url: options.Url,
    *,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> int:
    """Take exported sessions in; those that the store has already stay as they are."""
    source = Source(file)
    async with options.opened(url, namespace) as store:
        with output.progress(source.size) as show:
            outcomes = await jsonl.Import(
                options.side(store, namespace),
                source,
                rng=random.Random(),
                on_problem=reports.Problems(),
                on_progress=partial(show, "import"),
            ).run()
    reports.imported(file, outcomes, json=json)
    left = outcomes[jsonl.Outcome.MALFORMED] + outcomes[jsonl.Outcome.DIFFERENT]
    return _INCOMPLETE if left else 0


@app.command()
def conform(
    factory: options.Factory,
    *,
    only: options.Only = None,
    timelines: options.Timelines = None,
    json: options.Json = False,
) -> Callable[[], int]:
    """Check that a backend keeps the contract, and show what it gets wrong."""
    return partial(_conform, factory, only, timelines, json=json)


def _conform(
    factory: options.Factory,
    only: options.Only,
    timelines: options.Timelines,
    *,
    json: options.Json,
) -> int:
    # Not before: whoever has no use for the kit does not pay for it.
    from botsessions.conformance import CHECKS, check_backend  # noqa: PLC0415

    done = itertools.count(1)
    with output.progress(len(only or CHECKS)) as show:
        try:
            report = check_backend(
                factory,
                only=only or None,
                on_result=lambda result: show(result.title, next(done)),
            )
        except SessionError:
            raise
        except Exception as exc:
            raise ValueError(f"no backend was made: {described(exc)}") from exc
    reports.conformance(report, json=json)
    if timelines is not None:
        reports.draw(report, timelines)
    return 0 if report.passed else 1


@app.command()
async def stats(
    url: options.Url,
    *,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> None:
    """Count the sessions, by kind of key, and what they take."""
    async with options.existing(url, namespace) as store:
        found = await sessions.statistics(store)
    reports.statistics(options.address(url), namespace, found, json=json)


@app.command("delete-expired")
async def delete_expired(
    url: options.Url,
    *,
    namespace: options.Namespace = "sessions",
    json: options.Json = False,
) -> None:
    """Free the space of sessions that expired or were deleted a minute ago."""
    async with options.existing(url, namespace) as store:
        count = await store.delete_expired()
    if json:
        output.document({"removed": count})
    else:
        output.line(f"removed {count:,} expired or deleted sessions")


@app.command()
async def version(*, json: options.Json = False) -> None:
    """Print the version of botsessions."""
    if json:
        output.document({"version": botsessions.__version__})
    else:
        output.line(f"botsessions {botsessions.__version__}")
