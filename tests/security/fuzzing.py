"""How hostile input is made and played: targets, seeds, and what all of them use.

A target is a strategy and what must hold of each of its values. Each play has a seed of
its own; a failure says how to get the same again. What comes of a value has a name, and
``test_fuzzing`` sees that sound ones arrive as well.
"""

from __future__ import annotations

import datetime as dt
import faulthandler
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What nobody may find in an error, a log or a repr.
SECRET = "S3CRET"  # noqa: S105 - of a test
# Seconds of work that no single value may take; and seconds after which one hangs.
PATIENCE, HANGS = 5.0, 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """What is fed, with what, and how often in ``make test``.

    ``check`` returns what came of a value. ``ends`` are those without which the target
    is not what it is said to be: they come in each play.
    """

    name: str
    values: st.SearchStrategy[Any]
    check: Callable[[Any], str]
    examples: int = 300
    ends: frozenset[str] = frozenset()
    first: tuple[Any, ...] = ()
    """Values to begin with, where few are drawn."""


def play(target: Target) -> Counter[str]:
    """Feed a target; raise for the smallest value that something is wrong with.

    Returns how often each end came. How many examples there are is no argument: a seed
    gives the same ones only with the same number.
    """
    number = int(os.environ.get("FUZZ_SEED", random.SystemRandom().getrandbits(32)))
    ends: Counter[str] = Counter()

    @seed(number)
    @settings(
        max_examples=target.examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.values)
    def feed(value: Any) -> None:
        began = time.process_time()
        # What hangs is not stopped by any check after it. This ends the process, and
        # shows where it is.
        faulthandler.dump_traceback_later(HANGS, exit=True)
        try:
            ends[target.check(value)] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert time.process_time() - began < PATIENCE

    for value in target.first:
        feed = example(value)(feed)
    try:
        feed()
    except BaseException as exc:
        exc.add_note(f"run it again with FUZZ_SEED={number} (target {target.name})")
        raise
    return ends


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Return an error and all that led to it, or is in it."""
    if error is None:
        return
    yield error
    yield from chain(error.__cause__)
    if error.__context__ is not error.__cause__:
        yield from chain(error.__context__)
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from chain(each)


def tells_nothing(error: BaseException, *secrets: str) -> None:
    """Check that neither an error nor what led to it has a word of what is secret."""
    for each in chain(error):
        for text in (str(each), repr(each), *getattr(each, "__notes__", ())):
            for secret in secrets or (SECRET,):
                assert secret not in text, text


# Values, and text with what is in the way of parsers.

signs = st.sampled_from([*"/?#@:[]%&=;'\"$\\{}*|<>() \t\n\r\0", "%2F", "%00"])
odd = st.sampled_from(
    ["", "é", "℀", "\ud800", "🤖", "\u202e", "\u0661", "²", "-0", "1e999"]
)
words = st.lists(
    signs | odd | st.text("abz019._-", max_size=5) | st.text(max_size=3), max_size=6
).map("".join)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.just(SECRET)
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.none() | st.just(dt.UTC))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
hashable = scalars | st.tuples(scalars) | st.frozensets(scalars, max_size=2)
session_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=2)
        | st.dictionaries(hashable, inner, max_size=3)
    ),
    max_leaves=6,
)
sessions = st.dictionaries(st.text("abc", max_size=3) | hashable, session_values)

json_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.just(SECRET)
)


def documents(
    names: st.SearchStrategy[str], more: st.SearchStrategy[Any] | None = None
) -> st.SearchStrategy[Any]:
    """Return documents as JSON has them, their objects with these names."""
    return st.recursive(
        json_scalars if more is None else json_scalars | more,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5)
        ),
        max_leaves=12,
    )


# What is done to bytes that were sound.

_HEADS = [
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
    *(
        b"\xdb\x7f\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x02",
        b"\xd8\x0d",
        b"\xc7\x00\x03",
    ),
    *(b"\xc1", b"\x91" * 600, b"\x81\xa1a" * 600, b"\x00", b"\xff" * 9, b"[" * 5000),
    *(b'{"a":' * 3000, b"9" * 5000, b"\\ud800", b"}", b"]", b'"', b"(", b"t", b"R."),
]


@st.composite
def mutated(draw: st.DrawFn, sound: st.SearchStrategy[bytes]) -> bytes:
    """Draw sound bytes and do one to four things to them."""
    data = bytearray(draw(sound))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        what = draw(st.integers(0, 5))
        if what == 0 and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif what == 1:
            del data[place:]
        elif what == 2:
            del data[place : place + length]
        elif what == 3:
            data[place:place] = data[place : place + length] * draw(st.integers(1, 50))
        elif what == 4:
            data[place : place + length] = draw(st.sampled_from(_HEADS))
        else:
            data[place:place] = draw(st.binary(max_size=6))
    return bytes(data)
