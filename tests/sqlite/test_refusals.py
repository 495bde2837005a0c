"""Files and places that are no home for sessions: refused at once, with the remedy."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from botsessions import BackendUnavailableError, SessionStore, SQLiteBackend
from botsessions.backends import sqlite_file
from tests.sqlite.processes import (
    as_plain_user,
    can_be_plain_user,
    can_mount,
    with_disk,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sqlite.processes import Process

needs_plain_user = pytest.mark.skipif(
    not can_be_plain_user(), reason="root without setpriv may do anything to any file"
)
needs_mount = pytest.mark.skipif(
    not can_mount(), reason="this machine does not let us mount a disk"
)


def open_and_close(path: str) -> None:
    async def use() -> None:
        async with SessionStore(SQLiteBackend(path)):
            pass

    asyncio.run(use())


def files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


# Places.


def test_a_missing_directory_is_refused_and_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(BackendUnavailableError) as refused:
        open_and_close(str(missing / "sessions.db"))
    assert str(refused.value) == (
        f"the directory {missing} does not exist; create it first"
    )
    assert not missing.exists()


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError) as refused:
        open_and_close(str(tmp_path))
    assert str(refused.value) == f"{tmp_path} is a directory; name a file in it"


@needs_plain_user
def test_a_read_only_directory_is_refused(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    process = start(as_plain_user())
    with pytest.raises(BackendUnavailableError) as refused:
        process.call("open", str(tmp_path / "sessions.db"))
    assert str(refused.value) == (
        f"the directory {tmp_path} is read-only; SQLite must be able to create its "
        "files beside the database"
    )
    # The remedy works, on the same store.
    tmp_path.chmod(0o700)
    process.call("open_again")
    assert process.call("add", "chat=1") == 1


@needs_mount
def test_a_disk_mounted_read_only_is_refused(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    process = start(with_disk(tmp_path, "1m", "ro"))
    with pytest.raises(BackendUnavailableError, match="is read-only; SQLite must be"):
        process.call("open", str(tmp_path / "sessions.db"))


@needs_plain_user
@pytest.mark.parametrize("mode", [0o400, 0o200, 0o000])
def test_a_file_that_may_not_be_read_or_not_written_is_refused(
    start: Callable[..., Process], path: str, mode: int
) -> None:
    process = start(as_plain_user())
    process.call("open", path)
    process.call("add", "chat=1")
    process.call("close")
    Path(path).chmod(mode)
    with pytest.raises(BackendUnavailableError) as refused:
        process.call("open", path)
    assert str(refused.value) == f"{path} may not be read and written by this user"
    Path(path).chmod(0o600)
    process.call("open_again")
    assert process.call("add", "chat=1") == 2


@needs_plain_user
def test_a_log_that_may_not_be_written_is_refused(
    start: Callable[..., Process], path: str
) -> None:
    """As when root has used the file and was killed."""
    process = start(as_plain_user())
    process.call("open", path)
    process.call("add", "chat=1")
    process.kill()
    for end in ("-wal", "-shm"):
        Path(path + end).chmod(0)
    process = start(as_plain_user())
    with pytest.raises(
        BackendUnavailableError,
        match=f"{path} cannot be opened; check the permissions of the file",
    ):
        process.call("open", path)
    for end in ("-wal", "-shm"):
        Path(path + end).chmod(0o600)
    process.call("open_again")
    assert process.call("add", "chat=1") == 2


def test_all_files_that_are_made_are_for_their_owner_alone(
    start: Callable[[], Process], tmp_path: Path
) -> None:
    old = os.umask(0)
    try:
        process = start()
    finally:
        os.umask(old)
    process.call("open", str(tmp_path / "sessions.db"))
    process.call("add", "chat=1")
    found = {file.name: file.stat().st_mode for file in tmp_path.iterdir()}
    assert {name: stat.S_IMODE(mode) for name, mode in found.items()} == {
        "sessions.db": 0o600,
        "sessions.db-wal": 0o600,
        "sessions.db-shm": 0o600,
    }


def test_the_mode_of_a_file_that_exists_is_left_alone(path: str) -> None:
    Path(path).touch()
    Path(path).chmod(0o660)
    open_and_close(path)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o660


# Files of somebody else: not one byte of theirs changes.


@pytest.mark.parametrize(
    "content", [b"shopping: milk\n", b"SQLite format 3", bytes(range(256)) * 64]
)
def test_a_file_that_is_no_database_is_refused(
    path: str, tmp_path: Path, content: bytes
) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(BackendUnavailableError) as refused:
        open_and_close(path)
    assert str(refused.value) == f"{path} is no SQLite database; choose another file"
    assert files(tmp_path) == {"sessions.db": content}


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE orders (id INTEGER)"],
        ["PRAGMA journal_mode = WAL", "CREATE TABLE orders (id INTEGER)"],
        ["PRAGMA application_id = 7"],
        ["CREATE TABLE botsessions (k TEXT)"],
        # What aiogram-style storages look like beside ours must not be mistaken either.
        ["PRAGMA user_version = 1", "CREATE TABLE states (k TEXT, v TEXT)"],
    ],
)
def test_the_database_of_another_application_is_refused_and_not_touched(
    path: str, tmp_path: Path, statements: list[str]
) -> None:
    connection = apsw.Connection(path)
    for statement in statements:
        connection.execute(statement).fetchall()
    connection.close()
    before = files(tmp_path)
    with pytest.raises(BackendUnavailableError) as refused:
        open_and_close(path)
    assert str(refused.value) == (
        f"{path} is the database of another application; give the sessions a file of "
        "their own"
    )
    assert files(tmp_path) == before


def test_the_database_of_a_newer_botsessions_is_refused_and_not_touched(
    path: str, tmp_path: Path
) -> None:
    open_and_close(path)
    connection = apsw.Connection(path)
    connection.pragma("user_version", 2)
    connection.close()
    before = files(tmp_path)
    with pytest.raises(BackendUnavailableError) as refused:
        open_and_close(path)
    assert str(refused.value) == (
        f"{path} was written by a newer botsessions (schema 2, this one knows 1); "
        "upgrade this program"
    )
    assert files(tmp_path) == before


# Network file systems.

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
nas:/bots /srv/bots nfs4 rw,vers=4.2 0 0
tmpfs /srv/bots/cache tmpfs rw 0 0
nas:/a /mnt/with\\040space nfs rw 0 0
nas:/b /mnt/back\\134slash cifs rw 0 0
nas:/c /mnt/a\\011tab smb3 rw 0 0
systemd-1 /auto autofs rw 0 0
nas:/d /auto nfs rw 0 0
nas:/e /over nfs rw 0 0
/dev/vdb /over ext4 rw 0 0
nas:/f /hidden/deep nfs rw 0 0
/dev/vdc /hidden xfs rw 0 0
user@host: /home/me/remote fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/sessions.db", "ext4"),
        ("/var/lib/bot/sessions.db", "ext4"),
        ("/srv/bots/sessions.db", "nfs4"),
        ("/srv/bots/deeper/sessions.db", "nfs4"),
        # A part of a name is no directory.
        ("/srv/bots2/sessions.db", "ext4"),
        ("/srv/bots/cache/sessions.db", "tmpfs"),
        ("/mnt/with space/sessions.db", "nfs"),
        ("/mnt/with/sessions.db", "ext4"),
        ("/mnt/back\\slash/sessions.db", "cifs"),
        ("/mnt/a\ttab/sessions.db", "smb3"),
        # What was mounted last lies on top, over deeper mounts of before as well.
        ("/auto/sessions.db", "nfs"),
        ("/over/sessions.db", "ext4"),
        ("/hidden/deep/sessions.db", "xfs"),
        ("/home/me/remote/sessions.db", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_found_in_the_table_of_mounts(
    tmp_path: Path, path: str, kind: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert sqlite_file.filesystem(path, mounts) == kind


def test_a_link_counts_as_the_place_it_leads_to(tmp_path: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.mkdir()
    link.symlink_to(there)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nnas:/x {there} nfs rw 0 0\n")
    assert sqlite_file.filesystem(str(link / "sessions.db"), mounts) == "nfs"


def test_without_a_table_of_mounts_nothing_is_known(tmp_path: Path) -> None:
    assert sqlite_file.filesystem("/sessions.db", tmp_path / "none") is None


@needs_mount
def test_a_real_mount_is_found(start: Callable[..., Process], tmp_path: Path) -> None:
    place = tmp_path / "with space"
    place.mkdir()
    process = start(with_disk(place, "1m"))
    assert process.call("file_system", str(place / "sessions.db")) == "tmpfs"
    assert sqlite_file.filesystem(str(place / "sessions.db")) != "tmpfs"
