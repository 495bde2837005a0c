"""What all wrong backends share: whom they derive from, and how each is made.

A wrong backend has one fault. Its docstring says which, and behind the colon what its
author had in mind; ``caught_by`` is the check of the kit that must fail for it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from botsessions.backends.memory import MemoryBackend
from botsessions.backends.sqlite import SQLiteBackend
from tests.conformance.plain import Disk, PlainBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from botsessions.backend import Backend


class Wrong(PlainBackend):
    """Wrong in one way, on a disk of this process."""

    caught_by: ClassVar[str]


class WrongFile(SQLiteBackend):
    """Wrong in one way that takes a file: other processes, a kill, real SQL."""

    caught_by: ClassVar[str]


class WrongInline(MemoryBackend):
    """Wrong in one way about the records that an engine takes directly."""

    caught_by: ClassVar[str]


AnyWrong = type[Wrong] | type[WrongFile] | type[WrongInline]


def maker(kind: AnyWrong, folder: Path) -> Callable[..., Backend]:
    """Return a ``make`` for the kit: backends of one kind, over the same new data."""
    if issubclass(kind, Wrong):
        return partial(kind, Disk())
    if issubclass(kind, WrongFile):
        return partial(kind, folder / "wrong.db")
    return kind


def fault(kind: AnyWrong) -> str:
    """Return what is wrong about it, as its docstring says."""
    return " ".join((kind.__doc__ or "").split())
