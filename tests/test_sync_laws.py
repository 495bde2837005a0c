"""The laws of the store once more, over its blocking face, called from threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pytest

import botsessions as bs
from tests.places import Memory, Place, Redis, SQLite
from tests.test_laws import *  # noqa: F403 - each of them is a test here as well

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

# They are about event loops, or about what happens before the first await.
del test_a_store_is_made_without_a_loop_and_belongs_to_the_one_it_was_opened_on  # noqa: F821
del test_law_1_function_runs_synchronously_in_the_callers_context  # noqa: F821
del test_law_5_what_is_handed_in_can_be_changed_afterwards  # noqa: F821
# They are about the order of calls at one moment, which threads do not have.
del test_law_2_other_callers_of_the_key_are_not_disturbed  # noqa: F821
del test_law_3_verbs_of_one_key_take_effect_in_call_order  # noqa: F821
del test_law_11_work_in_flight_is_finished  # noqa: F821


async def on_a_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function that blocks."""

    def call() -> T:
        try:
            return function(*args)
        except StopIteration as exc:
            raise RuntimeError("raised StopIteration") from exc  # as PEP 479 has it

    return await asyncio.to_thread(call)


class Awaited:
    """A blocking store whose calls can be awaited."""

    def __init__(self, store: bs.SyncSessionStore) -> None:
        self._store = store
        self._backend = store._store._backend

    async def get(self, *args: Any) -> Any:
        return await on_a_thread(self._store.get, *args)

    async def put(self, *args: Any) -> Any:
        return await on_a_thread(self._store.put, *args)

    async def update(self, *args: Any) -> Any:
        return await on_a_thread(self._store.update, *args)

    async def delete(self, *args: Any) -> Any:
        return await on_a_thread(self._store.delete, *args)

    async def delete_expired(self) -> int:
        return await on_a_thread(self._store.delete_expired)

    def keys(self, **parts: Any) -> AsyncIterator[Any]:
        return _steps(self._store.keys(**parts))

    def items(self, **parts: Any) -> AsyncIterator[Any]:
        return _steps(self._store.items(**parts))

    async def aclose(self) -> None:
        await on_a_thread(self._store.close)

    async def __aenter__(self) -> Self:
        await on_a_thread(self._store.__enter__)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return repr(self._store)


async def _steps(walk: Iterator[T]) -> AsyncIterator[T]:
    while (step := await on_a_thread(next, walk, None)) is not None:
        yield step


@pytest.fixture(params=[Memory, SQLite, Redis], ids=lambda kind: kind.__name__)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """Return a place whose stores block."""
    kind = request.param
    server = [] if kind.server is None else [request.getfixturevalue(kind.server)]
    made: Place = kind(tmp_path, *server)

    def store(**options: Any) -> Awaited:
        return Awaited(bs.SyncSessionStore(made.backend(), **options))

    monkeypatch.setattr(made, "store", store)
    return made
