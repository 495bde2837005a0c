"""The command line as a test uses it: in this process, or as one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import botsessions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "updates"
COMMAND = (sys.executable, "-m", "botsessions.cli")
# The package under test and the bots of these tests, wherever the process is started.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "FORCE_COLOR"},
    "PYTHONPATH": f"{Path(botsessions.__file__).parents[1]}{os.pathsep}{ROOT}",
    "PYTHONWARNINGS": "error",
}
PATIENCE = 60.0


class Result(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that was printed."""
        return json.loads(self.out)


def process(
    *arguments: str,
    cwd: Path,
    environment: Mapping[str, str],
) -> Result:
    """Run a command to its end, in a pipe."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**ENVIRONMENT, **environment},
        timeout=PATIENCE,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def message(update_id: int, user_id: int, text: str = "record") -> dict[str, Any]:
    """Return an update from a private chat; ``bots.obey`` does what its text says."""
    return {
        "update_id": update_id,
        "message": {
            "message_id": update_id,
            "date": 1777874400,
            "chat": {"id": user_id, "type": "private"},
            "from": {"id": user_id, "is_bot": False, "first_name": "Ada"},
            "text": text,
        },
    }


def write_lines(path: Path, documents: Iterable[Any]) -> Path:
    """Write documents as JSON lines."""
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path
