"""``python -m tests.peers FRAMEWORK DIRECTORY``: its own tests, over ours.

Their tests come with their sources only, which are fetched into the directory, in the
versions and with the hashes of ``sources-….txt``, and never committed. The
plugins beside this file put our classes in the place of theirs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Suite(NamedTuple):
    """Which tests of whom, with which plugins of ours, and how many are to pass."""

    framework: str
    source: str
    plugins: tuple[str, ...]
    arguments: tuple[str, ...]
    passes: int
    urls: tuple[str, ...] = ("memory://",)


FIXTURE_LOOP = ("-o", "asyncio_default_fixture_loop_scope=function")
FILE = "sqlite:///{directory}/peer.db"
SUITES = [
    Suite(
        "aiogram",
        "aiogram-3.31.0",
        ("aiogram_plugin",),
        (*FIXTURE_LOOP, "tests/test_fsm", "tests/test_dispatcher"),
        360,
        ("memory://", FILE),
    ),
    Suite(
        "aiogram",
        "aiogram_dialog-2.6.0",
        ("aiogram_plugin", "dialog_plugin"),
        ("-o", "asyncio_mode=auto", "tests"),
        70,
        ("memory://", FILE),
    ),
    Suite(
        "telegram",
        "python_telegram_bot-22.8",
        ("telegram_plugin",),
        ("tests/ext/test_basepersistence.py",),
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


def run(suite: Suite, url: str, place: Path) -> bool:
    """Run one suite; tell whether as many passed as should, and none failed."""
    with tempfile.TemporaryDirectory() as directory:
        url = url.format(directory=directory)
        plugins = [word for plugin in suite.plugins for word in ("-p", plugin)]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugins, *suite.arguments],
            cwd=place / suite.source,
            env={
                **os.environ,
                "PYTHONPATH": str(HERE),
                "BOTSESSIONS_PEER_URL": url,
                # Their tests ask for a network, and are to do without.
                "no_proxy": "*",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing"
    print(f"{suite.source} on {url.partition(':')[0]}: {last}")  # noqa: T201
    passed = re.search(r"(\d+) passed", last)
    if done.returncode == 0 and passed and int(passed[1]) >= suite.passes:
        return True
    print(done.stdout)  # noqa: T201
    return False


def main() -> int:
    suites = [suite for suite in SUITES if suite.framework == sys.argv[1]]
    place = Path(sys.argv[2]).resolve()
    if not fetch(suites, place):
        print("NOT RUN: the frameworks' sources could not be fetched")  # noqa: T201
        return int(os.environ.get("CI") == "true")
    results = [run(suite, url, place) for suite in suites for url in suite.urls]
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
