"""What a network can do to the word by which PostgreSQL ends a connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.lines import Postgres
from tests.servers import proxy
from tests.servers.proxy import Deed, Proxy, Then, Way
from tests.test_network import KEYS, MARK, count, several_idle

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer


async def test_a_last_word_without_an_end_is_not_taken_for_an_answer(
    postgres_server: PostgresServer,
) -> None:
    """The server says why it ends connections; that they ended comes late."""

    def rule(way: Way, piece: bytes, before: int) -> Deed:
        last = way is Way.REPLY and b"57P01" in piece
        return Deed(None, Then.SILENCE) if last else proxy.PASS

    line = Postgres(postgres_server)
    async with Proxy(line.port) as between, line.store(between.port) as store:
        between.rule = rule
        for _ in range(2):
            await several_idle(store)
            await asyncio.to_thread(line.end_connections)
            await asyncio.sleep(0.1)
            assert between.faults[Way.REPLY, Then.SILENCE] > 2
            assert (await store.update(KEYS[0], count))["mark"] == MARK
