"""Soak real servers: ``python -m tests.soak --minutes 10 --report soak.html``."""

# ruff: noqa: T201 - printing is what it is for
from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.soak.page import page
from tests.soak.places import PLACES
from tests.soak.rounds import Plan, soak
from tests.soak.summary import is_fine, markdown, run_of

if TYPE_CHECKING:
    from tests.soak.figures import Figures


def main(arguments: list[str]) -> int:
    """Return 1 if anything was wrong, 0 if not."""
    options = _options(arguments)
    print(f"SEED={options.seed}")
    when = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    run = run_of(arguments, options.seed, options.minutes, when)
    seconds = 60 * options.minutes / len(options.place)
    plan = Plan(options.seed, seconds=options.round, kinds=options.faults)
    figures: dict[str, Figures] = {}
    for name in options.place:
        # Servers that run as a user of their own must get there.
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            path = Path(directory)
            path.chmod(0o755)
            figures[name] = asyncio.run(soak(PLACES[name](path), plan, seconds, print))
        # After each place: the next one may take hours.
        if options.report is not None:
            options.report.write_text(page(run, figures))
        if options.markdown is not None:
            options.markdown.write_text(markdown(run, figures))
    print(markdown(run, figures))
    seen = {kind for one in figures.values() for kind in one.faults}
    if missing := set(options.faults) - seen:
        print(f"NEVER INJECTED: {', '.join(sorted(missing))}")
    for one in figures.values():
        for finding in one.findings:
            print(f"WRONG: {finding.wrong}: {finding.key}: {finding.what}")
    return 0 if is_fine(figures.values()) else 1


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Soak real servers, with faults by schedule, and judge all of it.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for all places")
    parser.add_argument(
        "--place",
        type=lambda text: text.split(","),
        default=list(PLACES),
        help=f"some of {','.join(PLACES)}",
    )
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--round", type=float, default=10.0, help="seconds of each")
    parser.add_argument(
        "--faults",
        type=lambda text: text.split(","),
        default=[],
        help="only these, by their names as the report has them",
    )
    parser.add_argument("--report", type=Path, help="a page to write (HTML)")
    parser.add_argument("--markdown", type=Path, help="tables to write")
    options = parser.parse_args(arguments)
    if unknown := set(options.place) - PLACES.keys():
        parser.error(f"no such place: {', '.join(sorted(unknown))}")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
