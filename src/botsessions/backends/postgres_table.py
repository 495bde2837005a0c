"""The table of a PostgreSQL store: its statements, its making, its version.

Used by ``postgres``. Names of schemas and tables come from the application and are
quoted; everything else travels as a parameter.
"""

from __future__ import annotations

import re

import asyncpg

from botsessions.errors import BackendUnavailableError
from botsessions.record import GRACE_MS

SCHEMA_VERSION = 1

# What the server's clock says, in milliseconds. Not now(): that stands still during a
# transaction, and a write may have waited in it for a lock.
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

# Serializes the making of tables by many processes that start at once ("botsessi").
_LOCK = 0x626F747365737369

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


class Statements:
    """The SQL for one table. A record's columns stand in the order of ``COLUMNS``."""

    def __init__(self, schema: str, table: str) -> None:
        for name in (schema, table):
            if _NAME.fullmatch(name) is None:
                raise ValueError(
                    f"{name[:80]!r} is no name for a schema or table: use 1 to 63 "
                    "letters, digits, _ and $, not beginning with a digit"
                )
        self.schema = schema
        self.table = table
        self.name = f'"{schema}"."{table}"'
        record = "v, t, b, r, c, e"
        # One row comes even if no key is there: the clock is always asked for.
        self.load = (
            f"SELECT {_NOW}, k, {record} FROM (SELECT) AS one "
            f"LEFT JOIN {self.name} ON k = ANY ($1::text[])"
        )
        self.replace = (
            f"UPDATE {self.name} SET v = $1, t = $2, b = $3, r = $4, c = $5, e = $6 "
            f"WHERE k = $7 AND v = $8 AND t = $9 AND {_NOW} < $10 RETURNING k, t"
        )
        # Also for writes that expect no record ($8 is NULL): one statement for both, so
        # that a batch of both is one transaction, in the order of its keys.
        self.replace_or_create = (
            f"WITH replaced AS ({self.replace}), created AS ("
            f"INSERT INTO {self.name} ({record}, k) "
            "SELECT $1, $2, $3, $4, $5, $6, $7 "
            f"WHERE $8 IS NULL AND {_NOW} < $10 ON CONFLICT (k) DO NOTHING "
            "RETURNING k, t) SELECT * FROM replaced UNION ALL SELECT * FROM created"
        )
        self.list = (
            f"SELECT {_NOW}, k, {record} FROM (SELECT *, "
            "sum(length(b)) OVER (ORDER BY k) - length(b) AS before FROM ("
            f"SELECT * FROM {self.name} WHERE k > $1 AND k >= $2 AND k < $3 "
            "ORDER BY k LIMIT $4) AS page) AS sized WHERE before < $5 ORDER BY k"
        )
        self.sweep = (
            f"DELETE FROM {self.name} WHERE ctid = ANY (ARRAY("
            f"SELECT ctid FROM {self.name} WHERE e <= {_NOW} - {GRACE_MS} "
            "AND k >= $1 AND k < $2 LIMIT $3 FOR UPDATE SKIP LOCKED)) RETURNING 1"
        )
        self.make = f"""
CREATE TABLE {self.name} (
    k text COLLATE "C" PRIMARY KEY,  -- namespace/key, in the order of its bytes
    v bigint NOT NULL,               -- version: counter
    t bigint NOT NULL,               -- version: token
    r bytea NOT NULL,                -- ring: tokens of the versions before
    c bigint NOT NULL,               -- created, ms since the epoch
    e bigint,                        -- dead from then on, ms; NULL = never
    b bytea NOT NULL                 -- the sealed session; empty = deleted
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {self.name} ALTER b SET STORAGE MAIN;
CREATE INDEX "{table[:61]}_e" ON {self.name} (e) WHERE e IS NOT NULL;
COMMENT ON TABLE {self.name} IS 'botsessions schema {SCHEMA_VERSION}';
"""


async def prepare(connection: asyncpg.Connection, statements: Statements) -> None:
    """Make the table if it is missing; refuse one that is not ours, or newer."""
    if await _is_there(connection, statements):
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        if await _is_there(connection, statements):
            return  # another process was faster
        make = statements.make
        # IF NOT EXISTS would ask for the right to make one even if it is there.
        schema = statements.schema
        is_there = "SELECT FROM pg_namespace WHERE nspname = $1"
        if not await connection.fetch(is_there, schema):
            make = f'\nCREATE SCHEMA "{schema}";{make}'
        try:
            await connection.execute(make)
        except asyncpg.InsufficientPrivilegeError as exc:
            raise BackendUnavailableError(
                f"the table {statements.name} is missing, and this user may not make "
                f"it ({exc.args[0]}). Let an administrator run this, and grant SELECT, "
                f"INSERT, UPDATE and DELETE on it:{make}"
            ) from exc


async def _is_there(connection: asyncpg.Connection, statements: Statements) -> bool:
    comment = await connection.fetchrow(
        "SELECT obj_description(c.oid, 'pg_class') FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND c.relname = $2",
        statements.schema,
        statements.table,
    )
    if comment is None:
        return False
    found = re.fullmatch(r"botsessions schema (\d+)", comment[0] or "")
    if found is None:
        raise BackendUnavailableError(
            f"the table {statements.name} is there and is not ours; choose another "
            "with table=… or schema=…"
        )
    if int(found[1]) > SCHEMA_VERSION:
        raise BackendUnavailableError(
            f"the table {statements.name} was written by a newer botsessions (schema "
            f"{found[1]}, this one knows {SCHEMA_VERSION}); upgrade this program"
        )
    return True
