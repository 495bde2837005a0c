"""The sessions that are measured, and the function that changes them."""

from __future__ import annotations

from typing import Any

import ormsgpack

COUNTER: dict[str, Any] = {"seen": 41}

# What most sessions look like: where the conversation is, and what the user said.
FLAT: dict[str, Any] = {
    "step": "confirm_address",
    "lang": "de",
    "name": "Alexandra",
    "seen": 42,
    "total": 1999,
    "email": "alexandra@example.com",
    "order": "2026-11-22-000123",
    "subscribed": True,
    "city": "Hamburg",
    "zip": "20095",
    "phone": "+49401234",
}

# The same size with lists and dicts inside, which cost every codec more.
NESTED: dict[str, Any] = {
    "step": "checkout",
    "lang": "de",
    "seen": 42,
    "cart": [
        {"sku": "A-1001", "qty": 2, "price": 1999},
        {"sku": "B-7", "qty": 1, "price": 450},
    ],
    "address": {"city": "Hamburg", "zip": "20095", "street": "Deichstr. 1"},
    "subscribed": True,
    "phone": "+49401234",
}

SESSIONS = {"counter": COUNTER, "163 B flat": FLAT, "163 B nested": NESTED}
SIZE = 163


def increment(session: dict[str, Any]) -> dict[str, Any]:
    return {**session, "seen": session["seen"] + 1}


def check() -> None:
    for name in ("163 B flat", "163 B nested"):
        size = len(ormsgpack.packb(SESSIONS[name]))
        assert size == SIZE, (name, size)
