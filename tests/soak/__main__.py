"""Soak real servers: ``python -m tests.soak --minutes 10 --report soak.html``."""

# ruff: noqa: T201 - printing is what it is for
from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime as dt
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.soak.figures import Figures
from tests.soak.page import page
from tests.soak.places import PLACES
from tests.soak.rounds import Plan, soak
from tests.soak.summary import is_wrong, markdown, missing, run_of, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.soak.summary import Run

# What a shell says of who was ended by a Ctrl-C.
_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Return 0 only if all was tried and nothing was wrong."""
    options = _options(arguments)
    wanted, left_out = _wanted(options.place, options.faults)
    for name, why in left_out.items():
        print(f"LEFT OUT: {name}: {why}")
    when = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    run = run_of(
        *(arguments, options.seed, options.minutes, when),
        wanted=wanted,
        left_out=left_out,
        state="under way",
    )
    report = _Report(run, options.report, options.markdown)
    report.write()  # a path to which that cannot be is no news for the end of hours
    plan = Plan(options.seed, seconds=options.round, kinds=options.faults)
    print(f"SEED={options.seed}", flush=True)
    state, began = "", time.monotonic()
    try:
        for name in wanted:
            _soak(name, plan, 60 * options.minutes / len(wanted), report)
    except KeyboardInterrupt:
        state = f"interrupted after {(time.monotonic() - began) / 60:.1f} minutes"
    report.end(state)
    if state:
        return _INTERRUPTED
    return int(is_wrong(report.figures) or bool(missing(run, report.figures)))


class _Report:
    """What is known so far, as files and as text."""

    def __init__(self, run: Run, html: Path | None, tables: Path | None) -> None:
        self.run = run
        self.figures: dict[str, Figures] = {}
        self._html, self._tables = html, tables

    def tell(self, what: str) -> None:
        """Print how far it has come, and write all of it: the next may take long."""
        print(what, flush=True)
        self.write()

    def write(self) -> None:
        """Write the files that are wanted."""
        if self._html is not None:
            self._html.write_text(page(self.run, self.figures))
        if self._tables is not None:
            self._tables.write_text(markdown(self.run, self.figures))

    def end(self, state: str) -> None:
        """Print and write all of it."""
        self.run = dataclasses.replace(self.run, state=state)
        self.write()
        print(f"\n{markdown(self.run, self.figures)}")
        for name, one in self.figures.items():
            for found in one.findings:
                print(f"WRONG: {name}: {found.wrong}: {found.key}: {found.what}")
        for what in missing(self.run, self.figures):
            print(f"NOT TRIED: {what}")
        print(f"{state or 'done'}: {verdict(self.run, self.figures)}")
        if self._html is not None:
            print(f"all of it, with pictures: {self._html.absolute()}")


def _soak(name: str, plan: Plan, seconds: float, report: _Report) -> None:
    """Soak one place; that something goes amiss there does not end the others."""
    figures = report.figures[name] = Figures()
    # Servers that run as a user of their own must get there; those that did not start
    # as they should may still be there.
    with _uninterrupted():  # or it would be there, and nobody's to remove
        own = tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)
    with own as directory:
        path = Path(directory)
        path.chmod(0o755)
        place = PLACES[name](path)
        try:
            asyncio.run(soak(place, plan, seconds, figures, report.tell))
        except Exception:  # noqa: BLE001 - whatever it is, it is reported
            figures.break_off(traceback.format_exc())
            report.tell(f"{name}: broken off")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals wait until this is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wanted(
    places: list[str], kinds: list[str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return which faults are wanted where, and why a place is left out."""
    wanted, left_out = {}, {}
    for name in places:
        here = [kind for kind in PLACES[name].faults if not kinds or kind in kinds]
        if lacking := PLACES[name].lacks:
            left_out[name] = f"{lacking} is not installed"
        elif here:
            wanted[name] = here
        else:
            left_out[name] = "it knows none of these faults"
    return wanted, left_out


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
    known = {kind for name in options.place for kind in PLACES[name].faults}
    if unknown := set(options.faults) - known:
        parser.error(
            f"no such fault: {', '.join(sorted(unknown))}; there are:\n  "
            + "\n  ".join(sorted(known))
        )
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    return options


if __name__ == "__main__":
    # Whichever way it is ended after hours, its figures are wanted; and in order, as
    # asyncio sees to after a Ctrl-C. A shell lets its background jobs ignore that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(main(sys.argv[1:]))
