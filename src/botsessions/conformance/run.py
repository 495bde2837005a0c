"""Carry out checks on a backend, each on an event loop of its own, and report.

Neighbours: ``attempt`` sees to it that a check ends; the checks (``contract``,
``contention``, ``endings``, ``clocks``, ``abilities``, ``laws``), ``results``; the
package's ``__init__`` is the public face.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import random
import time
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

from botsessions.blame import described, from_own_line
from botsessions.conformance.attempt import NotOverError, attempt
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
from botsessions.conformance.subject import Subject, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from types import ModuleType
    from typing import Any

    from botsessions.conformance.subject import Make

# Seconds after which a check is given up.
_LIMIT = 60.0
# How many steps are shown, from the end, unless they were made short already.
_STEPS = 24


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing that is asked of a backend."""

    name: str
    group: str
    demand: str
    function: Callable[[Subject], Coroutine[Any, Any, None]]

    def run(self, make: Make) -> Result:
        """Carry it out, blocking, for little more than a minute at most."""
        # Keys must differ from those of an earlier run on the same database.
        subject = Subject(make, random.Random())
        began = time.perf_counter()
        status, message, error = Status.PASSED, "", None
        try:
            attempt(partial(self._carry_out, subject), _LIMIT)
        except BaseException as raised:
            error = _innermost(raised)
            # Any other (SystemExit, what pytest.skip raises) is for our caller.
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
            status, message = _verdict(error)
            # What the check has found itself has no use for the lines that found it.
            if isinstance(error, Violation | NotSupported):
                error = error.__cause__
        return Result(
            self.name,
            self.group,
            self.demand,
            status,
            message,
            _steps(subject, error) if status is Status.FAILED else (),
            time.perf_counter() - began,
            subject.drawing,
            None if error is None else from_own_line(error),
        )

    async def _carry_out(self, subject: Subject) -> None:
        async with subject:
            await self.function(subject)


def _innermost(raised: BaseException) -> BaseException:
    """Return what a task group wraps, if it is alone."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        [raised] = raised.exceptions
    return raised


def _verdict(error: BaseException) -> tuple[Status, str]:
    match error:
        case NotSupported():
            return Status.NOT_SUPPORTED, str(error)
        case Violation():
            return Status.FAILED, str(error).split("\n", 1)[0]
        case NotOverError():
            return Status.FAILED, str(error)
        case asyncio.CancelledError():
            said = f"it raised {described(error)}, and nobody had cancelled it"
            return Status.FAILED, said
        case _:
            return Status.FAILED, f"it raised {described(error)}"


def _steps(subject: Subject, error: BaseException | None) -> tuple[str, ...]:
    steps = tuple(subject.steps)
    if not subject.drawing and len(steps) > _STEPS:
        steps = (f"… {len(steps) - _STEPS} steps before these", *steps[-_STEPS:])
    return steps + (error.lines if isinstance(error, NotOverError) else ())


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


def named(name: str) -> Check:
    """Return the check of a name, also if it is written as words; or ValueError."""
    meant = name.replace(" ", "_")
    checks = {check.name: check for check in CHECKS}
    if meant not in checks:
        close = get_close_matches(meant, checks)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"there is no check {name}{hint}")
    return checks[meant]


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
    leaves them behind. Blocks for some seconds; where an event loop has others to
    serve, call it by ``asyncio.to_thread``. ``on_result`` is told of each result as it
    comes. A ``make`` that makes no backend is a TypeError, and an error of the first
    ``open`` is raised as it is: nothing can be checked then. A check that hangs and
    cannot be stopped is the last one.
    """
    chosen = CHECKS if only is None else _chosen(only)
    attempt(partial(_try, make), _LIMIT)
    results = []
    for check in chosen:
        result = check.run(make)
        on_result(result)
        results.append(result)
        # It holds what it holds, a lock of the database perhaps.
        if isinstance(result.error, NotOverError) and result.error.is_left:
            break
    return Report(tuple(results))


def _chosen(only: Collection[str]) -> tuple[Check, ...]:
    if isinstance(only, str):
        raise TypeError(f"only takes several names: write only=[{only!r}]")
    chosen = {named(name) for name in only}
    if not chosen:
        raise ValueError("only is empty, and no checks prove nothing")
    return tuple(check for check in CHECKS if check in chosen)


async def _try(make: Make) -> None:
    subject = Subject(make, random.Random(0))
    backend = subject.made()
    if subject.made() is backend:
        raise TypeError(
            "make() returned the same backend twice: it must return a new one each time"
        )
    async with opened(backend):
        pass
