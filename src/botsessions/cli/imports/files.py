"""A pickle file, from its name to what it holds; used by ``telegram``, ``telebot``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from botsessions.cli.imports import pickles
from botsessions.cli.imports.plain import LIMIT
from botsessions.cli.source import interruptible

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# A value takes a few bytes in a pickle, and one to which it refers again two or five.
_ROOM_FOR_A_BYTE = 1000


class Content(NamedTuple):
    """What a file holds, and what else it would have done."""

    value: Any
    warnings: list[str]
    room: int
    """What the values may weigh, each as often as it is there."""


def read(path: Path, on_progress: Callable[[str, int], None]) -> Content:
    """Read a pickle without executing it; ValueError with the name if it is none."""
    with interruptible():
        data = path.read_bytes()
        if not data:
            raise ValueError(
                f"{path} has 0 bytes: it was cut off while it was written, and holds "
                "nothing; look for a backup"
            )
        try:
            loaded = pickles.load(
                data, lambda done: on_progress(f"read {done / len(data):.0%}", done)
            )
        except ValueError as exc:
            raise ValueError(f"{path}: {exc}") from exc
    return Content(
        loaded.value,
        [
            f"wants to call {name} {count:,} times and do nothing with the answer, as "
            "no bot's data do; it was not called"
            for name, count in Counter(loaded.unused).items()
        ],
        LIMIT + _ROOM_FOR_A_BYTE * len(data),
    )


def refusal(path: Path, value: Any, expected: str) -> ValueError:
    """Return the error for a file that holds something else than expected."""
    return ValueError(f"{path} is not {expected}: it holds {described(value)}")


def described(value: Any) -> str:
    """Say what a value of a pickle is, if it is not what it should be."""
    if isinstance(value, pickles.Foreign):
        return f"{value.what}, which is no plain data and was not executed"
    return type(value).__name__
