"""Files that something else has damaged: said clearly, made no worse, nothing hung."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from botsessions import (
    BackendError,
    BackendUnavailableError,
    CorruptRecordError,
    SessionKey,
    SessionStore,
    SQLiteBackend,
)
from tests.sqlite import history

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

    from tests.sqlite.processes import Process

Session = dict[str, Any]

# So many, and so large, that they fill a few dozen pages.
KEYS = [SessionKey(chat_id=number) for number in range(100, 200)]
SESSIONS = {key: {"chat": key.chat_id, "text": "x" * 700} for key in KEYS}
VICTIM, *OTHERS = KEYS


def touch(session: Session) -> Session:
    return {**session, "touched": True}


async def settled(
    call: Callable[[SessionKey], Coroutine[Any, Any, Session]],
) -> dict[SessionKey, Session | BaseException]:
    """Make a call for all keys at once, and return what came of each."""
    answers = await asyncio.gather(*map(call, KEYS), return_exceptions=True)
    return dict(zip(KEYS, answers, strict=True))


@pytest.fixture
def full(path: str) -> str:
    """Return the path of a file that holds ``SESSIONS``, closed."""

    async def fill() -> None:
        async with SessionStore(SQLiteBackend(path)) as store:
            await asyncio.gather(*(store.put(key, SESSIONS[key]) for key in KEYS))

    asyncio.run(fill())
    return path


# One record.


def flip_payload(path: str, key: SessionKey, rng: random.Random) -> None:
    """Flip one bit of the session of a key, which SQLite does not notice."""
    connection = apsw.Connection(path)
    where = ("SELECT b FROM botsessions WHERE k = ?", (f"sessions/{key}",))
    payload = bytearray(connection.execute(*where).get)
    payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    connection.execute(
        "UPDATE botsessions SET b = ? WHERE k = ?", (bytes(payload), where[1][0])
    )
    connection.close()


async def test_a_flipped_bit_is_noticed_wherever_it_is(
    full: str, rng: random.Random
) -> None:
    async with SessionStore(SQLiteBackend(full)) as store:
        for key in KEYS:
            flip_payload(full, key, rng)
            with pytest.raises(CorruptRecordError, match=str(key)):
                await store.get(key)


async def test_a_record_that_cannot_be_read_is_left_as_it_is_by_all_but_put_and_delete(
    full: str, rng: random.Random
) -> None:
    flip_payload(full, VICTIM, rng)
    seen: list[Session] = []

    def function(session: Session) -> Session:
        seen.append(session)
        return touch(session)

    async with SessionStore(SQLiteBackend(full)) as store:
        for call in (store.get, lambda key: store.update(key, function)) * 2:
            with pytest.raises(CorruptRecordError) as corrupt:
                await call(VICTIM)
            message = str(corrupt.value)
            assert message.startswith(f"the session {VICTIM} cannot be read: ")
            assert message.endswith("put or delete replaces it")
        assert seen == []
        # In one batch with it, the others do not suffer.
        found = await settled(store.get)
        assert isinstance(found.pop(VICTIM), CorruptRecordError)
        assert found == {key: SESSIONS[key] for key in OTHERS}
        found = await settled(lambda key: store.update(key, touch))
        assert isinstance(found.pop(VICTIM), CorruptRecordError)
        assert found == {key: touch(SESSIONS[key]) for key in OTHERS}
        # Whoever lists can go on behind it.
        with pytest.raises(CorruptRecordError, match=str(VICTIM)):
            _ = [key async for key, _ in store.items()]
        assert [key async for key in store.keys()] == KEYS
        assert [key async for key, _ in store.items(after=VICTIM)] == OTHERS


@pytest.mark.parametrize("verb", ["put", "delete"])
async def test_put_and_delete_replace_a_record_that_cannot_be_read(
    full: str, rng: random.Random, verb: str
) -> None:
    flip_payload(full, VICTIM, rng)
    async with SessionStore(SQLiteBackend(full)) as store:
        if verb == "put":
            await store.put(VICTIM, {"n": 1})
            assert await store.get(VICTIM) == {"n": 1}
        else:
            await store.delete(VICTIM)
            assert await store.get(VICTIM) == {}
        assert (await store.update(VICTIM, touch))["touched"]


def put_text(path: str, key: SessionKey, column: str) -> None:
    """Store a text where a number or bytes belong, past the rules of a STRICT table.

    One flipped bit can do that: a 1 takes no byte but that of its type, 9; 13 is ''.
    """
    rule = "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'table'"
    strict, lax = ") STRICT", ") /*     */"
    change = f"UPDATE botsessions SET {column} = 'text' WHERE k = ?"
    for statement, *values in (
        (rule, strict, lax),
        (change, f"sessions/{key}"),
        (rule, lax, strict),
    ):
        connection = apsw.Connection(path)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        connection.pragma("writable_schema", 1)
        connection.execute(statement, values)
        assert connection.changes() == 1
        connection.close()


@pytest.mark.parametrize("column", ["v", "t", "r", "c", "e", "b"])
async def test_a_row_with_a_column_of_the_wrong_type_fails_alone(
    full: str, column: str
) -> None:
    put_text(full, VICTIM, column)
    async with SessionStore(SQLiteBackend(full), timeout=2.0) as store:
        for _ in range(2):
            found = await settled(store.get)
            assert isinstance(found.pop(VICTIM), BackendError)
            assert found == {key: SESSIONS[key] for key in OTHERS}
            for call in (store.get(VICTIM), store.update(VICTIM, touch)):
                with pytest.raises(BackendError, match=f"{full} is damaged"):
                    await call
        found = await settled(lambda key: store.update(key, touch))
        assert isinstance(found.pop(VICTIM), BackendError)
        assert found == {key: touch(SESSIONS[key]) for key in OTHERS}


# A damaged row, found: others are read as they are now, whoever keeps the error.


@pytest.mark.parametrize("together", [3, len(KEYS)], ids=["in place", "on a thread"])
async def test_the_error_of_a_damaged_row_keeps_no_read_in_the_past(
    full: str, together: int
) -> None:
    put_text(full, VICTIM, "t")
    keys = KEYS[:together]
    async with (
        SessionStore(SQLiteBackend(full), timeout=2.0) as store,
        SessionStore(SQLiteBackend(full)) as other,
    ):
        held = await asyncio.gather(*map(store.get, keys), return_exceptions=True)
        assert [type(answer) for answer in held] == [
            BackendError,
            *[dict] * len(held[1:]),
        ]
        for number in range(2):
            await asyncio.gather(*(other.put(key, {"n": number}) for key in keys[1:]))
            assert await store.get(OTHERS[0]) == {"n": number}
            found = await asyncio.gather(*map(store.get, keys[1:]))
            assert found == [{"n": number}] * len(found)
            changed = {"n": number, "touched": True}
            assert await store.update(OTHERS[0], touch) == changed
            assert await other.get(OTHERS[0]) == changed == await store.get(OTHERS[0])


@pytest.mark.parametrize("verb", ["keys", "items"])
async def test_the_error_of_a_listing_keeps_no_read_in_the_past(
    full: str, verb: str
) -> None:
    put_text(full, VICTIM, "t")
    async with (
        SessionStore(SQLiteBackend(full)) as store,
        SessionStore(SQLiteBackend(full)) as other,
    ):
        with pytest.raises(BackendError, match=f"{full} is damaged") as held:
            _ = [entry async for entry in getattr(store, verb)()]
        await asyncio.gather(*(other.put(key, {"n": 1}) for key in OTHERS))
        found = [session async for _, session in store.items(after=VICTIM)]
        assert found == [{"n": 1}] * len(OTHERS)
        assert await asyncio.gather(*map(store.get, OTHERS)) == found
    assert held.type is BackendError


async def test_a_row_whose_key_is_none_is_named_by_a_listing(full: str) -> None:
    connection = apsw.Connection(full)
    connection.execute(
        "UPDATE botsessions SET k = 'sessions/cjat=1' WHERE k = ?",
        (f"sessions/{VICTIM}",),
    )
    connection.close()
    async with SessionStore(SQLiteBackend(full)) as store:
        assert await store.get(VICTIM) == {}
        assert await store.get(OTHERS[0]) == SESSIONS[OTHERS[0]]
        with pytest.raises(CorruptRecordError, match="cjat=1"):
            _ = [key async for key in store.keys()]


# Pages of the file.


def overwrite_pages(path: str, rng: random.Random) -> bytes:
    """Put rubbish in the place of some pages, not the first; return the new content.

    Its first byte, the kind of a page, is none that there is: SQLite surely sees it.
    """
    content = bytearray(Path(path).read_bytes())
    size = int.from_bytes(content[16:18])
    for page in rng.sample(range(1, len(content) // size), 3):
        rubbish = rng.choice([bytes(size), b"\xff" + rng.randbytes(size - 1)])
        content[page * size : (page + 1) * size] = rubbish
    Path(path).write_bytes(content)
    return bytes(content)


@pytest.mark.parametrize("rounds", [10, pytest.param(300, marks=pytest.mark.soak)])
def test_damaged_pages_are_reported_and_take_no_other_page_with_them(
    full: str, rng: random.Random, rounds: int
) -> None:
    intact = Path(full).read_bytes()
    failures = 0
    for _ in range(rounds):
        Path(full).write_bytes(intact)
        damaged = overwrite_pages(full, rng)
        failures += asyncio.run(read_damaged(full))
        assert Path(full).read_bytes() == damaged, "a damaged file was written to"
        asyncio.run(write_damaged(full))
    assert failures > rounds


async def read_damaged(path: str) -> int:
    """Check what each key says; return for how many it is an error."""
    async with SessionStore(SQLiteBackend(path)) as store:
        alone: dict[SessionKey, Session] = {}
        for key in KEYS:
            try:
                alone[key] = await store.get(key)
            except BackendError as exc:
                assert str(exc) == (  # noqa: PT017 - any other error fails as well
                    f"{path} is damaged and was left as it is; restore a backup"
                )
        assert alone == {key: SESSIONS[key] for key in alone}
        together = await settled(store.get)
        assert {k: v for k, v in together.items() if isinstance(v, dict)} == alone
        return len(KEYS) - len(alone)


async def write_damaged(path: str) -> None:
    """What is readable is either changed or not, and no answer is anything else."""
    async with SessionStore(SQLiteBackend(path), timeout=5.0) as store:
        before = await settled(store.get)
        answers = await settled(lambda key: store.update(key, touch))
        for key, answer in answers.items():
            if isinstance(answer, dict):
                assert answer == await store.get(key) == touch(SESSIONS[key])
            else:
                assert type(answer) is BackendError
        lost = sum(isinstance(answer, BackendError) for answer in before.values())
        refused = sum(isinstance(answer, BackendError) for answer in answers.values())
        # A damaged index also refuses some that can be read.
        assert lost <= refused < len(KEYS) or lost == len(KEYS)


def test_a_file_cut_short_is_reported(full: str) -> None:
    content = Path(full).read_bytes()
    Path(full).write_bytes(content[: len(content) // 2])

    async def read_all() -> None:
        async with SessionStore(SQLiteBackend(full)) as store:
            await asyncio.gather(*map(store.get, KEYS))

    with pytest.raises(BackendError) as damaged:
        asyncio.run(read_all())
    assert str(damaged.value) == (
        f"{full} is damaged and was left as it is; restore a backup"
    )


# The log: what a power loss can leave, where durability is "normal".


@pytest.mark.parametrize("rounds", [10, pytest.param(300, marks=pytest.mark.soak)])
def test_a_torn_log_gives_the_state_of_an_earlier_moment_whole(
    start: Callable[[], Process],
    tmp_path: Path,
    rng: random.Random,
    rounds: int,
) -> None:
    path = str(tmp_path / "sessions.db")
    process = start()
    process.call("open", path, "normal")
    for _ in range(30):
        # Two keys in one transaction: never one without the other.
        process.call("together", [["add", "chat=1"], ["add", "chat=2"]])
    process.kill()
    log = Path(f"{path}-wal").read_bytes()
    lengths = set()
    for number in range(rounds):
        torn = str(tmp_path / f"torn{number}.db")
        shutil.copy(path, torn)
        at = rng.randrange(len(log))
        rest = rng.choice([b"", bytes(len(log) - at), rng.randbytes(len(log) - at)])
        Path(f"{torn}-wal").write_bytes(log[:at] + rest)
        found = history.sessions(torn)
        history.check_file(torn)
        one, two = (found.get(key, {}).get("n", 0) for key in ("chat=1", "chat=2"))
        assert one == two
        lengths.add(one)
    assert len(lengths) > 1


# The file goes away, or another takes its place, while it is in use.


def remove(path: str) -> None:
    for file in Path(path).parent.iterdir():
        file.unlink()


def exists(path: str) -> bool:
    return Path(path).exists()


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
async def test_a_file_that_is_gone_acknowledges_nothing(
    path: str, *, replaced: bool
) -> None:
    """SQLite itself would go on in the file that has no name any more, for nothing."""
    async with SessionStore(SQLiteBackend(path)) as store:
        await store.put(VICTIM, {"n": 1})
        remove(path)
        if replaced:
            async with SessionStore(SQLiteBackend(path)) as other:
                await other.put(VICTIM, {"n": 2})
        for _ in range(2):
            changes = [store.update(VICTIM, touch), store.put(OTHERS[0], {})]
            for call in (*changes, store.delete(VICTIM)):
                with pytest.raises(
                    BackendUnavailableError, match=f"{path} was deleted or replaced"
                ):
                    await call
        # What is read is what this store has had, never half of another file.
        found = await asyncio.gather(*map(store.get, KEYS), return_exceptions=True)
        for answer in found:
            assert answer in ({"n": 1}, {}) or isinstance(answer, BackendError)
    # Nor has a connection made later made a new file.
    assert exists(path) == replaced
    if replaced:
        async with SessionStore(SQLiteBackend(path)) as other:
            assert [item async for item in other.items()] == [(VICTIM, {"n": 2})]
