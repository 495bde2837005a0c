"""Targets: each command of the command line, whatever is typed, whatever it is to read.

Its arguments are such as it takes, but where one is drawn to be something else.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from hypothesis import strategies as st

from botsessions.cli import main
from tests.security.fuzzing import Target, words
from tests.security.inputs import form_texts, lines, pickles, recordings

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of URLs alone: the content of files has words of its own that may be shown.
PASSWORD = "PA55W0RD"  # noqa: S105 - of a test
# Nobody listens there, and no name is looked up.
_WITH_PASSWORD = st.sampled_from(
    [
        f"redis://u:{PASSWORD}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={PASSWORD}",
        f"rediss://u:{PASSWORD}@127.0.0.1:1/0?ssl_cert_reqs=x",
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/db?sslmode=x",
        f"postgresql://127.0.0.1:1/db?user=u&password={PASSWORD}&sslmode=x",
        f"redis://u:a b{PASSWORD}'\"@127.0.0.1:1/0",
        f"redis+cluster://:{PASSWORD}@127.0.0.1:1",
        f"redis://u:12?{PASSWORD}=x@127.0.0.1:1",
        f"redis://u:{PASSWORD}.x@127.0.0.1",
        f"postgresql://u:x[{PASSWORD}]@127.0.0.1/d",
        f"env:redis://u:{PASSWORD}@127.0.0.1",
        f"u:{PASSWORD}@127.0.0.1",
    ]
)
# No letter by which a name of a module, or a path to elsewhere, could come out.
_junk = words.map(lambda text: text.replace("/", "").replace("..", ""))
_anything = (
    st.sampled_from(["", "-", "--", "-1", "0", "9" * 5000, "x" * 300, ":", "a=b"])
    | _junk
    | _WITH_PASSWORD
    | _WITH_PASSWORD
)

_file = st.just("file")
_key = st.sampled_from(["chat=1", "chat=1/user=2", "chat=s:a"])
_id = st.sampled_from(["1", "-100", "s:a", "2"])
_store = st.sampled_from(["sqlite:///bot.db", "memory://", "sqlite:///file", "env:DB"])
_lasting = st.sampled_from(["sqlite:///bot.db", "sqlite:///new.db", "env:DB"])
_redis = st.sampled_from(["env:URL", "redis://127.0.0.1:1", "rediss://127.0.0.1:1/2"])
_name = st.sampled_from(["sessions", "a.b", "fsm"])
_handler = st.just("botsessions.cli.handlers:count")
# What an option takes; None is a flag.
Options = dict[str, st.SearchStrategy[str] | None]
_COMMON: Options = {"--store": _store, "--namespace": _name, "--json": None}
_PLACE: Options = {
    "--bot": _id,
    "--prefix": _name,
    "--separator": st.sampled_from([":", "|"]),
    "--with-business-connection-id": None,
    "--with-thread-id": None,
}
_TAKE: Options = {"--write": None, "--partial": None}


class Command(NamedTuple):
    takes: tuple[st.SearchStrategy[str], ...] = ()
    options: Options = {}  # noqa: RUF012 - nobody changes it
    content: st.SearchStrategy[bytes] = st.just(b"")
    sound: str = ""
    """Arguments that are in order."""
    reads: bytes = b""
    ends: int = 0
    """The exit code, if it is given these arguments and reads this."""
    examples: int = 8


COMMANDS: Mapping[str, Command] = {
    "replay": Command(
        (_file,),
        {"--handler": _handler},
        recordings,
        "file",
        b'{"update_id": 1, "message": {"chat": {"id": 1}, "from": {"id": 2}}}',
        examples=12,
    ),
    "list": Command(
        (),
        {
            **{f"--{part}": _id for part in ("chat", "user", "topic", "bot", "limit")},
            "--name": _name,
            "--after": _key,
        },
    ),
    "show": Command((_key,), sound="chat=1", ends=1),
    "put": Command(
        (_key, st.sampled_from(["-", "{}", '{"a": {"$tuple": [1]}}'])),
        {},
        form_texts,
        "chat=1 -",
        b'{"a": 1}',
    ),
    "delete": Command((_key,), sound="chat=1"),
    "copy": Command(
        (_lasting, st.just("sqlite:///other.db")),
        sound="sqlite:///file sqlite:///other.db",
    ),
    "export": Command((st.sampled_from(["out", "-", "file"]),), sound="out"),
    "import": Command(
        (_file,),
        {},
        lines,
        "file",
        b'{"key": "chat=1", "session": {"a": 1}}\n',
        examples=12,
    ),
    "stats": Command(),
    "delete-expired": Command(),
    "version": Command(examples=4),
    "conform": Command(
        (st.just("botsessions:MemoryBackend"),),
        {
            "--only": st.just("a missing key has no record"),
            "--timelines": st.just("drawn"),
        },
        sound="botsessions:MemoryBackend --only a_missing_key_has_no_record",
    ),
    "import-from aiogram-redis": Command(
        (_redis,),
        {**_PLACE, **_TAKE, "--with-bot-id": None, "--with-destiny": None},
        sound="env:URL --bot 1",
        ends=1,
    ),
    "import-from telebot-redis": Command(
        (_redis,), {**_PLACE, **_TAKE}, sound="env:URL --bot 1", ends=1
    ),
    "import-from ptb-pickle": Command(
        (_file,),
        _TAKE,
        pickles,
        "file",
        pickle.dumps({"user_data": {1: {"x": 1}}}),
        examples=12,
    ),
    "import-from telebot-pickle": Command(
        (_file,),
        {**_PLACE, **_TAKE},
        pickles,
        "file --bot 7",
        pickle.dumps({1: {2: {"state": "s", "data": {}}}}),
        examples=12,
    ),
    "no-such": Command((_file,), sound="file", ends=2, examples=4),
}


class CommandLine(NamedTuple):
    arguments: list[str]
    content: bytes
    """Of the file, and of standard input."""


@st.composite
def command_lines(draw: st.DrawFn, name: str) -> CommandLine:
    """Draw what a command takes, in half of the cases with something wrong."""
    command = COMMANDS[name]
    options = {**command.options, **_COMMON}
    arguments = [draw(value) for value in command.takes]
    chosen = draw(st.lists(st.sampled_from(sorted(options)), max_size=3, unique=True))
    if name == "conform":  # but for this one check it would take seconds
        chosen = [*(option for option in chosen if option != "--only"), "--only"]
    for option in chosen:
        value = options[option]
        arguments += [option] if value is None else [option, draw(value)]
    if draw(st.booleans()):
        wrong = draw(st.sampled_from(["in place", "more", "less", "option"]))
        place = draw(st.integers(0, len(arguments)))
        if wrong == "option":
            arguments[place:place] = [
                draw(st.sampled_from([*options, "--help", "-h", "--no-such", "--"])),
                draw(_anything),
            ]
        elif wrong == "more":
            arguments.insert(place, draw(_anything))
        elif name != "conform" or place < len(command.takes):
            arguments[place : place + 1] = (
                [draw(_anything)] if wrong == "in place" else []
            )
    return CommandLine([*name.split(), *arguments], draw(command.content))


def command(line: CommandLine) -> str:
    """Carry out a command line: an exit code that is documented, and few words."""
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            Path("file").write_bytes(line.content)
            stdin = io.TextIOWrapper(io.BytesIO(line.content))
            environment = {
                "BOTSESSIONS_STORE": "memory://",
                "DB": "sqlite:///bot.db",
                "URL": f"redis://u:{PASSWORD}@127.0.0.1:1/0",
            }
            with (
                patch.dict(os.environ, environment),
                patch.object(sys, "stdin", stdin),
                patch.object(sys, "path", list(sys.path)),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                code = main(line.arguments)
        finally:
            os.chdir(before)
    assert code in {0, 1, 2, 3, 130}
    said = out.getvalue() + err.getvalue()
    assert "Traceback" not in said
    # An export names the file that it made, whatever that is called.
    if code or "export" not in line.arguments:
        assert PASSWORD not in said
    if code:
        assert err.getvalue().startswith("botsessions: ")
    return str(code)


TARGETS: list[Target] = [
    Target(
        f"botsessions-{name.replace(' ', '-')}",
        command_lines(name),
        command,
        found.examples,
        frozenset({str(found.ends)}),
        (CommandLine([*name.split(), *found.sound.split()], found.reads),),
    )
    for name, found in COMMANDS.items()
]


def missing() -> set[Any]:
    """Return the commands and options that no target has."""
    from typer.main import get_command  # noqa: PLC0415

    from botsessions.cli.app import app  # noqa: PLC0415

    found: set[Any] = set()
    group: Any = get_command(app)
    commands = dict(group.commands)
    for name, inner in commands.pop("import-from").commands.items():
        commands[f"import-from {name}"] = inner
    for name, each in commands.items():
        options = {o for p in each.params for o in p.opts if o.startswith("--")}
        known = {*COMMANDS[name].options, *_COMMON} if name in COMMANDS else set()
        found |= {(name, option) for option in options - known - {"--help"}}
    return found
