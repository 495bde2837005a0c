"""A pytest plugin for aiogram's own suite: our storage and isolation in place of its.

Loaded by ``-p aiogram_plugin`` with this folder on PYTHONPATH, it puts classes of ours
in the place of those that keep all in memory, and of the isolation that isolates
nothing, before aiogram's conftest imports them. ``BOTSESSIONS_PEER_URL`` says where
they keep things: ``memory://`` unless told, or ``sqlite:///…``, a new file.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import aiogram.dispatcher.dispatcher
import aiogram.fsm.storage.memory
import pytest

import botsessions
from botsessions.adapters.aiogram import SessionIsolation, SessionStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_URL = os.environ.get("BOTSESSIONS_PEER_URL", "memory://")
# They reach for the dict inside of a MemoryStorage.
_POKES_INSIDE = "test_context.py::TestFSMContext::test_address_mapping"

_numbers = itertools.count()
_stores: list[botsessions.SessionStore] = []


def store_of_test() -> botsessions.SessionStore:
    """Return the store of this test, a new one for the first who asks."""
    if not _stores:
        _stores.append(botsessions.open_store(_URL, namespace=f"n{next(_numbers)}"))
    return _stores[0]


class Storage(SessionStorage):
    """Made without arguments, as a MemoryStorage is."""

    def __init__(self) -> None:
        super().__init__(store_of_test())


class Isolation(SessionIsolation):
    """Made without arguments, as a SimpleEventIsolation is."""

    def __init__(self) -> None:
        super().__init__(store_of_test())


@pytest.fixture(autouse=True)
async def _close_store() -> AsyncIterator[None]:
    yield
    while _stores:
        await _stores.pop().aclose()


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what cannot be asked of a foreign storage."""
    poking = [item for item in items if item.nodeid.endswith(_POKES_INSIDE)]
    config.hook.pytest_deselected(items=poking)
    items[:] = [item for item in items if item not in poking]


for module, name, ours in [
    (aiogram.fsm.storage.memory, "MemoryStorage", Storage),
    (aiogram.fsm.storage.memory, "SimpleEventIsolation", Isolation),
    (aiogram.dispatcher.dispatcher, "MemoryStorage", Storage),
    (aiogram.dispatcher.dispatcher, "DisabledEventIsolation", Isolation),
]:
    setattr(module, name, ours)
