"""Try what is wrong on purpose: its own check of the kit, once.

Neighbours: ``wrong`` (what is tried), ``test_wrong`` and ``table`` (who try it).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from botsessions.conformance import Result, check_backend
from tests.conformance.plain import Disk, PlainBackend
from tests.conformance.wrong import maker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.wrong import AnyWrong, WrongEngine


def try_backend(kind: AnyWrong, folder: Path) -> Result:
    """Return what its check says of a wrong backend, in an empty folder."""
    [result] = check_backend(maker(kind, folder), only=[kind.caught_by]).results
    return result


def try_engine(wrong: WrongEngine) -> Result:
    """Return what its check says of a wrong engine, over the right backend."""
    make = partial(PlainBackend, Disk())
    with wrong.mutant.planted():
        [result] = check_backend(make, only=[wrong.caught_by]).results
    return result
