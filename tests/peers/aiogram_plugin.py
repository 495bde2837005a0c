"""A pytest plugin for aiogram's own suite: our storage and isolation in place of its.

Loaded by ``-p aiogram_plugin`` with this folder on PYTHONPATH, it puts classes of ours
in the place of those that keep all in memory, and of the isolation that isolates
nothing, before aiogram's conftest imports them. Where they keep things,
``places_plugin`` says.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import aiogram.dispatcher.dispatcher
import aiogram.fsm.storage.memory

from botsessions.adapters.aiogram import SessionIsolation, SessionStorage

if TYPE_CHECKING:
    import pytest

places = import_module("places_plugin")

# They reach for the dict inside of a MemoryStorage.
_POKES_INSIDE = "test_context.py::TestFSMContext::test_address_mapping"


class Storage(SessionStorage):
    """Made without arguments, as a MemoryStorage is."""

    def __init__(self) -> None:
        super().__init__(places.store_of_test())


class Isolation(SessionIsolation):
    """Made without arguments, as a SimpleEventIsolation is."""

    def __init__(self) -> None:
        super().__init__(places.store_of_test())


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what cannot be asked of a foreign storage."""
    poking = [item for item in items if _POKES_INSIDE in item.nodeid]
    config.hook.pytest_deselected(items=poking)
    items[:] = [item for item in items if item not in poking]


for module, name, ours in [
    (aiogram.fsm.storage.memory, "MemoryStorage", Storage),
    (aiogram.fsm.storage.memory, "SimpleEventIsolation", Isolation),
    (aiogram.dispatcher.dispatcher, "MemoryStorage", Storage),
    (aiogram.dispatcher.dispatcher, "DisabledEventIsolation", Isolation),
]:
    setattr(module, name, ours)
