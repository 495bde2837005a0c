"""Play seeds again and print all that happens: ``python -m tests.simulation SEED``."""

# ruff: noqa: T201 - printing is what it is for
from __future__ import annotations

import argparse
import contextlib
import sys

from tests.simulation.mutants import MUTANTS
from tests.simulation.plans import plan_of
from tests.simulation.schedule import play


def main() -> int:
    """Return 1 if a law was broken, 0 if not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Play seeds of the simulation."
    )
    parser.add_argument("seed", type=int, nargs="+")
    parser.add_argument("--mutant", help="plant the mutant of this name")
    options = parser.parse_args()
    mutants = {mutant.name: mutant for mutant in MUTANTS}
    if options.mutant is not None and options.mutant not in mutants:
        parser.error("no such mutant; there are:\n  " + "\n  ".join(mutants))
    with contextlib.ExitStack() as stack:
        if options.mutant is not None:
            stack.enter_context(mutants[options.mutant].planted())
        return max(map(_replay, options.seed))


def _replay(seed: int) -> int:
    plan = plan_of(seed)
    print(f"seed {seed}: {plan.name}")
    try:
        report = play(plan, seed, _print)
    except AssertionError as noticed:
        print(f"BROKEN: {noticed}")
        return 1
    print(f"fine: {report}")
    return 0


def _print(time: float, who: str, *what: object) -> None:
    words = ["-" if word is None else getattr(word, "value", word) for word in what]
    print(f"{time:10.4f}  {who:<11}", *words)


if __name__ == "__main__":
    sys.exit(main())
