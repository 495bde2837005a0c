"""Write docs/mutants.md: ``python -m tests.conformance.table``; takes some minutes.

Each wrong backend and engine is tried, and each mutant of the simulation hunted, as the
tests do it. Neighbours: ``trial``, ``wrong``, and ``tests.simulation.hunt``.
"""

# ruff: noqa: T201 - printing is how it says that it goes on
from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from botsessions.conformance import Status
from tests.conformance.trial import try_backend, try_engine
from tests.conformance.wrong import WRONG_ENGINES, all_wrong, fault
from tests.simulation import locks
from tests.simulation.hunt import hunt, hunt_by_locks
from tests.simulation.mutants import MUTANTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from botsessions.conformance import Result

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"
_MOST_SEEDS = 150
_LONGEST_MESSAGE = 90

_HEAD = """\
# Broken on purpose

<!-- written by `make mutants`; tests/conformance/test_wrong.py holds it to the code -->

A check that catches nothing proves nothing. So each backend and each engine below is
wrong in one way, mostly one that somebody has been wrong in before, and must be caught
by the check that is there for it; the tests fail if one survives, or if a check has
none to catch. What the checks demand is in [conformance.md](conformance.md). Times are
of one run, on two busy cores.
"""
_BACKENDS = """
## Wrong backends

{count} backends, each caught by its check of the kit (`tests/conformance/wrong`).

| backend | what is wrong, and why | caught by | told | s |
|---|---|---|---|---|
"""
_ENGINES = """
## Wrong engines, under the kit

{count} engines over a right backend, each caught by the check of its law
(`tests/conformance/wrong/engines.py`).

| what is wrong | caught by | told | s |
|---|---|---|---|
"""
_HUNTED = """
## Wrong engines, under simulation

{count} engines, servers and clocks, each caught by a judge of the deterministic
simulation, which plays a plan seed by seed (`tests/simulation/mutants.py`, and of locks
`tests/simulation/locks.py`).

| what is wrong | plan | caught by, after | s |
|---|---|---|---|
"""


def listed(page: str) -> list[tuple[str, ...]]:
    """Return what a page lists: of each row what does not differ from run to run."""
    rows = [_cells(line) for line in page.splitlines() if line.startswith("| ")]
    # A backend has its name ahead of what is wrong about it.
    return [tuple(row[: len(row) - 2]) for row in rows if row[-1] != "s"]


def expected() -> list[tuple[str, ...]]:
    """Return what the page must list."""
    return [
        *((_code(k.__name__), fault(k), _code(k.caught_by)) for k in all_wrong()),
        *((str(wrong), _code(wrong.caught_by)) for wrong in WRONG_ENGINES),
        *((mutant.name, mutant.plan) for mutant in [*MUTANTS, *locks.MUTANTS]),
    ]


def _backends() -> Iterator[tuple[object, ...]]:
    for kind in all_wrong():
        with tempfile.TemporaryDirectory() as folder:
            result = try_backend(kind, Path(folder))
        _must_fail(kind.__name__, result)
        name, check = _code(kind.__name__), _code(kind.caught_by)
        yield name, fault(kind), check, _told(result), f"{result.seconds:.2f}"


def _engines() -> Iterator[tuple[object, ...]]:
    for wrong in WRONG_ENGINES:
        result = try_engine(wrong)
        _must_fail(str(wrong), result)
        check = _code(wrong.caught_by)
        yield wrong, check, _told(result), f"{result.seconds:.2f}"


def _hunted() -> Iterator[tuple[object, ...]]:
    for mutant in [*MUTANTS, *locks.MUTANTS]:
        hunted = hunt_by_locks if mutant in locks.MUTANTS else hunt
        catch = hunted(mutant, _MOST_SEEDS)
        if catch is None:
            raise SystemExit(f"{mutant} survived")
        by = f"{_code(catch.judge)}, {catch.seeds} seed{'s' * (catch.seeds > 1)}"
        yield mutant, mutant.plan, by, f"{catch.seconds:.2f}"


def _must_fail(name: str, result: Result) -> None:
    if result.status is not Status.FAILED:
        raise SystemExit(f"{name} survived: {result}")


def _told(result: Result) -> str:
    line = result.message.split("\n", 1)[0]
    if len(line) > _LONGEST_MESSAGE:
        line = line[: _LONGEST_MESSAGE - 1] + "…"
    return _code(line.replace("`", "'"))


def _code(name: str) -> str:
    return f"`{name}`"


def _row(cells: Iterable[object]) -> str:
    return " | ".join(["", *(str(c).replace("|", "\\|") for c in cells), ""]).strip()


def _cells(row: str) -> list[str]:
    cells = row.replace("\\|", "\0").strip("| ").split(" | ")
    return [cell.replace("\0", "|") for cell in cells]


def main() -> int:
    """Write the page; fail if anything survives."""
    parts = [_HEAD]
    tables = ((_BACKENDS, _backends), (_ENGINES, _engines), (_HUNTED, _hunted))
    for head, rows in tables:
        lines = []
        for row in rows():
            lines.append(_row(row))
            print(lines[-1], flush=True)
        parts += [head.format(count=len(lines)), "\n".join(lines), "\n"]
    PAGE.write_text("".join(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
