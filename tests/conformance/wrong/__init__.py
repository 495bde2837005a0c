"""Wrong backends, each with one fault, and the check of the kit that must find it.

Rooms as in the kit: ``contract``, ``contention``, ``endings``, ``clocks``,
``abilities``; ``base`` says what they share.
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
    right_maker,
)

__all__ = ["AnyWrong", "all_wrong", "fault", "maker", "right_maker"]


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
