"""Play seeds: again, event by event, or ever new ones for some minutes.

``python -m tests.simulation SEED`` prints all that happens (``--locks`` plays seeds of
``locks``). ``--minutes M`` soaks: each failure is told as it comes, how it goes once a
minute, and all of it at the end, which Ctrl-C brings about sooner.
"""

# ruff: noqa: T201 - printing is what it is for
from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from tests.simulation import locks, report
from tests.simulation.mutants import MUTANTS
from tests.simulation.plans import plan_of
from tests.simulation.replay import command, show
from tests.simulation.schedule import play
from tests.simulation.soak import Soaked, soak

if TYPE_CHECKING:
    from tests.simulation.mutants import Mutant

INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Return 1 if a law was broken, 0 if not, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Play seeds of the simulation."
    )
    parser.add_argument("seeds", type=int, nargs="*", metavar="SEED")
    parser.add_argument("--locks", action="store_true", help="play seeds of locks")
    parser.add_argument("--mutant", help="plant the mutant of this name")
    parser.add_argument("--minutes", type=float, help="play new seeds for so long")
    parser.add_argument("--seed", type=int, help="with --minutes: the first of them")
    options = parser.parse_args()
    mutants = {mutant.name: mutant for mutant in [*MUTANTS, *locks.MUTANTS]}
    if options.mutant is not None and options.mutant not in mutants:
        parser.error("no such mutant; there are:\n  " + "\n  ".join(mutants))
    mutant = mutants.get(options.mutant)
    if bool(options.seeds) == (options.minutes is not None):
        parser.error("give seeds, or --minutes")
    if options.minutes is not None:
        if options.locks:
            parser.error("--minutes plays those of locks as well")
        return _soak(options.minutes, options.seed, mutant)
    if options.seed is not None:
        parser.error("--seed goes with --minutes")
    with contextlib.nullcontext() if mutant is None else mutant.planted():
        replay = _replay_locks if options.locks else _replay
        return max(map(replay, options.seeds))


def _soak(minutes: float, seed: int | None, mutant: Mutant | None) -> int:
    if seed is None:
        seed = random.SystemRandom().randrange(10**6, 10**9)
    again = command("tests.simulation", f"--minutes={minutes:g}", f"--seed={seed}")
    tell = partial(print, flush=True)
    tell(f"from seed {seed} on; the same again: {again}")
    # Whichever way it is ended it tells what it has. A shell lets its background jobs
    # ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began, soaked, interrupted = time.monotonic(), Soaked(), False
    try:
        soak(minutes, seed, tell, soaked=soaked, mutant=mutant)
    except KeyboardInterrupt:
        interrupted = True
    soaked.judge()
    tell(*report.table(soaked.played), *report.summary(soaked.played), sep="\n")
    tell(*soaked.failures, soaked.line(), sep="\n")
    if interrupted:
        tell(f"INTERRUPTED after {(time.monotonic() - began) / 60:.1f} minutes")
        return INTERRUPTED
    return int(bool(soaked.failures))


def _replay(seed: int) -> int:
    plan = plan_of(seed)
    print(f"seed {seed}: {plan.name}")
    try:
        played = play(plan, seed, show)
    except AssertionError as noticed:
        print(f"BROKEN: {noticed}")
        return 1
    print(f"fine: {played}")
    return 0


def _replay_locks(seed: int) -> int:
    print(f"seed {seed} of locks")
    try:
        played = locks.play(seed, show)
    except AssertionError as noticed:
        print(f"BROKEN: {noticed}")
        return 1
    print(f"fine: {played}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
