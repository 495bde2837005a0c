"""What a run came to, as Markdown; and what was run, for this and the page."""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import botsessions as bs
from botsessions.conformance.histories.history import Outcome, Verb
from tests.soak.judging import Wrong

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.soak.figures import Figures

NOTES = (
    "Latencies are those of acknowledged calls. Recovery is the time from a fault's "
    "being over to the answer of a change that was asked for afterwards and "
    "acknowledged. Unknown outcomes are calls whose caller was told so, or whose "
    "process was killed meanwhile."
)
_ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What was run, where."""

    command: str
    seed: int
    minutes: float
    when: str
    version: str = bs.__version__
    commit: str = ""
    machine: str = ""

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return it by name."""
        return [
            ("command", self.command),
            ("botsessions", f"{self.version}, commit {self.commit or 'unknown'}"),
            ("machine", self.machine),
            ("began", self.when),
            ("minutes", f"{self.minutes:g}"),
            ("seed", str(self.seed)),
        ]


def run_of(arguments: Iterable[str], seed: int, minutes: float, when: str) -> Run:
    """Describe the run of this process on this machine."""
    command = shlex.join(["python", "-m", "tests.soak", *arguments])
    return Run(
        command, seed, minutes, when, commit=_commit(), machine=_machine(os.cpu_count())
    )


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        return told.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "src") else ""
    return git("rev-parse", "--short=12", "HEAD") + changed


def _machine(cores: int | None) -> str:
    python = f"Python {platform.python_version()}"
    return f"{platform.system()} {platform.machine()}, {cores} cores, {python}"


def is_fine(figures: Iterable[Figures]) -> bool:
    """Tell whether nothing at all was wrong."""
    return not any(one.wrong.total() for one in figures)


def rows(figures: Mapping[str, Figures]) -> list[list[str]]:
    """Return the table of all places, its head first."""
    table: list[list[str]] = [["", *figures]]
    each = list(figures.values())

    def row(name: str, values: Iterable[str]) -> None:
        table.append([name, *values])

    row("rounds", (f"{one.rounds}" for one in each))
    row("processes, killed ones too", (f"{one.processes}" for one in each))
    row("operations", (f"{one.operations:,}" for one in each))
    for verb in [*(verb.value for verb in Verb), "lock"]:
        total = [sum(one.verbs[verb, what] for what in Outcome) for one in each]
        row(f"· {verb}", (f"{n:,}" for n in total))
    for name, what in (
        ("acknowledged", Outcome.DONE),
        ("refused", Outcome.FAILED),
        ("unknown outcomes", Outcome.UNKNOWN),
    ):
        row(name, (f"{one.told(what):,}" for one in each))
    row("faults", (f"{one.faults.total()}" for one in each))
    row("longest recovery", (f"{one.longest_recovery:.2f} s" for one in each))
    for name, share in (("median", 0.5), ("99th percentile", 0.99)):
        row(
            f"latency, {name}",
            (f"{one.latencies.within(share):.1f} ms" for one in each),
        )
    row("latency, longest", (f"{one.latencies.longest:,.0f} ms" for one in each))
    row("histories judged", (f"{one.histories:,}" for one in each))
    row("· by exact search, too", (f"{one.exact:,}" for one in each))
    row("· given up by it", (f"{one.undecided:,}" for one in each))
    for wrong in Wrong:
        row(f"**{wrong.value}**", (f"**{one.wrong[wrong]}**" for one in each))
    return table


def fault_rows(figures: Figures) -> list[tuple[str, int, str]]:
    """Return each kind of fault: how many, and the longest recovery from it."""
    return [
        (kind, count, _seconds(figures.recovery.get(kind)))
        for kind, count in sorted(figures.faults.items())
    ]


def _seconds(recovery: float | None) -> str:
    return "not seen" if recovery is None else f"{recovery:.2f} s"


def markdown(run: Run, figures: Mapping[str, Figures]) -> str:
    """Return the tables of a run."""
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {_code(name, fact)} |" for name, fact in run.facts]
    head, *table = rows(figures)
    lines += ["", _row(head), "|---" * len(head) + "|", *map(_row, table)]
    for name, one in figures.items():
        lines += ["", f"**{name}**: {one.title}", ""]
        lines += ["| fault | times | longest recovery |", "|---|---|---|"]
        lines += [_row(map(str, row)) for row in fault_rows(one)]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(name: str, fact: str) -> str:
    return f"`{fact}`" if name == "command" else fact
