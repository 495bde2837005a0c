"""The command line: ``botsessions replay``, ``list``, ``copy`` and others.

``app`` says what can be typed, ``run`` turns failures into one line and an exit code,
``sessions``, ``replay`` (with ``source``, ``journal``, ``handlers``) and ``jsonl`` do
the work, ``output`` and ``json_form`` show it. Nothing else imports this package.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from botsessions.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line (the program's own, if None); return the exit code."""
    try:
        command_line = _loaded()
    except MissingDependencyError as exc:
        print(f"botsessions: {exc}", file=sys.stderr)  # noqa: T201 - rich is missing
        return 1
    except KeyboardInterrupt:  # while all that is loaded
        return 130
    return command_line(sys.argv[1:] if arguments is None else arguments)


def _loaded() -> Callable[[Sequence[str]], int]:
    try:
        from botsessions.cli.run import run  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in {"typer", "rich"}:
            raise
        raise MissingDependencyError(
            f"the command line needs {missing}; "
            "install it with: pip install 'botsessions[cli]'"
        ) from exc
    return run
