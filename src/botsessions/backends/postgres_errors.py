"""What PostgreSQL and its driver say, in our words; used by the ``postgres`` files.

Of an error of the server only the message is passed on: its details may quote a row, so
they are taken out of the cause as well.
"""

from __future__ import annotations

import ssl

import asyncpg

from botsessions.errors import BackendError, BackendUnavailableError

# What the driver raises when the connection ended, or never came to be. It takes the
# server's last word on an idle one for an answer, and is confused by the next question.
CUT_OFF = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
# What it raises while it connects, if a host or a port is none.
NO_PLACE = (ValueError, OverflowError)
# The server ended the connection; whether it had committed before is not told.
_ENDED = frozenset({"57P01", "57P02", "57P03", "57P05"})
# Serialization failure, deadlock, no lock in time, statement cancelled or timed out:
# the transaction is undone, and another attempt may succeed.
_TRY_AGAIN = frozenset({"40001", "40P01", "55P03", "57014"})
# One row may be to blame: its data, a constraint, its size, a damaged page. Anything
# else would befall every row alike.
_OF_A_ROW = frozenset({"22", "23", "54", "XX"})

_PGBOUNCER = "behind PgBouncer open the store with pgbouncer=True"
_REMEDIES = {
    "25006": (
        "name a server that takes writes, or all of them (host1,host2) with "
        "target_session_attrs=read-write"
    ),
    "26000": _PGBOUNCER,
    "28000": "check the user in the URL, and that pg_hba.conf lets it in from here",
    "28P01": "check the user and the password in the URL",
    "3D000": "correct its name in the URL, or create it",
    "42501": "grant this user SELECT, INSERT, UPDATE and DELETE on the table",
    "42704": "take out of the URL what asyncpg does not know",
    "42P01": "open the store again to make the table",
    "42P05": _PGBOUNCER,
    "53300": "lower pool_size, or raise max_connections",
}
_HOST_MISMATCH = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, …_IP_ADDRESS_…


def is_cut_off(exc: Exception) -> bool:
    """Tell whether the connection ended, and with it the knowledge of what was done."""
    return isinstance(exc, CUT_OFF) or _state(exc) in _ENDED


def is_answer(exc: BaseException) -> bool:
    """Tell whether the server said so on a connection that can be used again.

    One to a server that only reads is not to be used again: where a replica is now, the
    primary may have been, and a new connection may find it.
    """
    return (
        isinstance(exc, asyncpg.PostgresError)
        and not isinstance(exc, asyncpg.ReadOnlySQLTransactionError)
        and not is_cut_off(exc)
    )


def may_try_again(exc: Exception) -> bool:
    """Tell whether nothing was done, and another attempt may succeed."""
    return _state(exc) in _TRY_AGAIN


def refused(exc: Exception, where: str) -> BackendError:
    """Return our error for one of the driver's that certainly wrote nothing.

    That is to be the cause of it, so it loses its details.
    """
    state, said = _state(exc), _said(exc)
    without_details(exc)
    if state[:2] in _OF_A_ROW:
        return BackendError(f"PostgreSQL refused ({state}): {said}")
    return BackendUnavailableError(
        f"PostgreSQL at {where} cannot be used: {said}; {_remedy(exc, state)}"
    )


def without_details(exc: Exception) -> None:
    """Take out of an error what may quote a row: a traceback in a log would show it."""
    if isinstance(exc, asyncpg.PostgresError):
        exc.detail = None


def _state(exc: Exception) -> str:
    return getattr(exc, "sqlstate", None) or ""


def _said(exc: Exception) -> str:
    if isinstance(exc, TimeoutError) and not exc.args:
        return "no answer in time"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted, {exc.verify_message}"
    if isinstance(exc, (asyncpg.PostgresError, asyncpg.InterfaceError)) and exc.args:
        return str(exc.args[0])
    return str(exc) or type(exc).__name__


def _remedy(exc: Exception, state: str) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        if exc.verify_code in _HOST_MISMATCH:
            return "name the server in the URL as its certificate does"
        return "give the CA that signed it with sslrootcert=/path/to/ca.pem"
    if isinstance(exc, ConnectionError) and "rejected SSL" in str(exc):
        return "switch TLS on there (ssl = on), or do without by sslmode=disable"
    if "startup parameter" in str(exc):
        return _PGBOUNCER
    if isinstance(exc, (FileNotFoundError, *NO_PLACE)):
        return "correct the URL; sslrootcert, sslcert and sslkey name files"
    return _REMEDIES.get(state, "check that it runs and lets this user in")
