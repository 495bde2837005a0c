"""What a copy decides, and what it does when backends are slow, racing or wrong.

The memory backend behind the contract stands for both stores here;
``tests/cli/test_copy.py`` copies between the real ones.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from botsessions import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    MemoryBackend,
    OutcomeUnknownError,
    Page,
    Record,
    SessionKey,
    SessionStore,
    Version,
)
from botsessions.record import RING_LENGTH, ring_after
from botsessions.transfer import Summary, copy, side
from botsessions.transfer.lineage import Decision, Signature, decide
from botsessions.transfer.side import Side
from tests.places import Clock, OnlyContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from botsessions import Backend, Loaded, Write

NOW = 1_000
OURS, THEIRS = Signature(b"ours"), Signature(b"theirs")
KEYS = [SessionKey(chat_id=number) for number in range(5)]
ADA, BOB = KEYS[:2]


# Decisions.


def first(token: int, **changes: Any) -> Record:
    made = Record(Version(1, token), b"session", b"", NOW - 500, None)
    return made._replace(**changes)


def after(record: Record, *tokens: int, **changes: Any) -> Record:
    for token in tokens:
        record = record._replace(
            version=Version(record.version.counter + 1, token), ring=ring_after(record)
        )
    return record._replace(**changes)


MANY = tuple(range(100, 120))
ONE = first(1)
DELETED: dict[str, Any] = {"value": b"", "expires_at": NOW - 1}
EXPIRED: dict[str, Any] = {"expires_at": NOW}


@pytest.mark.parametrize(
    ("found", "there", "decision"),
    [
        (None, None, Decision.NOTHING),
        (ONE, None, Decision.COPY),
        (after(ONE, 2, **DELETED), None, Decision.NOTHING),
        (first(1, **EXPIRED), None, Decision.NOTHING),
        (first(1, expires_at=NOW + 1), None, Decision.COPY),
        # As it was copied.
        (ONE, ONE, Decision.SAME),
        (ONE, OURS.signed(ONE), Decision.SAME),
        (THEIRS.signed(ONE), OURS.signed(ONE), Decision.SAME),
        (after(ONE, 2), OURS.signed(ONE), Decision.REPLACE),
        (after(ONE, *MANY), OURS.signed(ONE), Decision.REPLACE),
        (first(2, created_at=NOW), OURS.signed(ONE), Decision.REPLACE),
        (after(ONE, 2), OURS.signed(after(ONE, 2, **DELETED)), Decision.OWN),
        (after(ONE, 2, 3), OURS.signed(after(ONE, 2, **DELETED)), Decision.REPLACE),
        (after(ONE, 2, **DELETED), OURS.signed(ONE), Decision.REMOVE),
        (after(ONE, *MANY, **EXPIRED), OURS.signed(ONE), Decision.REMOVE),
        (None, OURS.signed(ONE), Decision.REMOVE),
        (None, OURS.signed(after(ONE, 2, **DELETED)), Decision.NOTHING),
        # Copied from elsewhere, or without a name.
        (None, ONE, Decision.EXTRA),
        (None, THEIRS.signed(ONE), Decision.EXTRA),
        (after(ONE, 2), THEIRS.signed(ONE), Decision.REPLACE),
        (after(ONE, *MANY), THEIRS.signed(ONE), Decision.OWN),
        (first(2), THEIRS.signed(ONE), Decision.OWN),
        # Changed there since.
        (ONE, after(OURS.signed(ONE), 2), Decision.AHEAD),
        (ONE, after(OURS.signed(ONE), 2, **DELETED), Decision.AHEAD),
        (None, after(OURS.signed(ONE), 2), Decision.EXTRA),
        (ONE, after(OURS.signed(ONE), *MANY), Decision.OWN),
        (after(ONE, 2), after(OURS.signed(ONE), 3), Decision.OWN),
        (after(ONE, *MANY), after(OURS.signed(ONE), 3), Decision.OWN),
        (after(ONE, 2, **DELETED), after(OURS.signed(ONE), 3), Decision.OWN),
        # An older state of the source: never back.
        (ONE, OURS.signed(after(ONE, 2)), Decision.AHEAD),
        # Neither of the other.
        (first(1), first(2), Decision.OWN),
        (first(1, created_at=1), after(first(2, created_at=1), 3), Decision.OWN),
        (first(1, **DELETED), first(2, **EXPIRED), Decision.NOTHING),
        # Damaged on one side.
        (ONE, OURS.signed(first(1, value=b"sessiom")), Decision.OWN),
        (ONE, OURS.signed(first(1, expires_at=NOW + 5)), Decision.OWN),
    ],
)
def test_a_decision(
    found: Record | None, there: Record | None, decision: Decision
) -> None:
    assert decide(found, there, OURS, NOW) is decision


@pytest.mark.parametrize("changes", range(RING_LENGTH + 3))
def test_a_signature_fits_until_the_record_changes(changes: int) -> None:
    record = after(ONE, *range(2, changes + 2))
    signed = OURS.signed(record)
    assert OURS.signs(signed)
    assert signed._replace(ring=b"") == record._replace(ring=b"")
    assert len(signed.ring) <= 8 * RING_LENGTH
    assert not OURS.signs(record)
    assert not THEIRS.signs(signed)
    assert OURS.signs(OURS.signed(signed))
    for tokens in ((50,), (50, 51), range(50, 60)):
        assert not OURS.signs(after(signed, *tokens))


# Whole copies, over a backend that can be made to err.


class Errant(OnlyContract):
    """The memory backend by its contract; each test spoils one thing about it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(MemoryBackend(clock=clock))
        self.hidden: set[str] = set()
        self.before_commit: list[Any] = []
        self.answers: list[Any] = []

    def list_pages(self, prefix: str, after: str, limit: int) -> AsyncIterator[Page]:
        async def pages() -> AsyncIterator[Page]:
            async for page in super(Errant, self).list_pages(prefix, after, limit):
                yield page._replace(
                    entries=[e for e in page.entries if e[0] not in self.hidden]
                )

        return pages()

    async def commit(self, writes: Sequence[Write]) -> Sequence[Any]:
        if self.before_commit and not writes[0].key.startswith(":"):
            await self.before_commit.pop()()
        if self.answers:
            return [self.answers.pop() for _ in writes]
        return await super().commit(writes)


class World:
    """Two stores, and what copies from one to the other."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ends = Errant(self.clock), Errant(self.clock)
        self.source, self.destination = (
            SessionStore(end, rng=random.Random(seed))
            for seed, end in enumerate(self.ends)
        )

    async def copy(self) -> Summary:
        source, destination = (Side(end, "sessions") for end in self.ends)
        return await copy(
            source, destination, rng=random.Random(), on_progress=lambda _, __: None
        )


async def put_often(
    rng: random.Random, store: SessionStore, key: SessionKey, number: int
) -> None:
    for _ in range(rng.choice([1, 1, 3, 12])):  # within and beyond a ring
        await store.put(key, {"n": number})


@pytest.mark.parametrize("seed", range(30))
async def test_no_change_of_the_destination_is_lost_and_none_of_the_source_missed(
    seed: int,
) -> None:
    rng = random.Random(seed)
    world = World()
    changed_there: set[SessionKey] = set()
    number = 0
    async with (
        world.source as source,
        world.destination as destination,
        SessionStore(world.ends[0], ttl=200) as passing,
    ):
        for _ in range(120):
            key, number = rng.choice(KEYS), number + 1
            match rng.choices(range(6), [40, 10, 10, 8, 12, 10])[0]:
                case 0:
                    await put_often(rng, rng.choice([source, passing]), key, number)
                case 1:
                    await source.delete(key)
                case 2:
                    await put_often(rng, destination, key, -number)
                    changed_there.add(key)
                case 3:
                    if await destination.get(key):
                        changed_there.add(key)
                    await destination.delete(key)
                case 4:
                    world.clock.now += 61
                    await source.delete_expired()
                    await destination.delete_expired()
                    changed_there = {
                        k for k in changed_there if await destination.get(k)
                    }
                case 5:
                    expected = {
                        k: await (destination if k in changed_there else source).get(k)
                        for k in KEYS
                    }
                    summary = await world.copy()
                    assert {k: await destination.get(k) for k in KEYS} == expected
                    assert summary.last.to_do == 0
                    assert summary.passes <= 2


async def test_a_change_between_looking_and_writing_is_seen() -> None:
    world = World()
    async with world.source as source, world.destination as destination:
        await source.put(ADA, {"n": 1})
        await source.put(BOB, {"n": 1})
        world.ends[1].before_commit = [lambda: destination.put(ADA, {"n": "mine"})]
        summary = await world.copy()
        assert await destination.get(ADA) == {"n": "mine"}
        assert await destination.get(BOB) == {"n": 1}
        assert summary.last.own == [str(ADA)]
        assert summary.written[Decision.COPY] == 1
        # The same where there was a copy already.
        await source.put(BOB, {"n": 2})
        world.ends[1].before_commit = [lambda: destination.put(BOB, {"n": "mine"})]
        assert (await world.copy()).last.own == [str(ADA), str(BOB)]
        assert await destination.get(BOB) == {"n": "mine"}


async def test_what_is_missing_in_a_listing_only_is_not_removed() -> None:
    world = World()
    async with world.source as source, world.destination as destination:
        await source.put(ADA, {"n": 1})
        await world.copy()
        world.ends[0].hidden = {f"sessions/{ADA}"}
        await world.copy()
        assert await destination.get(ADA) == {"n": 1}


async def test_a_source_that_never_rests_is_not_followed_for_ever() -> None:
    world = World()
    async with world.source as source, world.destination as destination:

        async def change() -> None:
            await source.update(ADA, lambda s: {"n": s["n"] + 1})

        await source.put(ADA, {"n": 0})
        world.ends[1].before_commit = [change] * 50
        summary = await world.copy()
        assert summary.last.to_do == 1
        assert summary.passes == 3
        world.ends[1].before_commit = []
        assert (await world.copy()).last.to_do == 0
        assert await destination.get(ADA) == await source.get(ADA) == {"n": 3}


async def test_a_change_after_its_key_was_passed_is_found_by_the_next_pass() -> None:
    world = World()
    async with world.source as source, world.destination as destination:
        for key in KEYS:
            await source.put(key, {"n": 0})
        world.ends[1].before_commit = [lambda: source.put(ADA, {"n": 1})]
        summary = await world.copy()
        assert await destination.get(ADA) == {"n": 1}
        assert (summary.passes, summary.last.to_do) == (3, 0)


async def test_what_is_deleted_and_swept_during_the_copy_does_not_stay() -> None:
    world = World()
    async with world.source as source, world.destination as destination:

        async def forget() -> None:
            await source.delete(ADA)
            world.clock.now += 61
            assert await source.delete_expired() == 1

        await source.put(ADA, {"n": 1})
        await source.put(BOB, {"n": 1})
        world.ends[1].before_commit = [forget]
        summary = await world.copy()
        assert summary.written == {Decision.COPY: 2, Decision.REMOVE: 1}
        assert await destination.get(ADA) == {}
        assert await destination.get(BOB) == {"n": 1}


# What backends may answer.


async def test_the_error_of_one_write_ends_the_copy() -> None:
    for answer in (BackendError("away"), OutcomeUnknownError("cut")):
        world = World()
        async with world.source as source, world.destination:
            await source.put(ADA, {"n": 1})
            await source.put(BOB, {"n": 1})
            world.ends[1].answers = [answer, True]
            with pytest.raises(type(answer)):
                await world.copy()


async def test_what_never_lands_is_a_conflict() -> None:
    world = World()
    async with world.source as source, world.destination:
        await source.put(ADA, {"n": 1})
        world.ends[1].answers = [False] * 50
        with pytest.raises(ConflictError, match="others keep changing chat=0"):
            await world.copy()


async def test_the_error_of_one_record_ends_the_copy() -> None:
    class Unreadable(Errant):
        async def load(self, keys: Sequence[str]) -> Loaded:
            loaded = await super().load(keys)
            return loaded._replace(records=[BackendError("away")] * len(keys))

    world = World()
    async with world.source as source, world.destination:
        await source.put(ADA, {"n": 1})
        world.ends = world.ends[0], Unreadable(world.clock)
        with pytest.raises(BackendError, match="away"):
            await world.copy()


async def test_a_listing_out_of_order_is_refused() -> None:
    class Reversed(Errant):
        def list_pages(self, prefix: str, after: str, limit: int) -> Any:
            async def pages() -> AsyncIterator[Page]:
                async for page in super(Reversed, self).list_pages(
                    prefix, after, limit
                ):
                    yield page._replace(entries=list(page.entries)[::-1])

            return pages()

    world = World()
    async with world.source as source, world.destination as destination:
        for key in KEYS:
            await source.put(key, {"n": 1})
        await world.copy()
        backwards = Reversed(world.clock)
        backwards._backend = world.ends[0]._backend
        world.ends = backwards, world.ends[1]
        with pytest.raises(BackendError, match="not in order"):
            await world.copy()
        assert [await destination.get(key) for key in KEYS] == [{"n": 1}] * len(KEYS)


async def test_a_backend_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(side, "_PATIENCE", 0.05)
    world = World()
    async with world.source as source, world.destination:
        await source.put(ADA, {"n": 1})
        world.ends[1].before_commit = [lambda: asyncio.sleep(60)]
        with pytest.raises(BackendUnavailableError, match="has not answered for"):
            await world.copy()


async def test_a_backend_that_cannot_list_is_named() -> None:
    class Bare:
        concurrent_batches = 1

        def __init__(self, backend: Backend) -> None:
            self.open, self.aclose = backend.open, backend.aclose
            self.load, self.commit = backend.load, backend.commit

    bare = Bare(MemoryBackend())
    with pytest.raises(BackendError, match="Bare cannot list its keys"):
        await copy(
            Side(bare, "sessions"),
            Side(bare, "other"),
            rng=random.Random(),
            on_progress=lambda _, __: None,
        )
