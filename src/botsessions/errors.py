"""Every error a caller can meet, in one tree.

SessionError
├── MissingKeyPart ── MissingChatId, MissingUserId
├── InvalidUpdateDocumentError (ValueError)
├── InvalidKeyError (ValueError)
├── InvalidSessionError (TypeError) · InvalidUpdateError (TypeError)
├── CodecError ── UnsupportedValueError, CorruptRecordError
├── SessionTooLargeError (ValueError)
├── ConflictError · OutcomeUnknownError · OverloadedError
├── LockTimeoutError · LockLostError
├── MissingDependencyError (ImportError)
└── BackendError ── BackendUnavailableError, StoreClosedError

The driver's exception is the cause (``raise … from exc``). Messages never hold the
contents of a session or a password. This module imports nothing of ours.
"""


class SessionError(Exception):
    """The root: ``except SessionError`` catches whatever botsessions raises."""


class MissingKeyPart(SessionError):  # noqa: N818 - named after the part that is missing
    """An update does not say what the asked-for key needs."""


class MissingChatId(MissingKeyPart):
    """The update belongs to no chat (an inline query, a poll, a payment)."""


class MissingUserId(MissingKeyPart):
    """The update names no person (a channel post, an anonymous sender, a poll)."""


class InvalidUpdateDocumentError(SessionError, ValueError):
    """What was given is no update, or one of its ids is malformed."""


class InvalidKeyError(SessionError, ValueError):
    """No ``SessionKey``: a part out of its range, or a text ``parse`` cannot read."""


class InvalidSessionError(SessionError, TypeError):
    """A session must be a mapping, given to ``put`` or returned by a function."""


class InvalidUpdateError(SessionError, TypeError):
    """``update`` needs a plain function of one argument; nothing was written."""


class CodecError(SessionError):
    """A session and its stored bytes could not be turned into each other."""


class UnsupportedValueError(CodecError, TypeError):
    """A value that cannot come back exactly as it is; the message holds its path."""


class CorruptRecordError(CodecError):
    """Stored bytes that are no session; ``put`` or ``delete`` may replace them.

    ``unknown_type`` is the tag of a type that nobody has registered, if that is why:
    then nothing is wrong with the session.
    """

    def __init__(self, message: str = "", *, unknown_type: str | None = None) -> None:
        super().__init__(message)
        self.unknown_type = unknown_type


class SessionTooLargeError(SessionError, ValueError):
    """The encoded session exceeds ``max_session_bytes``; nothing was written."""


class ConflictError(SessionError):
    """Other processes kept changing the key until the deadline; nothing was written."""


class OutcomeUnknownError(SessionError):
    """The change may have been applied once, or not at all, and never more often."""


class OverloadedError(SessionError):
    """Too many calls are waiting (``max_pending``); this one did nothing."""


class LockTimeoutError(SessionError):
    """The lock was not free within ``timeout``."""


class LockLostError(SessionError):
    """The lease ran out or was taken while the holder still worked under it."""


class MissingDependencyError(SessionError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""


class BackendError(SessionError):
    """The backend failed; nothing of this call was written."""


class BackendUnavailableError(BackendError):
    """The backend cannot be reached or opened; nothing of this call was written."""


class StoreClosedError(BackendError):
    """The store was closed; open a new one."""
