"""The conformance kit: proof that a backend keeps the contract, for whoever writes one.

    from botsessions.conformance import check_backend

    print(check_backend(lambda: MyBackend("mydb://localhost/test")))

The same from the command line: ``botsessions conform module:factory``; and under
pytest each check as a case of its own, by the fixture ``conformance_check`` (see
``pytest_plugin``). Abilities are found by protocol: what a backend cannot do is not
supported, and no failure.

Rooms: ``checks`` asks, working with a ``subject``; ``run`` carries the checks out, each
as an ``attempt``, and makes ``results``. ``workers``, some in a ``child`` process, make
histories of calls that overlap; ``histories`` judges them and, for ``witness``, draws
the few calls that show what is wrong.
"""

from botsessions.conformance.histories.counters import check_counter
from botsessions.conformance.histories.history import (
    Call,
    History,
    Outcome,
    Verb,
    Violation,
)
from botsessions.conformance.histories.judge import check_calls
from botsessions.conformance.histories.linearizability import check_linearizable
from botsessions.conformance.histories.order import check_order
from botsessions.conformance.histories.recording import (
    Recorded,
    RecordedBackend,
    dumps,
    loads,
)
from botsessions.conformance.histories.registers import Kind, Operation, check_register
from botsessions.conformance.histories.search import UndecidedError
from botsessions.conformance.histories.shrink import Shrunk, shrink
from botsessions.conformance.histories.timeline import (
    Span,
    explain,
    page,
    spans,
    timeline,
)
from botsessions.conformance.histories.versions import check_versions
from botsessions.conformance.results import NotSupported, Report, Result, Status
from botsessions.conformance.run import CHECKS, Check, check_backend
from botsessions.conformance.subject import SetsClock

__all__ = [
    "CHECKS",
    "Call",
    "Check",
    "History",
    "Kind",
    "NotSupported",
    "Operation",
    "Outcome",
    "Recorded",
    "RecordedBackend",
    "Report",
    "Result",
    "SetsClock",
    "Shrunk",
    "Span",
    "Status",
    "UndecidedError",
    "Verb",
    "Violation",
    "check_backend",
    "check_calls",
    "check_counter",
    "check_linearizable",
    "check_order",
    "check_register",
    "check_versions",
    "dumps",
    "explain",
    "loads",
    "page",
    "shrink",
    "spans",
    "timeline",
]
