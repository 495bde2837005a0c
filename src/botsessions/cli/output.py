"""How things are shown: tables and Python values for people, JSON for machines.

Only results go to standard output; notes, problems and the progress bar go to standard
error. In a pipe nothing is coloured, wrapped or cut off. ``app`` and ``run`` use it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.highlighter import ReprHighlighter
from rich.pretty import pretty_repr
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from botsessions.backends.owners import check_owners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_PIPE_WIDTH = 100_000
_BRIEF = 100
_MAX_DECIMAL_BITS = 14_000  # Python does not print longer ints


def document(value: Any) -> None:
    """Print one JSON document, on one line."""
    print(json.dumps(value))  # noqa: T201


def line(text: str) -> None:
    """Print one line, whatever is in the text."""
    print(_harmless(text))  # noqa: T201


def note(text: str) -> None:
    """Say something on standard error, in one line; if nobody listens, say nothing."""
    words = _harmless(" ".join(text.split()))
    with suppress(OSError):
        print(f"botsessions: {words}", file=sys.stderr, flush=True)  # noqa: T201


def table(columns: Sequence[Column | str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without a frame, and without a header if all of it is empty."""
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    made.show_header = any(column.header for column in made.columns)
    for row in rows:
        made.add_row(*[Text(_harmless(cell)) for cell in row])
    console = _Console()
    if console.is_terminal:
        made.expand = any(column.ratio for column in made.columns)
    else:
        console.width = _PIPE_WIDTH
    with console.capture() as capture:
        console.print(made)
    for text in capture.get().splitlines():
        print(text.rstrip())  # noqa: T201 - it may have colours


def python(value: Any) -> None:
    """Print a value as Python writes it, over several lines where it is long."""
    console = _Console()
    text = pretty_repr(_printable(value), max_width=console.width)
    console.print(ReprHighlighter()(Text(text)), soft_wrap=True)


def brief(value: Any) -> str:
    """Return how Python writes a value, or the beginning of it."""
    text = repr(_printable(value))
    return text if len(text) <= _BRIEF else text[: _BRIEF - 1] + "…"


@contextmanager
def progress(total: int | None = None) -> Iterator[Callable[[str, int], None]]:
    """Show what is done, and how much of it, if standard error is a terminal."""
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda what, done: bar.update(task, description=what, completed=done)


@contextmanager
def lines_to(name: str) -> Iterator[Callable[[str], None]]:
    """Write lines to a file, all of them or none; ``-`` is standard output.

    Like a store, a new file is for its owner's eyes only. What is no regular file (a
    pipe) is written to as it is. What somebody else has put in its place, where
    everybody may, is refused.
    """
    if name == "-":
        yield line
        return
    path = Path(name)
    # Before it is asked whose they are: what comes later is not followed.
    target, is_pipe = path.resolve(), path.exists() and not path.is_file()
    check_owners(path)
    if is_pipe:
        # Not made, should it be gone: that file would be for everybody's eyes.
        with os.fdopen(os.open(path, os.O_WRONLY), "w") as there:
            yield lambda text: print(text, file=there)
    else:
        with _in_place_of(target) as new:  # a link stays one
            yield lambda text: print(text, file=new)


@contextmanager
def _in_place_of(path: Path) -> Iterator[TextIO]:
    """Write a file that takes the place of this one when all of it is on disk."""
    try:
        handle, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as exc:
        # Not the one that nobody typed.
        exc.filename = str(path)
        raise
    if sys.platform != "win32":
        os.fchmod(handle, 0o600)  # whatever the umask
    try:
        with os.fdopen(handle, "w") as new:
            yield new
            new.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def _harmless(text: str) -> str:
    """Return a text with nothing that a terminal would obey, or that begins a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _Console(Console):
    """Standard output, for which a reader that left is the caller's business."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled; the original exits with 1."""
        raise  # noqa: PLE0704 - it is called from an except clause


class _Hexadecimal(int):
    """An int too large to be printed in decimal."""

    def __repr__(self) -> str:
        return hex(self)


def _printable(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {_printable(key): _printable(item) for key, item in value.items()}
    if kind in {list, tuple, set, frozenset}:
        return kind(map(_printable, value))
    if kind is int and value.bit_length() > _MAX_DECIMAL_BITS:
        return _Hexadecimal(value)
    return value
