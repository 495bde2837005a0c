"""Locks on sessions: exclusive for a while, across tasks, processes and machines.

A lock is a record beside the session that it guards, made and renewed through the same
engine, and dead by itself once its lease is over. Changes under it are *fenced*: they
are loaded together with that record and may land only while it lives, by the backend's
own clock. It is the process that has a lock, for its *tenure*: callers take turns in
it, only the first of them asks the backend, and a moment after the last the lock is
given back.

Rooms: ``held`` (what a holder has), ``turns`` (who has the turn within the process),
``locks`` (getting, keeping and giving back). ``store`` (above) hands locks out;
``engine.batched`` (below) does the work.
"""

from botsessions.lock.held import Lock, Locking
from botsessions.lock.locks import BEHIND_LOCKS, MARK, Locks
from botsessions.lock.turns import Claim

__all__ = ["BEHIND_LOCKS", "MARK", "Claim", "Lock", "Locking", "Locks"]
