"""Targets: the command line, whatever is typed, with whatever on standard input."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from hypothesis import strategies as st

from botsessions.cli import main
from tests.security.fuzzing import SECRET, Target, words
from tests.security.inputs import form_texts, lines, pickles, recordings

COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "replay": (1, ("--handler",)),
    "list": (
        0,
        ("--chat", "--user", "--topic", "--bot", "--name", "--limit", "--after"),
    ),
    "show": (1, ()),
    "put": (2, ()),
    "delete": (1, ()),
    "copy": (2, ()),
    "export": (1, ()),
    "import": (1, ()),
    "stats": (0, ()),
    "delete-expired": (0, ()),
    "version": (0, ()),
    "import-from aiogram-redis": (
        1,
        ("--bot", "--prefix", "--separator", "--with-bot-id", "--with-destiny"),
    ),
    "import-from ptb-pickle": (1, ("--write", "--partial")),
    "import-from telebot-redis": (1, ("--bot", "--prefix", "--with-thread-id")),
    "import-from telebot-pickle": (1, ("--bot", "--separator", "--write")),
    "import-from": (0, ()),
    "no-such": (1, ()),
}
_EVERYWHERE = ("--store", "--namespace", "--json", "--help", "--no-such", "-h", "--")
# Nobody listens there, and no name is looked up.
_URLS = [
    f"redis://u:{SECRET}@127.0.0.1:1/0",
    f"rediss://u:{SECRET}@127.0.0.1:1/0?ssl_cert_reqs=x",
    f"postgresql://u:{SECRET}@127.0.0.1:1/db?sslmode=x",
    f"redis://u:a b{SECRET}'\"@127.0.0.1:1/0",
    f"redis+cluster://:{SECRET}@127.0.0.1:1",
    f"redis://u:12?{SECRET}=x@127.0.0.1:1",
    f"postgresql://u:x[{SECRET}]@127.0.0.1/d",
    f"env:redis://u:{SECRET}@127.0.0.1",
    *("env:URL", "env:NOT_SET", "env:", "memory://", "sqlite:///bot.db", "sqlite://"),
    *("sqlite:///new.db", "sqlite:///no/where.db", "redis://127.0.0.1:1?no=1", "://"),
]


class CommandLine(NamedTuple):
    arguments: list[str]
    content: bytes
    """Of the file, and of standard input."""


_urls = st.sampled_from(_URLS)
# No letter by which a name of a module, or a path to elsewhere, could come out.
_junk = words.map(lambda text: text.replace("/", "").replace("..", ""))
_values = (
    st.sampled_from(
        [
            *("file", "-", "chat=1", "chat=1/user=2", "s:a", "-100", "0", "1", "{}"),
            *('{"a": {"$tuple": [1]}}', "[]", "", "9" * 5000, "x" * 300, "fsm", ":"),
            *("botsessions.cli.handlers:count", "no.such:handler", "no_such", "a=b"),
        ]
    )
    | _junk
    | _urls
)


@st.composite
def command_lines(draw: st.DrawFn) -> CommandLine:
    """Draw a command, about as many arguments as it takes, and options."""
    name = draw(st.sampled_from(list(COMMANDS)))
    takes, known = COMMANDS[name]
    takes = max(0, takes + draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1])))
    value = _urls if name == "copy" or "redis" in name else _values
    arguments = [draw(value | _values) for _ in range(takes)]
    for _ in range(draw(st.integers(0, 3))):
        arguments.append(draw(st.sampled_from((*known, *_EVERYWHERE))))
        if draw(st.booleans()):
            arguments.append(draw(_values))
    if draw(st.integers(0, 3)) == 0:
        arguments += ["--store", draw(_urls)]
    content = draw(lines | form_texts | pickles | st.binary(max_size=20) | recordings)
    return CommandLine([*name.split(), *arguments], content)


def command(line: CommandLine) -> None:
    """Carry out a command line: an exit code that is documented, and few words."""
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            Path("file").write_bytes(line.content)
            stdin = io.TextIOWrapper(io.BytesIO(line.content))
            environment = {
                "BOTSESSIONS_STORE": "sqlite:///bot.db",
                "URL": f"redis://u:{SECRET}@127.0.0.1:1/0",
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
    if SECRET.encode() not in line.content:
        assert SECRET not in said
    if code:
        assert err.getvalue().startswith("botsessions: ")


TARGETS = [Target("command-line", command_lines(), command, 80)]
