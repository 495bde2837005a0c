"""The blocking face: threads, beside a loop, after a fork, at the end of a program."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import botsessions as bs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from botsessions.record import Write
    from tests.places import Place

KEY = bs.SessionKey(chat_id=7)


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"n": session.get("n", 0) + 1}


def in_threads(number: int, work: Callable[[int], None]) -> None:
    """Do something on so many threads at once; raise what the first one raised."""
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as exc:  # noqa: BLE001 - it is raised again
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]


def program(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own; whatever it complains of is an error."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", text, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(bs.__file__).parents[1])},
    )


# Threads.


def test_threads_share_a_store_and_lose_nothing(place: Place) -> None:
    with bs.SyncSessionStore(place.backend()) as store:

        def work(_: int) -> None:
            for _ in range(20):
                store.update(KEY, count)

        in_threads(16, work)
        assert store.get(KEY) == {"n": 320}


def test_what_threads_ask_for_at_once_goes_out_together(tmp_path: Path) -> None:
    commits: list[int] = []

    class Counting(bs.SQLiteBackend):
        async def commit(self, writes: Sequence[Write]) -> list[bool]:
            commits.append(len(writes))
            return await super().commit(writes)

    with bs.SyncSessionStore(Counting(tmp_path / "bot.db")) as store:

        def work(index: int) -> None:
            for _ in range(20):
                store.update(bs.SessionKey(chat_id=index), count)

        in_threads(16, work)
        assert len(commits) < 320 / 2
        assert sum(commits) <= 320


def test_a_lock_excludes_threads(place: Place) -> None:
    with bs.SyncSessionStore(place.backend()) as store:

        def work(_: int) -> None:
            with store.lock(KEY, timeout=30) as held:
                number = held.get().get("n", 0)
                time.sleep(0.001)
                held.put({"n": number + 1})

        in_threads(10, work)
        assert store.get(KEY) == {"n": 10}
        with store.lock(KEY) as held:
            assert held.is_held
            assert held.update(count) == {"n": 11}
            with (
                pytest.raises(RuntimeError, match="would wait for itself"),
                store.lock(KEY),
            ):
                pass
            held.delete()
        with pytest.raises(bs.LockLostError):
            held.put({})
        assert store.get(KEY) == {}


def test_a_function_sees_its_callers_context_and_its_errors_come_back(
    place: Place,
) -> None:
    who = ContextVar("who", default="nobody")
    error = ZeroDivisionError()

    def fail(_: dict[Any, Any]) -> dict[Any, Any]:
        raise error

    with bs.SyncSessionStore(place.backend()) as store:

        def work(index: int) -> None:
            who.set(f"thread {index}")
            key = bs.SessionKey(chat_id=index)
            assert store.update(key, lambda _: {"who": who.get()}) == {
                "who": f"thread {index}"
            }
            with store.lock(key) as held:
                assert held.update(lambda s: {**s, "again": who.get()}) == {
                    "who": f"thread {index}",
                    "again": f"thread {index}",
                }

        in_threads(8, work)
        with pytest.raises(ZeroDivisionError) as caught:
            store.update(KEY, fail)
        assert caught.value is error


def test_a_function_that_calls_its_store_is_refused_and_nothing_hangs(
    place: Place,
) -> None:
    with bs.SyncSessionStore(place.backend()) as store:
        inside: list[Callable[[], object]] = [
            lambda: store.get(KEY),
            lambda: store.put(KEY, {}),
            lambda: store.update(KEY, count),
            lambda: store.delete(KEY),
            lambda: list(store.keys()),
        ]
        for call in inside[:4]:
            with pytest.raises(bs.InvalidUpdateError, match="called the store itself"):
                store.update(KEY, lambda _, call=call: call())  # type: ignore[misc]
        assert store.get(KEY) == {}


def test_an_error_of_one_thread_disturbs_no_other(place: Place) -> None:
    def fail(_: dict[Any, Any]) -> dict[Any, Any]:
        raise ZeroDivisionError

    with bs.SyncSessionStore(place.backend()) as store:

        def work(index: int) -> None:
            for _ in range(10):
                if index % 2:
                    store.update(KEY, count)
                else:
                    with pytest.raises(ZeroDivisionError):
                        store.update(KEY, fail)

        in_threads(8, work)
        assert store.get(KEY) == {"n": 40}


# Walks.


def test_walks_come_in_pages_and_may_be_left(place: Place) -> None:
    with bs.SyncSessionStore(place.backend()) as store:
        for number in range(700):
            store.put(bs.SessionKey(chat_id=number), {"n": number})
        assert sum(1 for _ in store.keys()) == 700
        for key, session in store.items():
            assert session == {"n": key.chat_id}
            break
        assert [*store.keys(chat_id=3)] == [bs.SessionKey(chat_id=3)]


# Beside a loop, interrupted, closed.


async def test_it_works_inside_a_running_loop(place: Place) -> None:
    with bs.SyncSessionStore(place.backend()) as store:
        assert store.update(KEY, count) == {"n": 1}
        async with bs.SessionStore(place.backend()) as other:
            assert await other.update(KEY, count) == {"n": 2}
            assert await asyncio.to_thread(store.update, KEY, count) == {"n": 3}
            assert await other.get(KEY) == {"n": 3}


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupt the main thread, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_who_is_interrupted_while_it_waits_leaves_no_lock_behind(
    place: Place,
) -> None:
    with bs.SyncSessionStore(place.backend()) as store:
        release, held = threading.Event(), threading.Event()

        def hold() -> None:
            with store.lock(KEY):
                held.set()
                release.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(10)
        with interrupted_after(0.05), store.lock(KEY, timeout=10):
            pass
        release.set()
        thread.join()
        with store.lock(KEY, timeout=2):
            pass


def test_closing_ends_what_other_threads_do(tmp_path: Path) -> None:
    store = bs.open_sync_store(f"sqlite:///{tmp_path}/bot.db")
    store.update(KEY, count)
    done: list[int] = []
    closed: list[int] = []

    def work(_: int) -> None:
        try:
            while True:
                store.update(KEY, count)
                done.append(1)
        except bs.StoreClosedError:
            closed.append(1)

    closing = threading.Timer(0.2, store.close)
    closing.start()
    in_threads(8, work)
    closing.join()
    assert len(closed) == 8
    store.close()
    with pytest.raises(bs.StoreClosedError):
        store.get(KEY)
    with bs.open_sync_store(f"sqlite:///{tmp_path}/bot.db") as again:
        assert again.get(KEY) == {"n": 1 + len(done)}


def test_a_store_that_could_not_be_opened_can_be_later(tmp_path: Path) -> None:
    with_missing = bs.SyncSessionStore(bs.SQLiteBackend(tmp_path / "later" / "bot.db"))
    with pytest.raises(bs.BackendUnavailableError):
        with_missing.get(KEY)
    (tmp_path / "later").mkdir()
    assert with_missing.update(KEY, count) == {"n": 1}
    with_missing.close()


def test_a_store_that_was_never_used_closes_and_says_what_it_is(place: Place) -> None:
    store = bs.SyncSessionStore(place.backend())
    assert "SyncSessionStore 'sessions'" in repr(store)
    store.close()
    with pytest.raises(bs.StoreClosedError):
        store.put(KEY, {})


FORGETS = """
import sys, botsessions as bs
store = bs.open_sync_store(sys.argv[1])
store.put(bs.SessionKey(chat_id=7), {"kept": True})
if len(sys.argv) > 2:
    raise SystemExit(3)
"""


@pytest.mark.parametrize("how", [(), ("exit",)])
def test_a_program_that_forgets_to_close_ends_and_has_lost_nothing(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    url = f"sqlite:///{tmp_path}/bot.db"
    ended = program(FORGETS, url, *how)
    assert (ended.returncode, ended.stderr) == (3 if how else 0, "")
    with bs.open_sync_store(url) as store:
        assert store.get(KEY) == {"kept": True}


FORKS = """
import os, sys, warnings, botsessions as bs
warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
key = bs.SessionKey(chat_id=7)
unused = bs.open_sync_store(sys.argv[1])
used = bs.open_sync_store(sys.argv[1])
used.put(key, {"by": "parent"})
if os.fork() == 0:
    try:
        used.get(key)
    except bs.BackendError as exc:
        print(exc, flush=True)
    print(unused.get(key), flush=True)
    unused.close()
    os._exit(0)
os.wait()
print(used.get(key))
"""


def test_after_a_fork_a_used_store_says_so_and_an_unused_one_works(
    tmp_path: Path,
) -> None:
    ended = program(FORKS, f"sqlite:///{tmp_path}/bot.db")
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "this store was used before a fork; open one in each process",
        "{'by': 'parent'}",
        "{'by': 'parent'}",
    ]
