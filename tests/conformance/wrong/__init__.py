"""What is wrong on purpose, each in one way, and the check that must find it.

Rooms as in the kit: ``contract``, ``contention``, ``endings``, ``clocks``,
``abilities``; ``base`` says what they share. ``engines`` has wrong engines, since the
laws of the store have checks as well.
"""

from __future__ import annotations

from tests.conformance.wrong import abilities, clocks, contention, contract, endings
from tests.conformance.wrong.base import (
    AnyWrong,
    Wrong,
    WrongFile,
    WrongInline,
    fault,
    maker,
)
from tests.conformance.wrong.engines import WRONG_ENGINES, WrongEngine

__all__ = [
    "WRONG_ENGINES",
    "AnyWrong",
    "Wrong",
    "WrongEngine",
    "all_wrong",
    "fault",
    "maker",
]


def all_wrong() -> list[AnyWrong]:
    """Return each wrong backend, in the order of the modules and their lines."""
    return [
        kind
        for module in (contract, contention, endings, clocks, abilities)
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Wrong | WrongFile | WrongInline)
        and kind.__module__ == module.__name__
        and "caught_by" in vars(kind)
    ]
