"""What MessagePack keeps exactly, at C speed; the options that make it refuse the rest.

Used by the codec itself, by ``rich``, and by the short cut of ``engine.inline``.
"""

from __future__ import annotations

import ormsgpack

# Makes ormsgpack raise TypeError on whatever it would otherwise change in silence. Keys
# other than exact str raise as well, because OPT_NON_STR_KEYS is not set. What passes
# all the same and must not: bytearray, memoryview (they become bytes), Ext, Fragment.
PLAIN = (
    ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_BIG_INT
)

# The marker of short binary values. A body of at most SHORT bytes without it holds no
# bytes, bytearray or memoryview.
BIN8 = 0xC4
SHORT = 255
BIN16, BIN32 = 0xC5, 0xC6

# The body of a session without anything in it.
EMPTY = b"\x80"
