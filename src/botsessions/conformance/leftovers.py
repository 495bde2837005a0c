"""What is left open in this process: descriptors, threads, tasks.

Neighbours: the checks ``cancelled`` and ``endings``, who see whether it grows.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from botsessions.conformance.histories.history import Violation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

# Seconds for what was closed to be gone, and between two looks.
_PATIENCE, _PAUSE = 2.0, 0.02
_DESCRIPTORS = Path("/dev/fd")


@asynccontextmanager
async def leaves_nothing(times: int, what: str) -> AsyncIterator[None]:
    """See to it that what is done so many times does not leave something each time.

    A few more are no proof: others open and close in this process as well.
    """
    before = _open_now()
    yield
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE
    while True:
        grown = {name: count - before[name] for name, count in _open_now().items()}
        left = [f"{n} {name}" for name, n in grown.items() if n >= times]
        if not left:
            return
        if loop.time() > until:
            raise Violation(f"{what} leaves more and more open: {', '.join(left)}")
        gc.collect()
        await asyncio.sleep(_PAUSE)


def _open_now() -> Mapping[str, int]:
    return {
        "descriptors": _descriptors(),
        # Those of the loop's own executor stay until the loop is closed.
        "threads": sum(
            not t.name.startswith("asyncio_") for t in threading.enumerate()
        ),
        "tasks": len(asyncio.all_tasks()),
    }


def _descriptors() -> int:
    try:
        return sum(1 for _ in _DESCRIPTORS.iterdir())
    except OSError:  # this system does not show them
        return 0
