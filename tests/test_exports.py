"""The public names: each in one place, loaded when asked for, and nothing else."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import botsessions as bs

SOURCE = ast.parse(Path(bs.__file__).read_text())


def test_names_homes_and_imports_for_type_checkers_agree() -> None:
    assert sorted([*bs._HOME_OF, "__version__"]) == sorted(bs.__all__)
    for_checkers = {
        alias.name: node.module
        for block in SOURCE.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_checkers == {
        name: f"botsessions.{home}" for name, home in bs._HOME_OF.items()
    }


@pytest.mark.parametrize("name", bs.__all__)
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(bs, name)
    assert name in dir(bs)
    if name != "__version__":
        assert inspect.getdoc(value)
        assert value.__module__.startswith("botsessions")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sessionstore'"):
        _ = bs.sessionstore


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """``import botsessions.x`` binds the module: it must not hide a function x."""
    modules = {path.stem for path in Path(bs.__file__).parent.iterdir()}
    assert not modules & set(bs.__all__)


def test_every_error_is_a_session_error() -> None:
    errors = [
        value
        for name in bs.__all__
        if isinstance(value := getattr(bs, name), type)
        and issubclass(value, BaseException)
    ]
    assert len(errors) == 21
    assert all(issubclass(error, bs.SessionError) for error in errors)
