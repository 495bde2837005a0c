"""Files that are made are for their owner alone, and nobody slips us one of theirs."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs
from botsessions.backends import sqlite_file
from botsessions.cli import main
from tests.cli.tool import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = bs.SessionKey(chat_id=1)
NOBODY, USER = 65534, 54321
CONTENT = b"C0NTENT"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root gives files to somebody else"
)
each_umask = pytest.mark.parametrize(
    "umask", [0o000, 0o022, 0o177, 0o277, 0o777], ids=oct
)


@pytest.fixture
def masked() -> Iterator[Callable[[int], None]]:
    old = os.umask(0o022)

    def mask(umask: int) -> None:
        os.umask(umask)

    yield mask
    os.umask(old)


def modes(directory: Path) -> dict[str, int]:
    return {
        file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()
    }


def use(path: Path) -> dict[str, int]:
    """Use a file, and tell the modes of all that lies there meanwhile."""

    async def work() -> dict[str, int]:
        async with bs.open_store(f"sqlite:///{path}") as store:
            await store.put(KEY, {"n": 1, "of": CONTENT})
            return modes(path.parent)

    return asyncio.run(work())


@each_umask
def test_files_of_a_database_are_for_their_owner_under_any_umask(
    tmp_path: Path, masked: Callable[[int], None], umask: int
) -> None:
    masked(umask)
    assert use(tmp_path / "a.db") == {
        "a.db": 0o600,
        "a.db-wal": 0o600,
        "a.db-shm": 0o600,
    }


@each_umask
def test_an_export_is_for_its_owner_under_any_umask(
    tmp_path: Path, masked: Callable[[int], None], umask: int
) -> None:
    store = f"sqlite:///{tmp_path / 'a.db'}"
    use(tmp_path / "a.db")
    masked(umask)
    assert main(["export", str(tmp_path / "out"), "--store", store]) == 0
    assert modes(tmp_path)["out"] == 0o600


OPENS = """
import asyncio, sys
import botsessions as bs

async def work():
    store = bs.open_store("sqlite:///" + sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    async with store:
        await store.update(bs.SessionKey(chat_id=1), lambda s: {"n": s.get("n", 0) + 1})

asyncio.run(work())
"""


def test_a_file_that_several_processes_make_at_once_is_for_its_owner(
    tmp_path: Path, masked: Callable[[int], None]
) -> None:
    masked(0)
    for round_ in range(3):
        directory = tmp_path / str(round_)
        directory.mkdir()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", OPENS, str(directory / "a.db")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=ENVIRONMENT,
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        for process in processes:
            process.communicate()
        assert set(modes(directory).values()) == {0o600}
        assert asyncio.run(read(directory / "a.db")) == {"n": 3}


async def read(path: Path) -> dict[str, Any]:
    async with bs.open_store(f"sqlite:///{path}") as store:
        return await store.get(KEY)


@pytest.mark.parametrize("mode", [0o640, 0o660, 0o604])
def test_a_file_that_exists_keeps_its_mode_and_its_log_has_the_same(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "a.db"
    path.touch()
    path.chmod(mode)
    assert use(path) == {"a.db": mode, "a.db-wal": mode, "a.db-shm": mode}


def test_a_link_is_followed_and_its_log_lies_beside_the_file(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    use(home / "a.db")
    (elsewhere / "link.db").symlink_to(home / "a.db")
    assert set(use(elsewhere / "link.db")) == {"link.db"}
    assert asyncio.run(read(home / "a.db")) == {"n": 1, "of": CONTENT}


def test_a_link_that_leads_nowhere_makes_no_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "made.db")
    with pytest.raises(bs.BackendUnavailableError, match="cannot be opened"):
        use(tmp_path / "link.db")
    assert not (tmp_path / "made.db").exists()


@needs_root
@pytest.mark.parametrize("what", ["file", "link", "log", "shared memory", "journal"])
def test_what_somebody_else_put_into_a_directory_of_everybody_is_refused(
    tmp_path: Path, what: str
) -> None:
    everybody, home = tmp_path / "tmp", tmp_path / "home"
    everybody.mkdir()
    everybody.chmod(0o1777)
    home.mkdir()
    path = everybody / "a.db"
    ends = {"log": "-wal", "shared memory": "-shm", "journal": "-journal"}
    trap = everybody / f"a.db{ends.get(what, '')}"
    if what == "link":
        (home / "theirs").touch()
        trap.symlink_to(home / "theirs")
    else:
        trap.touch(mode=0o666)
    os.chown(trap, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(
        bs.BackendUnavailableError, match=f"{trap} belongs to another user"
    ):
        use(path)
    # Nothing of ours is there, nor in what theirs leads to.
    assert [file.name for file in everybody.iterdir()] == [trap.name]
    assert trap.stat().st_size == 0
    # In a directory of our own, it is we who let others in.
    everybody.chmod(0o755)
    if what in ("file", "link"):
        use(path)


@pytest.fixture
def everybody(tmp_path: Path) -> Path:
    """Return a directory where everybody may make files."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


def plant(trap: Path) -> None:
    """Be somebody else, and put a file there."""
    trap.touch()
    trap.chmod(0o666)
    os.chown(trap, NOBODY, NOBODY)


@needs_root
@pytest.mark.parametrize("end", ["", "-wal", "-journal"])
def test_what_somebody_else_put_where_our_link_leads_is_refused(
    everybody: Path, tmp_path: Path, end: str
) -> None:
    link, further = tmp_path / "link.db", everybody / "link"
    link.symlink_to(further)
    further.symlink_to("a.db")
    trap = everybody / f"a.db{end}"
    if end:
        use(everybody / "a.db")
    plant(trap)
    with pytest.raises(bs.BackendUnavailableError, match=f"{trap} belongs to another"):
        use(link)
    assert trap.stat().st_size == 0


@needs_root
def test_a_link_of_somebody_else_on_the_way_is_refused(
    everybody: Path, tmp_path: Path
) -> None:
    use(tmp_path / "a.db")
    (tmp_path / "link.db").symlink_to(everybody / "trap")
    (everybody / "trap").symlink_to(tmp_path / "a.db")
    os.chown(everybody / "trap", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(bs.BackendUnavailableError, match="trap belongs to another"):
        use(tmp_path / "link.db")


@pytest.fixture
def not_as_root() -> Iterator[Path]:
    """Be a user of one's own; return a directory where that user, too, may be.

    To a log that root opens SQLite gives the owner of the file.
    """
    with TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        os.seteuid(USER)
        yield Path(name)
        os.seteuid(0)


@needs_root
@pytest.mark.parametrize(
    ("end", "moment", "times"),
    [
        ("", "create_private", 1),
        ("-wal", "create_private", 1),
        ("-journal", "create_private", 1),
        ("-wal", "identity", 2),  # when the owners have been looked at
    ],
)
def test_who_puts_it_there_while_we_look_gets_nothing(
    not_as_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    moment: str,
    times: int,
) -> None:
    trap = not_as_root / f"a.db{end}"
    if moment == "identity":
        use(not_as_root / "a.db")  # what lies beside a new one is removed
    then = getattr(sqlite_file, moment)
    calls = itertools.count(1)

    def race(*arguments: Any) -> Any:
        if next(calls) == times:
            os.seteuid(0)
            plant(trap)
            os.seteuid(USER)
        return then(*arguments)

    monkeypatch.setattr(sqlite_file, moment, race)
    with pytest.raises(bs.BackendUnavailableError, match=f"{trap} belongs to another"):
        use(not_as_root / "a.db")
    assert trap.stat().st_size == 0


@needs_root
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_an_export_to_what_somebody_else_put_there_is_refused(
    everybody: Path,
    tmp_path: Path,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(tmp_path / "a.db")
    mine, trap = tmp_path / "mine", everybody / "out"
    mine.write_text("mine")
    reader = None
    if what == "link":
        trap.symlink_to(mine)
    else:
        os.mkfifo(trap, 0o666)
        reader = os.open(trap, os.O_RDONLY | os.O_NONBLOCK)
    os.chown(trap, NOBODY, NOBODY, follow_symlinks=False)
    export = ["export", str(trap), "--store", f"sqlite:///{tmp_path / 'a.db'}"]
    assert main(export) == 1
    assert f"{trap} belongs to another user" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    if reader is not None:
        assert os.read(reader, 1) == b""
        os.close(reader)
    # What is ours is used, there as well.
    trap.unlink()
    trap.symlink_to(mine)
    assert main(export) == 0
    assert mine.read_text() != "mine"


@needs_root
def test_our_own_file_in_a_directory_of_everybody_is_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    use(tmp_path / "a.db")
    assert set(use(tmp_path / "a.db").values()) == {0o600}
