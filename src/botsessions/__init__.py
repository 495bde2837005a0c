"""Durable, atomic sessions for chat bots: four verbs, exact types, any backend.

    import botsessions as bs

    async with bs.open_store("sqlite:///sessions.db") as store:
        key = bs.chat_user_key(update)
        await store.update(key, lambda s: {**s, "seen": s.get("seen", 0) + 1})

All public names are here. The rooms below, each importing only what is under it: cli ·
open, transfer and adapters · sync_store · store and backends · lock · engine · backend
(the contract) and codec · derive and kept · keys, updates, record · errors. Names are
loaded at first use, so that importing this package loads no driver and costs next to
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botsessions.backend import (
        Backend,
        Page,
        SupportsListing,
        SupportsLoadingNow,
        SupportsSweeping,
    )
    from botsessions.backends.memory import MemoryBackend
    from botsessions.backends.postgres import PostgresBackend
    from botsessions.backends.redis import RedisBackend
    from botsessions.backends.sqlite import SQLiteBackend
    from botsessions.codec import Codec
    from botsessions.derive import (
        chat_key,
        chat_user_key,
        topic_key,
        topic_user_key,
        user_key,
    )
    from botsessions.errors import (
        BackendError,
        BackendUnavailableError,
        CodecError,
        ConflictError,
        CorruptRecordError,
        InvalidKeyError,
        InvalidSessionError,
        InvalidUpdateDocumentError,
        InvalidUpdateError,
        LockLostError,
        LockTimeoutError,
        MissingChatId,
        MissingDependencyError,
        MissingKeyPart,
        MissingUserId,
        OutcomeUnknownError,
        OverloadedError,
        SessionError,
        SessionTooLargeError,
        StoreClosedError,
        UnsupportedValueError,
    )
    from botsessions.keys import SessionKey
    from botsessions.lock import Lock
    from botsessions.open import open_store, open_sync_store
    from botsessions.record import Loaded, Record, Version, Write
    from botsessions.store import SessionStore
    from botsessions.sync_store import SyncLock, SyncSessionStore
    from botsessions.updates import Origin, origin

__version__ = "0.1.0"

# Where each public name lives. A test holds this to the imports above.
_HOMES = {
    "backend": (
        "Backend",
        "Page",
        "SupportsListing",
        "SupportsLoadingNow",
        "SupportsSweeping",
    ),
    "backends.memory": ("MemoryBackend",),
    "backends.postgres": ("PostgresBackend",),
    "backends.redis": ("RedisBackend",),
    "backends.sqlite": ("SQLiteBackend",),
    "codec": ("Codec",),
    "derive": ("chat_key", "chat_user_key", "topic_key", "topic_user_key", "user_key"),
    "errors": (
        "BackendError",
        "BackendUnavailableError",
        "CodecError",
        "ConflictError",
        "CorruptRecordError",
        "InvalidKeyError",
        "InvalidSessionError",
        "InvalidUpdateDocumentError",
        "InvalidUpdateError",
        "LockLostError",
        "LockTimeoutError",
        "MissingChatId",
        "MissingDependencyError",
        "MissingKeyPart",
        "MissingUserId",
        "OutcomeUnknownError",
        "OverloadedError",
        "SessionError",
        "SessionTooLargeError",
        "StoreClosedError",
        "UnsupportedValueError",
    ),
    "keys": ("SessionKey",),
    "lock": ("Lock",),
    "open": ("open_store", "open_sync_store"),
    "record": ("Loaded", "Record", "Version", "Write"),
    "store": ("SessionStore",),
    "sync_store": ("SyncLock", "SyncSessionStore"),
    "updates": ("Origin", "origin"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backend",
    "BackendError",
    "BackendUnavailableError",
    "Codec",
    "CodecError",
    "ConflictError",
    "CorruptRecordError",
    "InvalidKeyError",
    "InvalidSessionError",
    "InvalidUpdateDocumentError",
    "InvalidUpdateError",
    "Loaded",
    "Lock",
    "LockLostError",
    "LockTimeoutError",
    "MemoryBackend",
    "MissingChatId",
    "MissingDependencyError",
    "MissingKeyPart",
    "MissingUserId",
    "Origin",
    "OutcomeUnknownError",
    "OverloadedError",
    "Page",
    "PostgresBackend",
    "Record",
    "RedisBackend",
    "SQLiteBackend",
    "SessionError",
    "SessionKey",
    "SessionStore",
    "SessionTooLargeError",
    "StoreClosedError",
    "SupportsListing",
    "SupportsLoadingNow",
    "SupportsSweeping",
    "SyncLock",
    "SyncSessionStore",
    "UnsupportedValueError",
    "Version",
    "Write",
    "__version__",
    "chat_key",
    "chat_user_key",
    "open_store",
    "open_sync_store",
    "origin",
    "topic_key",
    "topic_user_key",
    "user_key",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'botsessions' has no attribute {name!r}")
    value = getattr(import_module(f"botsessions.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
