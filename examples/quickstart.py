"""The whole of it: a store, the key of an update, an atomic change.

Run it several times: what it counts is still there.
"""

import asyncio

import botsessions as bs

UPDATE = {
    "update_id": 10000,
    "message": {
        "message_id": 1365,
        "from": {"id": 1111, "is_bot": False, "first_name": "Ada"},
        "chat": {"id": 1111, "type": "private", "first_name": "Ada"},
        "date": 1777874400,
        "text": "/start",
    },
}


async def main() -> None:
    """Count how often Ada was seen."""
    async with bs.open_store("sqlite:///sessions.db") as store:
        key = bs.chat_user_key(UPDATE)
        session = await store.update(key, lambda s: {**s, "seen": s.get("seen", 0) + 1})
    print(f"{key} was seen {session['seen']} times")


if __name__ == "__main__":
    asyncio.run(main())
