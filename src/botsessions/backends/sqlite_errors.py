"""The driver's errors in our words, with what to do about them; used by ``sqlite``."""

from __future__ import annotations

import apsw

from botsessions.errors import BackendError, BackendUnavailableError

_WORDS: tuple[tuple[type[apsw.Error], type[BackendError], str], ...] = (
    (
        apsw.BusyError,
        BackendUnavailableError,
        (
            "another program keeps {path} locked, nothing was written; find the one "
            "with an open transaction, or try again"
        ),
    ),
    (
        apsw.FullError,
        BackendError,
        "the disk is full, nothing was written to {path}; free some space",
    ),
    (
        apsw.NotADBError,
        BackendUnavailableError,
        "{path} is no SQLite database; choose another file",
    ),
    (
        apsw.ReadOnlyError,
        BackendUnavailableError,
        "{path} is read-only; allow writing to the file and its directory",
    ),
    (
        apsw.CantOpenError,
        BackendUnavailableError,
        "{path} cannot be opened; check the permissions of the file and its directory",
    ),
    (
        apsw.CorruptError,
        BackendError,
        "{path} is damaged and was left as it is; restore a backup",
    ),
    (apsw.IOError, BackendError, "the disk failed under {path}: {reason}"),
    (apsw.Error, BackendError, "SQLite refused: {reason}"),
)


def translated(exc: apsw.Error, path: str) -> BackendError:
    """Return our error for one of the driver's."""
    # What SQLite shares between processes is a file, too, and a full disk stops it.
    if getattr(exc, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
        return BackendError(f"the disk is full, {path} cannot be used; free some space")
    ours, words = next(
        (ours, words) for theirs, ours, words in _WORDS if isinstance(exc, theirs)
    )
    return ours(words.format(path=path, reason=exc))
