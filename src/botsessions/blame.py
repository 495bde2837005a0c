"""Which line of the user's own code an error, or a hanging call, is to be sought at.

What runs code of others (handlers in ``cli``, backends in ``conformance``) tells of its
failures with it.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    Frames = Iterable[tuple[FrameType, int]]


def described(exc: BaseException) -> str:
    """Say what the user's code raised, and where: ``KeyError: 'x' (bot.py, line 12)``.

    It is the innermost line of the user's own, not one of a library that it called.
    """
    what = ": ".join(filter(None, [type(exc).__name__, str(exc)]))
    return what + place(traceback.walk_tb(exc.__traceback__))


def place(frames: Frames) -> str:
    """Return the innermost line of the user's own, as `` (bot.py, line 12)``, if any.

    The frames come from the outermost to the innermost.
    """
    files = [(Path(frame.f_code.co_filename), number) for frame, number in own(frames)]
    # The first is what was called, which may be installed like a library itself.
    installed = {"site-packages", "dist-packages"}
    theirs = [there for there in files if installed.isdisjoint(there[0].parts)]
    where = [f" ({file.name}, line {number})" for file, number in theirs or files[:1]]
    return "".join(where[-1:])


def from_own_line(exc: BaseException) -> BaseException:
    """Let a traceback begin with the first line of the user's own, if it has one."""
    there = exc.__traceback__
    while there is not None and not list(own([(there.tb_frame, there.tb_lineno)])):
        there = there.tb_next
    return exc if there is None else exc.with_traceback(there)


def own(frames: Frames) -> Frames:
    """Leave out the frames of Python itself and of this package."""
    not_theirs = sys.stdlib_module_names | {"botsessions"}
    for frame, number in frames:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        # What a dataclass generates has no file.
        generated = Path(frame.f_code.co_filename).name.startswith("<")
        if package not in not_theirs and not generated:
            yield frame, number
