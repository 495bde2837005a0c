"""The bot of a day (``day``) in python-telegram-bot.

What is kept of a place is one name in the dict of its user. The steps of signing up are
those of two ``ConversationHandler``s, since one does not tell a business chat from the
private chat with the same ids. ``chat_data`` and ``bot_data`` count.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import random
from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from telegram import Update
from telegram.ext import (
    ApplicationBuilder,
    CallbackQueryHandler,
    ConversationHandler,
    MessageHandler,
    TypeHandler,
    filters,
)
from telegram.request import HTTPXRequest

import botsessions as bs
from botsessions.adapters.telegram import SessionPersistence, SessionUpdateProcessor
from tests.adapters.day import (
    COMMANDS,
    KINDS_OF_NOBODY,
    OWNER,
    STAYS,
    STEPS,
    Data,
    Event,
    Kept,
    OnPurposeError,
    Place,
    Traits,
    act,
    split,
)
from tests.adapters.day_replay import Bot, Setting, complain_into

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from telegram.ext import Application

    AnyApplication = Application[Any, Any, Any, Any, Any, Any]
    Handler = Callable[[Update, Any], Coroutine[Any, Any, Any]]

FORMS = {
    "form": filters.UpdateType.MESSAGE,
    "business form": filters.UpdateType.BUSINESS_MESSAGE,
}
log = logging.getLogger(__name__)
_TRAITS = Traits(keeps_failures=True, answers_first=True)


def said(update: Update) -> str:
    if update.callback_query is not None:
        return update.callback_query.data or ""
    assert update.effective_message is not None
    return update.effective_message.text or ""


async def answer(update: Update, text: str) -> None:
    assert update.effective_message is not None
    await update.effective_message.reply_text(text, do_quote=False)


def name_of(update: Update) -> str:
    assert update.effective_chat is not None
    assert update.effective_message is not None
    business = update.effective_message.business_connection_id
    return f"{update.effective_chat.id} {business}"


def handling(rule: str) -> Handler:
    async def handle(update: Update, context: Any) -> object:
        assert update.effective_user is not None
        user = update.effective_user.id
        context.chat_data[user] = context.chat_data.get(user, 0) + 1
        name = name_of(update)
        data = copy.deepcopy(context.user_data.get(name, {}))
        await asyncio.sleep(random.uniform(0, 0.004))
        try:
            reply = act(rule, data, said(update))
        finally:
            context.user_data[name] = data
            if not data:
                del context.user_data[name]
        await answer(update, reply.text)
        if reply.step == STAYS:
            return None
        return ConversationHandler.END if reply.step is None else reply.step

    return handle


async def tell(update: Update, context: Any) -> None:
    """Answer what belongs to nobody."""
    text = (
        (update.poll and update.poll.question)
        or (update.inline_query and update.inline_query.query)
        or (update.chosen_inline_result and update.chosen_inline_result.query)
        or (update.channel_post and update.channel_post.text)
    )
    kind = next(kind for kind in KINDS_OF_NOBODY if getattr(update, kind))
    context.bot_data[kind] = context.bot_data.get(kind, 0) + 1
    _, mark = split(text or "")
    await context.bot.send_message(OWNER, f"{kind} #{mark}")


async def apologize(update: object, context: Any) -> None:
    if isinstance(context.error, OnPurposeError) and isinstance(update, Update):
        await answer(update, str(context.error))
    else:
        log.error("An error", exc_info=context.error)


def handlers() -> list[Any]:
    new = filters.UpdateType.MESSAGE | filters.UpdateType.BUSINESS_MESSAGE
    return [
        *(form(name, where) for name, where in FORMS.items()),
        *(on_command(command, new) for command in COMMANDS),
        MessageHandler(filters.UpdateType.EDITED, handling("edit")),
        MessageHandler(new, handling("talk")),
        CallbackQueryHandler(handling("press")),
        TypeHandler(Update, tell),
    ]


def form(name: str, where: filters.BaseFilter) -> Any:
    words = where & ~filters.Regex("^/")
    return ConversationHandler(
        entry_points=[on_command("start", where)],
        states={step: [MessageHandler(words, handling(step))] for step in STEPS},
        fallbacks=[on_command("forget", where)],
        name=name,
        persistent=True,
        allow_reentry=True,
    )


def on_command(command: str, where: filters.BaseFilter) -> Any:
    # A CommandHandler takes none from a business chat.
    return MessageHandler(where & filters.Regex(f"^/{command} "), handling(command))


def connections() -> HTTPXRequest:
    """Return what costs little: its 256 would cost more than all the rest."""
    return HTTPXRequest(8, pool_timeout=60, httpx_kwargs={"verify": False})


def run(preload: bool, setting: Setting) -> None:  # noqa: FBT001 - for a partial
    complain_into(setting.complaints)
    store = bs.open_store(setting.url, namespace=setting.namespace)

    async def look(application: AnyApplication) -> None:
        """Complain unless all users are loaded, or none."""
        keys = [key async for key in store.keys() if key.name == "telegram.user"]
        users = {key.user_id for key in keys} if preload else set()
        if users != set(application.user_data):
            log.error("Loaded %s instead of %s", set(application.user_data), users)

    async def close(_: AnyApplication) -> None:
        await store.aclose()

    application = (
        ApplicationBuilder()
        .token("1:a")
        .base_url(f"{setting.api}/bot")
        .persistence(SessionPersistence(store, preload=preload))
        .concurrent_updates(SessionUpdateProcessor())
        .request(connections())
        .get_updates_request(connections())
        .post_init(look)
        .post_shutdown(close)
        .build()
    )
    application.add_handlers(handlers())
    application.add_error_handler(apologize)
    application.run_polling(timeout=1)


def counts(events: Iterable[Event]) -> dict[bs.SessionKey, Data]:
    """Count who was handled in which chat, and what belonged to nobody."""
    bot: Counter[Any] = Counter()
    chats: dict[int, Counter[Any]] = defaultdict(Counter)
    for event in events:
        if event.place is None:
            bot[event.kind] += 1
        else:
            chats[event.place.chat][event.place.user] += 1
    of_chats = {
        bs.SessionKey(chat_id=chat, name="telegram.chat"): dict(its)
        for chat, its in chats.items()
    }
    return {bs.SessionKey(name="telegram.bot"): dict(bot), **of_chats}


def read(records: Mapping[bs.SessionKey, Data]) -> dict[Place, Kept]:
    kept: dict[Place, Kept] = defaultdict(Kept)
    for key, record in records.items():
        if key.name == "telegram.user":
            assert isinstance(key.user_id, int)
            assert key == bs.SessionKey(user_id=key.user_id, name=key.name)
            for name, data in record.items():
                kept[_place(name, key.user_id)].data = data
        else:
            (chat, user), step = record["key"], record["state"]
            place = Place(chat, user)
            if "business" in str(key.name):
                place = place._replace(business=f"b{user}")
            assert str(key.name).startswith("telegram.conversation.")
            kept[place].step = step
    return dict(kept)


def _place(name: str, user: int) -> Place:
    chat, business = name.split()
    return Place(int(chat), user, None if business == "None" else business)


BOTS = [
    Bot("telegram-preload", partial(run, True), read, _TRAITS, counts),
    Bot("telegram-lazy", partial(run, False), read, _TRAITS, counts),
]
