"""What a run came to, as Markdown; and what was run, for this and the page."""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botsessions as bs
from botsessions.conformance.histories.history import Outcome, Verb
from tests.soak.judging import Wrong

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tests.soak.figures import Figures

NOTES = (
    "Latencies are those of acknowledged calls. Silence is the longest time without "
    "any acknowledged change, from a fault's beginning on; in a Cluster other masters "
    "go on meanwhile. Recovery is the time from a fault's being over, with all servers "
    "back, to the answer of a change that was asked for afterwards and "
    "acknowledged. Unknown outcomes are calls whose caller was told so, or whose "
    "process was killed meanwhile."
)
_ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What is run, where; and how far it has come, if not to its end."""

    command: str
    seed: int
    minutes: float
    when: str
    version: str = bs.__version__
    commit: str = ""
    machine: str = ""
    wanted: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)
    """By place: the faults that it is to meet."""
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By place: why nothing is done there."""
    state: str = ""

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
            *((f"{name} is left out", why) for name, why in self.left_out.items()),
            *([("state", self.state)] if self.state else []),
        ]


def run_of(
    arguments: Iterable[str], seed: int, minutes: float, when: str, **more: Any
) -> Run:
    """Describe the run of this process on this machine."""
    command = shlex.join(["python", "-m", "tests.soak", *arguments])
    machine = _machine(os.cpu_count())
    return Run(command, seed, minutes, when, commit=_commit(), machine=machine, **more)


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


def is_wrong(figures: Mapping[str, Figures]) -> bool:
    """Tell whether anything at all was wrong."""
    return any(one.wrong.total() for one in figures.values())


def missing(run: Run, figures: Mapping[str, Figures]) -> list[str]:
    """Return what was to be tried and was not: nothing is shown by that."""
    told = [] if run.wanted else ["there is no place to soak"]
    for name, wanted in run.wanted.items():
        one = figures.get(name)
        if one is None or not one.rounds:
            told.append(f"{name}: still to come")
            continue
        if never := [kind for kind in wanted if not one.faults[kind]]:
            told.append(f"{name}: never injected, or only in vain: {', '.join(never)}")
        if not one.told(Outcome.DONE):
            told.append(f"{name}: nothing was acknowledged")
        if not one.histories:
            told.append(f"{name}: nothing was judged")
    return told


def verdict(run: Run, figures: Mapping[str, Figures]) -> str:
    """Say in some words what came of it."""
    if is_wrong(figures):
        return "something is wrong"
    if run.state or missing(run, figures):
        return "nothing wrong so far, and not all was tried"
    return "nothing lost, nothing doubled"


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
    for name, by_kind in (
        ("longest silence", [one.silence for one in each]),
        ("longest recovery", [one.recovery for one in each]),
    ):
        row(name, (f"{max(of.values(), default=0.0):.2f} s" for of in by_kind))
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


FAULT_HEAD = ["fault", "times", "longest silence", "longest recovery"]


def fault_rows(figures: Figures) -> list[list[str]]:
    """Return a line for each kind of fault, as the head above has it."""
    return [
        [
            kind,
            str(n),
            *map(_seconds, (figures.silence[kind], figures.recovery.get(kind))),
        ]
        for kind, n in sorted(figures.faults.items())
    ]


def _seconds(how_long: float | None) -> str:
    return "not seen" if how_long is None else f"{how_long:.2f} s"


def markdown(run: Run, figures: Mapping[str, Figures]) -> str:
    """Return the tables of a run."""
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {_code(name, fact)} |" for name, fact in run.facts]
    lines += ["", *_table(*rows(figures))]
    for name, one in figures.items():
        lines += ["", f"**{name}**: {one.title}", ""]
        lines += _table(FAULT_HEAD, *fault_rows(one))
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], *table: Sequence[str]) -> list[str]:
    return [_row(head), "|---" * len(head) + "|", *map(_row, table)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(name: str, fact: str) -> str:
    return f"`{fact}`" if name == "command" else fact
