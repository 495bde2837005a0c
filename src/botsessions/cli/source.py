"""Updates from a file, one at a time: JSONL, a JSON array, an answer of getUpdates.

JSONL is streamed, whatever its size. An array and an answer are one document, which is
read as a whole; their elements are numbered like lines. ``replay`` is the user,
``journal`` asks what a source is called and whether it can be read again.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from botsessions.cli.json_form import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

# An update is smaller than 100 KB. What is longer is cut, which makes it malformed.
MAX_LINE = 16 * 1024 * 1024

# How a document begins that is more than one line's update, and where that shows.
_BEGINNING = 64
_opens_document = re.compile(rb'(\xef\xbb\xbf)?\s*(\[|\{\s*("ok"|"result"|$))').match


class Line(NamedTuple):
    """One update's text; ``end`` is how many bytes of the source are read with it."""

    number: int
    text: bytes
    end: int

    @property
    def is_open(self) -> bool:
        """Tell whether its newline is missing: the file may still be written to."""
        return not self.text.endswith(b"\n")


class Source:
    """A file of updates by its name, or standard input (``-``).

    Only a regular file can be read again: it has a ``path`` and a ``size``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path: Path | None = None
        self.size: int | None = None
        if name == "-":
            return
        status = Path(name).stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if stat.S_ISREG(status.st_mode):
            self.path = Path(name).resolve()
            self.size = status.st_size

    def lines(self) -> Iterator[Line]:
        """Read from the beginning."""
        with self._open() as file:
            beginning = file.readline(_BEGINNING)
            if _opens_document(beginning):
                yield from _elements(beginning + file.read())
            else:
                yield from _lines(beginning, file)

    def _open(self) -> AbstractContextManager[BinaryIO]:
        if self.name != "-":
            return Path(self.name).open("rb")
        return nullcontext(standard_input())


def standard_input() -> BinaryIO:
    """Return standard input, or raise ValueError if it is closed."""
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    return sys.stdin.buffer


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a read that blocks; asyncio's own handler waits for its return."""
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _lines(beginning: bytes, file: BinaryIO) -> Iterator[Line]:
    number = end = 0
    text, length = _read_line(file, beginning)
    while text:
        number += 1
        end += length
        yield Line(number, text, end)
        text, length = _read_line(file)


def _read_line(file: BinaryIO, beginning: bytes = b"") -> tuple[bytes, int]:
    """Return a line, cut if need be, and how long it really is."""
    rest = b"" if beginning.endswith(b"\n") else file.readline(MAX_LINE)
    text = beginning + rest
    length = len(text)
    while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
        rest = file.readline(MAX_LINE)
        length += len(rest)
    if length > len(text) and rest.endswith(b"\n"):
        text += b"\n"
    return text, length


def _elements(text: bytes) -> Iterator[Line]:
    try:
        document = parse(text)
    except ValueError as exc:
        raise ValueError(
            f"it begins like a JSON array or an answer of getUpdates, but {exc}"
        ) from exc
    if isinstance(document, dict) and "ok" in document:
        document = document.get("result")
        if not isinstance(document, list):
            raise ValueError("it is an answer of the Bot API without updates")
    elements = document if isinstance(document, list) else [document]
    for number, element in enumerate(elements, 1):
        end = len(text) * number // len(elements)
        yield Line(number, json.dumps(element).encode() + b"\n", end)
