"""Carry out checks on a backend, each on an event loop of its own, and report.

Neighbours: the checks (``contract``, ``contention``, ``endings``, ``clocks``,
``abilities``, ``laws``), ``results``; the package's ``__init__`` is the public face.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import random
import time
from typing import TYPE_CHECKING

from botsessions.conformance.checks import (
    abilities,
    clocks,
    contention,
    contract,
    endings,
    laws,
)
from botsessions.conformance.histories.history import Violation
from botsessions.conformance.results import NotSupported, Report, Result, Status
from botsessions.conformance.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from types import ModuleType
    from typing import Any

    from botsessions.conformance.subject import Make

# Seconds after which a check is given up: something waits for ever.
_LIMIT = 60.0
# How many steps of a long history are shown, from the end.
_STEPS = 24


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing that is asked of a backend."""

    name: str
    group: str
    demand: str
    function: Callable[[Subject], Coroutine[Any, Any, None]]

    def run(self, make: Make) -> Result:
        """Carry it out, blocking; call it from a thread that runs no event loop."""
        # Keys must differ from those of an earlier run on the same database.
        subject = Subject(make, random.Random())
        began = time.perf_counter()
        status, message = Status.FAILED, ""
        try:
            asyncio.run(self._carry_out(subject))
            status = Status.PASSED
        except NotSupported as lacks:
            status, message = Status.NOT_SUPPORTED, str(lacks)
        except Violation as wrong:
            message = str(wrong).split("\n", 1)[0]
        except TimeoutError:
            message = f"it was not over after {_LIMIT:g} s: something waits for ever"
        except Exception as exc:  # noqa: BLE001 - whatever the backend raises
            message = f"it raised {type(exc).__name__}: {exc}"
        steps = () if status is not Status.FAILED else tuple(subject.steps[-_STEPS:])
        return Result(
            self.name,
            self.group,
            self.demand,
            status,
            message,
            steps,
            time.perf_counter() - began,
            subject.drawing,
        )

    async def _carry_out(self, subject: Subject) -> None:
        async with asyncio.timeout(_LIMIT), subject:
            await self.function(subject)


def _checks(group: str, module: ModuleType) -> tuple[Check, ...]:
    return tuple(
        Check(
            function.__name__,
            group,
            (inspect.getdoc(function) or "").split("\n\n", 1)[0].replace("\n", " "),
            function,
        )
        for function in module.CHECKS
    )


CHECKS: tuple[Check, ...] = (
    *_checks("contract", contract),
    *_checks("contention", contention),
    *_checks("endings", endings),
    *_checks("clock", clocks),
    *_checks("abilities", abilities),
    *_checks("laws", laws),
)
"""All checks, in the order in which they are carried out."""


def check_backend(
    make: Make,
    *,
    only: Collection[str] | None = None,
    on_result: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Carry out all checks, or ``only`` those of some names, and report.

    ``make`` returns a new backend that is not open, each over the same data (a file, a
    server), or over data of its own (memory). If it has a parameter ``clock`` (a
    function that returns seconds since the epoch), the kit moves that clock; a ``make``
    with a method ``set_clock`` (``SetsClock``) is told the time to be. For the checks
    with processes ``make`` must be one that pickle can send: a function or class of a
    module, or a ``functools.partial`` of one.

    Use an empty database: each check has keys of its own, under ``conform…/``, and
    leaves them behind. Blocks for some seconds; on a running event loop call it by
    ``asyncio.to_thread``. ``on_result`` is told of each result as it comes. An error of
    the first ``open`` is raised as it is: nothing can be checked then.
    """
    chosen = [check for check in CHECKS if only is None or check.name in only]
    unknown = set(only or ()) - {check.name for check in chosen}
    if unknown:
        raise ValueError(f"there is no check {', '.join(sorted(unknown))}")
    asyncio.run(_try(make))
    results = []
    for check in chosen:
        result = check.run(make)
        on_result(result)
        results.append(result)
    return Report(tuple(results))


async def _try(make: Make) -> None:
    backend = Subject(make, random.Random(0)).made()
    await backend.open()
    await backend.aclose()
