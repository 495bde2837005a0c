"""Has somebody else put something in our place, where everybody may? As in ``/tmp``.

Who made a file that we then write to, or a link that we follow, could read or choose
what we write. Used by ``sqlite_file``, and by the command line for what it writes.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from botsessions.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

# As many as Linux follows.
_MOST_LINKS = 40


def check_owners(path: str | Path, beside: Sequence[str] = ()) -> None:
    """Refuse a path, and the links that it leads over, if it is somebody else's there.

    ``beside`` are the ends of the names of what is used as well, where the last link
    leads to. In a directory of somebody's own, it is they who let others in.
    """
    if sys.platform == "win32":
        return
    here = Path.cwd() / path
    for _ in range(_MOST_LINKS):
        _check(here)
        try:
            here = here.parent / here.readlink()
        except OSError:  # it is no link, or not there
            break
    for end in beside:
        _check(here.with_name(here.name + end))


def _check(path: Path) -> None:
    # Nothing there yet is nobody's.
    with suppress(FileNotFoundError, NotADirectoryError):
        if (
            path.parent.stat().st_mode & stat.S_IWOTH
            # Not of what a link leads to: whoever made the link has chosen that.
            and path.lstat().st_uid not in {os.geteuid(), 0}
        ):
            raise BackendUnavailableError(
                f"{path} belongs to another user, in a directory where everybody may "
                "make files; use a directory of your own"
            )
