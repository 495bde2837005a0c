"""Redis servers of our own: one, a master with replicas and Sentinels, a Cluster.

Each lies in a temporary directory, on free ports, and writes every change to disk
before it answers, so that a killed one has lost nothing when it is started again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.postgres import PATIENCE, free_port
from tests.servers.watched import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
SENTINEL = shutil.which("redis-sentinel") or shutil.which("valkey-sentinel")


class RedisServer:
    """Started at once; ``kill`` and ``start`` again as often as a test likes."""

    def __init__(
        self,
        directory: Path,
        *settings: str,
        port: int | None = None,
        program: str | None = SERVER,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port() if port is None else port
        self._settings = settings
        self._program = program
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._program is not None
        settings = [
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self.directory), "--save", "", "--appendonly", "yes"),
            # Replicas come in step at once, not five seconds later.
            *("--repl-diskless-sync-delay", "0"),
            *("--appendfsync", "always", "--logfile", str(self.directory / "log")),
            *self._settings,
        ]
        self._process = spawn(
            [self._program, *settings],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait_until(self._answers, "Redis does not answer")

    def stop(self) -> None:
        """Stop the server in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def revive(self) -> None:
        """Start it again if it has ended, or is about to."""
        if not self._answers():
            self.kill()
            self.start()

    def send(self, how: signal.Signals) -> None:
        """Send a signal (SIGSTOP makes it hang, SIGCONT go on)."""
        assert self._process is not None
        self._process.send_signal(how)

    def execute(self, *command: Any) -> Any:
        """Run one command and return what came back, as it came."""
        with self.connected() as execute:
            return execute(*command)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Callable[..., Any]]:
        """Return what runs commands as ``execute`` does, all on one connection."""
        options: dict[str, Any] = {"protocol": 2, "decode_responses": True}
        options["retry"] = Retry(NoBackoff(), 0)  # unless told it tries for seconds
        with contextlib.closing(
            redis.Redis(port=self.port, socket_timeout=PATIENCE, **options)
        ) as client:
            client.response_callbacks.clear()
            yield client.execute_command

    def empty(self) -> None:
        """Remove all keys."""
        self.execute("FLUSHALL")

    def info(self, *command: str) -> dict[str, str]:
        """Return what a command like INFO says."""
        lines = self.execute(*command).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def wait_until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait for something that takes a moment."""
        until = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < until, what
            assert self._process is None or self._process.poll() is None, "it ended"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return bool(self.execute("PING"))
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            if how is signal.SIGTERM:
                self._process.send_signal(signal.SIGCONT)
            self._process.wait(PATIENCE)
            self._process = None


class RedisSentinels:
    """One master, two replicas, three Sentinels that agree within a second or two."""

    name = "bots"

    def __init__(self, directory: Path) -> None:
        self.servers = [RedisServer(directory / "0")]
        master = self.servers[0]
        for number in (1, 2):
            replicaof = ("--replicaof", f"127.0.0.1 {master.port}")
            self.servers.append(RedisServer(directory / str(number), *replicaof))
        for server in self.servers[1:]:
            server.wait_until(partial(_is_in_step, server), "a replica is not in step")
        self.sentinels = [
            self._sentinel(directory / f"sentinel{number}") for number in range(3)
        ]
        for sentinel in self.sentinels:
            sentinel.wait_until(partial(_knows_all, sentinel), "no quorum")

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.name}"

    @property
    def master(self) -> RedisServer:
        """Return the one that the Sentinels hold to be the master."""
        answer = self.sentinels[0].execute(
            "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name
        )
        port = int(answer[1])
        return next(server for server in self.servers if server.port == port)

    @property
    def replicas(self) -> list[RedisServer]:
        """Return the others."""
        master = self.master
        return [server for server in self.servers if server is not master]

    def settle(self) -> None:
        """Wait until both others follow the master, and every Sentinel says so."""
        for server in self.replicas:
            server.wait_until(partial(_follows, server, self), "a replica is astray")
        for sentinel in self.sentinels:
            sentinel.wait_until(partial(_is_calm, sentinel), "the Sentinels disagree")

    def empty(self) -> None:
        """Remove all keys."""
        self.master.empty()

    def stop(self) -> None:
        """Stop all of them in order."""
        for server in [*self.sentinels, *self.servers]:
            server.stop()

    def _sentinel(self, directory: Path) -> _Sentinel:
        directory.mkdir(parents=True)
        return _Sentinel(directory, self.name, self.servers[0].port)


class _Sentinel(RedisServer):
    def __init__(self, directory: Path, name: str, master: int) -> None:
        self._file = directory / "sentinel.conf"
        self.directory = directory
        self.port = free_port()
        self._file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"logfile {directory / 'log'}\n"
            f"sentinel monitor {name} 127.0.0.1 {master} 2\n"
            f"sentinel down-after-milliseconds {name} 1000\n"
            f"sentinel failover-timeout {name} 5000\n"
        )
        self._process = None
        self.start()

    def start(self) -> None:
        assert SENTINEL is not None
        self._process = spawn(
            [SENTINEL, str(self._file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait_until(self._answers, "the Sentinel does not answer")


def _is_in_step(replica: RedisServer) -> bool:
    link = replica.info("INFO", "replication").get("master_link_status")
    return link == "up"


def _follows(replica: RedisServer, sentinels: RedisSentinels) -> bool:
    told = replica.info("INFO", "replication")
    follows = told.get("master_port") == str(sentinels.master.port)
    return follows and _is_in_step(replica)


def _is_calm(sentinel: RedisServer) -> bool:
    """Tell whether a Sentinel holds neither the master nor a replica to be down."""
    [told] = sentinel.execute("SENTINEL", "MASTERS")
    name = told[1]
    others = sentinel.execute("SENTINEL", "REPLICAS", name)
    flags = [one[one.index("flags") + 1] for one in (told, *others)]
    return flags == ["master", "slave", "slave"]


def _knows_all(sentinel: RedisServer) -> bool:
    """Tell whether a Sentinel knows both replicas and both other Sentinels."""
    [told] = sentinel.execute("SENTINEL", "MASTERS")
    master = dict(zip(told[::2], told[1::2], strict=True))
    return (master["num-slaves"], master["num-other-sentinels"]) == ("2", "2")


class RedisCluster:
    """Three masters and, if asked for, a replica of each."""

    def __init__(
        self,
        directory: Path,
        *settings: str,
        replicas: int = 1,
        program: str | None = SERVER,
    ) -> None:
        count = 3 * (1 + replicas)
        self.servers = [
            RedisServer(
                directory / str(number),
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
                # No replica is named before its master has first said a word to it.
                *("--repl-ping-replica-period", "1"),
                *settings,
                port=_free_port_with_bus(),
                program=program,
            )
            for number in range(count)
        ]
        # Not with redis-cli --cluster create: it takes half a minute.
        first, step = self.servers[0], -(-16384 // 3)
        for number, server in enumerate(self.servers[:3]):
            begin = number * step
            end = min(begin + step, 16384) - 1
            server.execute("CLUSTER", "ADDSLOTSRANGE", begin, end)
            server.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.servers[1:]:
            server.execute("CLUSTER", "MEET", "127.0.0.1", first.port)
        for server in self.servers:
            server.wait_until(partial(_knows, server, count), "they did not meet")
        for number, server in enumerate(self.servers[3:]):
            server.execute("CLUSTER", "REPLICATE", self.id(self.servers[number % 3]))
        for server in self.servers:
            server.wait_until(partial(_is_whole, server, replicas), "no whole cluster")
        for server in self.servers[3:]:
            server.wait_until(partial(_is_in_step, server), "a replica is not in step")

    def settle(self) -> None:
        """Wait until all agree on three masters, each with a replica in step."""
        for server in self.servers:
            server.wait_until(partial(_is_whole, server, 1), "no whole cluster")
            server.wait_until(partial(_has_part, server), "one is astray")

    def move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Give a slot with its keys, one by one, to another master."""
        target.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(target))
        address = ("127.0.0.1", target.port)
        with source.connected() as execute:
            while keys := execute("CLUSTER", "GETKEYSINSLOT", slot, 1):
                execute("MIGRATE", *address, "", 0, 5000, "KEYS", *keys)
        for server in (target, source):
            server.execute("CLUSTER", "SETSLOT", slot, "NODE", self.id(target))

    def move_whole(
        self, slots: range, source: RedisServer, target: RedisServer
    ) -> None:
        """Give slots with their keys to another master at one moment (Valkey 9)."""
        order = ("SLOTSRANGE", slots[0], slots[-1], "NODE", self.id(target))
        source.execute("CLUSTER", "MIGRATESLOTS", *order)
        target.wait_until(lambda: self.owner(slots[0]) is target, "no slot moved")

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])
        return f"redis+cluster://{hosts}"

    def id(self, server: RedisServer) -> str:
        """Return the name by which the others know a server."""
        return str(server.execute("CLUSTER", "MYID"))

    def owner(self, slot: int) -> RedisServer:
        """Return the master of a slot, as the first server that answers says."""
        for server in self.servers:
            with contextlib.suppress(redis.RedisError):
                for first, last, (_, port, *_), *_ in _slots(server):
                    if first <= slot <= last:
                        return next(s for s in self.servers if s.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def slots_of(self, master: RedisServer) -> set[int]:
        """Return all slots of a master, as it says itself."""
        return {
            slot
            for first, last, (_, port, *_), *_ in _slots(master)
            if port == master.port
            for slot in range(first, last + 1)
        }

    def empty(self) -> None:
        """Remove all keys."""
        for port in {port for _, _, (_, port, *_), *_ in _slots(self.servers[0])}:
            next(server for server in self.servers if server.port == port).empty()

    def stop(self) -> None:
        """Stop all of them in order."""
        for server in self.servers:
            server.stop()


def _has_part(server: RedisServer) -> bool:
    """Tell whether a server is a master with slots, or a replica in step."""
    told = server.info("INFO", "replication")
    if told["role"] == "slave":
        return told["master_link_status"] == "up"
    port = server.port
    return any(master[1] == port for _, _, master, *_ in _slots(server))


def _slots(server: RedisServer) -> list[Any]:
    found: list[Any] = server.execute("CLUSTER", "SLOTS")
    return found


def _knows(server: RedisServer, count: int) -> bool:
    return server.info("CLUSTER", "INFO")["cluster_known_nodes"] == str(count)


def _is_whole(server: RedisServer, replicas: int) -> bool:
    slots = _slots(server)
    return (
        server.info("CLUSTER", "INFO")["cluster_state"] == "ok"
        and len(slots) == 3
        and all(len(slot) == 3 + replicas for slot in slots)
    )


def _free_port_with_bus() -> int:
    """Return a free port whose partner, 10,000 above, can be had as well.

    That one too is none which the system gives to outgoing connections.
    """
    while True:
        port = free_port()
        with socket.socket() as bus, contextlib.suppress(OSError):
            if port < 22_000:
                bus.bind(("127.0.0.1", port + 10_000))
                return port
