"""Who is let in, with what rights, by what URL; and that no password is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

import botsessions as bs
from tests.conftest import need_redis
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.servers.redis import RedisCluster, RedisSentinels

KEYS = [bs.SessionKey(chat_id=number) for number in range(20)]
DOCUMENTED = Path(__file__).parents[2] / "docs" / "redis.md"
PASSWORD = "correct / horse ? battery # staple @ %25 : ö"  # noqa: S105 - of a test


def count(session: dict[Any, Any]) -> dict[Any, Any]:
    return {"n": session.get("n", 0) + 1}


async def use(url: str, **options: Any) -> None:
    """Use a store in all the ways there are."""
    async with bs.open_store(url, **options) as store:
        for key in KEYS:
            for n in (1, 2):
                assert await store.update(key, count) == {"n": n}
        await store.put(KEYS[1], {})
        await store.delete(KEYS[1])
        assert await store.get(KEYS[1]) == {}
        assert await store.get(KEYS[0]) == {"n": 2}
        assert len([key async for key in store.keys()]) == len(KEYS) - 1
        for key in KEYS:
            await store.delete(key)
        assert await store.delete_expired() == 0


# Who is let in.


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a server that asks for a password, on a port and on a socket."""
    need_redis()
    path = tmp_path_factory.mktemp("guarded")
    socket = ("--unixsocket", str(path / "r.sock"), "--unixsocketperm", "700")
    server = RedisServer(path, "--requirepass", PASSWORD, *socket)
    yield server
    server.stop()


async def test_a_password_is_escaped_in_the_url(
    guarded: RedisServer, namespace: str
) -> None:
    password = quote(PASSWORD, safe="")
    for login in (f":{password}", f"default:{password}"):
        url = f"redis://{login}@127.0.0.1:{guarded.port}/3"
        await use(url, namespace=namespace)


async def test_a_socket_in_the_file_system_is_used(
    guarded: RedisServer, namespace: str
) -> None:
    path = guarded.directory / "r.sock"
    url = f"unix://:{quote(PASSWORD, safe='')}@{path}"
    await use(url, namespace=namespace)
    await use(f"{url}?db=2", namespace=namespace)
    with pytest.raises(bs.BackendUnavailableError, match=f"at {path} cannot be used"):
        await bs.open_store(f"unix://:secret@{path}").get(KEYS[0])
    with pytest.raises(bs.BackendUnavailableError, match=r"nosuch.*check that it runs"):
        await bs.open_store(f"unix://{path}nosuch").get(KEYS[0])


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ("", "Authentication required.*this user may use it"),
        (":secret@", "invalid username-password pair.*this user may use it"),
        ("default:secret@", "invalid username-password pair.*this user may use it"),
        ("nobody:secret@", "invalid username-password pair.*this user may use it"),
    ],
)
@pytest.mark.parametrize("kind", ["redis", "redis+cluster"])
async def test_who_is_not_let_in_is_told_why(
    guarded: RedisServer, kind: str, login: str, said: str
) -> None:
    store = bs.open_store(f"{kind}://{login}127.0.0.1:{guarded.port}")
    with pytest.raises(bs.BackendUnavailableError, match=said) as caught:
        await store.get(KEYS[0])
    assert f"127.0.0.1:{guarded.port}" in str(caught.value)
    for shown in (*chain(caught.value), repr(store)):
        assert "secret" not in shown


def chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{error} {error!r}"
        error = error.__cause__ or error.__context__


async def test_a_user_who_is_blocked_later_is_told_why_and_let_in_again(
    own_redis: RedisServer, namespace: str
) -> None:
    own_redis.execute("ACL", "SETUSER", "later", "on", ">secret", "~*", "+@all")
    url = own_redis.url.replace("//", "//later:secret@")
    async with bs.open_store(url, namespace=namespace) as store:
        assert await store.update(KEYS[0], count) == {"n": 1}
        own_redis.execute("ACL", "DELUSER", "later")  # ends its connections
        for call in (store.get(KEYS[0]), store.update(KEYS[0], count)):
            with pytest.raises(bs.BackendUnavailableError, match="user is disabled"):
                await call
        own_redis.execute("ACL", "SETUSER", "later", "on", ">secret", "~*", "+@all")
        own_redis.execute("ACL", "SETUSER", "later", "-eval", "-evalsha")
        with pytest.raises(bs.BackendUnavailableError, match=r"no permissions.*evalsh"):
            await store.update(KEYS[0], count)
        assert await store.get(KEYS[0]) == {"n": 1}
        own_redis.execute("ACL", "SETUSER", "later", "+eval", "+evalsha")
        assert await store.update(KEYS[0], count) == {"n": 2}
    own_redis.execute("ACL", "DELUSER", "later")


async def test_a_database_that_is_not_there_is_named(redis_server: RedisServer) -> None:
    with pytest.raises(bs.BackendUnavailableError, match=r"/99 .*out of range"):
        await bs.open_store(f"{redis_server.url}/99").get(KEYS[0])


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_databases_and_namespaces_do_not_see_each_other(
    redis_server: RedisServer, namespace: str, kind: str
) -> None:
    url = redis_server.url.replace("redis", kind)
    async with (
        bs.open_store(f"{url}/1", namespace=namespace) as one,
        bs.open_store(f"{url}?db=2", namespace=namespace) as two,
        bs.open_store(f"{url}/1", namespace=f"{namespace}x") as other,
        bs.open_store(f"{url}/1", namespace=namespace) as same,
    ):
        await one.put(KEYS[0], {"n": 1})
        assert await same.get(KEYS[0]) == {"n": 1}
        for store in (two, other):
            assert await store.get(KEYS[0]) == {}
            assert [key async for key in store.keys()] == []
        await one.delete(KEYS[0])


# URLs.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h/one", "'/one' is no database; write its number, as in /0"),
        ("redis://h/0/1", "is no database"),
        ("redis://h:port/0", "a port in it is no number"),
        ("redis://h:70000/0", "a port in it is no number"),
        ("redis://h/0?db=x", "db"),
        ("redis+cluster://h/1", "a Cluster has no databases but 0"),
        ("redis+sentinel://h:26379", "name the master"),
        ("redis+sentinel://h:26379/name/x", "is no database"),
        ("redis+other://h", "no store for the scheme"),
    ],
)
def test_a_url_that_names_no_place_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bs.open_store(url)


@pytest.mark.parametrize("sign", "/?#")
@pytest.mark.parametrize("before", ["12", "se"])
@pytest.mark.parametrize("kind", ["redis", "redis+sentinel", "redis+cluster"])
def test_a_password_that_is_not_escaped_is_refused_and_not_shown(
    kind: str, before: str, sign: str
) -> None:
    url = f"{kind}://bot:{before}{sign}cret@db.example:6379/0"
    for make in (bs.RedisBackend, bs.open_store):
        with pytest.raises(ValueError, match="write / as %2F") as caught:
            make(url)
        for shown in chain(caught.value):
            assert "cret" not in shown


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://u:s3cret@h:1/2", "redis://h:1/2"),
        ("redis://u:s3@cret@h", "redis://h:6379"),
        ("rediss://:s3cret@h?socket_timeout=3", "rediss://h:6379"),
        ("redis://h?username=u&password=s3cret", "redis://h:6379"),
        ("redis://[::1]:7/0", "redis://::1:7/0"),
        (
            "redis+sentinel://u:s3cret@h,i:7/name/2?sentinel_password=s3cret",
            "redis+sentinel://h:26379,i:7/name/2",
        ),
        ("redis+cluster://u:s3cret@h,i:7", "redis+cluster://h:6379,i:7"),
        ("unix://u:s3cret@/run/r.sock", "unix:///run/r.sock"),
        ("valkeys://u:s3cret@h/", "valkeys://h:6379/"),
    ],
)
def test_a_store_says_where_it_is_without_a_password(url: str, name: str) -> None:
    assert repr(bs.RedisBackend(url)) == f"RedisBackend({name!r})"
    assert "cret" not in repr(bs.open_store(url))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://h?nosuch=1", {}),
        ("redis://h", {"nosuch": 1}),
        ("redis+cluster://h?ssl_ca_certs=x", {}),  # not without rediss
    ],
)
def test_an_option_that_nobody_knows_is_named(url: str, options: Any) -> None:
    with pytest.raises(TypeError, match=r"nosuch|ssl_ca_certs"):
        bs.open_store(url, **options)


@pytest.mark.parametrize(
    "options",
    [{"wait_replicas": -1}, {"wait_replicas": 1.5}, {"wait_timeout": 0}],
)
def test_an_option_that_makes_no_sense_is_named(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        bs.open_store("redis://h", **options)


# With what rights.


def documented(user: str, *notes: str) -> list[list[str]]:
    """Return the commands of the page: those for everybody, and those so noted."""
    text = DOCUMENTED.read_text().partition("## A user of its own")[2]
    commands = []
    for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL):
        wanted = True
        for line in block.splitlines():
            if line.startswith("# "):
                wanted = line[2:].startswith(notes)
            elif wanted and f" {user} " in line:
                commands.append(line.split())
    return commands


class Users:
    """Makes users on servers, and removes them afterwards."""

    def __init__(self) -> None:
        self._made: list[tuple[RedisServer, str]] = []

    def make(
        self, servers: Sequence[RedisServer], commands: Sequence[Sequence[str]]
    ) -> None:
        for server in servers:
            for command in commands:
                server.execute(*command)
                self._made.append((server, command[2]))

    def remove(self) -> None:
        for server, name in self._made:
            server.execute("ACL", "DELUSER", name)


@pytest.fixture
def users() -> Iterator[Users]:
    made = Users()
    yield made
    made.remove()


async def needs_all(
    users: Users, servers: Sequence[RedisServer], url: str, *notes: str, **options: Any
) -> None:
    """Show that the documented user can do all, and without any of its rights not."""
    commands = documented("chatbot", *notes)
    users.make(servers, commands)
    url = url.replace("//", "//chatbot:change-me@")
    await use(url, **options)
    rights = [word[1:] for command in commands for word in command if word[0] == "+"]
    assert len(rights) >= 9
    for right in sorted({*rights} - {"info", "asking"}):
        users.make(servers, [["ACL", "SETUSER", "chatbot", f"-{right}"]])
        for server in servers:  # the right to EVAL is needed if it is not known
            server.execute("SCRIPT", "FLUSH")
        with pytest.raises(bs.BackendError, match=r"no permissions|can't run this"):
            await use(url, **options)
        users.make(servers, [["ACL", "SETUSER", "chatbot", f"+{right}"]])
    users.make(servers, [["ACL", "SETUSER", "chatbot", "resetkeys", "~other/*"]])
    with pytest.raises(bs.BackendUnavailableError, match="no permissions"):
        await use(url, **options)


async def test_the_documented_user_can_do_all_and_needs_all_on_one_server(
    own_redis: RedisServer, users: Users
) -> None:
    url = f"{own_redis.url}/5"
    await needs_all(users, [own_redis], url, "A database other than 0")


async def test_the_documented_user_can_do_all_and_needs_all_behind_sentinels(
    redis_sentinels: RedisSentinels, users: Users
) -> None:
    redis_sentinels.empty()
    users.make(redis_sentinels.sentinels, documented("watcher"))
    await needs_all(
        users,
        redis_sentinels.servers,
        redis_sentinels.url + "?sentinel_username=watcher&sentinel_password=change-me",
        *("Sentinel", "wait_replicas"),
        wait_replicas=2,
    )
    users.make(
        redis_sentinels.sentinels, [["ACL", "SETUSER", "watcher", "-sentinel|masters"]]
    )
    watched = "?sentinel_username=watcher&sentinel_password="
    for password, said in (
        ("change-me", "no permissions to run the 'sentinel.masters' command"),
        ("wrong", "no Sentinel that answers knows a master 'bots'.*sentinel_password"),
    ):
        with pytest.raises(bs.BackendUnavailableError, match=said) as caught:
            await use(redis_sentinels.url + watched + password)
        assert not any("wrong" in shown for shown in chain(caught.value))


async def test_the_documented_user_can_do_all_and_needs_all_in_a_cluster(
    redis_cluster: RedisCluster, users: Users
) -> None:
    redis_cluster.empty()
    await needs_all(users, redis_cluster.servers, redis_cluster.url, "Cluster")
