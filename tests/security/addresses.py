"""Targets: URLs of stores, with a password that nobody may see again."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from hypothesis import strategies as st

import botsessions as bs
from botsessions.cli import options
from botsessions.cli.imports import redis
from tests.security.fuzzing import SECRET, Target, tells_nothing, words

SCHEMES = [
    *("redis", "rediss", "valkey", "valkeys", "unix", "postgresql", "sqlite", "memory"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
    *("valkey+cluster", "valkeys+sentinel", "postgres", "http", "", "redis\n"),
]
# With an option in it, where a ? that is not escaped begins the query.
_passwords = st.builds(
    "{}{}{}{}".format,
    words | st.sampled_from(["1?", "p@1?", "1/0?", "1/", "12#", "x&"]),
    st.just(SECRET),
    st.sampled_from(["", "=", "?a=b"]),
    words,
)
_escaped = _passwords.map(lambda text: quote(text.encode("utf-8", "replace"), safe=""))
_users = st.sampled_from(["", "u", "bot", "12", "u%40h"]) | words
_hosts = st.lists(
    st.sampled_from(
        ["h", "127.0.0.1", "[::1]", "h:1", "h:70000", "h:x", "[", "é..x", ""]
    )
    | words,
    min_size=1,
    max_size=3,
).map(",".join)
_paths = st.sampled_from(["", "/", "/0", "/db", "/name/2", "//x", "/:memory:"]) | (
    words.map("/{}".format)
)
_pairs = st.builds(
    "{}={}".format,
    st.sampled_from(
        [
            *("password", "sentinel_password", "sslpassword", "db", "schema", "table"),
            *("durability", "client_name", "application_name", "socket_timeout"),
            *("ssl_cert_reqs", "ssl_ca_certs", "sslmode", "port", "username", "x"),
        ]
    )
    | words,
    words | st.sampled_from(["1", "none", "a@b"]),
)
_queries = st.just("") | st.lists(_pairs, max_size=3).map("&".join).map("?{}".format)
urls = st.builds(
    "{}://{}:{}@{}{}{}".format,
    st.sampled_from(SCHEMES),
    _users,
    _passwords | _escaped | _escaped,
    _hosts,
    _paths,
    _queries,
) | st.builds(
    "{}://{}{}{}password={}".format,
    st.sampled_from(SCHEMES),
    _hosts.filter(lambda hosts: "?" not in hosts and "#" not in hosts),
    st.sampled_from(["", "/0", "/db"]),
    st.sampled_from(["?", "?x=1&", "?db=1&", "?sentinel_"]),
    _escaped | st.sampled_from([f"a&{SECRET}=b", f"a&b={SECRET}"]),
)


async def _opened(url: str) -> None:
    async with redis.opened(url):  # which connects to nothing yet
        pass


def open_it(url: str) -> str:
    """Make a store of a URL: it, or what refuses it, shows no password."""
    end = "opened"
    try:
        store = bs.open_store(url)
    except (ValueError, TypeError, bs.SessionError) as exc:
        end = type(exc).__name__
        if not url.startswith(("sqlite:", "memory:")):  # which have no password
            tells_nothing(exc)
    else:
        if not url.startswith("sqlite:"):
            assert SECRET not in repr(store) + repr(store._backend)
            assert SECRET not in options.address(url)
    try:
        redis.check_url(url)
        asyncio.run(_opened(url))
    except ValueError as exc:
        tells_nothing(exc)
    return end


TARGETS = [
    Target(
        "urls",
        urls,
        open_it,
        250,
        frozenset({"opened", "ValueError", "TypeError"}),
        (f"redis://u:{SECRET}@h?no_such=1",),
    )
]
