"""A disk that is really full, and one that fails: what was promised stays, and is said.

The disk is a small one in memory, mounted for one process, and that process runs the
store. Where a machine does not allow mounting, limits on the size of files remain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from botsessions import BackendError, BackendUnavailableError, OutcomeUnknownError
from tests.sqlite import history
from tests.sqlite.processes import can_mount, with_disk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tests.sqlite.processes import Process

KB, MB = 1024, 1024 * 1024
REMEDY = "the disk is full.*free some space"

needs_mount = pytest.mark.skipif(
    not can_mount(), reason="this machine does not let us mount a small disk"
)


class SmallDisk:
    """A process that has a disk of its own, and a store on it."""

    def __init__(self, process: Process, directory: Path) -> None:
        self.call = process.call
        self.path = str(directory / "sessions.db")
        self._filler = str(directory / "filler")

    def fill(self, *, leave: int = 0) -> None:
        self.call("fill_disk", self._filler, leave)

    def free(self) -> None:
        self.call("unlink", self._filler)

    def together(self, *commands: list[Any]) -> list[str | None]:
        answers: list[str | None] = self.call("together", commands)
        return answers


@pytest.fixture
def disk(start: Callable[..., Process], tmp_path: Path) -> SmallDisk:
    disk = SmallDisk(start(with_disk(tmp_path, "4m")), tmp_path)
    disk.call("open", disk.path, max_session_bytes=16 * MB)
    return disk


@needs_mount
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(600 * KB, id="found out at COMMIT"),
        pytest.param(6 * MB, id="found out before, since the cache overflows"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_rest_goes_on(
    disk: SmallDisk, size: int
) -> None:
    for number in range(5):
        disk.call("add", f"chat={number}")
    disk.fill(leave=300 * KB)
    with pytest.raises(BackendError, match=REMEDY) as refused:
        disk.call("put_large", "chat=9", size)
    assert refused.type is BackendError  # a definite one
    with pytest.raises(BackendError, match=REMEDY):
        disk.call("put_large", "chat=0", size)
    assert disk.call("get", "chat=9") == {}
    assert disk.call("all") == {f"chat={number}": {"n": 1} for number in range(5)}
    assert disk.call("add", "chat=0") == 2
    disk.call("delete", "chat=1")
    assert disk.call("get", "chat=1") == {}
    disk.free()
    disk.call("put_large", "chat=9", 600 * KB)
    assert len(disk.call("get", "chat=9")["large"]) == 600 * KB


@needs_mount
def test_a_large_write_does_not_fail_the_small_ones_of_its_batch(
    disk: SmallDisk,
) -> None:
    disk.fill(leave=300 * KB)
    for turn in range(1, 4):
        small = [["add", f"chat={number}"] for number in range(30)]
        large = ["put_large", "chat=99", 600 * KB]
        first, *others, last = disk.together(large, *small, large)
        assert first is not None
        assert last is not None
        assert first.startswith("BackendError: the disk is full")
        assert last == first
        assert others == [None] * 30
        expected = {f"chat={number}": {"n": turn} for number in range(30)}
        assert disk.call("all") == expected


@needs_mount
def test_a_disk_without_a_single_byte_left_keeps_all_it_has(disk: SmallDisk) -> None:
    for number in range(5):
        disk.call("add", f"chat={number}")
    disk.fill()
    added = 1
    # The log may have some room of its own left.
    while disk.together(["add", "chat=0"]) == [None]:
        added += 1
    for command in (["add", "chat=1"], ["delete", "chat=2"], ["put", "chat=7", {}]):
        with pytest.raises(BackendError, match=REMEDY):
            disk.call(*command)
    expected = {f"chat={number}": {"n": 1} for number in range(5)}
    expected["chat=0"] = {"n": added}
    assert disk.call("all") == expected
    disk.free()
    assert disk.call("add", "chat=1") == 2
    disk.call("delete", "chat=2")
    assert disk.call("get", "chat=2") == {}


@needs_mount
def test_whatever_is_acknowledged_while_the_disk_fills_up_is_there(
    disk: SmallDisk, rng: random.Random
) -> None:
    sizes: dict[str, int] = {}
    refused = 0
    for turn in range(4):
        disk.fill(leave=rng.randrange(800 * KB))
        for _ in range(40):
            keys = rng.sample(range(20), 4)
            wanted = {f"chat={key}": round(10 ** rng.uniform(2, 5.5)) for key in keys}
            errors = disk.together(
                *(["put_large", key, size] for key, size in wanted.items())
            )
            for key, error in zip(wanted, errors, strict=True):
                if error is None:
                    sizes[key] = wanted[key]
                else:
                    assert error.startswith("BackendError: the disk is full"), error
                    refused += 1
        if turn % 2:
            disk.call("close")
        disk.free()
        if turn % 2:
            disk.call("open", disk.path)
        found = disk.call("all").items()
        assert {key: len(session["large"]) for key, session in found} == sizes
        # Make room, so that the next turn begins where this one did.
        for key in rng.sample(sorted(sizes), len(sizes) // 2):
            disk.call("delete", key)
            del sizes[key]
    assert refused > 20
    disk.call("check_file", disk.path)


@needs_mount
@pytest.mark.parametrize("exists", [True, False], ids=["an old file", "a new file"])
def test_a_store_that_cannot_open_for_a_full_disk_says_so_and_opens_later(
    start: Callable[..., Process], tmp_path: Path, *, exists: bool
) -> None:
    disk = SmallDisk(start(with_disk(tmp_path, "2m")), tmp_path)
    if exists:
        disk.call("open", disk.path)
        disk.call("add", "chat=1")
        disk.call("close")
    disk.fill()
    with pytest.raises(BackendError, match=REMEDY):
        disk.call("open", disk.path)
    with pytest.raises(BackendError, match=REMEDY):
        disk.call("open_again")
    disk.free()
    disk.call("open_again")
    assert disk.call("add", "chat=1") == 1 + exists


def test_a_disk_that_fails_at_a_commit_leaves_the_outcome_open_but_applies_once(
    start: Callable[..., Process], path: str
) -> None:
    # A write beyond this limit is an error like that of a broken disk.
    process = start()
    process.call("open", path, timeout=1.0)
    process.call("add", "chat=1")
    # The log is at its limit already.
    process.call("limit_files", KB)
    with pytest.raises(OutcomeUnknownError, match="Read before you repeat it"):
        process.call("add", "chat=1")
    assert process.call("get", "chat=1") == {"n": 1}
    process.call("limit_files")
    assert process.call("add", "chat=1") in {2, 3}
    process.call("close")
    history.check_file(path)


def test_a_store_that_cannot_open_for_a_failing_disk_says_so_and_opens_later(
    start: Callable[..., Process], path: str
) -> None:
    process = start()
    process.call("limit_files", 0)
    with pytest.raises(BackendError, match=f"the disk failed under {path}") as failed:
        process.call("open", path)
    assert failed.type is not BackendUnavailableError
    process.call("limit_files")
    process.call("open_again")
    assert process.call("add", "chat=1") == 1
