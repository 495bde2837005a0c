"""Law 6 on the codec itself: exact types there and back, and hostile bytes refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import math
import zlib
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import botsessions as bs
from botsessions import Codec, CorruptRecordError, UnsupportedValueError
from botsessions.codec import EMPTY, RICH, holds, seal
from tests.places import OnlyContract

BERLIN = ZoneInfo("Europe/Berlin")

ONE_OF_EACH: dict[Any, Any] = {
    "str": "text, ünï, 🤖, \x00",
    "int": -5,
    "bool": True,
    "none": None,
    "float": 0.1,
    "inf": [math.inf, -math.inf, -0.0],
    "nan": math.nan,
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"change me"),
    "tuple": (1, ("nested", ()), [2]),
    "list": [1, [2, {"deep": (3,)}]],
    "set": {1, "two", (3,)},
    "frozenset": frozenset({frozenset(), 1}),
    "big": [2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400, -(10**400)],
    "datetime": dt.datetime(2026, 11, 22, 15, 41, 7, 123456),  # noqa: DTZ001
    "utc": dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
    "offset": dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3))),
    "named": dt.datetime(
        2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=1, microseconds=5), "Mine")
    ),
    "zone": dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    "date": dt.date(1, 1, 1),
    "time": dt.time(23, 59, 59, 999999, fold=1),
    "time utc": dt.time(1, 2, tzinfo=dt.UTC),
    "timedelta": [dt.timedelta.max, dt.timedelta.min, dt.timedelta(microseconds=-1)],
    "decimal": [Decimal("1.10"), Decimal("-0"), Decimal("Infinity"), Decimal("1E+99")],
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "dict": {1: "int", "1": "str", None: 0, (1, "a"): {2: 3}, b"b": 1, 1.5: 2},
    30: "thirty",
    None: "none",
    (1, 2): "tuple",
    dt.date(2026, 1, 1): "date",
    frozenset({1}): "frozenset",
    2**70: "big",
}


class Step(enum.Enum):
    NAME = "name"
    AGE = "age"


class Language(enum.StrEnum):
    DE = "de"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    name: str
    price: Decimal
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass
class Form:
    step: Step
    items: list[Item] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.step is Step.AGE and not self.items:
            raise AssertionError("decoding must not run this")


class Point(NamedTuple):
    x: int
    y: Any


OWN = [Step, Language, Right, Item, Form, Point]


def same(one: Any, two: Any) -> bool:
    """Compare type for type, order included; NaN equals NaN."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(two) and all(any(same(a, b) for b in two) for a in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, two) and (
            one == two or (math.isnan(one) and math.isnan(two))
        )
    if isinstance(one, Decimal):
        return bool(one.as_tuple() == two.as_tuple())
    if isinstance(one, dt.datetime):
        return (
            one.replace(tzinfo=None) == two.replace(tzinfo=None)
            and one.fold == two.fold
            and repr(one.tzinfo) == repr(two.tzinfo)
        )
    return bool(one == two) and getattr(one, "fold", 0) == getattr(two, "fold", 0)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals().filter(lambda value: not value.is_snan())  # is not hashable
    | st.uuids()
)
hashable = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=4
)
values = st.recursive(
    scalars | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(st.text("abc"), inner, max_size=4)
    ),
    max_leaves=12,
)
sessions = st.dictionaries(st.text("abcdef") | hashable, values, max_size=6)


def test_one_of_each_comes_back_as_it_was() -> None:
    codec = Codec()
    assert same(codec.decode(codec.encode(ONE_OF_EACH)), ONE_OF_EACH)


@given(sessions)
def test_what_is_stored_is_what_comes_back(session: dict[Any, Any]) -> None:
    codec = Codec()
    assert same(codec.decode(codec.encode(session)), session)


@given(sessions)
def test_the_copy_from_packing_is_equal_and_shares_nothing(
    session: dict[Any, Any],
) -> None:
    body, copy = Codec().pack(session)
    assert same(copy, session)
    assert not containers(copy) & containers(session)
    assert same(Codec().unpack(body), session)


def containers(value: Any) -> set[int]:
    found = set()
    if isinstance(value, (dict, list, set, bytearray)):
        found.add(id(value))
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            found |= containers(item)
    return found


@pytest.mark.parametrize(
    "session",
    [
        {},
        {"n": 1},
        {"a": "ł" * 300, "b": b"\xc4" * 300, "c": "\u0106"},
        {"a": [1, {"b": [None]}]},
        {"a": "x" * 70_000},
        {"a": math.nan, "b": [math.nan]},
    ],
    ids=["empty", "counter", "markers in text", "nested", "long", "nan"],
)
def test_plain_sessions_stay_plain(session: dict[Any, Any]) -> None:
    body, copy = Codec().pack(session)
    assert not body.startswith(RICH)
    assert same(copy, session)
    assert same(ormsgpack.unpackb(body), session)


def test_registered_types_come_back_as_themselves() -> None:
    codec = Codec(OWN)
    session = {
        "step": Step.AGE,
        "language": Language.DE,
        "rights": [Right.READ, Right.READ | Right.WRITE, Right(0)],
        "item": Item("apple", Decimal("0.10"), frozenset({"red"})),
        "form": Form(Step.NAME, [Item("pear", Decimal(1))]),
        "point": Point(1, (2,)),
        Step.NAME: "an enum as a key",
    }
    session["form"].step = Step.AGE  # type: ignore[attr-defined]
    session["form"].items.clear()  # type: ignore[attr-defined]
    back = codec.decode(codec.encode(session))
    assert same(list(back), list(session))
    assert back == session
    assert [type(value) for value in back.values()] == [
        type(value) for value in session.values()
    ]
    assert type(back["item"].price) is Decimal
    assert type(back["point"].y) is tuple


def test_any_type_can_be_registered_with_functions_of_its_own() -> None:
    codec = Codec(OWN).register(
        complex, "complex", lambda c: (c.real, c.imag), lambda pair: complex(*pair)
    )
    session = {"z": 1 + 2j, "more": [(3j, Step.NAME)]}
    assert same(codec.decode(codec.encode(session)), session)


def test_a_field_that_was_added_since_takes_its_default() -> None:
    old = dataclasses.make_dataclass("Profile", [("name", str)])
    new = dataclasses.make_dataclass(
        "Profile", [("name", str), ("age", int, dataclasses.field(default=7))]
    )
    stored = Codec([old]).encode({"p": old("Ada")})
    assert Codec([new]).decode(stored)["p"] == new("Ada", 7)
    with pytest.raises(CorruptRecordError, match="lost"):
        Codec([old]).decode(Codec([new]).encode({"p": new("Ada", 8)}))


def test_a_type_that_is_not_known_any_more_is_not_guessed() -> None:
    stored = Codec(OWN).encode({"step": Step.NAME})
    with pytest.raises(CorruptRecordError, match=r"'Step'.*register"):
        Codec().decode(stored)


@pytest.mark.parametrize("cls", [int, dict, object, type("S", (str,), {})])
def test_types_takes_only_what_it_can_rebuild(cls: type) -> None:
    with pytest.raises(TypeError, match="register"):
        Codec([cls])


def test_a_tag_or_a_type_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered already"):
        Codec([Step, Step])
    with pytest.raises(ValueError, match="registered already"):
        Codec([Step]).register(complex, "Step", str, complex)


class Text(str):
    __slots__ = ()


class Surplus(dict[str, int]):
    pass


class OwnZone(dt.tzinfo):
    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)

    dst = utcoffset

    def tzname(self, when: dt.datetime | None) -> str:
        return "own"


cyclic: dict[str, Any] = {}
cyclic["me"] = [cyclic]
with_attribute = Form(Step.NAME)
with_attribute.extra = 1  # type: ignore[attr-defined]

REFUSED: list[tuple[Any, str]] = [
    ({"a": object()}, r"session\['a'\] is a object"),
    ({"cart": [0, 1, Text("x")]}, r"session\['cart'\]\[2\] is a Text"),
    ({"a": {"b": (1, Surplus())}}, r"session\['a'\]\['b'\]\[1\] is a Surplus"),
    ({"a": collections.OrderedDict()}, "OrderedDict"),
    ({"a": True, Text("k"): 1}, r"session\[Text\] is a Text"),
    ({"a": {Text("k"): 1}}, r"session\['a'\]\[Text\]"),
    ({"a": type("I", (int,), {})(5)}, "is a I"),
    ({"a": type("F", (float,), {})(5)}, "is a F"),
    ({"a": type("B", (bytes,), {})(b"")}, "is a B"),
    ({"a": memoryview(b"x")}, "memoryview"),
    ({"a": ormsgpack.Ext(2, b"\x90")}, "Ext"),
    ({"a": [ormsgpack.Fragment(b"\x80")]}, r"session\['a'\]\[0\] is a Fragment"),
    ({"a": Step.NAME}, r"is a Step.*types=\[Step\]"),
    ({"a": Point(1, 2)}, r"is a Point.*types=\[Point\]"),
    ({"a": Item("x", Decimal(1))}, r"is a Item.*types=\[Item\]"),
    ({"a": "\ud800"}, r"session\['a'\] has a lone surrogate"),
    ({"a": {"\udfff": 1}}, "lone surrogate"),
    ({"a": [{1: "\ud800"}]}, r"session\['a'\]\[0\]\[1\]"),
    ({"a": dt.datetime(2026, 1, 1, tzinfo=OwnZone())}, "time zone of type OwnZone"),
    ({"a": 1j}, "complex"),
    ({"a": range(3)}, "range"),
    ({"a": Step}, "EnumType"),
    ({"a": print}, "builtin_function"),
    (cyclic, "nested deeper"),
]


@pytest.mark.parametrize(("session", "message"), REFUSED)
def test_what_cannot_come_back_is_refused_with_its_path(
    session: dict[Any, Any], message: str
) -> None:
    with pytest.raises(UnsupportedValueError, match=message):
        Codec().encode(session)


def test_a_type_whose_functions_do_not_fit_is_noticed_at_once() -> None:
    codec = Codec().register(complex, "complex", str, lambda _: complex("no number"))
    with pytest.raises(UnsupportedValueError, match="would not come back"):
        codec.encode({"z": 1j})


def test_a_dataclass_with_attributes_beside_its_fields_is_refused() -> None:
    with pytest.raises(UnsupportedValueError, match="extra"):
        Codec(OWN).encode({"form": with_attribute})


def test_the_path_does_not_show_values() -> None:
    secret = "token-" * 5
    with pytest.raises(UnsupportedValueError) as caught:
        Codec().encode({"a": [secret, object()]})
    assert secret not in str(caught.value)


# Bytes that nobody should have written.


@given(sessions, st.data())
def test_any_changed_byte_is_noticed(
    session: dict[Any, Any], data: st.DataObject
) -> None:
    stored = bytearray(Codec().encode(session))
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptRecordError):
        Codec().decode(bytes(stored))


@given(sessions, st.data())
def test_missing_and_surplus_bytes_are_noticed(
    session: dict[Any, Any], data: st.DataObject
) -> None:
    stored = Codec().encode(session)
    cut = data.draw(st.integers(0, len(stored) - 1))
    more = data.draw(st.binary(min_size=1, max_size=9))
    for spoilt in (stored[:cut], stored + more, more + stored):
        with pytest.raises(CorruptRecordError):
            Codec().decode(spoilt)


@settings(max_examples=1000)
@given(st.binary(max_size=60))
def test_hostile_bytes_raise_corrupt_record_error_and_nothing_else(data: bytes) -> None:
    decodes(data)
    decodes(seal(data))
    decodes(seal(RICH + data))


@settings(max_examples=500)
@given(st.integers(-1, 127), st.binary(max_size=20) | values.map(repr).map(str.encode))
def test_hostile_extension_types(tag: int, content: bytes) -> None:
    if tag < 0:
        return
    ext = ormsgpack.packb({"a": ormsgpack.Ext(tag, content)})
    decodes(seal(RICH + ext))
    nested = ormsgpack.packb({"a": ormsgpack.Ext(tag, ormsgpack.packb(content))})
    decodes(seal(RICH + nested))


@settings(max_examples=500)
@given(
    st.integers(1, 13),
    st.recursive(
        st.none() | st.integers(-9, 10**15) | st.text("ab1:-T"), st.lists, max_leaves=6
    ),
)
def test_hostile_contents_of_known_extension_types(tag: int, content: Any) -> None:
    data = ormsgpack.packb(content)
    decodes(seal(RICH + ormsgpack.packb({"a": ormsgpack.Ext(tag, data)})))


def decodes(data: bytes) -> None:
    try:
        session = Codec(OWN).decode(data)
    except CorruptRecordError:
        return
    assert type(session) is dict


def test_hostile_depth_ends_in_an_error() -> None:
    for depth in (200, 2_000, 50_000):
        data = b"\x90"
        for _ in range(min(depth, 3000)):
            data = ormsgpack.packb(ormsgpack.Ext(2, data))
        decodes(seal(RICH + b"\x81\xa1a" + data))
        decodes(seal(b"\x81\xa1a" + b"\x91" * depth + b"\x90"))
        decodes(seal(b"\x81\xa1a" * depth + b"\xc0"))


def test_two_values_under_one_valid_checksum_are_noticed() -> None:
    body = ormsgpack.packb({"a": 1})
    for junk in (b"\x80", b"\xc0", ormsgpack.packb({"b": 2})):
        with pytest.raises(CorruptRecordError):
            Codec().decode(seal(body + junk))
    with pytest.raises(CorruptRecordError):
        Codec().decode(seal(ormsgpack.packb([1])))
    assert Codec().decode(seal(EMPTY)) == {}


def test_a_newer_format_is_told_apart() -> None:
    data = b"\x07\x92\x80\xc4\x04"
    with pytest.raises(CorruptRecordError, match="newer botsessions"):
        Codec().decode(data + zlib.crc32(data).to_bytes(4, "little"))


def test_huge_lengths_that_are_not_there_cost_nothing() -> None:
    for head in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ):
        decodes(seal(head))
        decodes(seal(b"\x81\xa1a" + head))


def test_the_format_is_what_was_released() -> None:
    """Bytes written by 0.1.0: what stands here must stay readable for ever."""
    plain = bytes.fromhex("019281a16e01c404edf5b43b")
    assert Codec().encode({"n": 1}) == plain
    assert Codec().decode(plain) == {"n": 1}


@pytest.mark.parametrize("one", [{"a": 1}, {}, {"t": (1, 2)}, {"s": {1}}])
@pytest.mark.parametrize("two", [{"a": 1}, {"a": 2}, {}, {"t": (1, 2)}, {"t": [1, 2]}])
def test_sealed_bytes_hold_the_body_that_they_were_made_of(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    codec = Codec()
    sealed, body = codec.encode(one), codec.pack(two)[0]
    assert holds(sealed, body) is (sealed == seal(body))


def test_the_path_of_something_deep_is_not_told_in_full() -> None:
    endless: dict[str, Any] = {"a": {}}
    endless["a"]["a"] = endless
    with pytest.raises(UnsupportedValueError) as caught:
        Codec().encode(endless)
    assert len(str(caught.value)) < 200


def _out_of_memory(_: Any) -> Any:
    raise MemoryError


def test_a_want_of_memory_is_no_fault_of_the_record() -> None:
    data = bs.Codec().register(complex, "number", str, complex).encode({"a": 1j})
    codec = bs.Codec().register(complex, "number", str, _out_of_memory)
    with pytest.raises(MemoryError):
        codec.decode(data)


async def test_a_store_goes_on_after_a_want_of_memory() -> None:
    key, other = bs.SessionKey(chat_id=1), bs.SessionKey(chat_id=2)
    backend = bs.MemoryBackend()
    sound = bs.Codec().register(complex, "number", str, complex)
    async with bs.SessionStore(OnlyContract(backend), codec=sound) as store:
        await store.put(key, {"a": 1j})
    codec = bs.Codec().register(complex, "number", str, _out_of_memory)
    async with bs.SessionStore(OnlyContract(backend), codec=codec) as store:
        with pytest.raises(MemoryError):
            await store.get(key)
        with pytest.raises(MemoryError):
            await store.update(key, lambda s: s)
        assert await store.update(other, lambda s: {**s, "n": 1}) == {"n": 1}
        assert await store.get(other) == {"n": 1}


def test_a_type_that_is_not_known_is_told_apart_and_in_few_words() -> None:
    data = bs.Codec().register(complex, "n" * 9999, str, complex).encode({"a": 1j})
    with pytest.raises(bs.CorruptRecordError, match="does not know") as caught:
        bs.Codec().decode(data)
    assert caught.value.unknown_type == "n" * 80
    assert len(str(caught.value)) < 300
    with pytest.raises(bs.CorruptRecordError) as caught:
        bs.Codec().decode(data[:-1])
    assert caught.value.unknown_type is None
