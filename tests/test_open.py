"""From a URL to a store, and what a URL can get wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import botsessions as bs

KEY = bs.SessionKey(chat_id=1)


async def test_memory_stores_are_each_their_own() -> None:
    async with bs.open_store("memory://") as one, bs.open_store("memory://") as two:
        await one.put(KEY, {"a": 1})
        assert await two.get(KEY) == {}


async def test_an_absolute_and_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with bs.open_store("sqlite:///a%20file.db") as store:
        await store.put(KEY, {"a": 1})
    assert (tmp_path / "a file.db").is_file()
    async with bs.open_store(f"sqlite:///{tmp_path}/a%20file.db") as store:
        assert await store.get(KEY) == {"a": 1}


async def test_options_go_to_the_store_and_to_the_backend(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    async with bs.open_store(url, durability="normal", namespace="shop") as store:
        await store.put(KEY, {"a": 1})
    async with bs.open_store(f"{url}?durability=normal", namespace="shop") as store:
        assert await store.get(KEY) == {"a": 1}
    async with bs.open_store(url) as store:
        assert await store.get(KEY) == {}


@pytest.mark.parametrize(
    ("url", "options", "error", "message"),
    [
        ("mysql://x", {}, ValueError, "known: memory://, sqlite://, postgresql://"),
        ("sessions.db", {}, ValueError, "no store for the scheme ''"),
        ("memory://x", {}, ValueError, "takes no path"),
        ("sqlite://", {}, ValueError, "write sqlite:///file.db"),
        ("sqlite:/tmp/x.db", {}, ValueError, "write sqlite:///file.db"),
        ("sqlite:x.db", {}, ValueError, "write sqlite:///file.db"),
        ("sqlite:///:memory:", {}, ValueError, "write memory://"),
        ("sqlite:///my#bot.db", {}, ValueError, "%23"),
        ("sqlite:///x.db?path=y.db", {}, TypeError, "unknown option 'path'"),
        ("sqlite:///x.db", {"path": "y.db"}, TypeError, "unknown option 'path'"),
        ("sqlite:///x.db?clock=3", {}, TypeError, "this scheme takes durability"),
        ("sqlite:///x.db?ttl=60", {}, TypeError, "this scheme takes durability"),
        ("memory://?clock=3", {}, TypeError, "this scheme takes nothing"),
        (Path("x.db"), {}, TypeError, "SQLiteBackend"),
        (None, {}, TypeError, "a URL as a str, not NoneType"),
        ("memory://", {"ttl": "1d"}, TypeError, "ttl is a number of seconds"),
        ("memory://", {"ttl": True}, TypeError, "ttl is a number of seconds"),
        ("memory://", {"max_age": float("inf")}, ValueError, "between 0.001 and"),
        ("memory://", {"timeout": None}, TypeError, "timeout is a number"),
        ("memory://", {"max_session_bytes": "1"}, TypeError, "is a number, not str"),
        ("memory://", {"codec": bs.Codec}, TypeError, "takes a Codec object"),
        ("memory://", {"types": ["x"]}, TypeError, "types= takes classes, not str"),
        ("sqlite://host/x.db", {}, ValueError, "write sqlite:///file.db"),
        ("sqlite:///x.db", {"durability": "some"}, ValueError, "'full' or 'normal'"),
        ("sqlite:///x.db?durability=some", {}, ValueError, "'full' or 'normal'"),
        ("sqlite:///x.db", {"colour": 1}, TypeError, "unknown option 'colour'"),
        ("sqlite:///x.db?colour=1", {}, TypeError, "unknown option 'colour'"),
        ("memory://", {"durability": "full"}, TypeError, "open_store takes clock, "),
        ("memory://", {"ttl": -1}, ValueError, "ttl"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_at_once(
    url: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bs.open_store(url, **options)


def test_a_missing_driver_names_what_to_install() -> None:
    code = """
import sys
sys.modules["apsw"] = None
import botsessions
try:
    botsessions.open_store("sqlite:///x.db")
except botsessions.MissingDependencyError as exc:
    print(exc)
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said == (
        "SQLiteBackend needs apsw; install it with: pip install 'botsessions'\n"
    )
