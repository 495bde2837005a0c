"""Sessions in NATS: a backend outside the package, as docs/write-a-backend.md tells."""

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote
from weakref import WeakKeyDictionary

import ormsgpack
from nats.aio.client import Client
from nats.errors import Error, MaxPayloadError
from nats.js.api import KeyValueConfig
from nats.js.errors import BadRequestError, NoStreamResponseError, NotFoundError

import botsessions as bs
from botsessions.record import GRACE_MS, tokens

CLOCK = "$SYS.REQ.ACCOUNT.PING.STATZ"
IF_LAST = "Nats-Expected-Last-Subject-Sequence"
NO_MESSAGE, WRONG_LAST = 10037, (10071, 10164)  # numbers of JetStream's errors
AT_FIRST: Any = {"allow_reconnect": False, "max_reconnect_attempts": 1}
LATER = {"allow_reconnect": True, "max_reconnect_attempts": -1}
BUCKET = KeyValueConfig("botsessions", direct=False)
EPOCH, MS = dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.timedelta(milliseconds=1)
Pages = AsyncIterator[bs.Page]


class NatsBackend:
    """Keeps records in a bucket; a client that is handed in stays open."""

    concurrent_batches = 2

    def __init__(self, servers: str | Client, bucket: KeyValueConfig = BUCKET) -> None:
        self._servers, self._bucket = servers, bucket
        self._stream, self._prefix = f"KV_{bucket.bucket}", f"$KV.{bucket.bucket}."
        self._clients: WeakKeyDictionary[Any, list[Client]] = WeakKeyDictionary()

    async def open(self) -> None:
        """Connect, and create the bucket if there is none."""
        client = self._servers if isinstance(self._servers, Client) else Client()
        try:
            with _errors():
                if isinstance(self._servers, str):
                    await client.connect(self._servers, ping_interval=1, **AT_FIRST)
                    client.options |= LATER
                await client.jetstream(timeout=2).create_key_value(self._bucket)
        except BaseException:
            if client is not self._servers:
                await asyncio.shield(client.close())
            raise
        self._clients.setdefault(asyncio.get_running_loop(), []).append(client)

    async def aclose(self) -> None:
        """Close the connection that was opened last; the first one serves all."""
        client = self._clients[asyncio.get_running_loop()].pop()
        if client is not self._servers:
            await asyncio.shield(client.close())

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        """Read the clock, then the records: what is alive was so during this load."""
        now = await self._now()
        found = await asyncio.gather(*map(self._read, keys))
        return bs.Loaded(now, [record for record, _ in found])

    async def commit(self, writes: Sequence[bs.Write]) -> list[Any]:
        """Swap all at once; what is raised is the outcome of that write alone."""
        told = await asyncio.gather(*map(self._swap, writes), return_exceptions=True)
        sure = (bool, bs.BackendError, bs.OutcomeUnknownError)
        return [o if isinstance(o, sure) else bs.OutcomeUnknownError(o) for o in told]

    async def list_pages(self, prefix: str, after: str, limit: int) -> Pages:
        """Walk the keys that are there as the walk begins; read page by page."""
        keys = [key for key in await self._keys(prefix) if key > after]
        for begin in range(0, len(keys), limit):
            now, chosen = await self._now(), keys[begin : begin + limit]
            found = await asyncio.gather(*map(self._read, chosen))
            pairs = zip(chosen, found, strict=True)
            yield bs.Page(now, [(key, record) for key, (record, _) in pairs if record])

    async def sweep(self, prefix: str, limit: int) -> int:
        """Purge what is long dead, up to the message that was seen and no further."""
        end, swept = await self._now() - GRACE_MS, 0
        for key in await self._keys(prefix):
            record, last = await self._read(key)
            if last and (record is None or record.is_dead(end)):
                with _errors():
                    await self._js().purge_stream(self._stream, last + 1, self._at(key))
                if (swept := swept + 1) == limit:
                    break
        return swept

    async def _read(self, key: str) -> tuple[bs.Record | None, int]:
        with _errors():
            try:
                message = await self._js().get_msg(self._stream, subject=self._at(key))
            except NotFoundError as exc:
                if exc.err_code != NO_MESSAGE:
                    raise
                return None, 0
        return _unpacked(message), message.seq

    async def _swap(self, write: bs.Write) -> bool:
        before, last = await self._read(write.key)
        if (before and before.version) != write.expected:
            return False
        message, header = _packed(write, before), {IF_LAST: str(last)}
        try:
            await self._js().publish(self._at(write.key), message, headers=header)
        except (BadRequestError, MaxPayloadError, NoStreamResponseError) as exc:
            if getattr(exc, "err_code", None) in WRONG_LAST:
                return await self._swap(write)  # another was faster
            raise bs.BackendError(f"NATS did not take the record: {exc}") from exc
        try:
            after, _ = await self._read(write.key)
        except bs.BackendError as exc:
            raise bs.OutcomeUnknownError("stored; was it in time?") from exc
        if after and write.record.version.token in tokens(after):
            return True
        if after == before:
            return False  # it came at or after its not_after
        raise bs.OutcomeUnknownError("stored, and changed again since")

    async def _now(self) -> int:
        with _errors():
            told = await self._client().request(CLOCK, timeout=2)
        return _ms(dt.datetime.fromisoformat(json.loads(told.data)["server"]["time"]))

    async def _keys(self, prefix: str) -> list[str]:
        with _errors():
            info = await self._js().stream_info(self._stream, self._prefix + ">")
        names = [name.removeprefix(self._prefix) for name in info.state.subjects or ()]
        if len(names) >= 100_000:  # a server names no more in one answer
            raise bs.BackendError("there are too many keys to list them")
        keys = [unquote(name.replace("=", "%")) for name in names]
        return sorted(key for key in keys if key.startswith(prefix))

    def _at(self, key: str) -> str:
        name = quote(key, safe="/").replace(".", "%2E").replace("~", "%7E")
        return self._prefix + name.replace("%", "=")

    def _client(self) -> Client:
        clients = self._clients.get(asyncio.get_running_loop())
        if not clients or not clients[0].is_connected:
            raise bs.BackendUnavailableError("not connected to NATS; is it running?")
        return clients[0]

    def _js(self) -> Any:
        return self._client().jetstream(timeout=2)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (Error, OSError, TimeoutError) as exc:
        why = f"{type(exc).__name__}: {exc}; is NATS there, with JetStream?"
        raise bs.BackendUnavailableError(why) from exc


def _packed(write: bs.Write, before: bs.Record | None) -> bytes:
    both = [r and (*r.version, *r[1:]) for r in (write.record, before)]
    return ormsgpack.packb((write.not_after, *both))  # the latter if it comes late


def _unpacked(message: Any) -> bs.Record | None:
    try:
        not_after, record, before = ormsgpack.unpackb(message.data)
        fields = record if _ms(message.time) < not_after else before
        return fields and bs.Record(bs.Version(*fields[:2]), *fields[2:])
    except (TypeError, ValueError) as exc:
        raise bs.BackendError(f"{message.subject} holds what is not ours") from exc


def _ms(time: dt.datetime) -> int:
    return (time - EPOCH) // MS
