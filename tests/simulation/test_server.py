"""The simulated server: what a crash takes, what it leaves, and who is told what."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from botsessions.codec import Codec
from botsessions.record import Record, Version, Write
from tests.simulation.loop import SimulatedLoop
from tests.simulation.request import Journey, Request
from tests.simulation.road import Road
from tests.simulation.server import NAMESPACE, Clock, Disk, Server

if TYPE_CHECKING:
    import asyncio

PLACE = f"{NAMESPACE}/chat=1"
FLUSH = 1.0
_codec = Codec()


def write(number: int, expected: Version | None = None) -> Write:
    """Return what puts one change in the place of a version."""
    value = _codec.encode({"ids": [number]})
    record = Record(Version(number, number), value, b"", 0, None)
    return Write(PLACE, expected, record, 1 << 62)


def served(loop: SimulatedLoop, disk: Disk | None = None) -> Server:
    ticks = itertools.count(1)
    luck = random.Random(1)
    disk = Disk(flush=FLUSH) if disk is None else disk
    return Server(loop, Clock(loop), lambda: next(ticks), disk=disk, luck=luck)


def shown(server: Server) -> int | None:
    """Return the version that a reader sees."""
    [record] = server.load([PLACE]).records
    return record.version.counter if isinstance(record, Record) else None


def wait(loop: SimulatedLoop, durable: asyncio.Future[bool] | None) -> bool:
    assert durable is not None
    return loop.run_until_complete(durable)


def test_what_is_not_durable_is_not_shown_and_stands_in_the_way() -> None:
    loop = SimulatedLoop()
    server = served(loop)
    assert server.commit([write(1)]) == [True]
    assert shown(server) is None
    assert server.commit([write(2)]) == [False]
    assert server.journal == []
    assert wait(loop, server.when_durable())
    assert loop.true_time <= FLUSH
    assert shown(server) == 1
    assert [landing.ids for landing in server.journal] == [(1,)]
    assert server.when_durable() is None
    loop.close()


def test_a_crash_takes_what_was_not_durable_and_leaves_the_rest() -> None:
    loop = SimulatedLoop()
    server = served(loop)
    server.commit([write(1)])
    wait(loop, server.when_durable())
    # The first of these is being written, of which the disk may be done with some.
    server.commit([write(2, Version(1, 1))])
    server.commit([write(3, Version(2, 2))])
    durable = server.when_durable()
    server.crash()
    assert not server.is_up
    assert not wait(loop, durable)
    server.restart()
    survivor = shown(server)
    assert survivor in {1, 2}
    assert [landing.ids for landing in server.journal] == [(1,), (2,)][:survivor]
    assert server.lost == 3 - survivor
    assert survivor is not None
    assert server.commit([write(4, Version(survivor, survivor))]) == [True]
    loop.close()


def test_a_reader_waits_where_it_must() -> None:
    loop = SimulatedLoop()
    server = served(loop, Disk(flush=FLUSH, readers_wait=True))
    assert server.when_readable([PLACE]) is None
    server.commit([write(1)])
    assert server.when_readable([PLACE + "1"]) is None
    assert wait(loop, server.when_readable([PLACE]))
    assert shown(server) == 1
    loop.close()


def sent_into_a_crash(seed: int) -> tuple[str, int | None]:
    """Return what a sender is told whose request comes to a server that is down."""
    loop = SimulatedLoop()
    server = served(loop)

    async def main() -> str:
        journey = Journey(there=0.1, back=0.1)
        request = Request(server, [write(1)], journey, random.Random(seed))
        server.crash()
        loop.call_later(1, server.restart)
        try:
            return str(await request.answer)
        except Exception as exc:  # noqa: BLE001 - it is told
            return type(exc).__name__

    told = loop.run_until_complete(main())
    loop.call_later(5, loop.stop)
    loop.run_forever()
    loop.close()
    return told, shown(server)


def test_a_request_to_a_server_that_is_down_is_refused_or_lost_or_late() -> None:
    assert {sent_into_a_crash(seed) for seed in range(40)} == {
        ("BackendUnavailableError", None),
        ("ConnectionResetError", None),
        ("ConnectionResetError", 1),
    }


def test_one_is_kept_until_others_have_passed() -> None:
    loop = SimulatedLoop()
    road = Road(loop)
    kept = road.behind(2, 10.0)
    road.passes()
    assert not kept.done()
    road.passes()
    assert kept.done()
    assert road.overtaken == 1
    late = road.behind(2, 10.0)
    loop.run_until_complete(late)
    assert loop.true_time == 10.0
    assert road.overtaken == 1
    loop.close()
