"""Records in a PostgreSQL table: for bots of more than one machine.

A batch of writes is one statement run once for each row, in one implicit transaction
and one round trip; rows are locked in the order of their keys, so that two batches
never wait for each other in a circle. Connections are our own (``postgres_pool``):
handing one back to the driver's pool costs another round trip.

Neighbours: ``backend`` (the contract), ``postgres_table`` (table and statements).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from botsessions.backend import Page, read_pages
from botsessions.backends import urls
from botsessions.backends.postgres_errors import (
    CUT_OFF,
    is_cut_off,
    may_try_again,
    refused,
    without_details,
)
from botsessions.backends.postgres_pool import Connections
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


class PostgresBackend:
    """Keeps records in one table of a PostgreSQL database (12 or newer).

    ``dsn`` is what libpq takes (``postgresql://user@host/db?sslmode=verify-full``).
    The table is made at the first opening, under a lock, if it is missing. Each event
    loop that opens this backend has up to ``pool_size`` connections. Behind PgBouncer
    in transaction mode set ``pgbouncer=True``: nothing then lives for longer than a
    transaction on its connections. ``statement_timeout`` and ``lock_timeout`` are
    seconds; the former bounds writes only behind PgBouncer. A server that says nothing
    for twice as long counts as lost. Time is the server's clock.
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
        _check_numbers(pool_size, statement_timeout, lock_timeout)
        settings = {"application_name": application_name}
        timeouts = {
            "statement_timeout": f"{statement_timeout * 1000:.0f}",
            "lock_timeout": f"{lock_timeout * 1000:.0f}",
        }
        # Behind PgBouncer a setting lives as long as a transaction.
        self._begin = ""
        if pgbouncer:
            local = [f"SET LOCAL {name} = {timeouts[name]}" for name in timeouts]
            self._begin = "; ".join(["BEGIN", *local])
        else:
            # A plan made while the table is small would be kept when it has grown.
            settings |= {**timeouts, "enable_seqscan": "off"}
        self._where = _where(dsn)
        # From a server that says nothing at all we want to hear no longer than this.
        patience = 2 * statement_timeout
        self._connections = Connections(
            pool_size,
            self._where,
            dsn=dsn,
            server_settings=settings,
            statement_cache_size=0 if pgbouncer else 100,
            command_timeout=patience,
            timeout=patience,
        )

    def __repr__(self) -> str:
        return f"PostgresBackend({self._where!r}, table={self._sql.name})"

    async def open(self) -> None:
        """Connect, and make the table if it is missing."""
        self._connections.open()
        try:
            try:
                await self._prepare()
            except CUT_OFF:  # all of it may be done twice
                await self._prepare()
        except BaseException as exc:
            await self.aclose()
            if isinstance(exc, (*CUT_OFF, asyncpg.PostgresError)):
                raise refused(exc, self._where) from exc
            raise

    async def _prepare(self) -> None:
        async with self._connections.one() as connection:
            await prepare(connection, self._sql)

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
        except (*CUT_OFF, asyncpg.PostgresError) as exc:
            if may_try_again(exc):
                return [False] * len(writes)
            if is_cut_off(exc):
                without_details(exc)
                raise OutcomeUnknownError(f"the connection ended: {exc!r}") from exc
            raise refused(exc, self._where) from exc
        return [(write.key, write.record.version.token) in landed for write in writes]

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
    ) -> set[tuple[str, int]]:
        """Run a statement for each row; return the keys and tokens that landed."""
        if self._begin:
            await connection.execute(self._begin)
            try:
                answers = await connection.fetchmany(statement, rows)
            except asyncpg.PostgresError:
                await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")
        elif len(rows) == 1:
            answers = await connection.fetch(statement, *rows[0])
        else:
            answers = await connection.fetchmany(statement, rows)
        return {(key, token) for key, token in answers}

    async def _read(self, statement: str, *parameters: Any) -> list[asyncpg.Record]:
        """Run a statement that may be run twice: a connection may have died unseen.

        So may any other that idles, or was given back since: the second time takes a
        new one.
        """
        try:
            try:
                return await self._fetch(statement, parameters)
            except (*CUT_OFF, asyncpg.PostgresError) as exc:
                if not is_cut_off(exc):
                    raise
                return await self._fetch(statement, parameters, anew=True)
        except (*CUT_OFF, asyncpg.PostgresError) as exc:
            raise refused(exc, self._where) from exc

    async def _fetch(
        self, statement: str, parameters: tuple[Any, ...], *, anew: bool = False
    ) -> list[asyncpg.Record]:
        async with self._connections.one(anew=anew) as connection:
            return await connection.fetch(statement, *parameters)


def _check_numbers(
    pool_size: int, statement_timeout: float, lock_timeout: float
) -> None:
    if pool_size < 1:
        raise ValueError("pool_size must be 1 or more")
    for name, seconds in (
        ("statement_timeout", statement_timeout),
        ("lock_timeout", lock_timeout),
    ):
        if not 0.001 <= seconds <= 1_000_000:  # to PostgreSQL, 0 is no limit
            raise ValueError(f"{name} must be 0.001 to 1,000,000 seconds")


def _where(dsn: str) -> str:
    """Return where the server is, without a password."""
    parts = urls.split(dsn)
    urls.check_readable(parts)
    # Not all readers agree on which of several is the end of the password.
    if "@" in urls.login_and_hosts(parts)[0]:
        raise urls.unreadable()
    return f"{parts.hostname or 'localhost'}{parts.path}"


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
