"""The application's own classes, as ``types=`` names them: enums, dataclasses, tuples.

Used by the codec: how to make plain data of an instance, and an instance again without
running its code.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class MismatchError(Exception):
    """A class and what is stored of it do not go together; tells names, no values."""


def is_named_tuple(cls: type) -> bool:
    """Tell a NamedTuple from another tuple."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def adapters(cls: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return how to store one of ``types=`` and how to make it again."""
    if not isinstance(cls, type):
        raise TypeError(f"types= takes classes, not {type(cls).__name__}")
    if issubclass(cls, enum.Flag):
        return (lambda member: member.value), cls
    if issubclass(cls, enum.Enum):
        return (lambda member: member.name), lambda name: cls[name]
    if is_named_tuple(cls):
        return list, cls._make  # type: ignore[attr-defined]
    builtin = (dict, list, set, frozenset, tuple, str, bytes, bytearray, int, float)
    if dataclasses.is_dataclass(cls) and not issubclass(cls, builtin):
        return _fields_of, lambda content: _from_fields(cls, content)
    raise TypeError(
        f"types= takes enums, dataclasses and NamedTuples; for {cls.__name__} use "
        "codec=Codec().register(type, tag, encode, decode)"
    )


def _fields_of(instance: Any) -> dict[str, Any]:
    content = {
        field.name: getattr(instance, field.name)
        for field in dataclasses.fields(instance)
    }
    surplus = set(getattr(instance, "__dict__", ())) - set(content)
    if surplus:
        raise MismatchError(f"attributes that are no fields: {sorted(surplus)}")
    return content


def _from_fields(cls: type, content: dict[str, Any]) -> Any:
    instance: Any = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in content:
            value = content.pop(field.name)
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise MismatchError(f"the field {field.name} is missing and has no default")
        object.__setattr__(instance, field.name, value)
    if content:
        raise MismatchError(f"fields that the class lost: {sorted(content)}")
    return instance
