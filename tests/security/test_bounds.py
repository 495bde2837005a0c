"""What a hostile record may take: memory is bounded by its size, in a real process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import pickle
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import ormsgpack
import pytest
from hypothesis import strategies as st
from redis import Redis

import botsessions as bs
from botsessions.cli import main
from botsessions.cli.imports import aiogram, redis, telebot
from botsessions.cli.imports.carry import Left, Taken
from botsessions.codec import RICH, seal
from tests.cli.tool import ENVIRONMENT
from tests.security.fuzzing import PATIENCE, Target, documents, mutated, play, words
from tests.security.inputs import taken

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.redis import RedisServer

MIB = 1 << 20

DECODES = """
import resource, sys
import botsessions as bs
from pathlib import Path

data = Path(sys.argv[1]).read_bytes()
bs.Codec().decode(bs.Codec().encode({(1,): 1}))  # all is loaded
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    bs.Codec().decode(data)
except bs.CorruptRecordError:
    print("refused")
else:
    print("read")
"""


def nested(depth: int, payload: bytes) -> bytes:
    for _ in range(depth):
        payload = ormsgpack.packb(ormsgpack.Ext(2, payload))
    return seal(RICH + b"\x81\xa1a" + payload)


LARGE = ormsgpack.packb([b"x" * MIB])
COUNT = MIB.to_bytes(4, "big")
# Each with the memory that it may take.
RECORDS: dict[str, tuple[bytes, int]] = {
    "a list that is not there": (seal(b"\x81\xa1a\xdd\xff\xff\xff\xff"), 64 * MIB),
    "a dict that is not there": (seal(b"\x81\xa1a\xdf\xff\xff\xff\xff"), 64 * MIB),
    "bytes that are not there": (seal(b"\x81\xa1a\xc6\xff\xff\xff\xff"), 64 * MIB),
    "lists of lists": (
        seal(b"\x81\xa1a" + b"\xdd\xff\xff\xff\xff" * 200_000),
        64 * MIB,
    ),
    "a list without end": (
        seal(b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * MIB),
        64 * MIB,
    ),
    "a million dicts": (seal(b"\x81\xa1a\xdd" + COUNT + b"\x80" * MIB), 128 * MIB),
    "a megabyte in 100 levels": (nested(100, LARGE), 160 * MIB),
    "a megabyte in 900 levels": (nested(900, LARGE), 160 * MIB),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_hostile_record_takes_a_bounded_multiple_of_its_size(
    what: str, tmp_path: Path
) -> None:
    data, limit = RECORDS[what]
    assert len(data) < 1.1 * MIB
    path = tmp_path / "record"
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", DECODES, path, str(limit)],
        capture_output=True,
        env=ENVIRONMENT,
        text=True,
        check=False,
        timeout=60,
    )
    expected = (
        "read" if what in ("a million dicts", "a megabyte in 100 levels") else "refused"
    )
    assert done.stdout.split() == [expected], done.stderr


def imported(path: Path, content: Any) -> tuple[dict[str, Any], float]:
    """Return what came of reading a pickle, and how many seconds it took."""
    path.write_bytes(pickle.dumps(content))
    out = io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(out):
        main(["import-from", "ptb-pickle", str(path), "--store", "memory://", "--json"])
    return json.loads(out.getvalue()), time.process_time() - began


def test_a_small_pickle_that_is_huge_when_it_is_written_out_is_left_out(
    tmp_path: Path,
) -> None:
    value: Any = ["a"]
    for _ in range(60):
        value = [value, value]
    content = {"user_data": {number: {"a": value} for number in range(1, 100)}}
    found, seconds = imported(tmp_path / "p", content)
    assert (found["found"], found["left"]) == (99, 99)
    assert found["refused"] == {"too large": 99}
    assert seconds < PATIENCE


def test_what_many_sessions_share_is_carried_over_to_each(tmp_path: Path) -> None:
    menu = {f"item {number}": ["a", "b", number] for number in range(200)}
    content = {"user_data": {number: {"menu": menu} for number in range(1, 300)}}
    found, _ = imported(tmp_path / "p", content)
    assert found["imported"] == 299


# What another library may have in Redis, on a real server.

_keys = st.builds(
    "{}:{}".format,
    st.sampled_from(["fsm", "telebot", "fsm:1", "telebot:7", "fsm:1:2", "telebot_1"]),
    st.sampled_from(["state", "data", "lock", "1:2:state", "1:2:data", "1:2", "-5:6"])
    | words,
).map(lambda key: key.encode("utf-8", "replace"))
_documents = documents(
    st.sampled_from(["state", "data", "1"]) | st.text(max_size=2)
).map(lambda value: json.dumps(value).encode())
_stored = st.dictionaries(
    _keys | st.binary(max_size=9).map(b"fsm:%b".__mod__),
    mutated(_documents)
    | _documents
    | st.dictionaries(
        st.sampled_from([b"state", b"data"]), _documents, min_size=1, max_size=2
    )
    | st.lists(st.binary(max_size=3), min_size=1, max_size=2),
    min_size=1,
    max_size=4,
)


def test_whatever_another_library_has_in_redis_is_taken_or_left(
    redis_server: RedisServer,
) -> None:

    url = f"{redis_server.url}/9"
    sources: list[Any] = []

    async def read() -> None:
        async with redis.opened(url) as reader:
            sources[:] = [
                aiogram.RedisStorage(reader, aiogram.Layout(bot_id=7)),
                telebot.RedisStorage(reader, telebot.Layout(bot_id=7)),
            ]
            for source in sources:
                await source.open(lambda _what, _done: None)
                async for entry in source.entries():
                    assert entry is None or isinstance(entry, (Taken, Left))
                    if isinstance(entry, Taken):
                        taken(entry)

    with Redis(port=redis_server.port, db=9) as client:

        def check(stored: dict[bytes, Any]) -> str:
            client.flushdb()
            for key, value in stored.items():
                if isinstance(value, dict):
                    client.hset(key, mapping=value)
                elif isinstance(value, list):
                    client.rpush(key, *value)
                else:
                    client.set(key, value)
            asyncio.run(read())
            return "read"

        play(Target("redis-imports", _stored, check, 25))
        client.flushdb()


def test_what_is_written_at_the_deepest_is_read_and_nothing_deeper() -> None:

    value: Any = ()
    for _ in range(99):
        value = (value,)
    assert bs.Codec().decode(bs.Codec().encode({1: value})) == {1: value}
    with pytest.raises(bs.UnsupportedValueError, match="deeper than 100"):
        bs.Codec().encode({1: ((value,),)})
    with pytest.raises(bs.CorruptRecordError, match="deeper than 100"):
        bs.Codec().decode(nested(102, b"\x90"))
