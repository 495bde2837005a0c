"""What an acknowledged change survives: "full" has it on the disk before the answer.

No kill can show this, as the kernel keeps what was written. So it is asked of SQLite,
and of the system calls, where they can be watched.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Literal

import pytest

from botsessions import SessionKey, SessionStore, SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.sqlite.processes import Process


def can_watch() -> bool:
    """Tell whether the system calls of a process can be watched here."""
    if shutil.which("strace") is None:
        return False
    trial = ["strace", "-f", "-o", "/dev/null", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
async def test_the_file_is_kept_as_promised(
    path: str, durability: Literal["full", "normal"], level: int
) -> None:
    backend = SQLiteBackend(path, durability=durability)
    async with SessionStore(backend) as store:
        await store.put(SessionKey(chat_id=1), {})
        assert backend._writer is not None
        for pragma, value in (
            ("synchronous", level),
            ("fullfsync", 1),
            ("journal_mode", "wal"),
            ("busy_timeout", 0),
        ):
            assert await backend._writer.run(lambda c, p=pragma: c.pragma(p)) == value


@pytest.mark.parametrize("durability", ["", "off", "FULL", None])
def test_an_unknown_durability_is_refused(path: str, durability: str) -> None:
    with pytest.raises(ValueError, match="durability is 'full' or 'normal', not"):
        SQLiteBackend(path, durability=durability)  # type: ignore[arg-type]


@pytest.mark.skipif(not can_watch(), reason="no strace, or not allowed to use it")
def test_the_log_is_on_the_disk_before_the_answer(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    watch = ["strace", "-f", "-y", "-qq", "-e", "trace=fdatasync,fsync,write"]
    process = start([*watch, "-o", str(trace)])
    steps = {}
    for durability in ("full", "normal"):
        process.call("open", str(tmp_path / f"{durability}.db"), durability)
        process.call("add", "chat=1")
        before = len(trace.read_text())
        for _ in range(20):
            process.call("add", "chat=1")
        calls = trace.read_text()[before:]
        synced = rf"f(?:data)?sync\(\d+<[^>]*{durability}\.db-wal>"
        found = re.findall(rf'({synced})|(write\(1<[^>]*>, "\[\\"done)', calls)
        steps[durability] = ["sync" if sync else "answer" for sync, _ in found]
    assert steps["full"] == ["sync", "answer"] * 20
    assert steps["normal"] == ["answer"] * 20
