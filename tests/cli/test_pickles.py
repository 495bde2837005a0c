"""Pickles are read as what they say: nothing of them is imported, or executed."""

from __future__ import annotations

import builtins
import copyreg
import datetime as dt
import os
import pickle
import struct
import sys
import time
import tracemalloc
from collections import Counter, OrderedDict, defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, SafeUUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from botsessions import Codec, UnsupportedValueError
from botsessions.cli.imports import plain as plain_module
from botsessions.cli.imports.pickles import Loaded, load
from botsessions.cli.imports.plain import Result, plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UTC = dt.UTC
BERLIN = ZoneInfo("Europe/Berlin")
ALL: dict[Any, Any] = {
    "text": "ä€😀",
    "numbers": [0, -1, 255, 2**31, -(2**63), 2**64, 10**400, 1.5, float("inf")],
    "nothing": None,
    "truth": (True, False),
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "sets": [set(), {1, "a"}, frozenset(), frozenset({(1, 2)})],
    "bytes": [b"", b"\0\xff", b"x" * 300, bytearray(), bytearray(b"\0\xff")],
    "moments": [
        dt.datetime(2026, 5, 4, 6, 0, 0, 1),  # noqa: DTZ001
        dt.datetime(2026, 5, 4, 6, tzinfo=UTC),
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
        dt.datetime(2026, 5, 4, tzinfo=dt.timezone(dt.timedelta(hours=5), "X")),
        dt.date(2026, 5, 4),
        dt.time(6, 0, tzinfo=UTC),
        dt.timedelta(-1, 5, 7),
    ],
    "decimals": [Decimal("2.50"), Decimal("-Infinity")],
    "ids": [uuid4(), UUID(int=5, is_safe=SafeUUID.safe)],
    30: {"30": {(1, 2): [[], {}]}},
}


def read(value: bytes) -> Any:
    return load(value, lambda _: None).value


def result(value: bytes) -> Result:
    return plain(read(value), "it")


def refusals(value: bytes) -> list[tuple[str, str]]:
    return [(refusal.path, refusal.what) for refusal in result(value).refused]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps])  # type: ignore[attr-defined]
def test_plain_data_come_back_exactly(
    protocol: int, dumps: Callable[..., bytes]
) -> None:
    data = dumps(ALL, protocol=protocol)
    made = result(data)
    assert (made.refused, made.changed) == ([], [])
    # Protocols before 4 do not know the second of two equal hours.
    assert repr(made.value) == repr(pickle.loads(data))  # noqa: S301
    assert protocol < 4 or repr(made.value) == repr(ALL)
    assert Codec().decode(Codec().encode(made.value)) == made.value


def test_what_is_there_twice_is_two_values_afterwards() -> None:
    cart = [1]
    made = result(pickle.dumps({"a": cart, "b": cart})).value
    made["a"].append(2)
    assert made == {"a": [1, 2], "b": [1]}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_dicts_of_a_kind_become_dicts_and_are_named(protocol: int) -> None:
    inner = defaultdict(list, {"b": [OrderedDict(c=1)]})
    made = result(pickle.dumps({"a": inner}, protocol=protocol))
    assert made.value == {"a": {"b": [{"c": 1}]}}
    assert type(made.value["a"]) is type(made.value["a"]["b"][0]) is dict
    assert made.changed == [
        "it['a'] was a defaultdict, and is a dict now",
        "it['a']['b'][0] was a OrderedDict, and is a dict now",
    ]


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module: str, what: str) -> bytes:
    return text(module) + text(what) + b"\x93"


# What is refused.


class Cart:
    """A class of a bot."""

    def __init__(self) -> None:
        self.items = [1]


class Basket(list[int]):
    """A list that is none."""


class Named(dict[str, int]):
    """A dict that is none."""


CART, BASKET, NAMED = (f"{__name__}.{cls.__name__}" for cls in (Cart, Basket, Named))


def test_what_is_no_plain_data_is_named_with_its_place() -> None:
    session = {
        "cart": Cart(),
        "list": [1, {"basket": Basket([1, 2])}, (3, Named(a=1))],
        "class": Cart,
        "set": {Cart},
        "count": Counter("a"),
        "range": [range(3)],
        "complex": 1j,
        30: {"sound": 1},
    }
    made = result(pickle.dumps(session))
    assert [(refusal.path, refusal.what) for refusal in made.refused] == [
        ("it['cart']", CART),
        ("it['list'][1]['basket']", BASKET),
        ("it['list'][2][1]", NAMED),
        ("it['class']", CART),
        ("it['set'][0]", CART),
        ("it['count']", "collections.Counter"),
        ("it['range'][0]", "builtins.range"),
        ("it['complex']", "builtins.complex"),
    ]
    # No list gets shorter; the entry of a dict goes.
    assert made.value == {30: {"sound": 1}}


def test_a_refused_value_takes_only_its_entry_of_a_dict_with_it() -> None:
    made = result(pickle.dumps({"a": [{"b": Cart(), "c": 1}], "d": {Cart: 1, "e": 2}}))
    assert made.value == {"a": [{"c": 1}], "d": {"e": 2}}
    assert [refusal.path for refusal in made.refused] == [
        "it['a'][0]['b']",
        f"it['d'][<{CART}>]",
    ]


class Zone(dt.tzinfo):
    """A time zone that no store knows."""

    def utcoffset(self, _: object) -> None:
        """None: it does not say."""

    dst = tzname = utcoffset


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"a": "\ud800"}, "lone surrogate"),
        ({"a": dt.datetime(2026, 1, 1, tzinfo=Zone())}, f"{__name__}.Zone"),
    ],
)
def test_what_the_codec_would_refuse_is_refused(value: Any, what: str) -> None:
    with pytest.raises(UnsupportedValueError):
        Codec().encode(value)
    assert refusals(pickle.dumps(value)) == [("it['a']", what)]


IMPOSSIBLE = {
    # The 255th of January, which the real unpickler makes.
    "datetime.date": name("datetime", "date") + b"C\x04\x07\xe4\x01\xff\x85R",
    "datetime.datetime": name("datetime", "datetime")
    + b"C\x0a\x07\xe4\x01\xff\0\0\0\0\0\0\x85R",
    "datetime.time": name("datetime", "time") + b"C\x06\x17\xff\0\0\0\0\x85R",
    "decimal.Decimal": name("decimal", "Decimal") + text("x") + b"\x85R",
    "uuid.UUID": name("uuid", "UUID") + b")\x81}" + text("int") + b"Nsb",
    "zoneinfo.ZoneInfo._unpickle": name("zoneinfo", "ZoneInfo._unpickle")
    + text("../../etc/passwd")
    + b"K\x01\x86R",
    "builtins.set": name("builtins", "set") + text("abc") + b"\x85R",
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_is_made_of_nonsense_is_refused(what: str) -> None:
    data = b"\x80\x04}" + text("a") + IMPOSSIBLE[what] + b"s."
    assert refusals(data) == [("it['a']", what)]


def test_what_can_be_no_key_is_refused() -> None:
    """A dict could hold it while it only stood for something."""
    changeable = name("builtins", "bytearray") + b")R"
    assert refusals(b"\x80\x04}" + changeable + b"Ns.") == [
        ("it[<builtins.bytearray>]", "no key")
    ]
    assert refusals(b"\x80\x04\x8f(" + changeable + b"\x90.") == [("it", "no key")]


# Pickles that are meant to do something.


def reduced(*arguments: Any) -> Any:
    """Return an object whose pickle calls a function."""

    class Reduced:
        def __reduce__(self) -> Any:
            return arguments

    return Reduced()


TOUCH = "touch executed"
ASKED = name("os", "system") + text(TOUCH)
SYSTEM = "os.system"
# How each asks for it → what is said.
WICKED: dict[str, tuple[bytes, str]] = {
    "a call": (
        pickle.dumps({"a": reduced(os.system, (TOUCH,))}),
        f"{os.system.__module__}.system",  # posix
    ),
    "eval": (
        pickle.dumps({"a": reduced(eval, ("open('executed', 'w').close()",))}),
        "builtins.eval",
    ),
    "exec": (
        pickle.dumps({"a": reduced(exec, ("open('executed', 'w').close()",))}),
        "builtins.exec",
    ),
    "open": (
        pickle.dumps({"a": reduced(open, ("executed", "w"))}),
        f"{open.__module__}.open",  # _io since Python 3.12
    ),
    "an import": (
        pickle.dumps({"a": reduced(builtins.__import__, ("this",))}),
        "builtins.__import__",
    ),
    "a name that imports": (
        b"\x80\x04}" + text("a") + name("this", "s") + b"s.",
        "this.s",
    ),
    "getattr": (
        b"\x80\x04}"
        + text("a")
        + name("builtins", "getattr")
        + name("os", "environ")
        + text("clear")
        + b"\x86R)Rs.",
        "os.environ.clear",
    ),
    "a dotted name": (
        b"\x80\x04}" + text("a") + name("os", "environ.clear") + b")Rs.",
        "os.environ.clear",
    ),
    "getattr of a result": (
        b"\x80\x04}"
        + text("a")
        + name("builtins", "getattr")
        + name("builtins", "globals")
        + b")R"
        + text("get")
        + b"\x86R)Rs.",
        "builtins.getattr(…)",
    ),
    "a key": (b"\x80\x04}" + ASKED + b"\x85RNs.", SYSTEM),
    "a new object": (b"\x80\x04}" + text("a") + ASKED + b"\x85\x81s.", SYSTEM),
    "a new object with names": (
        b"\x80\x04}" + text("a") + ASKED + b"\x85}\x92s.",
        SYSTEM,
    ),
    "obj": (b"\x80\x04}" + text("a") + b"(" + ASKED + b"os.", SYSTEM),
    "inst": (b"}Va\n(V" + TOUCH.encode() + b"\nios\nsystem\ns.", SYSTEM),
    "the oldest protocol": (
        b"}Va\ncos\nsystem\n(V" + TOUCH.encode() + b"\ntRs.",
        SYSTEM,
    ),
    "a state": (
        b"\x80\x04}" + text("a") + name("os", "environ") + b"}" + text("x") + b"Nsbs.",
        "os.environ",
    ),
    "an argument of what is made": (
        b"\x80\x04}"
        + text("a")
        + name("datetime", "timedelta")
        + ASKED
        + b"\x85R\x85Rs.",
        SYSTEM,
    ),
    "items of what is made": (
        b"\x80\x04}"
        + text("a")
        + name("datetime", "timedelta")
        + b")R("
        + ASKED
        + b"\x85Res.",
        "datetime.timedelta",
    ),
    "an extension": (b"\x80\x04}" + text("a") + b"\x82\x01s.", "copyreg extension 1"),
    "a persistent id": (
        b"\x80\x04}" + text("a") + text("os.system") + b"Qs.",
        "persistent id 'os.system'",
    ),
    "a factory": (
        b"\x80\x04}"
        + text("a")
        + b"]"
        + name("collections", "defaultdict")
        + name("os", "system")
        + b"\x85R"
        + ASKED
        + b"\x85RNsa"  # a call as its key
        + b"s.",
        SYSTEM,
    ),
    "too many bytes": (
        b"\x80\x04}"
        + text("a")
        + name("builtins", "bytearray")
        + b"\x8a\x06\0\0\0\0\0\x01\x85Rs.",
        "builtins.bytearray",
    ),
}


@pytest.mark.parametrize("how", WICKED)
def test_nothing_is_executed_and_all_is_named(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    environment = dict(os.environ)
    data, what = WICKED[how]
    assert [refusal.what for refusal in result(data).refused] == [what]
    assert list(tmp_path.iterdir()) == []
    assert "this" not in sys.modules
    assert os.environ == environment


def test_what_is_called_and_thrown_away_is_named() -> None:
    system = name("os", "system") + text(TOUCH) + b"\x85R"
    for data in (
        b"\x80\x04" + system + b"0}.",  # POP
        b"\x80\x04(" + system + b"1}.",  # POP_MARK
        b"\x80\x04" + system + b"}.",  # left on the stack
        b"\x80\x04" + system + b"(}.",  # and below a mark
    ):
        assert load(data, lambda _: None) == Loaded({}, ["os.system"])


def test_the_real_unpickler_would_have_executed_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are what they are taken for."""
    monkeypatch.chdir(tmp_path)
    for how in (
        "a call",
        "eval",
        "exec",
        "a key",
        "obj",
        "inst",
        "the oldest protocol",
    ):
        pickle.loads(WICKED[how][0])  # noqa: S301
        (tmp_path / "executed").unlink()


def test_an_extension_is_not_looked_up() -> None:
    copyreg.add_extension("os", "system", 1)
    try:
        assert refusals(WICKED["an extension"][0]) == [
            ("it['a']", "copyreg extension 1")
        ]
    finally:
        copyreg.remove_extension("os", "system", 1)


# Pickles that are meant to take all memory, or for ever.


def deep(levels: int) -> bytes:
    return b"\x80\x04" + b"]" * levels + b"a" * (levels - 1) + b"."


def doubled(kind: Callable[[list[Any]], Any]) -> bytes:
    """Return a pickle of few bytes with more values than anybody can count."""
    value = kind([])
    for _ in range(60):
        value = kind([value, value])
    return pickle.dumps(value)


HUGE = 1 << 62
TOO_LONG = {
    "BINBYTES8": b"\x8e" + struct.pack("<Q", HUGE),
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", HUGE),
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", HUGE),
    "BINBYTES": b"B" + struct.pack("<I", 0xFFFFFFFF),
    "LONG4": b"\x8b" + struct.pack("<i", 0x7FFFFFFF),
    "a negative LONG4": b"\x8b" + struct.pack("<i", -5),
    "FRAME": b"\x95" + struct.pack("<Q", HUGE),
    "LONG_BINPUT": b"r\xff\xff\xff\xff",
    "LONG": b"L" + b"9" * 100_000 + b"L\n",
    "INT": b"I" + b"9" * 100_000 + b"\n",
}


@pytest.mark.parametrize("what", TOO_LONG)
def test_a_length_that_is_not_there_takes_no_memory(what: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="it is no whole pickle of Python 3"):
            read(b"\x80\x04" + TOO_LONG[what])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_what_is_nested_too_deeply_is_refused() -> None:
    [(path, what)] = refusals(deep(100_000))
    assert what == "nested too deeply"
    assert len(path) < 50
    assert result(deep(101)).refused == []
    assert len(result(deep(102)).refused) == 1
    assert Codec().encode({"it": result(deep(100)).value})


@pytest.mark.parametrize("kind", [list, tuple])
def test_what_doubles_itself_ends(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_module, "LIMIT", 100_000)
    began = time.perf_counter()
    assert refusals(doubled(kind)) == [("it", "too large")]
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("beginning", [b"}", b"\x8f(", b"("])
def test_a_key_that_doubles_itself_is_not_hashed(beginning: bytes) -> None:
    """It would take as long, and it is done while the pickle is read."""
    end = {b"}": b"Ns.", b"\x8f(": b"\x90.", b"(": b"\x91."}[beginning]
    data = b"\x80\x04" + beginning + doubled(tuple)[11:-1] + end
    with pytest.raises(ValueError, match="more than 1,000 parts"):
        read(data)


def test_what_contains_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_module, "LIMIT", 100_000)
    endless: list[Any] = []
    endless += [endless, endless]
    assert ("it", "too large") in refusals(pickle.dumps(endless))
    simple: dict[str, Any] = {}
    simple["a"] = simple
    assert [entry[1] for entry in refusals(pickle.dumps(simple))] == [
        "nested too deeply"
    ]


def test_a_value_that_is_refused_often_is_noted_not_too_often() -> None:
    data = pickle.dumps([Cart] * 1_000_000)
    made = result(data)
    assert len(made.refused) < 100_000
    assert made.refused[-1].what == "too large"


# Files that are none, or torn.


def test_each_beginning_of_a_pickle_is_a_torn_one() -> None:
    data = pickle.dumps(ALL)
    for end in range(len(data)):
        with pytest.raises(ValueError, match="no whole pickle"):
            read(data[:end])


@pytest.mark.parametrize(
    "data", [b'{"user_data": {}}', b"SQLite format 3\0", b"\x89PNG\r\n", b"."]
)
def test_what_is_no_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no whole pickle of Python 3: .+ byte"):
        read(data)


def test_a_name_with_an_odd_escape_is_a_name_without_a_warning() -> None:
    assert refusals(b"}Va\nP\\q\ns.") == [("it['a']", "persistent id '\\\\q'")]


def test_pickles_of_python_2_are_refused() -> None:
    with pytest.raises(ValueError, match="STRING"):
        read(b"}S'a'\nI1\ns.")


PIECES = st.sampled_from(
    [
        *(bytes([code]) for code in b"().012}]N)eubsatRQodl\x85\x86\x87\x88\x90\x91"),
        *(b"\x94", b"h\x00", b"K\x01", b"\x8f", b"\x81", b"\x92", b"\x93", b"C\x01a"),
        *(text("a"), text("datetime"), text("date"), text("set"), text("builtins")),
        *(name("datetime", "date"), name("builtins", "set"), name("uuid", "UUID")),
        *(name("collections", "defaultdict"), name("builtins", "getattr")),
    ]
)


@given(st.lists(PIECES, max_size=30))
def test_any_program_is_read_or_refused(pieces: list[bytes]) -> None:
    try:
        value = read(b"\x80\x04" + b"".join(pieces) + b".")
    except ValueError:
        return
    made = plain(value, "it")
    if made.value is not None and not made.refused:
        Codec().encode({"it": made.value})


@given(st.data())
def test_a_damaged_pickle_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(pickle.dumps(ALL))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        value = read(bytes(damaged))
    except ValueError:
        return
    made = plain(value, "it")
    if made.value is not None and not made.refused:
        with_luck = {"it": made.value}
        Codec().encode(with_luck)
