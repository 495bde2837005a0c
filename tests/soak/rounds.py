"""Play rounds at one place: start processes, do harm by schedule, look, judge, count.

What a seed decides is which fault follows which, the dice of each, and those of all
callers. Real servers take the time they take, so a seed does not play the same run
twice: when a round is over, and what calls a fault meets, is up to them. Neighbours:
``places`` and ``worker`` (whom this drives), ``judging`` and ``figures``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botsessions as bs
from tests.servers.watched import spawn
from tests.soak import journal
from tests.soak.caller import usual_keys
from tests.soak.figures import Fault, Figures
from tests.soak.journal import Oddity
from tests.soak.judging import judge
from tests.soak.worker import Orders

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tests.soak.places import Place

# The code under test in every process is the one that is under test in this.
_ROOT, _SOURCE = Path(__file__).parents[2], Path(bs.__file__).parents[1]
_PATIENCE = 60
# Behind the name of a fault of which nothing came: servers may refuse to fail over.
IN_VAIN = " (in vain)"
_IDS = 1_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How rounds are played."""

    seed: int
    seconds: float = 10.0
    """So long a round goes on, until its last fault is over."""
    calm: float = 1.5
    """Seconds for those who use it to recover from that."""
    pauses: tuple[float, float] = (0.2, 2.0)
    """Seconds between two faults, at least and at most."""
    timeout: float = 2.0
    """Seconds for each call, shorter than the longest of faults."""
    bots: tuple[bool, ...] = (False, True, False)
    """The processes that use it, and whether each has threads."""
    ttl: float = 0.3
    kinds: Collection[str] = ()
    """The faults that are wanted; all that there are, if empty."""
    wrong: str | None = None
    """Which of the wrong backends the tasks are given."""


async def soak(
    place: Place,
    plan: Plan,
    seconds: float,
    figures: Figures,
    tell: Callable[[str], None],
) -> None:
    """Play rounds until that time is over, one at least; count what they come to.

    After each it tells how far it has come, and the figures are whole.
    """
    ends = time.monotonic() + seconds
    faults = _Schedule(f"{plan.seed} {place.name}", plan.kinds)
    starting = asyncio.create_task(place.start())
    try:
        # Who is interrupted meanwhile waits below: what is half started has no end.
        await asyncio.shield(starting)
        figures.title = await asyncio.to_thread(lambda: place.title)
        for number in itertools.count():
            left = ends - time.monotonic()
            if number and left < plan.seconds / 4:
                break
            this = dataclasses.replace(plan, seconds=min(plan.seconds, max(left, 0.5)))
            await _Round(place, this if number else plan, number, faults).play(figures)
            tell(f"{place.name} {number}: {_told(figures)}")
    finally:
        await asyncio.wait([starting])
        if starting.exception() is None:
            await place.stop()


def _told(figures: Figures) -> str:
    what = ", ".join(f"{n} {wrong}" for wrong, n in figures.wrong.items())
    return (
        f"{figures.operations:,} operations, {figures.faults.total()} faults, "
        f"{what or 'nothing wrong'}"
    )


class _Schedule:
    """Which fault comes next: in a new order each time all have had their turn.

    Each has dice of its own. How often one throws them is up to the servers, and what
    comes after it is not.
    """

    def __init__(self, seed: str, wanted: Collection[str]) -> None:
        self._seed = seed
        self._rng = random.Random(seed)
        self._numbers = itertools.count()
        self._wanted = wanted
        self._bag: list[str] = []

    def dice(self) -> random.Random:
        """Return those of the next."""
        return random.Random(f"{self._seed} {next(self._numbers)}")

    def next(self, possible: Collection[str]) -> str | None:
        """Take the next that is possible here; what is not keeps its turn."""
        wanted = [one for one in possible if one in (self._wanted or possible)]
        if not wanted:
            return None
        if not any(one in wanted for one in self._bag):
            self._bag += self._rng.sample(wanted, len(wanted))
        kind = next(one for one in self._bag if one in wanted)
        self._bag.remove(kind)
        return kind


class _Round:
    """One round, from fresh sessions to their judgement."""

    def __init__(
        self, place: Place, plan: Plan, number: int, schedule: _Schedule
    ) -> None:
        self._place = place
        self._plan = plan
        self._number = number
        self._schedule = schedule
        self._namespace = f"round{number}"
        self._journals = place.directory / self._namespace
        self._numbers = itertools.count(1)
        self._bots: list[_Bot] = []
        self._oddities: list[Oddity] = []
        self._processes = 0
        self._begun = 0

    async def play(self, figures: Figures) -> None:
        """Play it, and add what came of it."""
        self._journals.mkdir()
        await self._place.begin(self._number)
        self._begun = time.monotonic_ns()
        try:
            for threads in self._plan.bots:
                await self._start(threads=threads)
            faults = await self._do_harm()
            await asyncio.sleep(self._plan.calm)
            for bot in self._bots:
                await self._end(bot)
            await self._place.heal()
            await self._look()
        finally:
            for bot in self._bots:
                bot.kill()
        for what in await self._place.complaints():
            self._oddities.append(Oddity("", self._place.name, what))
        await self._place.clean()
        await asyncio.to_thread(self._judge, figures, faults)
        shutil.rmtree(self._journals)

    # What faults may do to the processes.

    async def kill_one(self, rng: random.Random) -> None:
        bot = rng.choice(self._bots)
        self._bots.remove(bot)
        ended = bot.status
        bot.kill()
        if ended is not None or bot.has_complained:
            self._report(bot, ended)
        await asyncio.sleep(rng.uniform(0, 0.3))
        await self._start(threads=bot.threads)

    async def stop_one(self, rng: random.Random, seconds: float) -> None:
        bot = rng.choice(self._bots)
        bot.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            bot.send(signal.SIGCONT)

    def keys(self) -> list[str]:
        return [f"{self._namespace}/{key}" for key in usual_keys()]

    async def _do_harm(self) -> list[Fault]:
        impossible = self._place.impossible()
        kinds = [kind for kind in self._place.faults if kind not in impossible]
        done: list[Fault] = []
        await asyncio.to_thread(self._wait_for_work)
        ends = time.monotonic() + self._plan.seconds
        while True:
            rng = self._schedule.dice()
            await asyncio.sleep(rng.uniform(*self._plan.pauses))
            kind = self._schedule.next(kinds)
            if kind is None:
                await asyncio.sleep(max(0.0, ends - time.monotonic()))
            else:
                begun = self._now()
                try:
                    await self._place.faults[kind](self._place, rng, self)
                except self._place.unwilling:
                    kind += IN_VAIN
                    await self._place.heal()
                done.append(Fault(kind, begun, self._now()))
            if time.monotonic() >= ends:
                return done

    def _wait_for_work(self) -> None:
        """Wait until each process has begun."""
        until = time.monotonic() + _PATIENCE
        while not all(bot.has_begun for bot in self._bots):
            assert time.monotonic() < until, "a process does not begin"
            for bot in self._bots:
                assert bot.status is None, f"{bot.name} ended: {bot.complaints}"
            time.sleep(0.02)

    async def _start(self, *, threads: bool) -> None:
        number = next(self._numbers)
        plan = self._plan
        orders = self._orders(
            f"bot{number}",
            number,
            url=self._place.url,
            callers=4 if threads else 8,
            threads=threads,
            wrong=None if threads else plan.wrong,
        )
        self._processes += 1
        self._bots.append(await asyncio.to_thread(_Bot, self._place, orders))

    def _orders(self, name: str, number: int, **more: Any) -> Orders:
        options = {"namespace": self._namespace, "timeout": self._plan.timeout}
        return Orders(
            options={**options, **self._place.options},
            ttl=self._plan.ttl,
            journal=str(self._journals / f"{name}.jsonl"),
            first=number * _IDS,
            seed=(self._plan.seed * 10_000 + self._number) * 100 + number,
            **more,
        )

    async def _look(self) -> None:
        """Let a process read all there is, on the straight way."""
        told = await asyncio.to_thread(journal.read, self._paths())
        keys = sorted(set(told.calls) | set(usual_keys()))
        number = next(self._numbers)
        orders = self._orders("look", number, url=self._place.clear_url, look=keys)
        await self._end(await asyncio.to_thread(_Bot, self._place, orders))

    async def _end(self, bot: _Bot) -> None:
        status = await asyncio.to_thread(bot.end)
        if status or bot.has_complained:
            self._report(bot, status)

    def _report(self, bot: _Bot, status: int | None) -> None:
        what = f"ended with {status}: {bot.complaints}"
        self._oddities.append(Oddity("", bot.name, what))

    def _paths(self) -> list[Path]:
        return sorted(self._journals.glob("*.jsonl"))

    def _now(self) -> int:
        """Return the moment, counted from the beginning of the round."""
        return time.monotonic_ns() - self._begun

    def _judge(self, figures: Figures, faults: list[Fault]) -> None:
        told = journal.read(self._paths(), self._begun)
        told.oddities += self._oddities
        figures.processes += self._processes
        figures.add(told, judge(told, self._plan.ttl), faults)


class _Bot:
    """A process at work; it ends when its input does."""

    def __init__(self, place: Place, orders: Orders) -> None:
        self.threads = orders.threads
        self._journal = Path(orders.journal)
        self.name = self._journal.stem
        path = f"{_ROOT}{os.pathsep}{_SOURCE}"
        environment = {**os.environ, **place.environment, "PYTHONPATH": path}
        self._errors = self._journal.with_suffix(".errors")
        with self._errors.open("w") as errors:
            self._process = spawn(
                [*place.under, sys.executable, "-m", "tests.soak.worker"],
                env=environment,
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(orders)) + "\n")
        self._process.stdin.flush()

    @property
    def has_begun(self) -> bool:
        return self._journal.exists() and self._journal.stat().st_size > 0

    @property
    def status(self) -> int | None:
        return self._process.poll()

    @property
    def complaints(self) -> str:
        """What it has written to its standard error."""
        return self._errors.read_text()

    @property
    def has_complained(self) -> bool:
        return "Traceback" in self.complaints

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it now, wherever it is."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_PATIENCE)
        self._close()

    def end(self) -> int:
        """Let it finish what it is at; return its exit status."""
        self._close()
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            return -1

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
