"""A server that is killed, hung, cut off or misused, and what is true afterwards.

This directory is no package, for the reason that ``tests/redis`` is none.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import nats
import pytest
from nats.errors import OutboundBufferLimitError
from nats.js.api import KeyValueConfig, RawStreamMsg

import botsessions as bs
from botsessions.record import Record, Version, Write, ring_after
from examples import backend_nats
from examples.backend_nats import NatsBackend
from tests.changes import Load
from tests.places import new_name
from tests.servers import proxy
from tests.servers.nats import NatsServer
from tests.servers.postgres import free_port
from tests.servers.proxy import Deed, Proxy, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.aio.client import Client

KEYS = [bs.SessionKey(chat_id=number) for number in range(20)]
MINUTE_MS = 60_000


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"n": session.get("n", 0) + 1}


def record(token: int, value: bytes = b"value", before: Record | None = None) -> Record:
    """Return a record that may follow another."""
    counter = 1 if before is None else before.version.counter + 1
    return Record(Version(counter, token), value, ring_after(before), 0, None)


@pytest.fixture
def bucket() -> KeyValueConfig:
    """Return a bucket that no other test uses."""
    return KeyValueConfig(new_name())


@pytest.fixture(scope="module")
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Return a server that a test may kill and hang."""
    server = NatsServer(tmp_path_factory.mktemp("own"))
    yield server
    server.stop()


# Killed, hung, cut off under load.


async def test_a_server_that_is_killed_and_started_again_has_lost_nothing(
    own_nats: NatsServer, bucket: KeyValueConfig
) -> None:
    async with bs.SessionStore(NatsBackend(own_nats.url, bucket)) as store:
        async with Load(store, seed=1) as load:
            await asyncio.to_thread(own_nats.kill)
            await asyncio.to_thread(own_nats.start)
            await load.served(within=8)
        await load.log.check(store)
        assert load.log.unknown == []


async def test_a_server_that_hangs_loses_and_doubles_nothing(
    own_nats: NatsServer, bucket: KeyValueConfig
) -> None:
    async with bs.SessionStore(NatsBackend(own_nats.url, bucket), timeout=1) as store:
        async with Load(store, seed=2) as load:
            for seconds in (0.3, 1.5):  # shorter than a call, and longer
                own_nats.send(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                own_nats.send(signal.SIGCONT)
                await load.served(within=8)
        await load.log.check(store)


async def test_connections_that_are_cut_lose_and_double_nothing(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    async with Proxy(nats_server.port) as between:
        backend = NatsBackend(f"nats://127.0.0.1:{between.port}", bucket)
        async with bs.SessionStore(backend) as store:
            async with Load(store, seed=3) as load:
                between.rule = proxy.at_random(random.Random(3), 0.01)
                await asyncio.sleep(2)
                between.rule = proxy.pass_all
                await load.served(within=8)
            await load.log.check(store)
        assert between.faults


async def test_a_connection_that_falls_silent_is_replaced(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    async with Proxy(nats_server.port) as between:
        backend = NatsBackend(f"nats://127.0.0.1:{between.port}", bucket)
        async with bs.SessionStore(backend) as store:
            await store.put(KEYS[0], {"n": 1})
            assert between.forget_all() == 1
            async with asyncio.timeout(8):
                while True:
                    try:
                        assert await store.update(KEYS[0], count) == {"n": 2}
                    except bs.BackendUnavailableError:
                        await asyncio.sleep(0.05)  # nothing was written
                    else:
                        break


# Late, lost and foreign.


def at_publishing(way: Way, deed: Deed, after: int = 0) -> proxy.Rule:
    """Do something to the first message that is published, or to an answer behind."""
    seen, left = False, after

    def rule(this: Way, piece: bytes, before: int) -> Deed:
        nonlocal seen, left
        seen = seen or (this is Way.REQUEST and b"HPUB $KV." in piece)
        if not seen or this is not way:
            return proxy.PASS
        left -= 1
        return deed if left == -1 else proxy.PASS

    return rule


async def test_a_write_that_arrives_at_its_end_does_not_land(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    direct = NatsBackend(nats_server.url, bucket)
    async with Proxy(nats_server.port) as between:
        slow = NatsBackend(f"nats://127.0.0.1:{between.port}", bucket)
        async with opened(direct), opened(slow):
            before: Record | None = None
            for token in (1, 10):  # the first would make the record, then replace it
                now = (await direct.load(["k"])).now
                between.rule = at_publishing(Way.REQUEST, Deed(delay=0.3))
                expected = before and before.version
                late = Write("k", expected, record(token, b"late", before), now + 100)
                assert await slow.commit([late]) == [False]
                assert (await direct.load(["k"])).records == [before]
                assert await listed(direct) == ([] if before is None else [before])
                # What came too late stands in nobody's way, and a copy may be in time.
                again = late._replace(not_after=now + MINUTE_MS)
                assert await direct.commit([again]) == [True]
                before = again.record
                assert (await slow.load(["k"])).records == [before]


def test_a_message_is_late_from_the_very_millisecond_of_its_end() -> None:
    before, after = record(1, b"before"), record(2, b"after")
    end = datetime(2026, 1, 1, tzinfo=UTC)
    write = Write("k", before.version, after, int(end.timestamp()) * 1000)
    data = backend_nats._packed(write, before)
    for early, found in ((1, after), (0, before), (-1, before)):
        message = RawStreamMsg(data=data, time=end - timedelta(microseconds=early))
        assert backend_nats._unpacked(message)[0] == found


async def test_what_came_too_late_in_between_does_not_make_others_lose(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    direct = NatsBackend(nats_server.url, bucket)
    async with Proxy(nats_server.port) as between:
        slow = NatsBackend(f"nats://127.0.0.1:{between.port}", bucket)
        async with opened(direct), opened(slow):
            now = (await direct.load([])).now
            between.rule = at_publishing(Way.REQUEST, Deed(delay=0.3))
            write = Write("k", None, record(1), now + MINUTE_MS)
            committing = asyncio.create_task(slow.commit([write]))
            await asyncio.sleep(0.15)
            late = Write("k", None, record(2), now)
            assert await direct.commit([late]) == [False]
            assert await committing == [True]


async def test_a_session_that_ends_while_its_update_is_under_way_is_not_revived(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    async with Proxy(nats_server.port) as between:
        backend = NatsBackend(f"nats://127.0.0.1:{between.port}", bucket)
        async with bs.SessionStore(backend, ttl=0.3) as store:
            await store.put(KEYS[0], {"n": 1})
            between.rule = at_publishing(Way.REQUEST, Deed(delay=0.5))
            assert await store.update(KEYS[0], count) == {"n": 1}


@pytest.mark.parametrize(
    ("followers", "told"), [(1, "True"), (7, "True"), (8, "unknown")]
)
async def test_a_write_that_others_follow_at_once_is_told_the_truth(
    nats_server: NatsServer, bucket: KeyValueConfig, followers: int, told: str
) -> None:
    """The last record remembers so many before it; what it forgot is unknown."""
    direct = NatsBackend(nats_server.url, bucket)
    async with Proxy(nats_server.port) as between:
        slow = NatsBackend(f"nats://127.0.0.1:{between.port}", bucket)
        async with opened(direct), opened(slow):
            until = (await direct.load([])).now + MINUTE_MS
            between.rule = at_publishing(Way.REPLY, Deed(delay=0.5))
            last = record(1)
            write = Write("k", None, last, until)
            committing = asyncio.create_task(slow.commit([write]))
            async with asyncio.timeout(5):
                while (await direct.load(["k"])).records == [None]:
                    pass
            for token in range(2, 2 + followers):
                following = record(token, b"next", last)
                follower = Write("k", last.version, following, until)
                assert await direct.commit([follower]) == [True]
                last = following
            [outcome] = await committing
            unknown = isinstance(outcome, bs.OutcomeUnknownError)
            assert ("unknown" if unknown else str(outcome)) == told


@pytest.mark.parametrize("answers", [0, 1])
async def test_a_write_of_which_no_answer_comes_is_unknown(
    nats_server: NatsServer, bucket: KeyValueConfig, answers: int
) -> None:
    """Neither that it is stored, nor, if that is told, that it came in time."""
    async with Proxy(nats_server.port) as between:
        backend = NatsBackend(f"nats://127.0.0.1:{between.port}", bucket)
        direct = NatsBackend(nats_server.url, bucket)
        async with opened(backend), opened(direct):
            until = (await backend.load([])).now + MINUTE_MS
            between.rule = at_publishing(Way.REPLY, proxy.CUT_BEFORE, answers)
            write = Write("k", None, record(1), until)
            [outcome] = await backend.commit([write])
            assert isinstance(outcome, bs.OutcomeUnknownError)
            assert outcome.__cause__ is not None
            assert (await direct.load(["k"])).records == [write.record]


async def test_a_key_of_which_all_came_too_late_is_swept(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    async with opened(NatsBackend(nats_server.url, bucket)) as backend:
        now = (await backend.load([])).now
        assert await backend.commit([Write("k", None, record(1), now)]) == [False]
        assert await backend.sweep("", 10) == 1
        assert await backend.sweep("", 10) == 0


async def test_what_nats_does_not_take_concerns_its_write_alone(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    async with opened(NatsBackend(nats_server.url, bucket)) as backend:
        until = (await backend.load([])).now + MINUTE_MS
        huge = Write("huge", None, record(1, bytes(9 * 1024 * 1024)), until)
        small = Write("small", None, record(2), until)
        refused, landed = await backend.commit([huge, small])
        assert type(refused) is bs.BackendError
        assert landed is True
        assert (await backend.load(["huge", "small"])).records == [None, small.record]


async def test_what_is_not_ours_is_left_alone_and_harms_no_other(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    backend = NatsBackend(nats_server.url, bucket)
    async with bs.SessionStore(backend) as store, client(nats_server) as user:
        theirs = await user.jetstream().key_value(bucket.bucket)
        for text in (b"text", b"\x93\x01\x02\x03", b""):
            await theirs.put("sessions/chat=3D0", text)
            calls = [store.update(key, count) for key in KEYS[:3]]
            refused, *done = await asyncio.gather(*calls, return_exceptions=True)
            assert type(refused) is bs.BackendError
            assert "not ours" in str(refused)
            assert [type(answer) for answer in done] == [dict, dict]
            assert (await theirs.get("sessions/chat=3D0")).value == (text or None)


@pytest.mark.parametrize("how", ["delete", "purge"])
async def test_a_session_that_somebody_removes_is_gone_and_may_begin_anew(
    nats_server: NatsServer, bucket: KeyValueConfig, how: str
) -> None:
    backend = NatsBackend(nats_server.url, bucket)
    async with bs.SessionStore(backend) as store, client(nats_server) as user:
        theirs = await user.jetstream().key_value(bucket.bucket)
        for _ in range(2):
            assert await store.update(KEYS[0], count) == {"n": 1}
            await getattr(theirs, how)("sessions/chat=3D0")
            assert await store.get(KEYS[0]) == {}
            assert [key async for key in store.keys()] == []
        assert await store.delete_expired() == 1


async def test_what_is_not_ours_stops_no_walk_and_no_sweep(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    backend = NatsBackend(nats_server.url, bucket)
    async with bs.SessionStore(backend) as store, client(nats_server) as user:
        await store.put(KEYS[1], {"n": 1})
        theirs = await user.jetstream().key_value(bucket.bucket)
        await theirs.put("sessions/chat=3D0", b"text")
        assert [key async for key in store.keys()] == [KEYS[1]]
        assert await store.delete_expired() == 0
        assert (await theirs.get("sessions/chat=3D0")).value == b"text"


async def test_a_full_bucket_refuses_for_certain(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    full = NatsBackend(nats_server.url, bucket.evolve(max_bytes=4000))
    async with opened(full):
        until = (await full.load([])).now + MINUTE_MS
        writes = [Write(f"k{n}", None, record(n, bytes(1000)), until) for n in range(6)]
        told = await full.commit(writes)
        assert {type(outcome) for outcome in told} == {bool, bs.BackendError}
        found = (await full.load([write.key for write in writes])).records
        assert [outcome is True for outcome in told] == [bool(each) for each in found]


async def test_what_nobody_thought_of_is_raised(
    nats_server: NatsServer, bucket: KeyValueConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store takes it for unknown, with the exception as the cause."""
    async with opened(NatsBackend(nats_server.url, bucket)) as backend:
        until = (await backend.load([])).now + MINUTE_MS
        monkeypatch.setattr(backend_nats, "_packed", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await backend.commit([Write("k", None, record(1), until)])


async def test_a_write_that_others_always_forestall_gives_up(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    class Slow(NatsBackend):
        reads = 0

        async def _read(self, key: str) -> Any:
            self.reads += 1
            found, last = await super()._read(key)
            return found, last + 1  # as if another had written since

    async with opened(Slow(nats_server.url, bucket)) as backend:
        until = (await backend.load([])).now + MINUTE_MS
        [told] = await backend.commit([Write("k", None, record(1), until)])
        assert type(told) is bs.BackendError
        assert (await backend.load(["k"])).records == [None]


async def test_sweeps_do_not_read_the_living_again_and_again(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    class Counting(NatsBackend):
        reads = 0

        async def _read(self, key: str) -> Any:
            self.reads += 1
            return await super()._read(key)

    backend = Counting(nats_server.url, bucket)
    async with opened(backend):
        now = (await backend.load([])).now
        dead = record(1, b"")._replace(expires_at=now - 2 * MINUTE_MS)
        living = [Write(f"a{n}", None, record(n), now + MINUTE_MS) for n in range(200)]
        gone = [Write(f"z{n}", None, dead, now + MINUTE_MS) for n in range(50)]
        assert all(await backend.commit(living + gone))
        backend.reads = 0
        assert [await backend.sweep("", 10) for _ in range(6)] == [10] * 5 + [0]
        assert backend.reads <= 2 * (200 + 50)


async def test_a_sweep_leaves_what_was_begun_anew(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    """The dead record was seen, then replaced, and only then does the purge arrive."""
    async with Proxy(nats_server.port) as between:
        slow = NatsBackend(f"nats://127.0.0.1:{between.port}", bucket)
        async with (
            opened(slow),
            opened(NatsBackend(nats_server.url, bucket)) as backend,
        ):
            now = (await backend.load([])).now
            dead = record(1, b"")._replace(expires_at=now - 2 * MINUTE_MS)
            anew = Write("k", dead.version, record(2, b"new", dead), now + MINUTE_MS)
            assert await backend.commit([Write("k", None, dead, now + MINUTE_MS)]) == [
                True
            ]

            def rule(way: Way, piece: bytes, before: int) -> Deed:
                return Deed(delay=0.5 if b"STREAM.PURGE" in piece else 0)

            between.rule = rule
            sweeping = asyncio.create_task(slow.sweep("", 10))
            await asyncio.sleep(0.2)
            assert await backend.commit([anew]) == [True]
            await sweeping
            assert (await backend.load(["k"])).records == [anew.record]
            between.rule = proxy.pass_all
            assert await slow.sweep("", 10) == 0


# Opening.


async def test_any_of_several_servers_will_do(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    away = f"nats://127.0.0.1:{free_port()}"
    async with opened(NatsBackend([away, nats_server.url], bucket)) as backend:
        assert (await backend.load(["k"])).records == [None]


async def test_a_bucket_with_other_settings_is_used_as_it_is(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    async with client(nats_server) as user:
        settings = bucket.evolve(direct=True, history=5)
        await user.jetstream().create_key_value(settings)
    async with bs.SessionStore(NatsBackend(nats_server.url, bucket)) as store:
        assert await store.update(KEYS[0], count) == {"n": 1}
        assert await store.update(KEYS[0], count) == {"n": 2}


async def test_a_user_without_rights_is_told_so(tmp_path: Path) -> None:
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": "$JS.>"}}}
    server = NatsServer(tmp_path, authorization={"users": [user]})
    try:
        with pytest.raises(bs.BackendUnavailableError, match="has this user the right"):
            await NatsBackend(server.url, user="u", password="p").open()  # noqa: S106
        with pytest.raises(bs.BackendUnavailableError, match="has this user the right"):
            await NatsBackend(server.url, user="u", password="wrong").open()  # noqa: S106
    finally:
        server.stop()


async def test_closing_what_is_not_open_does_nothing(nats_server: NatsServer) -> None:
    await NatsBackend(nats_server.url).aclose()


async def test_a_server_that_is_away_is_told_and_may_come_later(
    own_nats: NatsServer, bucket: KeyValueConfig
) -> None:
    backend = NatsBackend(own_nats.url, bucket)
    await asyncio.to_thread(own_nats.kill)
    try:
        with pytest.raises(bs.BackendUnavailableError, match="is NATS there"):
            await backend.open()
    finally:
        await asyncio.to_thread(own_nats.start)
    async with opened(backend):
        assert (await backend.load(["k"])).records == [None]
        await asyncio.to_thread(own_nats.kill)
        try:
            with pytest.raises(bs.BackendUnavailableError):
                await backend.load(["k"])
            # From now on it is known, and nobody waits for an answer.
            with pytest.raises(bs.BackendUnavailableError, match="not connected"):
                await backend.load(["k"])
        finally:
            await asyncio.to_thread(own_nats.start)


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("nats://127.0.0.1:1,nats://127.0.0.1:2", {}, bs.BackendUnavailableError),
        ("nats://127.0.0.1:1", {"pasword": "x"}, TypeError),
    ],
)
async def test_what_the_driver_has_against_its_options_is_told(
    url: str, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await NatsBackend(url, **options).open()


async def test_a_connection_that_is_lost_keeps_nothing_for_later(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    """Not even what is sent between the loss and our next look."""
    async with opened(NatsBackend(nats_server.url, bucket)) as backend:
        connection = backend._client()
        connection._status = connection.RECONNECTING
        with pytest.raises(OutboundBufferLimitError):
            await connection.publish("text", b"")
        connection._status = connection.CONNECTED


async def test_a_bucket_that_forgets_is_refused(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    async with client(nats_server) as user:
        await user.jetstream().create_key_value(bucket.evolve(ttl=60))
        with pytest.raises(bs.BackendUnavailableError, match="with a ttl"):
            await NatsBackend(nats_server.url, bucket).open()


async def test_a_bucket_that_is_deleted_meanwhile_is_no_empty_one(
    nats_server: NatsServer, bucket: KeyValueConfig
) -> None:
    backend = NatsBackend(nats_server.url, bucket)
    async with bs.SessionStore(backend) as store, client(nats_server) as user:
        await store.put(KEYS[0], {"n": 1})
        await user.jetstream().delete_key_value(bucket.bucket)
        with pytest.raises(bs.BackendUnavailableError, match="stream not found"):
            await store.get(KEYS[0])


def test_the_example_has_less_than_150_lines() -> None:
    lines = inspect.getsource(backend_nats).splitlines()
    assert sum(bool(line.strip()) for line in lines) < 150


@asynccontextmanager
async def opened(backend: NatsBackend) -> AsyncIterator[NatsBackend]:
    """Return the backend, open."""
    await backend.open()
    try:
        yield backend
    finally:
        await backend.aclose()


@asynccontextmanager
async def client(server: NatsServer) -> AsyncIterator[Client]:
    """Return a connection of the driver's own."""
    made = await nats.connect(server.url)
    try:
        yield made
    finally:
        await made.close()


async def listed(backend: NatsBackend) -> list[Record]:
    """Return all records that a walk brings."""
    pages = backend.list_pages("", "", 10)
    return [found async for page in pages for _, found in page.entries]
