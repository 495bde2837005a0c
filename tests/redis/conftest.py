"""Namespaces of their own for tests on the servers they share, and servers to break.

This directory is no package on purpose: pytest would put its parent first on the path,
and ``import redis`` would find these tests instead of the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import need_redis
from tests.places import new_name
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def namespace() -> str:
    """Return a namespace that no other test uses."""
    return new_name()


@pytest.fixture(scope="session")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a server that a test may kill, configure, and fill up."""
    need_redis()
    server = RedisServer(tmp_path_factory.mktemp("own"))
    yield server
    server.stop()
