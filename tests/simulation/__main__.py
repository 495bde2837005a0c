"""Play seeds again and print all that happens: ``python -m tests.simulation SEED``.

``--locks`` plays seeds of ``locks``; ``--minutes`` plays ever new ones (``soak``).
"""

# ruff: noqa: T201 - printing is what it is for
from __future__ import annotations

import argparse
import contextlib
import sys

from tests.simulation import locks
from tests.simulation.mutants import MUTANTS
from tests.simulation.plans import plan_of
from tests.simulation.replay import show
from tests.simulation.schedule import play
from tests.simulation.soak import soak


def main() -> int:
    """Return 1 if a law was broken, 0 if not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Play seeds of the simulation."
    )
    parser.add_argument("seed", type=int, nargs="*")
    parser.add_argument("--locks", action="store_true", help="play seeds of locks")
    parser.add_argument("--mutant", help="plant the mutant of this name")
    parser.add_argument("--minutes", type=float, help="play new seeds for so long")
    options = parser.parse_args()
    mutants = {mutant.name: mutant for mutant in [*MUTANTS, *locks.MUTANTS]}
    if options.mutant is not None and options.mutant not in mutants:
        parser.error("no such mutant; there are:\n  " + "\n  ".join(mutants))
    if bool(options.seed) == (options.minutes is not None):
        parser.error("give seeds, or --minutes")
    if options.minutes is not None:
        return _soak(options.minutes)
    with contextlib.ExitStack() as stack:
        if options.mutant is not None:
            stack.enter_context(mutants[options.mutant].planted())
        replay = _replay_locks if options.locks else _replay
        return max(map(replay, options.seed))


def _soak(minutes: float) -> int:
    played = soak(minutes)
    print(*played.lines(), sep="\n")
    return int(bool(played.failures))


def _replay(seed: int) -> int:
    plan = plan_of(seed)
    print(f"seed {seed}: {plan.name}")
    try:
        report = play(plan, seed, show)
    except AssertionError as noticed:
        print(f"BROKEN: {noticed}")
        return 1
    print(f"fine: {report}")
    return 0


def _replay_locks(seed: int) -> int:
    print(f"seed {seed} of locks")
    try:
        world = locks.play(seed, show)
    except AssertionError as noticed:
        print(f"BROKEN: {noticed}")
        return 1
    print(f"fine: counted to {world.server.count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
