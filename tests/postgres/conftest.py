"""Schemas of their own for tests on the server they share, and a server to kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import need_postgres
from tests.places import new_name
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def schema() -> str:
    """Return the name of a schema that no other test uses."""
    return new_name()


@pytest.fixture(scope="session")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Return a server that a test may kill, configure, and use up."""
    need_postgres()
    server = PostgresServer(tmp_path_factory.mktemp("own"), max_connections=20)
    yield server
    server.stop()
