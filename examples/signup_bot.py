"""A bakery's bot as a pure function: of a session and an update, the next session.

It signs people up step by step, keeps their cart, and counts. All that it needs to know
is in the session, so it may be killed at any moment and goes on in the same step. To
send the answers is the business of who calls it.

    botsessions replay examples/updates.jsonl --handler examples.signup_bot:handle
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Session = dict[str, Any]
Update = dict[str, Any]

PRICES = {
    "croissant": Decimal("2.40"),
    "rye": Decimal("5.90"),
    "baguette": Decimal("3.10"),
    "pretzel": Decimal("1.80"),
    "cake": Decimal("24.50"),
}
NEW_CUSTOMER: Session = {
    "step": "name",
    "name": None,
    "email": None,
    "language": None,
    "mistakes": 0,
    "visits": 0,
    "cart": (),
    "orders": (),
    "favourites": frozenset(),
}
_is_email = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]+").fullmatch


def handle(session: Session, update: Update) -> Session:
    """Return the session after an update; what it does not know it only counts."""
    session = {**session, "updates": session.get("updates", 0) + 1}
    match update:
        case {"message": {"date": int(date)} as message}:
            seen = datetime.fromtimestamp(date, UTC)
            return on_message({**session, "last_seen": seen}, message)
        case {"callback_query": {"data": str(data)}}:
            return on_button(session, data)
    return session


def on_message(session: Session, message: dict[str, Any]) -> Session:
    """Take what is said in the private chat; elsewhere nothing more is to do."""
    match message:
        case {"successful_payment": {"total_amount": int(cents)}}:
            return on_payment(session, Decimal(cents).scaleb(-2))
        case {"chat": {"type": "private"}, "text": "/start"}:
            session = {**NEW_CUSTOMER, **session}
            return {**session, "visits": session["visits"] + 1}
        case {"chat": {"type": "private"}, "text": str(text)}:
            return on_answer(session, text.strip())
    return session


def on_answer(session: Session, text: str) -> Session:
    """Take an answer for what was asked; a wrong one leaves the step as it is."""
    match session.get("step"):
        case "name":
            return {**session, "name": text[:64], "step": "email"}
        case "email" if _is_email(text):
            return {**session, "email": text, "step": "language"}
        case "email":
            return {**session, "mistakes": session["mistakes"] + 1}
    return session


def on_button(session: Session, data: str) -> Session:
    """Take what a button says: ``language:de``, ``add:rye``."""
    what, _, value = data.partition(":")
    if what == "language" and session.get("step") == "language":
        return {**session, "language": value, "step": "done"}
    if what == "add" and value in PRICES:
        line = (value, PRICES[value])
        return {**session, "cart": (*session.get("cart", ()), line)}
    return session


def on_payment(session: Session, amount: Decimal) -> Session:
    """Turn the cart into an order."""
    cart = session.get("cart", ())
    order = (session["last_seen"].date(), amount, cart)
    return {
        **session,
        "cart": (),
        "orders": (*session.get("orders", ()), order),
        "favourites": session.get("favourites", frozenset())
        | {item for item, _ in cart},
    }
