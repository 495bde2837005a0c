"""A bot of python-telegram-bot in a process of its own: it counts, and asks questions.

    telegram_bot.py URL-OF-THE-BOT-API URL-OF-A-STORE preload|lazy
    telegram_bot.py URL-OF-THE-BOT-API FILE stock|one-by-one

A stock one keeps all in the framework's pickle; the latter has no concurrent updates,
which is the framework's default.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from telegram.ext import (
    ApplicationBuilder,
    CommandHandler,
    ContextTypes,
    ConversationHandler,
    MessageHandler,
    PicklePersistence,
    filters,
)

import botsessions as bs
from botsessions.adapters.telegram import SessionPersistence, SessionUpdateProcessor

if TYPE_CHECKING:
    from telegram import Update

Context = ContextTypes.DEFAULT_TYPE
NAME, AGE = range(2)


async def answer(update: Update, text: str) -> None:
    assert update.effective_message is not None
    await update.effective_message.reply_text(text)


def said(update: Update) -> str:
    assert update.effective_message is not None
    return update.effective_message.text or ""


async def start(update: Update, context: Context) -> int:
    await answer(update, "Who are you?")
    return NAME


async def name(update: Update, context: Context) -> int:
    assert context.user_data is not None
    context.user_data["name"] = said(update)
    await answer(update, "How old?")
    return AGE


async def age(update: Update, context: Context) -> int:
    assert context.user_data is not None
    await answer(update, f"{context.user_data['name']} is {said(update)}")
    return ConversationHandler.END


async def count(update: Update, context: Context) -> None:
    """Count what this user said, and all that anybody said here."""
    assert context.user_data is not None
    assert context.chat_data is not None
    number = context.user_data.get("n", 0)
    await asyncio.sleep(0.01)
    context.user_data["n"] = number + 1
    await answer(update, f"{number + 1}")


async def remember(update: Update, context: Context) -> None:
    """Keep ``/set NAME VALUE`` for the chat."""
    assert context.chat_data is not None
    assert context.args is not None
    context.chat_data[context.args[0]] = context.args[1]
    await answer(update, "ok")


async def show(update: Update, context: Context) -> None:
    assert context.chat_data is not None
    await answer(update, str(sorted(context.chat_data.items())))


def handlers() -> list[Any]:
    text = filters.TEXT & ~filters.COMMAND
    return [
        CommandHandler("count", count),
        CommandHandler("set", remember),
        CommandHandler("show", show),
        ConversationHandler(
            entry_points=[CommandHandler("start", start)],
            states={
                NAME: [MessageHandler(text, name)],
                AGE: [MessageHandler(text, age)],
            },
            fallbacks=[],
            name="form",
            persistent=True,
        ),
    ]


def main() -> None:
    api, where, how = sys.argv[1:]
    builder = ApplicationBuilder().token("1:a").base_url(f"{api}/bot")
    if how in {"stock", "one-by-one"}:
        builder.persistence(PicklePersistence(where))
        builder.concurrent_updates(how == "stock")
    else:
        store = bs.open_store(where)
        builder.persistence(SessionPersistence(store, preload=how == "preload"))
        builder.concurrent_updates(SessionUpdateProcessor())
    application = builder.build()
    application.add_handlers(handlers())
    application.run_polling(timeout=1)


if __name__ == "__main__":
    main()
