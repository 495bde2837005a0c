"""Records in a PostgreSQL table: for bots of more than one machine.

A batch of writes is one statement run once for each row, in one implicit transaction
and one round trip; rows are locked in the order of their keys, so that two batches
never wait for each other in a circle. Connections are our own (``postgres_pool``):
handing one back to the driver's pool costs another round trip.

Neighbours: ``backend`` (the contract), ``postgres_table`` (table and statements).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg

from botsessions.backend import Page, read_pages
from botsessions.backends.postgres_pool import CUT_OFF, Connections, refused
from botsessions.backends.postgres_table import Statements, prepare
from botsessions.errors import OutcomeUnknownError
from botsessions.record import Loaded, Record, Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from botsessions.record import Write

_Row = tuple[Any, ...]

# Above every character of a key.
_END = "\x7f"
_PAGE_BYTES = 8 * 1024 * 1024

# Serialization failure, deadlock, no lock in time, statement cancelled or timed out:
# the transaction is undone, and another attempt may succeed.
_TRY_AGAIN = frozenset({"40001", "40P01", "55P03", "57014"})
# The server ended the connection; whether it had committed before is not told.
_ENDED = frozenset({"57P01", "57P02", "57P03", "57P05"})


class PostgresBackend:
    """Keeps records in one table of a PostgreSQL database (12 or newer).

    ``dsn`` is what libpq takes (``postgresql://user@host/db?sslmode=verify-full``).
    The table is made at the first opening, under a lock, if it is missing. Each event
    loop that opens this backend has up to ``pool_size`` connections. Behind PgBouncer
    in transaction mode set ``pgbouncer=True``: no statement is then prepared for longer
    than a transaction, and the timeouts are set by the server's own configuration.
    ``statement_timeout`` and ``lock_timeout`` are seconds. Time is the server's clock.
    """

    concurrent_batches = 2

    def __init__(  # noqa: PLR0913 - all but the first have a default
        self,
        dsn: str,
        *,
        schema: str = "public",
        table: str = "botsessions",
        pool_size: int = 8,
        statement_timeout: float = 5.0,
        lock_timeout: float = 2.0,
        application_name: str = "botsessions",
        pgbouncer: bool = False,
    ) -> None:
        self._sql = Statements(schema, table)
        settings = {"application_name": application_name}
        if not pgbouncer:
            settings |= {
                "statement_timeout": f"{statement_timeout * 1000:.0f}",
                "lock_timeout": f"{lock_timeout * 1000:.0f}",
                # A plan made while the table is small would be kept when it has grown.
                "enable_seqscan": "off",
            }
        self._pgbouncer = pgbouncer
        parts = urlsplit(dsn)
        # Where the server is, without a password.
        self._where = f"{parts.hostname or 'localhost'}{parts.path}"
        self._connections = Connections(
            pool_size,
            self._where,
            dsn=dsn,
            server_settings=settings,
            statement_cache_size=0 if pgbouncer else 100,
        )

    def __repr__(self) -> str:
        return f"PostgresBackend({self._where!r}, table={self._sql.name})"

    async def open(self) -> None:
        """Connect, and make the table if it is missing."""
        self._connections.open()
        try:
            async with self._connections.one() as connection:
                await prepare(connection, self._sql)
        except BaseException as exc:
            await self.aclose()
            if isinstance(exc, (*CUT_OFF, asyncpg.PostgresError)):
                raise refused(exc, self._where) from exc
            raise

    async def aclose(self) -> None:
        """Close the connections of this loop once its last store is closed."""
        await self._connections.aclose()

    async def load(self, keys: Sequence[str]) -> Loaded:
        """Read the records with one statement, at one moment."""
        rows = await self._read(self._sql.load, list(keys))
        found = {row[1]: _record(row) for row in rows if row[1] is not None}
        return Loaded(rows[0][0], [found.get(key) for key in keys])

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        """Run one statement for each write, in one transaction and one round trip."""
        statement = (
            self._sql.replace_or_create
            if any(write.expected is None for write in writes)
            else self._sql.replace
        )
        rows = [_parameters(write) for write in sorted(writes, key=_key)]
        try:
            async with self._connections.one() as connection:
                landed = await self._send(connection, statement, rows)
        except asyncpg.PostgresError as exc:
            if exc.sqlstate in _TRY_AGAIN:
                return [False] * len(writes)
            if isinstance(exc, CUT_OFF) or exc.sqlstate in _ENDED:
                raise OutcomeUnknownError(f"the connection ended: {exc}") from exc
            raise refused(exc, self._where) from exc
        return [write.key in landed for write in writes]

    def list_pages(self, prefix: str, after: str, limit: int) -> AsyncIterator[Page]:
        """Read pages of records in the order of their keys."""

        async def read(after: str) -> tuple[Page, bool]:
            bounds = (after, prefix, prefix + _END, limit, _PAGE_BYTES)
            rows = await self._read(self._sql.list, *bounds)
            entries = [(row[1], _record(row)) for row in rows]
            size = sum(len(record.value) for _, record in entries)
            last = len(entries) < limit and size < _PAGE_BYTES
            return Page(rows[0][0] if rows else 0, entries), last

        return read_pages(read, after)

    async def sweep(self, prefix: str, limit: int) -> int:
        """Delete what has been dead for the grace period, but what others lock."""
        return len(await self._read(self._sql.sweep, prefix, prefix + _END, limit))

    async def _send(
        self, connection: asyncpg.Connection, statement: str, rows: list[_Row]
    ) -> set[str]:
        """Run a statement for each row; return the keys that landed."""
        if self._pgbouncer:
            # Prepared and run on one server connection, whichever that is.
            async with connection.transaction():
                answers = await connection.fetchmany(statement, rows)
        elif len(rows) == 1:
            answers = await connection.fetch(statement, *rows[0])
        else:
            answers = await connection.fetchmany(statement, rows)
        return {answer[0] for answer in answers}

    async def _read(self, statement: str, *parameters: Any) -> list[asyncpg.Record]:
        """Run a statement that may be run twice: a connection may have died unseen."""
        try:
            try:
                return await self._fetch(statement, parameters)
            except CUT_OFF:
                return await self._fetch(statement, parameters)
        except (*CUT_OFF, asyncpg.PostgresError) as exc:
            raise refused(exc, self._where) from exc

    async def _fetch(
        self, statement: str, parameters: tuple[Any, ...]
    ) -> list[asyncpg.Record]:
        async with self._connections.one() as connection:
            return await connection.fetch(statement, *parameters)


def _key(write: Write) -> str:
    return write.key


def _parameters(write: Write) -> _Row:
    (counter, token), value, ring, created, end = write.record
    expected = (None, None) if write.expected is None else write.expected
    return (
        counter,
        token,
        value,
        ring,
        created,
        end,
        write.key,
        *expected,
        write.not_after,
    )


def _record(row: asyncpg.Record) -> Record:
    _, _, counter, token, value, ring, created, end = row
    return Record(Version(counter, token), value, ring, created, end)
