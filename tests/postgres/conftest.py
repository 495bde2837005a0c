"""Schemas of their own for tests on the server they share, and a server to kill."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.conftest import missing
from tests.servers.postgres import PostgresServer, programs

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count(1)


@pytest.fixture
def schema() -> str:
    """Return the name of a schema that no other test uses."""
    return f"alone{next(_numbers)}"


@pytest.fixture(scope="session")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Return a server that a test may kill, configure, and use up."""
    if programs() is None:
        missing("PostgreSQL (apt-get install postgresql)")
    server = PostgresServer(tmp_path_factory.mktemp("own"), max_connections=20)
    yield server
    server.stop()
