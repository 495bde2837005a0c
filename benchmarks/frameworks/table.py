"""A table for README.md: what a framework does by itself, and with botsessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Line(NamedTuple):
    what: str
    stock: str
    ours: str


def table(lines: Iterable[Line]) -> list[str]:
    head = Line("framework", "stock", "with botsessions")
    return [f"| {' | '.join(line)} |" for line in (head, Line(*["---"] * 3), *lines)]
