"""What came of the checks: a result for each, and the report of all.

Neighbours: ``run`` makes them; the command line and the pytest plugin show them.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class NotSupported(Exception):  # noqa: N818 - it is no error
    """Raised by a check for which the backend lacks an ability; says which."""


class Status(enum.StrEnum):
    """What came of a check."""

    PASSED = "passed"
    NOT_SUPPORTED = "not supported"
    """It asks for an ability that the backend does not have; nothing is wrong."""
    FAILED = "failed"


_MARKS = {Status.PASSED: "✓", Status.NOT_SUPPORTED: "-", Status.FAILED: "✗"}


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of one check.

    ``message`` says what is wrong, or which ability is missing. ``steps`` are what led
    to it, a line each: the shortest history that shows it where calls overlap, else the
    last things that the check did; or where it hangs. ``seconds`` is how long it took.
    """

    name: str
    group: str
    demand: str
    """What the check asks of a backend, in one sentence."""
    status: Status
    message: str = ""
    steps: tuple[str, ...] = ()
    seconds: float = 0.0
    drawing: str = ""
    """The history of calls that overlap as a timeline (SVG), if there is one."""
    error: BaseException | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    """What the backend raised, with its traceback, if that is what was wrong."""

    @property
    def title(self) -> str:
        """Return the name as words."""
        return self.name.replace("_", " ")

    def __str__(self) -> str:
        lines = [f"{self.status}: {self.name}"]
        if self.message:
            lines.append(f"  {self.message}")
        lines += [f"    {step}" for step in self.steps]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What came of all checks, in their order; as text, a table of them."""

    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Tell whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Result, ...]:
        """Return the results of those that did."""
        return tuple(r for r in self.results if r.status is Status.FAILED)

    def counts(self) -> Mapping[Status, int]:
        """Return how many checks ended in each way."""
        statuses = [result.status for result in self.results]
        return {status: statuses.count(status) for status in Status}

    @property
    def summary(self) -> str:
        """Return the counts as words."""
        return ", ".join(f"{count} {status}" for status, count in self.counts().items())

    def __str__(self) -> str:
        lines = []
        for result in self.results:
            lines.append(f"{_MARKS[result.status]} {result.title}")
            if result.message:
                lines.append(f"    {result.message}")
            lines += [f"      {step}" for step in result.steps]
        return "\n".join([*lines, self.summary])
