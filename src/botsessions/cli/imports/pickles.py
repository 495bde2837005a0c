"""Pickles read as what they say, never as what they would do.

A pickle is a program for a stack machine. This is such a machine without the dangerous
part: it imports no name and calls nothing. It builds dicts, lists, tuples, sets, texts
and numbers; wherever the program asks for more, a ``Foreign`` stands in its place, with
the name that was asked for and what it would have been given. ``plain`` makes dates and
the like of those that are known to be harmless, and refuses the others by name.
"""

from __future__ import annotations

import pickletools
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

# A tuple of tuples of tuples … may be small in memory and take for ever to be hashed.
_MOST_IN_A_KEY = 1000
_BETWEEN_NEWS = 1 << 16
_LONGEST_NAME = 120

# Old protocols name these modules as Python 2 did.
_TODAY = {"__builtin__": "builtins", "copy_reg": "copyreg"}

# Dicts, for our purposes.
_DICTS = frozenset({"collections.defaultdict", "collections.OrderedDict"})
# What pickle and python-telegram-bot call to make an object of a class.
_MAKERS = frozenset(
    {
        "copyreg._reconstructor",
        "copyreg.__newobj__",
        "copyreg.__newobj_ex__",
        "telegram.ext._picklepersistence._reconstruct_to",
    }
)


class Foreign:
    """What the pickle wanted to import, or to make by calling that; neither was done.

    ``arguments`` is None for the imported thing itself. ``state``, ``items`` and
    ``pairs`` are what the object would have been given after it was made.
    """

    __slots__ = ("arguments", "items", "name", "pairs", "state")

    def __init__(self, name: str, arguments: Any = None) -> None:
        self.name = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"
        self.arguments = arguments
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{self.what}>"

    @property
    def was_called(self) -> bool:
        """Tell whether it stands for a result, not for the imported thing itself."""
        return self.arguments is not None

    @property
    def what(self) -> str:
        """The name to report: of the class, where it is not the maker's."""
        if self.name in _MAKERS and self.arguments:
            first = self.arguments[0]
            if isinstance(first, Foreign):
                return first.name
        return self.name


class Loaded(NamedTuple):
    """What a pickle holds, and the names of calls whose results it throws away.

    No honest pickle does that, but one that is meant to be executed.
    """

    value: Any
    unused: list[str]


def load(data: bytes, on_progress: Callable[[int], None]) -> Loaded:
    """Read a pickle; ValueError if it is torn, or none. What follows it is ignored.

    ``on_progress`` is told how many bytes are done.
    """
    machine = _Machine()
    place = 0
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in odd names
            for number, step in enumerate(pickletools.genops(data)):
                opcode, argument, position = step
                place = position or 0
                machine.step(opcode.name, argument)
                if number % _BETWEEN_NEWS == 0:
                    on_progress(place)
        value = machine.stack.pop()
    except (ValueError, IndexError, KeyError, TypeError) as exc:
        reason = str(exc) if type(exc) is ValueError else f"{type(exc).__name__}: {exc}"
        raise ValueError(
            f"it is no whole pickle of Python 3: {reason} "
            f"(near byte {place:,} of {len(data):,})"
        ) from exc
    on_progress(len(data))
    for stack in (machine.stack, *machine.below):
        for left in stack:
            machine.drop(left)
    return Loaded(value, machine.unused)


def mapping(value: Any) -> dict[Any, Any] | None:
    """Return the dict that a value is, or stands for; None if it is something else."""
    if type(value) is dict:
        return value
    if isinstance(value, Foreign) and value.name in _DICTS and value.was_called:
        return value.pairs
    return None


class _Machine:
    """The stack, what lies below the last marks, and the numbered memory."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.unused: list[str] = []

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name in _PUTS:
            self.memo[argument] = self.stack[-1]
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _NOTHING:
            raise ValueError(f"{name} is not done here")

    def drop(self, value: Any) -> None:
        """Throw a value away, but not without a word if it is a call's result."""
        if isinstance(value, Foreign) and value.was_called:
            self.unused.append(value.what)

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def pop(self, _: Any) -> None:
        if self.stack:
            self.drop(self.stack.pop())
        else:
            self.marked()

    def pop_mark(self, _: Any) -> None:
        for value in self.marked():
            self.drop(value)

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def tuple_(self, size: int) -> None:
        start = len(self.stack) - size
        if start < 0:
            raise IndexError("a tuple of more than there is")
        self.stack[start:] = [tuple(self.stack[start:])]

    def marked_tuple(self, _: Any) -> None:
        items = self.marked()  # after which it is another stack
        self.stack.append(tuple(items))

    def marked_list(self, _: Any) -> None:
        items = self.marked()
        self.stack.append(items)

    def marked_dict(self, _: Any) -> None:
        items = self.marked()
        self._set_items({}, items)

    def frozenset_(self, _: Any) -> None:
        items = self.marked()
        self.stack.append(frozenset(map(_key, items)))

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self.marked())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target.items += items
        elif type(target) is list:
            target += items
        else:
            raise TypeError(f"{type(target).__name__} takes no items")

    def add_items(self, _: Any) -> None:
        items = self.marked()
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target.items += items
        elif type(target) is set:
            target.update(map(_key, items))
        else:
            raise TypeError(f"{type(target).__name__} is no set")

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack.pop(), [key, value])

    def set_items(self, _: Any) -> None:
        items = self.marked()
        self._set_items(self.stack.pop(), items)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        pairs = target.pairs if isinstance(target, Foreign) else target
        if type(pairs) is not dict or len(items) % 2:
            raise TypeError(f"{type(target).__name__} takes no such pairs")
        pairs.update(zip(map(_key, items[::2]), items[1::2], strict=True))
        self.stack.append(target)

    # What would import.

    def global_(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self._import(module, name)

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._import(module, name)

    def _import(self, module: Any, name: Any) -> None:
        if type(name) is not str or type(module) is not str:
            raise TypeError("a name is a text")
        self.stack.append(Foreign(f"{_TODAY.get(module, module)}.{name}"))

    def extension(self, code: int) -> None:
        self.stack.append(Foreign(f"copyreg extension {code}"))

    def persistent(self, name: Any) -> None:
        shown = name if type(name) is str else type(name).__name__
        self.stack.append(Foreign(f"persistent id {shown!r}", ()))

    def persistent_on_stack(self, _: Any) -> None:
        self.persistent(self.stack.pop())

    # What would execute.

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self._call(function, arguments)

    def new_with_names(self, _: Any) -> None:
        names, arguments, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._call(cls, arguments)
        self.stack[-1].state = names

    def instance(self, name: str) -> None:
        arguments = tuple(self.marked())
        self.global_(name)
        self._call(self.stack.pop(), arguments)

    def object_(self, _: Any) -> None:
        cls, *arguments = self.marked()
        self._call(cls, tuple(arguments))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Foreign):
            raise TypeError(f"{type(self.stack[-1]).__name__} takes no state")
        self.stack[-1].state = state

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Foreign) or type(arguments) is not tuple:
            raise TypeError(f"{type(function).__name__} cannot be called")
        if function.was_called:
            made = Foreign(f"{function.what}(…)", arguments)
        elif (attribute := _attribute(function, arguments)) is not None:
            made = Foreign(attribute)
        else:
            made = Foreign(function.name, arguments)
        self.stack.append(made)


def _attribute(function: Foreign, arguments: tuple[Any, ...]) -> str | None:
    """Return the name that is meant, if this is getattr of an imported thing."""
    if function.name != "builtins.getattr" or len(arguments) != 2:
        return None
    owner, name = arguments
    if not isinstance(owner, Foreign) or owner.was_called:
        return None
    return f"{owner.name}.{name}" if type(name) is str else None


def _key(value: Any) -> Hashable:
    """Return what is to be hashed, unless that would be endless work."""
    pending = [value]
    for _ in range(_MOST_IN_A_KEY):
        if not pending:
            return value  # type: ignore[no-any-return]
        part = pending.pop()
        if type(part) in {tuple, frozenset}:
            pending.extend(part)
    raise ValueError(f"a key of a dict has more than {_MOST_IN_A_KEY:,} parts")


_VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("FLOAT", "BINFLOAT"),
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})
# What is missing, such as the strings of Python 2, is refused.
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "MEMOIZE": _Machine.memoize,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "TUPLE": _Machine.marked_tuple,
    "TUPLE1": lambda machine, _: machine.tuple_(1),
    "TUPLE2": lambda machine, _: machine.tuple_(2),
    "TUPLE3": lambda machine, _: machine.tuple_(3),
    "LIST": _Machine.marked_list,
    "DICT": _Machine.marked_dict,
    "FROZENSET": _Machine.frozenset_,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
    "PERSID": _Machine.persistent,
    "BINPERSID": _Machine.persistent_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_names,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_,
    "BUILD": _Machine.build,
}
