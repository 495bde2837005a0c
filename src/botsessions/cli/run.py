"""From a command line to an exit code: every failure is one line, without traceback.

0: done · 1: the operation failed · 2: the command line is wrong · 3: it is complete,
but some lines failed or some sessions were left out · 130: Ctrl-C. A reader that goes
away early (``| head``) is no failure. ``app`` makes of the arguments what is to be
done, this does it.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from botsessions.cli.app import app
from botsessions.cli.options import is_like_url
from botsessions.cli.output import note
from botsessions.cli.sessions import explained
from botsessions.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "botsessions"
# What bears this name hangs in a backend (see ``conformance.attempt``). It is written
# here once more since no other command loads the kit.
_LEFT_BEHIND = "botsessions.conformance"


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; return its exit code."""
    _prepare_streams()
    try:
        code = _carry_out(arguments)
    except typer.TyperException as exc:
        said = exc.format_message().removesuffix(".")
        note(f"{_without_urls(said, arguments)}; see {_place(exc)} --help")
        code = exc.exit_code
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        note("interrupted")
        code = 130
    except OSError as exc:
        reason = exc.strerror or str(exc)
        said = f"{exc.filename}: {reason}" if exc.filename else reason
        note(_without_urls(said, arguments))
        code = 1
    except (SessionError, ValueError) as exc:
        note(_without_urls(explained(exc), arguments))
        code = 1
    code = _flush(code)
    if any(thread.name == _LEFT_BEHIND for thread in threading.enumerate()):
        os._exit(code)  # Python would wait for what hangs there
    return code


def _carry_out(arguments: Sequence[str]) -> int:
    try:
        result = app(arguments, prog_name=_NAME, standalone_mode=False)
    except SystemExit as exc:
        # So rich and typer end a help text that nobody reads any more.
        if isinstance(exc.__context__, BrokenPipeError):
            raise exc.__context__ from None
        raise
    # Any command; --help and the like are done.
    if asyncio.iscoroutine(result):
        result = asyncio.run(result)
    elif callable(result):
        result = result()
    return result or 0


def _place(exc: typer.TyperException) -> str:
    """Return the command that was typed wrongly; its help is the one to read."""
    context = getattr(exc, "ctx", None)
    return _NAME if context is None else context.command_path


def _without_urls(text: str, arguments: Sequence[str]) -> str:
    """Return a message without the URLs that were typed.

    No message of ours quotes the URL of a store, but one that was typed in the wrong
    place is quoted like any other argument: whole, or as a path is.
    """
    for argument in arguments:
        for typed in (argument, argument.partition("=")[2]):  # as in --name=VALUE
            if is_like_url(typed):
                for form in (typed, str(Path(typed))):
                    for write in (str, repr, ascii, _as_typer_does):
                        text = text.replace(write(form).strip("'\""), "…")
    return text


def _as_typer_does(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda m: f"\\x{ord(m[0]):02x}", text)


def _prepare_streams() -> None:
    """Make the streams take any text, and be there even if they were closed."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until Python ends
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush(code: int) -> int:
    """Write what is left; leave nothing that could fail while Python ends."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(exc, BrokenPipeError):
            note(f"standard output: {exc.strerror}")
            return 1
    return code
