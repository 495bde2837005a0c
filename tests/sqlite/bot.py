"""A program in a process of its own, which does what it is told over a pipe.

``processes.Process`` starts it. Each line that comes in is a command in JSON, ``[name,
arguments, options]``, the name of a method of ``Bot``; each is answered by one line,
``["done", result]`` or ``["failed", class, message]``. A bot that hammers also writes
what came of each update, ``["acknowledged", key, what]``, or ``"refused"`` for a
definite error, or ``"doubtful"``. The end of the input ends the program, with its store
open.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
import os
import random
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import apsw

from botsessions import (
    OutcomeUnknownError,
    SessionError,
    SessionKey,
    SessionStore,
    SQLiteBackend,
    errors,
)
from botsessions.backends import sqlite_file
from tests.sqlite import history

Session = dict[str, Any]
LARGE = "x" * 2_000


def say(*words: Any) -> None:
    """Write one line at once: what was said stays said when the process is killed."""
    os.write(1, json.dumps(words).encode() + b"\n")


class Bot:
    """What the other end of the pipe may ask for; keys come as their text."""

    def __init__(self) -> None:
        self._store: SessionStore | None = None
        self._other: apsw.Connection | None = None
        self._dies_after = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def store(self) -> SessionStore:
        assert self._store is not None, "open a store first"
        return self._store

    async def open(self, path: str, durability: Any = "full", **options: Any) -> None:
        backend = SQLiteBackend(path, durability=durability)
        self._store = SessionStore(backend, **options)
        await self.open_again()

    async def open_again(self) -> None:
        await self.store.__aenter__()

    async def close(self) -> None:
        await self.store.aclose()

    # The verbs.

    async def get(self, key: str) -> Session:
        return await self.store.get(SessionKey.parse(key))

    async def put(self, key: str, session: Session) -> None:
        await self.store.put(SessionKey.parse(key), session)

    async def put_large(self, key: str, size: int) -> None:
        await self.put(key, {"large": "x" * size})

    async def delete(self, key: str) -> None:
        await self.store.delete(SessionKey.parse(key))

    async def add(self, key: str) -> int:
        """Count one more, and return how many that makes."""
        session = await self.store.update(
            SessionKey.parse(key), lambda s: {**s, "n": s.get("n", 0) + 1}
        )
        count: int = session["n"]
        return count

    async def all(self) -> dict[str, Session]:
        return {str(key): session async for key, session in self.store.items()}

    async def delete_expired(self) -> int:
        return await self.store.delete_expired()

    async def together(self, commands: list[list[Any]]) -> list[str | None]:
        """Carry out commands at once; return what went wrong with each, if anything."""

        async def try_to(name: str, *arguments: Any) -> str | None:
            try:
                await getattr(self, name)(*arguments)
            except SessionError as exc:
                return f"{public_name(exc)}: {exc}"
            return None

        return await asyncio.gather(*(try_to(*command) for command in commands))

    # Many updates.

    async def count(self, keys: list[str], callers: int, times: int, seed: int) -> None:
        """Let each caller count, one after the other, so many times over these keys."""
        rng = random.Random(seed)

        async def call() -> None:
            for _ in range(times):
                await self.add(rng.choice(keys))

        await asyncio.gather(*(call() for _ in range(callers)))

    async def hammer(
        self,
        name: str,
        keys: list[str],
        callers: int,
        seed: int,
        seconds: float | None = None,
        dies_after: int = 0,
    ) -> None:
        """Update without end, or leave the updates under way after a while.

        Or die of SIGKILL with so many acknowledged, at the very moment of the last one.
        """
        self._dies_after = dies_after
        rng = random.Random(seed)
        callings = [self._call(name, caller, keys, rng) for caller in range(callers)]
        self._tasks = [asyncio.create_task(calling) for calling in callings]
        await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            if task.done():
                task.result()

    async def _call(
        self, name: str, caller: int, keys: list[str], rng: random.Random
    ) -> None:
        for number in itertools.count():
            key = rng.choice(keys)
            what = f"{name}.{caller}.{number}"
            try:
                await self.store.update(
                    SessionKey.parse(key), functools.partial(noted, what)
                )
            except OutcomeUnknownError:
                say("doubtful", key, what)
            except SessionError:
                say("refused", key, what)
            else:
                say("acknowledged", key, what)
                self._dies_after -= 1
                if not self._dies_after:
                    os.kill(os.getpid(), signal.SIGKILL)

    # Another program that uses the file.

    def begin(self, path: str, *statements: str) -> None:
        """Hold whatever these statements on a connection of its own take hold of."""
        self._other = apsw.Connection(path)
        for statement in statements:
            self.execute(statement)

    def execute(self, statement: str) -> Any:
        """Return the value of one more statement there."""
        assert self._other is not None
        return self._other.execute(statement).get

    def checkpoint(self, path: str) -> None:
        """Move the log into the file, again and again, without end."""
        connection = apsw.Connection(path)
        connection.set_busy_timeout(10_000)
        while True:
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            say("acknowledged", "", "checkpoint")

    def end(self) -> None:
        """Let go of it all."""
        assert self._other is not None
        self._other.close()
        self._other = None

    # The place where it runs.

    def file_system(self, path: str) -> str | None:
        return sqlite_file.filesystem(path)

    def check_file(self, path: str) -> None:
        history.check_file(path)

    def fill_disk(self, filler: str, leave: int) -> None:
        """Leave so many bytes of the disk, and a file that can be removed."""
        disk = os.statvfs(Path(filler).parent)
        with Path(filler).open("ab") as file:
            file.write(bytes(max(0, disk.f_bavail * disk.f_frsize - leave)))

    def unlink(self, path: str) -> None:
        Path(path).unlink()

    def limit_files(self, size: int = resource.RLIM_INFINITY) -> None:
        """Let no file of this process grow beyond so many bytes."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    # The process itself.

    def fork(self, key: str) -> list[str]:
        """Return what a forked process hears that uses what it inherited, and ends."""
        back, there = os.pipe()
        if child := os.fork():
            os.close(there)
            with open(back) as answers:  # noqa: PTH123 - a descriptor
                said = answers.read().splitlines()
            os.waitpid(child, 0)
            return said
        try:
            new = SessionStore(self.store._backend)
            for store in (self.store, new):
                try:
                    asyncio.run(store.get(SessionKey.parse(key)))
                except SessionError as exc:
                    os.write(there, f"{public_name(exc)}: {exc}\n".encode())
            # As the end of a program does, but for what it does to our event loop.
            for connection in apsw.connections():
                connection.close()
        finally:
            os._exit(0)


def noted(what: str, session: Session) -> Session:
    """Count and note an update, in a session of some size."""
    log = [*session.get("log", []), what]
    return {"n": session.get("n", 0) + 1, "log": log, "large": LARGE}


def public_name(exc: Exception) -> str:
    """Return by which class a user can catch an error of ours; its own, for others."""
    classes = type(exc).__mro__
    ours = [cls.__name__ for cls in classes if cls.__module__ == errors.__name__]
    return ours[0] if ours else classes[0].__name__


def main() -> None:
    with asyncio.Runner() as runner:
        bot = Bot()
        say("done", None)
        for line in sys.stdin:
            name, arguments, options = json.loads(line)
            try:
                result = getattr(bot, name)(*arguments, **options)
                if inspect.iscoroutine(result):
                    result = runner.run(result)
            except Exception as exc:  # noqa: BLE001 - the other end will judge
                say("failed", public_name(exc), str(exc))
            else:
                say("done", result)


if __name__ == "__main__":
    main()
