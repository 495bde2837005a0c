"""Checks of abilities: to list, to sweep, to load at once, to be taken inline.

A backend has an ability by having its methods; without it the check is not supported.
Neighbours: ``backend`` (the protocols), ``subject``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from itertools import cycle
from typing import TYPE_CHECKING

from botsessions.backend import (
    SupportsInline,
    SupportsListing,
    SupportsLoadingNow,
    SupportsSweeping,
)
from botsessions.conformance.subject import (
    MINUTE_MS,
    PAGE,
    expect,
    in_a_minute,
    must_be_record,
    now,
    within,
)
from botsessions.keys import SessionKey
from botsessions.record import GRACE_MS, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botsessions.backend import Page
    from botsessions.conformance.subject import Subject, Watched

_KEY = SessionKey(chat_id=1, user_id=2)
# Names in ascending order of their code points, with neighbours of a prefix, characters
# that patterns and collations treat in their own way, and case.
_NAMES = (
    *("A", "B", "a", "a!", "a%", "a*b", "a/", "a/1", "a/10", "a/2", "a/B", "a/b"),
    *("a/b!", "a/b/c", "a/~", "a0", "aB", "a[1]", "a_b", "ab", "b", "~"),
)
# More than two pages of a store; of so many bytes a server may give fewer at once.
_MANY, _SIZE = 1_100, 4_000
# How many pages without a key may come before one that has any.
_MOST_EMPTY = 10_000
# How far the clock of an answer may be from that of the next load, in milliseconds.
_NEAR = 5_000
# How many walks are begun at once: more than a pool has connections.
_WALKS = 100


async def listing_is_whole_and_in_order(subject: Subject) -> None:
    """A walk brings each key of a prefix once, in order, in pages of the limit at most.

    What is before ``after``, or begins otherwise, does not come.
    """
    lister: SupportsListing = await subject.able(SupportsListing, "list_pages")
    watched = await subject.open()
    there = {}
    for name in sorted(_NAMES, key=lambda _: subject.rng.random()):
        key, record = subject.key(name), subject.record(b"before")
        await watched.must_write(key, None, record)
        there[key] = subject.record(name.encode(), record)
        await watched.must_write(key, record, there[key])
    pages = await _pages(lister, subject.prefix, "", 1)
    expect(pages, f"no page of {len(_NAMES)} keys")
    clock = pages[0].now
    expect(abs(clock - await now(watched.backend)) < _NEAR, "pages have another clock")
    # Each prefix with most of them: where a walk takes long, all would take minutes.
    limits = cycle((1, 2, 3, len(_NAMES), 1_000))
    for prefix in ("", "a", "a/", "a/b", "a%", "a_", "a*", "a[1]", "none"):
        for after in ("", subject.key("a/1"), subject.key("a/b"), subject.key("~")):
            limit = next(limits)
            behind = after.removeprefix(subject.prefix)
            walk = f"list {prefix!r} behind {behind!r}, {limit} at most in a page"
            subject.steps[:] = [f"commit {' '.join(_NAMES)}", walk]
            pages = await _pages(lister, subject.key(prefix), after, limit)
            sizes = [len(page.entries) for page in pages]
            expect(max(sizes, default=0) <= limit, f"pages of {sizes}")
            found = [entry for page in pages for entry in page.entries]
            right = [
                (key, record)
                for key, record in sorted(there.items())
                if key.startswith(subject.key(prefix)) and key > after
            ]
            keys = [key for key, _ in found]
            names = [key.removeprefix(subject.prefix) for key in keys]
            expect(
                keys == [key for key, _ in right],
                f"it brought {' '.join(names) or 'nothing'}",
            )
            expect(found == right, "a key came with another record than its own")


async def a_long_listing_is_whole(subject: Subject) -> None:
    """Of more keys, and more bytes, than come in one page none is left out."""
    lister: SupportsListing = await subject.able(SupportsListing, "list_pages")
    watched = await subject.open()
    until = await in_a_minute(watched.backend)
    there = {
        subject.key(f"{number:04}"): subject.record(
            b"%04d" % number * (_SIZE // 4), expires_at=until
        )
        for number in range(_MANY)
    }
    await watched.must_create(there)
    subject.steps[:] = [f"list {_MANY:,} keys of {_SIZE:,} bytes, {PAGE} in a page"]
    pages = await _pages(lister, subject.prefix, "", PAGE)
    found = [entry for page in pages for entry in page.entries]
    expect(len(found) == _MANY, f"of {_MANY:,} keys it brought {len(found):,}")
    expect(found == [*there.items()], "keys in another order, or with other records")


async def listing_survives_changes(subject: Subject) -> None:
    """What is there from the first page to the last comes once, whatever changes."""
    lister: SupportsListing = await subject.able(SupportsListing, "list_pages")
    watched = await subject.open()
    names = [f"{number:02}" for number in range(30)]
    records = {}
    for name in names:
        record = subject.record()
        records[name] = await watched.must_write(subject.key(name), None, record)
    seen: list[str] = []
    subject.steps[:] = ["list 30 keys in pages of 4; between pages, write keys behind"]
    walk = lister.list_pages(subject.prefix, "", 4)
    turn = 0
    async for page in walk:
        seen += [key.removeprefix(subject.prefix) for key, _ in page.entries]
        for name in names[turn::7]:
            after = subject.record(b"changed", records[name])
            await watched.must_write(subject.key(name), records[name], after)
            records[name] = after
        new = subject.key(f"{turn:02}+")
        await watched.must_write(new, None, subject.record())
        turn += 1
    brought = [name for name in seen if name in records]
    expect(brought == names, f"of 00 to 29 it brought {' '.join(brought)}")
    expect(seen == sorted(set(seen)), "a key came twice, or out of order")


async def listing_passes_over_the_dead(subject: Subject) -> None:
    """The dead may come or not, and go meanwhile; of the living none is left out."""
    lister: SupportsListing = await subject.able(SupportsListing, "list_pages")
    watched = await subject.open()
    began = await now(watched.backend)
    dead = {
        "deleted": subject.record(b"", expires_at=began),
        "long-deleted": subject.record(b"", expires_at=began - 2 * GRACE_MS),
        "long-ended": subject.record(expires_at=began - 2 * GRACE_MS),
    }
    names = [f"{number:02}" for number in range(20)]
    for name in names:
        # More in a row than a page has, and in each page one.
        kinds = dead if name == "10" else ["long-ended"]
        for number, kind in enumerate(kinds):
            for more in range(4 if name == "10" else 1):
                key = subject.key(f"{name}-{number}{more}-{kind}")
                await watched.must_write(key, None, dead[kind])
        await watched.must_write(subject.key(name), None, subject.record())
    walk = (
        "list 20 keys in pages of 2, the dead between them; sweep one after each page"
    )
    subject.steps[:] = [walk]
    alive: list[str] = []
    async for page in lister.list_pages(subject.prefix, "", 2):
        for key, record in page.entries:
            name, _, kind = key.removeprefix(subject.prefix).partition("-")
            if not kind:
                alive.append(name)
            else:
                kind = kind.partition("-")[2]
                expect(record == dead[kind], f"{kind}, and listed as {record!r:.100}")
        if isinstance(lister, SupportsSweeping):
            # It goes from where the next page begins.
            await lister.sweep(subject.prefix, 1)
    expect(alive == names, f"of 00 to 19 it brought {' '.join(alive) or 'nothing'}")


async def walks_may_be_left_in_the_middle(subject: Subject) -> None:
    """Nothing is held open between two pages, so any number of walks may be begun."""
    lister: SupportsListing = await subject.able(SupportsListing, "list_pages")
    watched = await subject.open()
    keys = [subject.key(f"{number}") for number in range(5)]
    records = [await watched.must_write(key, None, subject.record()) for key in keys]
    walks = [lister.list_pages(subject.prefix, "", 2) for _ in range(_WALKS)]
    subject.steps[:] = [f"begin {_WALKS} walks, and leave them at their first page"]
    for walk in walks:
        await within(anext(aiter(walk)), "it waits for the walks that were begun")
    pages = await within(
        _pages(lister, subject.prefix, "", 2), "it waits for the walks that were begun"
    )
    found = [entry for page in pages for entry in page.entries]
    expect(
        found == list(zip(keys, records, strict=True)), "a walk brings something else"
    )
    await within(
        watched.must_write(keys[0], records[0], subject.record(b"", records[0])),
        "a commit waits for the walks that were begun",
    )
    for walk in walks:
        if isinstance(walk, AsyncGenerator):
            await walk.aclose()


async def sweeping_takes_only_the_long_dead(subject: Subject) -> None:
    """What lives, or died less than a minute ago, stays; what died before is gone.

    A server may remove it by itself, soon.
    """
    sweeper: SupportsSweeping = await subject.able(SupportsSweeping, "sweep")
    watched = await subject.open()
    began = await now(watched.backend)
    stays = {
        "endless": subject.record(),
        "lives": subject.record(expires_at=began + MINUTE_MS),
        "deleted just now": subject.record(b"", expires_at=began + 10),
        "ended just now": subject.record(expires_at=began + 10),
        "within its grace": subject.record(expires_at=began - GRACE_MS + 20_000),
    }
    goes = {
        "long ended": subject.record(expires_at=began - GRACE_MS - 5_000),
        "long deleted": subject.record(b"", expires_at=began - GRACE_MS - 5_000),
    }
    for name, record in (stays | goes).items():
        key = subject.key(name.replace(" ", "-"))
        await watched.must_write(key, None, record)
    await subject.pass_time(30)
    before = await watched.load(*(subject.key(n.replace(" ", "-")) for n in goes))
    count = await sweeper.sweep(subject.prefix, 100)
    subject.steps.append(f"sweep is answered {count}")
    for name, record in stays.items():
        found = await watched.load(subject.key(name.replace(" ", "-")))
        expect(found == [record], f"swept, or changed: {name}")
    there = sum(record is not None for record in before)
    expect(count <= there, f"it says that {count} went, and {there} were there")
    for name in goes:
        found = await watched.load(subject.key(name.replace(" ", "-")))
        for _ in range(20):
            if found != [None]:
                await asyncio.sleep(0.1)
                found = await watched.load(subject.key(name.replace(" ", "-")))
        expect(found == [None], f"not swept: {name}")
    await _renew_while_swept(subject, watched, sweeper)


async def _renew_while_swept(
    subject: Subject, watched: Watched, sweeper: SupportsSweeping
) -> None:
    """Let a sweep and a write come to the same dead record, one or the other first."""
    until = await in_a_minute(watched.backend)
    for turn in range(10):
        key = subject.key(f"renewed{turn}")
        dead = subject.record(expires_at=until - MINUTE_MS - 2 * GRACE_MS)
        await watched.must_write(key, None, dead)
        sweep = asyncio.ensure_future(sweeper.sweep(subject.prefix, 100))
        for _ in range(turn):
            await asyncio.sleep(0)
        alive = subject.record(b"renewed", dead)
        [landed] = await watched.commit(Write(key, dead.version, alive, until))
        await sweep
        if landed is True:
            found = await watched.load(key)
            expect(found == [alive], "renewed while it was swept, and swept")


async def sweeping_keeps_to_its_bounds(subject: Subject) -> None:
    """No more than the limit goes at once, and nothing of another prefix."""
    sweeper: SupportsSweeping = await subject.able(SupportsSweeping, "sweep")
    watched = await subject.open()
    began = await now(watched.backend)
    names = [
        f"{start}{number}" for start in ("a%/", "ab/", "a%") for number in range(4)
    ]
    for name in names:
        record = subject.record(expires_at=began - 2 * GRACE_MS)
        await watched.must_write(subject.key(name), None, record)
    # More than the limit that live, ahead of the dead.
    for number in range(4):
        await watched.must_write(subject.key(f"a%/!{number}"), None, subject.record())
    keys = [subject.key(name) for name in names]
    before = await watched.load(*keys)
    counts = [await sweeper.sweep(subject.key("a%/"), 3)]
    while counts[-1] and len(counts) < 5:
        counts.append(await sweeper.sweep(subject.key("a%/"), 3))
    subject.steps.append(f"sweep a%/, 3 at most, until it answers 0: {counts}")
    expect(max(counts) <= 3, f"3 at most were to go at once: {counts}")
    # A server may have removed them by itself: then there was nothing to sweep.
    if None not in before:
        after = await watched.load(*keys)
        expect(after[4:] == before[4:], "it swept beyond the prefix")
        expect(after[:4] == [None] * 4, "it answers 0, and the dead are there")
        expect(sum(counts) == 4, f"4 have gone from under the prefix, not {counts}")


async def loading_now_is_loading(subject: Subject) -> None:
    """``load_now`` brings what ``load`` does, at once, or None if it had to wait."""
    able: SupportsLoadingNow = await subject.able(SupportsLoadingNow, "load_now")
    other, key = await subject.open(), subject.key()
    found = None
    answered = 0
    for number in range(20):
        found = await other.must_write(
            key, found, subject.record(b"%d" % number, found)
        )
        loaded = able.load_now([key, subject.key("missing")])
        if loaded is None:
            continue
        answered += 1
        subject.steps.append(f"load_now is answered {loaded.records!r}")
        must_be_record(loaded.records[0])
        expect(list(loaded.records) == [found, None], "it is not what was acknowledged")
        expect(
            abs(loaded.now - await now(other.backend)) < _NEAR, "it has another clock"
        )
    expect(answered > 0, "it never answers, even when nothing is under way")


async def inline_and_contract_agree(subject: Subject) -> None:
    """What is written inline is loaded by the contract, and the other way round."""
    await subject.able(SupportsInline, "attach, detach and now")
    backend = await subject.open()
    store = await subject.store()
    key = subject.key(str(_KEY))
    await store.put(_KEY, {"n": 1})
    one = await backend.found(key)
    again = await backend.found(key)
    expect(one == again, "loaded twice, it is not the same")
    await store.update(_KEY, lambda session: {"n": session["n"] + 1})
    other = await backend.found(key)
    expect(one.version != other.version, "changed inline, under the same version")
    landed = await backend.write(key, one, subject.record(b"", one))
    expect(not landed, "a write that expects what was before an inline change landed")
    await backend.must_write(
        key, other, subject.record(b"", other, await in_a_minute(backend.backend))
    )
    expect(await store.get(_KEY) == {}, "deleted by the contract, and there inline")


async def _pages(
    lister: SupportsListing, prefix: str, after: str, limit: int
) -> Sequence[Page]:
    pages: list[Page] = []
    seen = {after}
    empty = 0
    walk = lister.list_pages(prefix, after, limit)
    if not isinstance(walk, AsyncIterable):
        raise TypeError(
            f"list_pages() returned {walk!r:.60}, which is no async iterator: write "
            "async def with yield in it, or def that returns one"
        )
    async for page in walk:
        pages.append(page)
        for key, record in page.entries:
            must_be_record(record)
            expect(key not in seen, f"{key} came again, or is not behind {after!r}")
            seen.add(key)
        empty = 0 if page.entries else empty + 1
        expect(empty < _MOST_EMPTY, f"the walk goes on and on, {empty:,} empty pages")
    return pages


CHECKS = (
    listing_is_whole_and_in_order,
    a_long_listing_is_whole,
    listing_survives_changes,
    listing_passes_over_the_dead,
    walks_may_be_left_in_the_middle,
    sweeping_takes_only_the_long_dead,
    sweeping_keeps_to_its_bounds,
    loading_now_is_loading,
    inline_and_contract_agree,
)
