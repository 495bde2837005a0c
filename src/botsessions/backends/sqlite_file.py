"""Is this file a place for a session database? Refused early, with the reason.

Used by ``sqlite`` before it writes anything. A file of another application is never
touched, one of a newer botsessions neither.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from botsessions.backends import owners
from botsessions.errors import BackendUnavailableError

if TYPE_CHECKING:
    import apsw

# "bots", in the header of each of our files (PRAGMA application_id).
APPLICATION_ID = 0x626F7473
SCHEMA_VERSION = 1

# How a space, a tab, a line end and a backslash stand in a table of mounts.
_ESCAPED = re.compile(r"\\([0-7]{3})")

# Locks and shared memory do not work, or not reliably, across these.
_NETWORK = frozenset(
    {
        "afs",
        "ceph",
        "cifs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    }
)


def check_place(path: str, *, create: bool) -> None:
    """Refuse a path that cannot become a database, and say what would help."""
    if not create and not os.path.exists(path):  # noqa: PTH110 - path is absolute text
        raise BackendUnavailableError(f"there is no database {path}; nothing was made")
    directory = os.path.dirname(path)  # noqa: PTH120 - path is absolute text
    if not os.path.isdir(directory):  # noqa: PTH112
        raise BackendUnavailableError(
            f"the directory {directory} does not exist; create it first"
        )
    if os.path.isdir(path):  # noqa: PTH112
        raise BackendUnavailableError(f"{path} is a directory; name a file in it")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise BackendUnavailableError(
            f"the directory {directory} is read-only; SQLite must be able to create "
            "its files beside the database"
        )
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):  # noqa: PTH110
        raise BackendUnavailableError(
            f"{path} may not be read and written by this user"
        )
    check_owners(path)
    kind = filesystem(path)
    if kind in _NETWORK:
        raise BackendUnavailableError(
            f"{path} is on a network file system ({kind}), where SQLite cannot keep "
            "several processes apart; use a local disk, or a database server"
        )


def check_owners(path: str) -> None:
    """Refuse what somebody else has put in the place of a file that SQLite uses.

    To be asked again when SQLite has them all: they may have come meanwhile.
    """
    owners.check_owners(path, beside=("-journal", "-wal", "-shm"))


def filesystem(path: str, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Return the type of the file system that holds a path, if the system tells."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    kind = None
    for line in lines:
        _, point, found, *_ = line.split(" ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), point).rstrip("/")
        # In the order of mounting: a later one hides what was there, deeper or not.
        if (real + "/").startswith(point + "/"):
            kind = found
    return kind


def identity(path: str) -> tuple[int, int]:
    """Tell one file from another that takes its name; (0, 0) is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - path is absolute text
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


def create_private(path: str) -> None:
    """Create a missing file so that only its owner can read it (SQLite would not).

    Its owner always can, whatever the umask; SQLite gives the others the same mode.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        pass
    except OSError as exc:
        raise BackendUnavailableError(f"{path} cannot be created: {exc}") from exc
    else:
        if sys.platform != "win32":
            os.fchmod(handle, 0o600)
        os.close(handle)


def is_new(connection: apsw.Connection, path: str) -> bool:
    """Tell an empty database from one of ours; refuse any other."""
    application = connection.pragma("application_id")
    version = connection.pragma("user_version")
    if application == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise BackendUnavailableError(
                f"{path} was written by a newer botsessions (schema {version}, this "
                f"one knows {SCHEMA_VERSION}); upgrade this program"
            )
        return False
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if application or tables:
        raise BackendUnavailableError(
            f"{path} is the database of another application; give the sessions a file "
            "of their own"
        )
    return True


def sign(connection: apsw.Connection) -> None:
    """Mark a database as ours, in the transaction that creates its tables."""
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", SCHEMA_VERSION)
