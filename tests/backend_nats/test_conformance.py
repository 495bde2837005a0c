"""The example keeps the contract: each check of the kit but for a clock to be set."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from examples.backend_nats import NatsBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from botsessions.conformance.subject import Make
    from tests.servers.nats import NatsServer


def test_the_backend_keeps_the_contract(
    conformance_check: Callable[[Make], None], nats_server: NatsServer
) -> None:
    conformance_check(partial(NatsBackend, nats_server.url))
