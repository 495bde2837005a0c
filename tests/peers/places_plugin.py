"""A pytest plugin: each test runs once in each place where sessions can live.

Loaded by ``-p places_plugin`` with this folder on PYTHONPATH. The places are the URLs
in ``BOTSESSIONS_PEER_URLS``, one on a line; memory unless told. The plugins for the
frameworks ask for stores here, which are empty, and closed when the test is over.
"""

from __future__ import annotations

import itertools
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

import botsessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

URLS = os.environ.get("BOTSESSIONS_PEER_URLS", "memory://").splitlines()

_numbers = itertools.count()
_url = URLS[0]
_stores: list[botsessions.SessionStore] = []


def new_place() -> Callable[..., botsessions.SessionStore]:
    """Return what makes stores in the place of this test, apart from all others.

    It takes the options of ``open_store``. In memory each store is its own.
    """
    # Processes that run tests beside each other share the place.
    namespace = f"{os.getpid()}.{next(_numbers)}"
    return partial(botsessions.open_store, _url, namespace=namespace)


def closed_afterwards(store: botsessions.SessionStore) -> botsessions.SessionStore:
    """Let a store be closed when the test is over."""
    _stores.append(store)
    return store


def store_of_test() -> botsessions.SessionStore:
    """Return the store of this test, a new one for the first who asks."""
    return _stores[0] if _stores else closed_afterwards(new_place()())


@pytest.fixture(autouse=True, params=URLS, ids=lambda url: url.partition(":")[0])
async def _place(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    global _url  # noqa: PLW0603 - classes that take no arguments need it
    _url = request.param
    yield
    while _stores:
        await _stores.pop().aclose()
