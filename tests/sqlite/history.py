"""What hammering processes must have left behind, given what was acknowledged to them.

Each update of ``bot.Bot.hammer`` counts one more and notes its own name, which is the
name of the process, the number of the caller, and the number of the update. So a
session tells which updates it is made of, and in which order they came.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import apsw

from botsessions import SessionStore, SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.sqlite.processes import Process

Session = dict[str, Any]


def sessions(path: str) -> dict[str, Session]:
    """Open the file as a bot that starts would, and read everything."""

    async def read() -> dict[str, Session]:
        async with SessionStore(SQLiteBackend(path)) as store:
            return {str(key): session async for key, session in store.items()}

    return asyncio.run(read())


def check_file(path: str) -> None:
    """Let SQLite look for damage."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


def check(found: Mapping[str, Session], processes: Collection[Process]) -> None:
    """What was acknowledged is there, once; what was refused is not.

    Beyond it there may be what was in doubt, and the one update that each caller still
    waited for when its process was killed.
    """
    noted: Counter[tuple[str, str]] = Counter()
    for key, session in found.items():
        log = session["log"]
        assert session["n"] == len(log), f"{key}: counted otherwise than noted"
        noted.update((key, what) for what in log)
        check_order(key, log)
    assert [what for what, times in noted.items() if times > 1] == [], "applied twice"
    acknowledged = {pair for process in processes for pair in process.acknowledged}
    refused = {pair for process in processes for pair in process.refused}
    doubtful = {pair for process in processes for pair in process.doubtful}
    assert acknowledged - noted.keys() == set(), "acknowledged and lost"
    assert refused & noted.keys() == set(), "refused and applied"
    told = Counter(_parts(what)[0] for _, what in acknowledged | refused | doubtful)
    for _, what in noted.keys() - acknowledged - doubtful:
        caller, number = _parts(what)
        assert number == told[caller], f"{what} is there and was not under way"


def check_order(key: str, log: list[str]) -> None:
    """A caller that waits for each update finds them in the order of its calls."""
    latest: dict[str, int] = defaultdict(lambda: -1)
    for what in log:
        caller, number = _parts(what)
        assert number > latest[caller], f"{key}: {what} came after a later one"
        latest[caller] = number


def _parts(what: str) -> tuple[str, int]:
    caller, _, number = what.rpartition(".")
    return caller, int(number)
