"""Checks of abilities: to list, to sweep, to load at once, to be taken inline.

A backend has an ability by having its methods; without it the check is not supported.
Neighbours: ``backend`` (the protocols), ``subject``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from botsessions.backend import (
    SupportsInline,
    SupportsListing,
    SupportsLoadingNow,
    SupportsSweeping,
)
from botsessions.conformance.results import NotSupported
from botsessions.conformance.subject import MINUTE_MS, expect, soon
from botsessions.keys import SessionKey
from botsessions.record import GRACE_MS, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botsessions.backend import Backend, Page
    from botsessions.conformance.subject import Subject, Watched

_KEY = SessionKey(chat_id=1, user_id=2)
# Names in ascending order of their code points, with neighbours of a prefix, characters
# that patterns and collations treat in their own way, and case.
_NAMES = (
    *("A", "B", "a", "a!", "a%", "a*b", "a/", "a/1", "a/10", "a/2", "a/B", "a/b"),
    *("a/b!", "a/b/c", "a/~", "a0", "aB", "a[1]", "a_b", "ab", "b", "~"),
)
# Each page has one of these at least, but for an empty one at the end.
_MOST_PAGES = len(_NAMES) + 2
# How far the clock of an answer may be from that of the next load, in milliseconds.
_NEAR = 5_000


async def listing_is_whole_and_in_order(subject: Subject) -> None:
    """A walk brings each key of a prefix once, in order, in pages of the limit at most.

    What is before ``after``, or begins otherwise, does not come.
    """
    lister = (await subject.open()).backend
    if not isinstance(lister, SupportsListing):
        raise NotSupported("it has no list_pages")
    watched = await subject.open()
    there = {}
    for name in sorted(_NAMES, key=lambda _: subject.rng.random()):
        record = subject.record(name.encode())
        there[subject.key(name)] = record
        await watched.must_write(subject.key(name), None, record)
    clock = (await _pages(lister, subject.prefix, "", 1))[0].now
    expect(abs(clock - await _now(watched.backend)) < _NEAR, "pages have another clock")
    for prefix in ("", "a", "a/", "a/b", "a%", "a_", "a*", "a[1]", "none"):
        for after in ("", subject.key("a/1"), subject.key("a/b"), subject.key("~")):
            for limit in (1, 2, 3, len(_NAMES), 1_000):
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
                names = [key.removeprefix(subject.prefix) for key, _ in found]
                expect(found == right, f"it brought {' '.join(names) or 'nothing'}")


async def listing_survives_changes(subject: Subject) -> None:
    """What is there from the first page to the last comes once, whatever changes."""
    lister = (await subject.open()).backend
    if not isinstance(lister, SupportsListing):
        raise NotSupported("it has no list_pages")
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


async def sweeping_takes_only_the_long_dead(subject: Subject) -> None:
    """What lives, or died less than a minute ago, stays; what died before is gone.

    A server may remove it by itself, soon.
    """
    sweeper = (await subject.open()).backend
    if not isinstance(sweeper, SupportsSweeping):
        raise NotSupported("it has no sweep")
    watched = await subject.open()
    now = (await watched.loaded(subject.key())).now
    stays = {
        "endless": subject.record(),
        "lives": subject.record(expires_at=now + MINUTE_MS),
        "deleted just now": subject.record(b"", expires_at=now + 10),
        "ended just now": subject.record(expires_at=now + 10),
        "within its grace": subject.record(expires_at=now - GRACE_MS + 20_000),
    }
    goes = {
        "long ended": subject.record(expires_at=now - GRACE_MS - 5_000),
        "long deleted": subject.record(b"", expires_at=now - GRACE_MS - 5_000),
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
    until = await soon(watched.backend)
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
    sweeper = (await subject.open()).backend
    if not isinstance(sweeper, SupportsSweeping):
        raise NotSupported("it has no sweep")
    watched = await subject.open()
    now = (await watched.loaded(subject.key())).now
    names = [
        f"{start}{number}" for start in ("a%/", "ab/", "a%") for number in range(4)
    ]
    for name in names:
        record = subject.record(expires_at=now - 2 * GRACE_MS)
        await watched.must_write(subject.key(name), None, record)
    others = [subject.key(name) for name in names if not name.startswith("a%/")]
    before = await watched.load(*others)
    counts = [await sweeper.sweep(subject.key("a%/"), 3) for _ in range(3)]
    subject.steps.append(f"sweep a%/, 3 at most, three times: {counts}")
    expect(max(counts) <= 3, f"3 at most were to go at once: {counts}")
    if sum(record is not None for record in before) == len(others):
        expect(await watched.load(*others) == before, "it swept beyond the prefix")
        expect(sum(counts) in {0, 4}, f"4 were dead under the prefix: {counts}")


async def loading_now_is_loading(subject: Subject) -> None:
    """``load_now`` brings what ``load`` does, at once, or None if it had to wait."""
    able = (await subject.open()).backend
    if not isinstance(able, SupportsLoadingNow):
        raise NotSupported("it has no load_now")
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
        expect(list(loaded.records) == [found, None], "it is not what was acknowledged")
        expect(
            abs(loaded.now - await _now(other.backend)) < _NEAR, "it has another clock"
        )
    expect(answered > 0, "it never answers, even when nothing is under way")


async def inline_and_contract_agree(subject: Subject) -> None:
    """What is written inline is loaded by the contract, and the other way round."""
    backend = await subject.open()
    if not isinstance(backend.backend, SupportsInline):
        raise NotSupported("it has no attach, detach and now")
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
        key, other, subject.record(b"", other, await soon(backend.backend))
    )
    expect(await store.get(_KEY) == {}, "deleted by the contract, and there inline")


async def _pages(
    lister: SupportsListing, prefix: str, after: str, limit: int
) -> Sequence[Page]:
    pages: list[Page] = []
    async for page in lister.list_pages(prefix, after, limit):
        pages.append(page)
        expect(len(pages) <= _MOST_PAGES, "the walk goes on and on")
    return pages


async def _now(backend: Backend) -> int:
    return await soon(backend) - MINUTE_MS


CHECKS = (
    listing_is_whole_and_in_order,
    listing_survives_changes,
    sweeping_takes_only_the_long_dead,
    sweeping_keeps_to_its_bounds,
    loading_now_is_loading,
    inline_and_contract_agree,
)
