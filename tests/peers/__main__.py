"""``python -m tests.peers FRAMEWORK DIRECTORY``: its own tests, over ours.

Their tests come with their sources only, which are fetched into the directory, in the
versions and with the hashes of ``sources-….txt``, and never committed. The plugins
beside this file put our classes in the place of theirs. They run in memory, in a file,
and on servers that are started for them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.servers import postgres, redis

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


class Suite(NamedTuple):
    """Which tests of whom, with which plugins of ours, and how many are to pass."""

    framework: str
    source: str
    plugins: tuple[str, ...]
    arguments: tuple[str, ...]
    passes: int
    """In each place."""
    in_one_run: bool = True
    """Not if its modules keep what a test has done, so that no second may follow."""
    on_servers: bool = True
    """Not if it gives a handler a tenth of a second to begin."""

    def runs(self, urls: list[str]) -> list[list[str]]:
        """Return the places of each run."""
        its = [url for url in urls if self.on_servers or url.startswith(LOCAL)]
        return [its] if self.in_one_run else [[url] for url in its]


LOCAL = ("memory:", "sqlite:")
FIXTURE_LOOP = ("-o", "asyncio_default_fixture_loop_scope=function")
SUITES = [
    Suite(
        "aiogram",
        "aiogram-3.31.0",
        ("aiogram_plugin",),
        (*FIXTURE_LOOP, "tests/test_fsm", "tests/test_dispatcher"),
        360,
    ),
    Suite(
        "aiogram",
        "aiogram_dialog-2.6.0",
        ("aiogram_plugin", "dialog_plugin"),
        ("-o", "asyncio_mode=auto", "tests"),
        70,
        in_one_run=False,
        on_servers=False,
    ),
    Suite(
        "telegram",
        "python_telegram_bot-22.8",
        ("telegram_plugin",),
        # They sleep most of their time.
        ("-n", "6", "--dist", "worksteal", "tests/ext/test_basepersistence.py"),
        60,
    ),
]


def fetch(suites: list[Suite], place: Path) -> bool:
    """Fetch and unpack the sources, unless they are there; tell if they are."""
    if not all((place / suite.source).is_dir() for suite in suites):
        place.mkdir(parents=True, exist_ok=True)
        options = ("--no-deps", "--no-binary", ":all:", "--require-hashes", "-qq")
        sources = HERE / f"sources-{suites[0].framework}.txt"
        fetching = [sys.executable, "-m", "pip", "download", *options]
        done = subprocess.run([*fetching, "-r", sources, "-d", place], check=False)
        if done.returncode:
            return False
        for archive in place.glob("*.tar.gz"):
            with tarfile.open(archive) as tar:
                tar.extractall(place, filter="data")
    return True


@contextmanager
def urls() -> Iterator[list[str]]:
    """Give a URL for each kind of place; what is not installed is left out.

    Nothing is killed here, so nothing need be durable, which spares the disk.
    """
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        directory = Path(made)
        found = ["memory://", f"sqlite:///{directory}/peer.db?durability=normal"]
        if postgres.programs() is not None:
            server = postgres.PostgresServer(directory, fsync="off")
            stack.callback(server.stop)
            found.append(server.dsn)
        if redis.SERVER is not None:
            other = redis.RedisServer(directory / "redis", "--appendonly", "no")
            stack.callback(other.stop)
            found.append(other.url)
        yield found


def run(suite: Suite, urls: list[str], place: Path) -> bool:
    """Run one suite; tell whether as many passed as should, and none failed."""
    plugins = ["places_plugin", *suite.plugins]
    options = [word for plugin in plugins for word in ("-p", plugin)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, *suite.arguments],
        cwd=place / suite.source,
        env={
            **os.environ,
            "PYTHONPATH": str(HERE),
            "BOTSESSIONS_PEER_URLS": "\n".join(urls),
            # Their tests ask for a network, and are to do without; so certificates
            # are of no use, and take a long time to load.
            "no_proxy": "*",
            "SSL_CERT_DIR": os.devnull,
        },
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing"
    places = ", ".join(url.partition(":")[0] for url in urls)
    print(f"{suite.source} on {places}: {last}")  # noqa: T201
    passed = re.search(r"(\d+) passed", last)
    if done.returncode == 0 and passed and int(passed[1]) >= suite.passes * len(urls):
        return True
    print(done.stdout)  # noqa: T201
    return False


def missing() -> list[str]:
    """Say which servers are not installed."""
    servers = {
        "PostgreSQL (apt-get install postgresql)": postgres.programs(),
        "Redis (apt-get install redis-server)": redis.SERVER,
    }
    return [name for name, program in servers.items() if program is None]


def main() -> int:
    suites = [suite for suite in SUITES if suite.framework == sys.argv[1]]
    place = Path(sys.argv[2]).resolve()
    if not fetch(suites, place):
        print("NOT RUN: the frameworks' sources could not be fetched")  # noqa: T201
        return int(os.environ.get("CI") == "true")
    with urls() as places:
        results = [
            run(suite, some, place) for suite in suites for some in suite.runs(places)
        ]
    lacking = missing()
    for server in lacking:
        print(f"NOT RUN on {server}: not installed")  # noqa: T201
    return int(not all(results) or (bool(lacking) and os.environ.get("CI") == "true"))


if __name__ == "__main__":
    raise SystemExit(main())
