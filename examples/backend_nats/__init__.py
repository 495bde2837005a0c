"""Sessions in NATS: a backend outside the package, as docs/write-a-backend.md tells."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote
from weakref import WeakKeyDictionary

import ormsgpack
from nats.aio.client import Client
from nats.errors import Error, MaxPayloadError
from nats.js.api import KeyValueConfig as Bucket
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError

import botsessions as bs
from botsessions.record import GRACE_MS, tokens

CLOCK, IF_LAST = "$SYS.REQ.ACCOUNT.PING.STATZ", "Nats-Expected-Last-Subject-Sequence"
NO_MESSAGE, NO_STREAM, WRONG_LAST = 10037, 10059, (10071, 10164)  # its errors
REFUSED = (BadRequestError, MaxPayloadError, NoStreamResponseError)
AT_FIRST = {"allow_reconnect": False, "max_reconnect_attempts": 1, "pending_size": 0}
BUCKET = Bucket("botsessions")
Pages = AsyncIterator[bs.Page]


class NatsBackend:
    """Keeps records in a bucket; ``options`` are those of ``nats.connect``."""

    concurrent_batches = 2

    def __init__(self, servers: Any, bucket: Bucket = BUCKET, **options: Any) -> None:
        self._servers, self._bucket, self._swept = servers, bucket, ""
        self._options = {"ping_interval": 1, **options, **AT_FIRST}
        self._stream, self._prefix = f"KV_{bucket.bucket}", f"$KV.{bucket.bucket}."
        self._clients: WeakKeyDictionary[Any, list[Client]] = WeakKeyDictionary()

    async def open(self) -> None:
        """Connect, and create the bucket if there is none."""
        client = Client()
        try:
            await _told(client.connect(self._servers, **self._options))
            client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
            js = client.jetstream(timeout=5)
            if await _told(js.stream_info(self._stream), NO_STREAM) is None:
                await _told(js.create_key_value(self._bucket))
            config = (await _told(js.stream_info(self._stream))).config
            if config.max_age:
                raise bs.BackendUnavailableError("a bucket with a ttl forgets sessions")  # noqa: TRY301 - to be closed
        except BaseException:
            await asyncio.gather(asyncio.shield(client.close()), return_exceptions=True)
            raise
        self._refused = (*REFUSED, APIError) if config.num_replicas == 1 else REFUSED
        self._clients.setdefault(asyncio.get_running_loop(), []).append(client)

    async def aclose(self) -> None:
        """Close the connection that was opened last; the first one serves all."""
        if clients := self._clients.get(asyncio.get_running_loop()):
            await asyncio.shield(clients.pop().close())

    async def load(self, keys: Sequence[str]) -> bs.Loaded:
        """Read the clock, then the records: what is alive was so during this load."""
        told = json.loads((await _told(self._client().request(CLOCK, timeout=5))).data)
        now = _ms(datetime.fromisoformat(told["server"]["time"]))
        found = await asyncio.gather(*map(self._read, keys))
        return bs.Loaded(now, [record for record, _ in found])

    async def commit(self, writes: Sequence[bs.Write]) -> list[Any]:
        """Swap all at once; what is raised is the outcome of that write alone."""
        told = await asyncio.gather(*map(self._swap, writes), return_exceptions=True)
        for outcome in told:
            if not isinstance(outcome, bool | bs.BackendError | bs.OutcomeUnknownError):
                raise outcome  # nobody thought of it: all of them count as unknown
        return told

    async def list_pages(self, prefix: str, after: str, limit: int) -> Pages:
        """Walk the keys that are there as the walk begins; read page by page."""
        keys = [key for key in await self._keys(prefix) if key > after]
        for part in (keys[n : n + limit] for n in range(0, len(keys), limit)):
            now, found = await self.load(part)
            pairs = zip(part, found, strict=True)
            yield bs.Page(now, [(k, r) for k, r in pairs if isinstance(r, bs.Record)])

    async def sweep(self, prefix: str, limit: int) -> int:
        """Purge what is long dead, up to the message that was seen and no further."""
        end, dead = (await self.load([])).now - GRACE_MS, list[tuple[str, int]]()
        keys = sorted(await self._keys(prefix), key=lambda key: key <= self._swept)
        while keys and len(dead) < limit:
            part, keys = keys[:limit], keys[limit:]
            found = zip(part, await asyncio.gather(*map(self._read, part)), strict=True)
            dead += [(k, n) for k, (r, n) in found if n and (not r or r.is_dead(end))]
        for key, last in dead[:limit]:
            await _told(self._js().purge_stream(self._stream, last + 1, self._at(key)))
            self._swept = key
        return len(dead[:limit])

    async def _read(self, key: str) -> tuple[Any, int]:
        asked = self._js().get_msg(self._stream, subject=self._at(key))
        message = await _told(asked, NO_MESSAGE)
        return _unpacked(message) if message else (None, 0)

    async def _swap(self, write: bs.Write) -> bool:
        for _ in range(100):
            before, last = await self._read(write.key)
            if isinstance(before, bs.BackendError):
                raise before
            if (before and before.version) != write.expected:
                return False
            message, header = _packed(write, before), {IF_LAST: str(last)}
            sent = self._js().publish(self._at(write.key), message, headers=header)
            try:
                stored = (await sent).seq
                now, last = await self._read(write.key)
            except self._refused as exc:
                if getattr(exc, "err_code", None) in WRONG_LAST:
                    continue  # another was faster
                raise bs.BackendError(f"NATS did not take the record: {exc}") from exc
            except (Error, OSError, bs.BackendError) as exc:
                raise bs.OutcomeUnknownError(f"stored, in time? {exc!r}") from exc
            if isinstance(now, bs.Record) and write.record.version.token in tokens(now):
                return True
            if last == stored:
                return False  # it came at or after its not_after
            raise bs.OutcomeUnknownError("stored, and changed again since")
        raise bs.BackendError("others write to this key all the time")

    async def _keys(self, prefix: str) -> list[str]:
        info = await _told(self._js().stream_info(self._stream, self._prefix + ">"))
        names = [name.removeprefix(self._prefix) for name in info.state.subjects or ()]
        if len(names) >= 100_000:  # a server names no more in one answer
            raise bs.BackendError("there are too many keys to list them")
        keys = {unquote(name.replace("=", "%")) for name in names}
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
        return self._client().jetstream(timeout=5)


async def _told(answer: Awaitable[Any], none: int = 0) -> Any:
    try:
        return await answer
    except (Error, OSError) as exc:
        if none and getattr(exc, "err_code", None) == none:
            return None
        why = f"{exc}; is NATS there, with JetStream, and has this user the rights?"
        raise bs.BackendUnavailableError(why) from exc


def _packed(write: bs.Write, before: bs.Record | None) -> bytes:
    both = [r and (*r.version, *r[1:]) for r in (write.record, before)]
    return ormsgpack.packb((write.not_after, *both))  # the latter if it comes late


def _unpacked(message: Any) -> tuple[Any, int]:
    if "KV-Operation" in (message.headers or {}):
        return None, message.seq  # somebody removed it: nats kv del, or purge
    try:
        not_after, record, before = ormsgpack.unpackb(message.data)
        told = record if _ms(message.time) < not_after else before
        return told and bs.Record(bs.Version(*told[:2]), *told[2:]), message.seq
    except (TypeError, ValueError):
        return bs.BackendError(f"{message.subject} holds what is not ours"), 0


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000) // 1000
