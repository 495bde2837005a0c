"""Bots of real frameworks on a local Bot API server: stock, and with botsessions.

``python -m benchmarks frameworks`` prints all tables, and ``frameworks.lost``,
``frameworks.crash``, ``frameworks.fidelity`` or ``frameworks.start`` one of them. The
bots are those of ``tests/adapters``, in processes of their own.
"""

from __future__ import annotations

from importlib import import_module

PARTS = ("lost", "crash", "fidelity", "start")


async def report() -> list[str]:
    rows = []
    for part in PARTS:
        module = import_module(f"{__name__}.{part}")
        rows.append(f"\n{part}: {(module.__doc__ or part).splitlines()[0]}\n")
        rows += await module.report()
    return rows
