"""What the adapters keep is found again in stores of last year: these texts stay."""

from __future__ import annotations

from typing import Any

from aiogram.fsm.storage import base

from botsessions.kept import aiogram, telebot, telegram


def test_aiogram() -> None:
    ids: dict[str, Any] = {"chat_id": -100, "user_id": 42, "bot_id": 1}
    key = aiogram.state_key(**ids)
    assert str(key) == "chat=-100/user=42/bot=1/name=aiogram"
    assert key == aiogram.state_key(**ids, destiny=base.DEFAULT_DESTINY)
    key = aiogram.state_key(
        **ids, topic_id=7, business_connection_id="b", destiny="a:b"
    )
    assert str(key) == (
        "chat=-100/user=42/topic=7/business=b/bot=1/name=aiogram%3Aa%3Ab"
    )
    assert aiogram.state_record("s", {"n": 1}) == {"state": "s", "data": {"n": 1}}
    assert aiogram.state_record("s", {}) == {"state": "s"}
    assert aiogram.state_record(None, {"n": 1}) == {"data": {"n": 1}}
    assert aiogram.state_record(None, {}) == {}


def test_telebot() -> None:
    assert str(telebot.state_key(7, 8, None, None, 1)) == (
        "chat=7/user=8/bot=1/name=telebot"
    )
    assert str(telebot.state_key(7, 8, "b", 3, 1)) == (
        "chat=7/user=8/topic=3/business=b/bot=1/name=telebot"
    )
    assert telebot.state_record(None, {}) == {"state": None, "data": {}}


def test_telegram() -> None:
    keys = [
        telegram.user_key(42),
        telegram.chat_key(-100),
        telegram.BOT_KEY,
        telegram.keyboard_key("k-1"),
        telegram.conversation_key("sign up", (-100, 42)),
        telegram.conversation_key("ä@", (1, "@/1")),
    ]
    assert [str(key) for key in keys] == [
        "user=42/name=telegram.user",
        "chat=-100/name=telegram.chat",
        "name=telegram.bot",
        "name=telegram.keyboard@k-1",
        "name=telegram.conversation.sign%2520up@-100@42",
        "name=telegram.conversation.%25C3%25A4%2540@1@s%2540%252F1",
    ]
    keyboard = telegram.Keyboard("k-1", 1.5, ["q"], {"b": 1})
    assert keyboard.record() == {
        "keyboard": "k-1",
        "used": 1.5,
        "queries": ["q"],
        "buttons": {"b": 1},
    }
    assert telegram.Keyboard.of(keyboard.record()) == keyboard
    conversation = telegram.Conversation((-100, 42), "asked")
    assert conversation.record() == {"key": (-100, 42), "state": "asked"}
    assert telegram.Conversation.of(conversation.record()) == conversation
