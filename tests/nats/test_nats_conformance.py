"""The example keeps the contract: each check of the kit but for a clock to be set."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from botsessions.conformance import CHECKS, Check, Status
from examples.backend_nats import NatsBackend

if TYPE_CHECKING:
    from tests.servers.nats import NatsServer

# Time is the server's, which has no way to set it; and nothing is on this machine.
NOT_SUPPORTED = {
    "a_session_ends_at_its_millisecond",
    "a_clock_set_back_revives_nothing",
    "a_clock_set_back_loses_nothing",
    "loading_now_is_loading",
    "inline_and_contract_agree",
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_the_example_keeps_the_contract(nats_server: NatsServer, check: Check) -> None:
    result = check.run(partial(NatsBackend, nats_server.url))
    lacks = check.name in NOT_SUPPORTED
    right = Status.NOT_SUPPORTED if lacks else Status.PASSED
    assert result.status is right, str(result)
