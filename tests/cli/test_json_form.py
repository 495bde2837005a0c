"""The JSON form: what is shown is read as the same, hostile text is refused."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from decimal import Decimal
from typing import Any
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from botsessions.cli.json_form import parse, read, shown

BERLIN = ZoneInfo("Europe/Berlin")


def first_of_two(moment: Any) -> Any:
    """Return the first of two equal hours; the second has no text, see below."""
    return moment.replace(fold=0)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63, max_value=2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["$", "$tuple", "$dict"])
    | st.binary()
    | st.binary().map(bytearray)
    | st.datetimes(timezones=st.none() | st.just(dt.UTC)).map(first_of_two)
    | st.dates()
    | st.times().map(first_of_two)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
HASHABLE = SCALARS.filter(lambda value: type(value) is not bytearray)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(HASHABLE, inner)
        | st.sets(HASHABLE)
        | st.frozensets(HASHABLE)
    ),
    max_leaves=10,
)


def through(value: Any) -> Any:
    return read(json.dumps(shown(value), allow_nan=False).encode())


def described(value: Any) -> Any:
    """Return a value with all its types, in an order that does not depend on hashes."""
    if isinstance(value, dict):
        pairs = [(described(key), described(item)) for key, item in value.items()]
        return (dict, pairs)
    if isinstance(value, (set, frozenset)):
        return (type(value), sorted(map(described, value), key=repr))
    if isinstance(value, (list, tuple)):
        return (type(value), [described(item) for item in value])
    return (type(value), repr(value))


@given(VALUES)
def test_what_is_shown_is_read_as_the_same(value: Any) -> None:
    assert described(through(value)) == described(value)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ((1, "a"), {"$tuple": [1, "a"]}),
        ({3, 1, 2}, {"$set": [1, 2, 3]}),
        (frozenset(), {"$frozenset": []}),
        (b"\0\xff", {"$bytes": "AP8="}),
        (bytearray(b"a"), {"$bytearray": "YQ=="}),
        ({30: 1, "30": 2}, {"$dict": [[30, 1], ["30", 2]]}),
        ({"$tuple": [1]}, {"$dict": [["$tuple", [1]]]}),
        (2**63, 2**63),
        (2**64, {"$int": "0x10000000000000000"}),
        (math.inf, {"$float": "inf"}),
        (math.nan, {"$float": "nan"}),
        (-math.nan, {"$float": "-nan"}),
        (dt.date(2026, 5, 4), {"$date": "2026-05-04"}),
        (
            dt.datetime(2026, 5, 4, 6, 0),  # noqa: DTZ001 - some have no zone
            {"$datetime": "2026-05-04T06:00:00"},
        ),
        (
            dt.datetime(2026, 5, 4, 6, 0, tzinfo=dt.UTC),
            {"$datetime": "2026-05-04T06:00:00+00:00"},
        ),
        (
            dt.datetime(2026, 5, 4, 6, 0, tzinfo=BERLIN),
            {"$datetime": "2026-05-04T06:00:00[Europe/Berlin]"},
        ),
        (dt.time(6, 30), {"$time": "06:30:00"}),
        (dt.timedelta(seconds=1.5), {"$microseconds": 1_500_000}),
        (Decimal("2.50"), {"$decimal": "2.50"}),
        (UUID(int=1), {"$uuid": "00000000-0000-0000-0000-000000000001"}),
    ],
)
def test_a_type_has_one_form(value: Any, form: Any) -> None:
    assert shown(value) == form
    assert described(through(value)) == described(value)


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
        dt.datetime(2026, 5, 4, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
        dt.time(2, 30, fold=1),
        UUID(int=1, is_safe=SafeUUID.safe),
    ],
)
def test_what_has_no_text_is_shown_and_not_read(value: Any) -> None:
    form = shown(value)
    assert form == {"$repr": repr(value)}
    with pytest.raises(ValueError, match="shown, not read"):
        read(json.dumps(form).encode())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"NaN",
        b"[1e",
        b'{"a": 1, "a": 2}',
        b"[" * 20_000,
        b"9" * 5_000,
        b'{"$tuple": 5}',
        b'{"$tuple": {}}',
        b'{"$set": [[]]}',
        b'{"$dict": [[1]]}',
        b'{"$dict": [[[], 1]]}',
        b'{"$bytes": "%"}',
        b'{"$bytes": 1}',
        b'{"$int": "z"}',
        b'{"$uuid": 5}',
        b'{"$decimal": "x"}',
        b'{"$decimal": [0, [1], 2]}',
        b'{"$date": "2026-13-01"}',
        b'{"$datetime": "2026-05-04[No/Where]"}',
        b'{"$datetime": "2026-05-04[../x]"}',
        b'{"$datetime": "2026-05-04["}',
        b'{"$microseconds": 1e400}',
        b'{"$microseconds": 99999999999999999999999999}',
        b'{"$nothing": 1}',
        b'{"$tuple": [], "b": 1}',
    ],
)
def test_what_is_no_value_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nope", "it is no JSON: Expecting value (column 1)"),
        ('{"a":\n', "it is no JSON: Expecting value (column 6)"),
        ("[1,\n2 3]\n", "it is no JSON: Expecting ',' delimiter (line 2, column 3)"),
        ("1e999", '1e999 is too large for a float; write {"$float": "inf"} if infin'),
        ("-1e999", '-1e999 is too large for a float; write {"$float": "-inf"} if inf'),
        ("9" * 5_000, "an int of 5,000 digits is too long to be read; write it "),
        ('{"$decimal": "x"}', "$decimal: 'x' is no decimal number"),
    ],
)
def test_what_is_no_value_is_said_in_plain_words(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        read(text.encode())


@pytest.mark.parametrize("depth", [900, 990, 1_000, 1_100, 5_000])
def test_depth_is_a_value_error_or_no_error(depth: int) -> None:
    for text in (b"[" * depth + b"]" * depth, b'{"$tuple":[' * depth + b"]}" * depth):
        try:
            read(text)
        except ValueError as exc:
            assert "nested too deeply" in str(exc)  # noqa: PT017 - either is right


def test_a_byte_order_mark_is_no_error() -> None:
    assert parse(b"\xef\xbb\xbf{}") == {}
