"""The conformance kit: proof that a backend keeps the contract, for whoever writes one.

    from botsessions.conformance import check_backend

    print(check_backend(lambda: MyBackend("mydb://localhost/test")))

The same from the command line: ``botsessions conform module:factory``; and under
pytest each check as a case of its own, by the fixture ``conformance_check`` (see
``pytest_plugin``). Abilities are found by protocol: what a backend cannot do is not
supported, and no failure.

Rooms: the checks are in ``contract``, ``contention``, ``endings``, ``clocks``,
``abilities`` and ``laws``, and work with a ``subject``; ``run`` carries them out and
makes ``results``. ``workers``, some in a ``child`` process, make histories of calls
that overlap (``history``); ``order`` and ``linearizability`` judge them, for
``witness``.
"""

from botsessions.conformance.results import NotSupported, Report, Result, Status
from botsessions.conformance.run import CHECKS, Check, check_backend
from botsessions.conformance.subject import SetsClock

__all__ = [
    "CHECKS",
    "Check",
    "NotSupported",
    "Report",
    "Result",
    "SetsClock",
    "Status",
    "check_backend",
]
