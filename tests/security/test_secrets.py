"""No password and nothing of a session in an error, a log, a repr or a process list."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import subprocess
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from urllib.parse import quote

import ormsgpack
import pytest
import trustme

import botsessions as bs
from botsessions.cli import main
from botsessions.codec import RICH, seal
from botsessions.record import Record, Version, Write
from tests.cli.tool import COMMAND, ENVIRONMENT
from tests.conftest import need_redis
from tests.places import Place, new_name
from tests.security.fuzzing import SECRET, chain, tells_nothing
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.servers.postgres import PostgresServer

PASSWORD = f"{SECRET} / ? # [@] : % ' \" \\ ö"
QUOTED = quote(PASSWORD, safe="")
LOGIN = f"u:{QUOTED}"
CONTENT = "C0NTENT"
KEY = bs.SessionKey(chat_id=1)


class Log(logging.Handler):
    """All that anybody logs, at any level, as it would be written."""

    def __init__(self) -> None:
        super().__init__(level=1)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [self.format(record), repr(record.args), repr(record.msg)]


@pytest.fixture
def log() -> Iterator[Log]:
    """Return what is logged while asyncio tells each step that it takes."""
    made, root = Log(), logging.getLogger()
    level = root.level
    root.addHandler(made)
    root.setLevel(1)
    yield made
    root.removeHandler(made)
    root.setLevel(level)


def in_debug(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0
        await work()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(run(), debug=True)
    for each in caught:
        logging.getLogger("warnings").warning("%s", each.message)


def unlike(text: str, *secrets: str) -> None:
    for secret in secrets:
        assert secret not in text, text


def shown(error: BaseException) -> str:
    """Return all ways in which a program or a log may show an error."""
    parts = traceback.format_exception(error)
    for each in chain(error):
        parts += [str(each), repr(each), repr(each.args), repr(vars(each))]
    return "\n".join(parts)


# Passwords.


@contextlib.asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Give the port of a server that does what no sound one would."""

    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await asyncio.sleep(0)  # for what was aborted


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def cutting(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)
    await writer.drain()


def unknown_authority() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


async def unknown(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Show a certificate that nobody trusts, after the question of PostgreSQL."""
    await reader.readexactly(8)
    writer.write(b"S")
    await writer.start_tls(unknown_authority())
    await reader.read(-1)


SILENCE = {
    "redis": "?socket_connect_timeout=0.2",
    "redis+cluster": "?socket_connect_timeout=0.2",
    "rediss": "?socket_connect_timeout=0.2",
    "redis+sentinel": "/m?socket_connect_timeout=0.2",
    "postgresql": "/postgres",
    "postgresql+tls": "/postgres?sslmode=verify-full",
}


async def _keys(store: bs.SessionStore) -> list[bs.SessionKey]:
    return [key async for key in store.keys()]


VERBS: dict[str, Callable[[bs.SessionStore], Awaitable[Any]]] = {
    "get": lambda store: store.get(KEY),
    "put": lambda store: store.put(KEY, {"a": 1}),
    "keys": _keys,
}


async def refused(url: str, **options: Any) -> None:
    """Fail to use a store in all ways, and see what is said of it."""
    for use in VERBS.values():
        store = bs.open_store(url, **options)
        try:
            with pytest.raises(bs.SessionError) as caught:
                await use(store)
            unlike(shown(caught.value), SECRET, PASSWORD, QUOTED)
            unlike(f"{store!r} {store._backend!r}", SECRET)
        finally:
            await store.aclose()


@pytest.mark.parametrize(
    "how",
    [silent, cutting, babbling, unknown, None],
    ids=lambda how: how and how.__name__,
)
@pytest.mark.parametrize("kind", SILENCE)
def test_a_server_that_cannot_be_used_shows_no_password(
    kind: str, how: Any, log: Log
) -> None:
    scheme = kind.partition("+tls")[0]
    options = {"statement_timeout": 0.1} if scheme == "postgresql" else {}

    async def use(port: int) -> None:
        query = SILENCE[kind]
        if scheme == "redis+sentinel":
            query += f"&sentinel_password={QUOTED}"
        await refused(f"{scheme}://{LOGIN}@127.0.0.1:{port}{query}", **options)

    async def work() -> None:
        if how is None:
            await use(1)
            return
        at_once = how is unknown and scheme == "rediss"
        context = unknown_authority() if at_once else None
        async with listening(silent if at_once else how, context) as port:
            await use(port)

    in_debug(work)
    unlike("\n".join(log.texts), SECRET, QUOTED)
    assert len(log.texts) > 9  # it does tell what it does


def test_who_is_not_let_in_by_postgres_shows_no_password(
    postgres_server: PostgresServer, log: Log
) -> None:
    role = new_name()
    postgres_server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'other'")
    postgres_server.let_in(f"host all {role} 127.0.0.1/32 scram-sha-256")
    url = postgres_server.dsn.replace("bot@", f"{role}:{QUOTED}@")
    tls = f"{url}?sslmode=require"
    in_debug(lambda: refused(url))
    in_debug(lambda: refused(tls))
    in_debug(lambda: refused(f"{url}?password={QUOTED}&x={QUOTED}"))
    in_debug(lambda: refused(url.replace(role, "nobody").replace("/postgres", "/no")))
    unlike("\n".join(log.texts), SECRET, QUOTED)
    postgres_server.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("kind", ["redis", "redis+cluster"])
def test_who_is_not_let_in_by_redis_shows_no_password(
    redis_server: RedisServer, log: Log, kind: str
) -> None:
    url = f"{kind}://{LOGIN}@127.0.0.1:{redis_server.port}"
    in_debug(lambda: refused(url))
    in_debug(
        lambda: refused(f"{kind}://127.0.0.1:{redis_server.port}?password={QUOTED}")
    )
    in_debug(lambda: refused(f"{url}/0?client_name={quote('a b')}"))
    unlike("\n".join(log.texts), SECRET, QUOTED)


UNESCAPED = [
    f"redis://u:p@1?{SECRET}=x@127.0.0.1",
    f"redis://u:1/0?{SECRET}=y@127.0.0.1",
    f"redis://u:{SECRET}#x@127.0.0.1",
    f"redis://u:12#{SECRET}@127.0.0.1",
    f"redis://u:{SECRET}?x=1@127.0.0.1",
    f"redis://127.0.0.1?password=a&{SECRET}=b",
]


@pytest.mark.parametrize(
    "url",
    [
        *UNESCAPED,
        f"redis+sentinel://127.0.0.1/m?sentinel_password=a&{SECRET}=b",
        f"postgresql://u:1/{SECRET}?a=b@127.0.0.1",
        f"redis://u?s:{SECRET}=x@127.0.0.1",
        f"redis://u/0?s:{SECRET}=x@127.0.0.1",
    ],
)
def test_a_password_that_is_not_escaped_is_not_quoted(url: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        bs.open_store(url)
    tells_nothing(caught.value)


@pytest.mark.parametrize("kind", ["aiogram-redis", "telebot-redis"])
@pytest.mark.parametrize("url", [*UNESCAPED, "env:URL"])
def test_to_import_from_where_it_is_not_escaped_does_not_quote_it(
    url: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch.dict(os.environ, URL=UNESCAPED[2]):
        assert main(["import-from", kind, url, "--bot", "1", "--store", "memory://"])
    unlike("".join(capsys.readouterr()), SECRET)


def test_an_option_that_the_driver_does_not_know_is_named() -> None:
    with pytest.raises(TypeError, match=r"no such option: .*'helath_check'"):
        bs.open_store("redis://127.0.0.1?helath_check=1")


# In the wrong place of a command line, for which a `?` stands.
WRONG_PLACES = [
    *(["show", "?"], ["put", "?", "{}"], ["put", "chat=1", "?"], ["delete", "?"]),
    *(["import", "?"], ["replay", "?"], ["stats", "?"], ["?"]),
    *(["replay", "no-file", "--handler", "?"], ["list", "--handler=?"], ["list", "?"]),
    *(["list", f"--{name}", "?"] for name in ("chat", "name", "after", "limit")),
    *(["list", "--namespace", "?"], ["list", "--no-such", "?"], ["list", "--?"]),
    *(["conform", "?"], ["conform", "json:loads", "--only", "?"]),
    *(["import-from", "?"], ["import-from", "ptb-pickle", "?"]),
    *(["import-from", "telebot-pickle", "?"], ["copy", "?", "?"]),
    ["import-from", "telebot-redis", "redis://127.0.0.1:1", "--separator", "?"],
    ["import-from", "telebot-redis", "redis://127.0.0.1:1", "--prefix", "?"],
    ["export", "?"],  # the last one: what may be the name of a file is one
]
MISPLACED = {
    "in a path": f"redis://u:{SECRET}.x@127.0.0.1/0",
    "in the query": f"redis://127.0.0.1:1/0?password={SECRET}",
    "without a scheme": f"u:{SECRET}[@127.0.0.1",
    "long": f"redis://u:{SECRET}{'A' * 200}@127.0.0.1",
    "odd": f"redis://u:\t{SECRET}'ö@127.0.0.1",
}


@pytest.mark.parametrize("url", MISPLACED.values(), ids=MISPLACED)
def test_a_url_in_the_wrong_place_is_not_quoted(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in WRONG_PLACES:
        line = [argument.replace("?", url) for argument in place]
        code = main([*line, "--store", "memory://"])
        said = "".join(capsys.readouterr())
        if code or "export" not in place:
            assert code, line
            unlike(said, SECRET)


@pytest.fixture(scope="module")
def without_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a server of a service that has taken commands away."""
    need_redis()
    server = RedisServer(
        tmp_path_factory.mktemp("without"),
        *("--rename-command", "AUTH", ""),
        *("--rename-command", "EVALSHA", ""),
    )
    yield server
    server.stop()


def test_a_server_that_quotes_what_it_does_not_know_shows_no_password(
    without_commands: RedisServer, log: Log
) -> None:
    for kind in ("redis", "redis+cluster"):
        url = f"{kind}://{LOGIN}@127.0.0.1:{without_commands.port}"
        in_debug(lambda url=url: refused(url))  # type: ignore[misc]
    unlike("\n".join(log.texts), SECRET, QUOTED)


@pytest.mark.parametrize(
    "said", ["-ERR wrong AUTH %s\r\n", "-DENIED command AUTH u %s is forbidden\r\n"]
)
@pytest.mark.parametrize(
    ("kind", "query"),
    [
        ("redis", ""),
        ("redis+cluster", ""),
        ("redis+sentinel", f"/m?sentinel_password={QUOTED}"),
    ],
)
def test_a_server_that_quotes_it_in_words_of_its_own_shows_no_password(
    kind: str, query: str, said: str, log: Log
) -> None:
    async def quoting(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while await reader.read(65536):
            writer.write((said % PASSWORD).encode())
            await writer.drain()

    async def work() -> None:
        async with listening(quoting) as port:
            await refused(f"{kind}://{LOGIN}@127.0.0.1:{port}{query}", timeout=1)

    in_debug(work)
    unlike("\n".join(log.texts), SECRET, QUOTED)


def test_a_server_that_quotes_what_it_does_not_know_shows_no_session(
    without_commands: RedisServer, log: Log
) -> None:
    async def work() -> None:
        async with bs.open_store(without_commands.url) as store:
            with pytest.raises(bs.BackendError, match="EVALSHA") as caught:
                await store.put(KEY, {CONTENT: CONTENT})
            unlike(shown(caught.value), CONTENT)

    in_debug(work)
    unlike("\n".join(log.texts), CONTENT)


# Sessions.


async def nothing(awaitable: Awaitable[Any]) -> None:
    """Await, and keep to oneself what came."""
    await awaitable


@pytest.mark.parametrize("count", [1, 40])
def test_what_a_store_does_is_logged_without_what_it_stores(
    place: Place, log: Log, count: int
) -> None:
    async def work() -> None:
        async with place.store() as store:
            keys = [bs.SessionKey(chat_id=number) for number in range(1, count + 1)]
            for session in ({CONTENT: CONTENT}, {(CONTENT,): {CONTENT}}):
                await asyncio.gather(*(store.put(key, session) for key in keys))
                updates = [
                    store.update(key, lambda s: {**s, 1: CONTENT}) for key in keys
                ]
                # asyncio shows what a task of the caller's returns, so these do not.
                await asyncio.gather(*map(nothing, updates))
                async with store.lock(KEY) as lock:
                    await lock.put({CONTENT: 1})
                assert {key async for key in store.keys()} == set(keys)
                unlike(repr(store), CONTENT)
            with pytest.raises(bs.UnsupportedValueError):
                await store.put(KEY, {"a": [CONTENT, object()]})
            with pytest.raises(ZeroDivisionError):
                await store.update(KEY, lambda _: {CONTENT: 1 // 0})

    in_debug(work)
    unlike("\n".join(log.texts), CONTENT)


def too_large() -> dict[str, Any]:
    return {CONTENT: CONTENT * 99}


REFUSED: list[tuple[Any, type[bs.SessionError]]] = [
    ({"a": (CONTENT, object())}, bs.UnsupportedValueError),
    ({"a": {CONTENT * 9: CONTENT, "b": CONTENT + "\ud800"}}, bs.UnsupportedValueError),
    ([CONTENT], bs.InvalidSessionError),
    (CONTENT, bs.InvalidSessionError),
    (too_large(), bs.SessionTooLargeError),
]


async def test_a_session_that_is_refused_is_not_quoted(place: Place) -> None:
    async with place.store(max_session_bytes=300) as store:
        for session, error in REFUSED:
            with pytest.raises(error) as caught:
                await store.put(KEY, session)
            unlike(f"{caught.value} {caught.value!r}", CONTENT)
            with pytest.raises(error) as caught:
                await store.update(KEY, lambda _, session=session: session)  # type: ignore[misc]
            unlike(f"{caught.value} {caught.value!r}", CONTENT)


DAMAGED = {
    "date": (8, CONTENT),
    "time": (9, [CONTENT, 0, None]),
    "zone": (7, ["2026-01-01T00:00:00", 0, CONTENT]),
    "decimal": (11, CONTENT),
    "timedelta": (10, [CONTENT, 0, 0]),
    "registered": (13, ["number", CONTENT]),
}


@pytest.mark.parametrize("what", DAMAGED)
async def test_a_damaged_record_is_not_quoted(place: Place, what: str) -> None:
    tag, content = DAMAGED[what]
    ext = ormsgpack.Ext(tag, ormsgpack.packb(content))
    value = seal(RICH + ormsgpack.packb({"a": ext}))
    backend = place.backend()
    await backend.open()
    late = int(place.clock() * 1000) + 1000
    damaged = Record(Version(1, 1), value, b"", 1, None)
    assert await backend.commit([Write(f"sessions/{KEY}", None, damaged, late)]) == [
        True
    ]
    await backend.aclose()
    codec = bs.Codec().register(complex, "number", str, complex)
    async with place.store(codec=codec) as store:
        for call in (store.get(KEY), store.update(KEY, lambda s: s)):
            with pytest.raises(bs.CorruptRecordError, match="cannot be read") as caught:
                await call
            unlike(shown(caught.value), CONTENT)


def test_an_update_that_cannot_be_read_is_not_quoted() -> None:
    for update in (
        f'{{"message": {CONTENT}}}',
        f'{{"message": "{CONTENT}"}}',
        {"message": {"chat": {"id": CONTENT}}},
        {"message": CONTENT},
        {CONTENT: CONTENT},
        [CONTENT],
    ):
        with pytest.raises(bs.SessionError) as caught:
            bs.chat_user_key(update)
        tells_nothing(caught.value, CONTENT)


# Process lists.


def command_lines(pid: int) -> list[str]:
    """Return what ps shows of a process and of all that it started."""
    found = [Path(f"/proc/{pid}/cmdline").read_bytes().decode()]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += command_lines(int(child))
    return found


@pytest.mark.parametrize(
    ("arguments", "hidden"),
    [
        (["list", "--store", "env:SRC"], True),
        (["copy", "env:SRC", "env:DST"], True),
        (["import-from", "aiogram-redis", "env:SRC", "--bot", "1"], True),
        (["import-from", "telebot-redis", "env:SRC", "--store", "env:DST"], True),
        (["list"], True),
        (["list", "--store", "URL"], False),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_url_from_the_environment_is_in_no_process_list(
    arguments: list[str], *, hidden: bool, tmp_path: Path
) -> None:
    async def serve() -> None:
        arrived = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            arrived.set()
            await reader.read(-1)

        async with listening(wait) as port:
            url = f"redis://{LOGIN}@127.0.0.1:{port}/0"
            line = [url if argument == "URL" else argument for argument in arguments]
            other = url.replace("/0", "/1")
            names = {"SRC": url, "DST": other, "BOTSESSIONS_STORE": other}
            process = subprocess.Popen(  # noqa: ASYNC220 - it takes a moment
                [*COMMAND, *line],
                cwd=tmp_path,
                env={**ENVIRONMENT, **names},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            try:
                await asyncio.wait_for(arrived.wait(), 30)
                visible = "\n".join(command_lines(process.pid))
                # The last of them shows that the test would see it.
                assert (SECRET in visible) is not hidden
                assert "list" in visible or "redis" in visible or "copy" in visible
            finally:
                process.kill()
                process.communicate()

    asyncio.run(serve())


def test_a_variable_that_does_not_help_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, said in (
        ("NOT_SET", "the environment variable NOT_SET is not set or empty"),
        ("EMPTY", "the environment variable EMPTY is not set or empty"),
        ("", "write env:NAME for an environment variable"),
        (f"redis://{LOGIN}@h", "write env:NAME for an environment variable"),
    ):
        for line in (
            ["list", "--store", f"env:{name}"],
            ["copy", f"env:{name}", "sqlite:///x.db"],
            ["copy", "sqlite:///x.db", f"env:{name}"],
            ["import-from", "aiogram-redis", f"env:{name}", "--store", "memory://"],
        ):
            with patch.dict(os.environ, EMPTY=""):
                code = main(line)
            err = capsys.readouterr().err
            assert code == 2
            assert said in err
            unlike(err, SECRET, QUOTED)
