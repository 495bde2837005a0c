"""``python -m benchmarks [NAME …]``: run the benchmarks and print their tables."""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from importlib import import_module

from benchmarks.measure import say
from benchmarks.sessions import check

# What `frameworks` compares are results, most of them: it runs when it is asked for.
NAMES = (
    "memory",
    "footprint",
    "sqlite",
    "slowdisk",
    "neighbour",
    "threads",
    "aiogram",
    "telegram",
    "postgres",
    "redis",
    "processes",
    "startup",
)


def main() -> None:
    names = sys.argv[1:] or NAMES
    check()
    say(f"Python {platform.python_version()}, {platform.machine()}, {time.ctime()}")
    say("median of the rounds (lowest to highest); ✗ misses its target here")
    for name in names:
        module = import_module(f"benchmarks.{name}")
        say(f"\n{name}: {(module.__doc__ or name).splitlines()[0]}")
        for row in asyncio.run(module.report()):
            say(row)


if __name__ == "__main__":
    main()
