"""The bot of a day (``day``) in aiogram: once with states, once with sessions."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Any

from aiogram import Dispatcher, Router
from aiogram.filters import Command, StateFilter
from aiogram.fsm.strategy import FSMStrategy
from aiogram.methods import SendMessage
from aiogram.types import CallbackQuery, Message

import botsessions as bs
from botsessions.adapters.aiogram import (
    SessionIsolation,
    SessionMiddleware,
    SessionStorage,
)
from tests.adapters.aiogram_bot import bot_at
from tests.adapters.day import (
    COMMANDS,
    OWNER,
    STAYS,
    STEPS,
    Data,
    Kept,
    OnPurposeError,
    Place,
    Reply,
    Traits,
    act,
    split,
)
from tests.adapters.day_replay import Bot, Setting, complain_into, ended, place_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiogram.fsm.context import FSMContext

    Handler = Callable[..., Awaitable[Any]]
    # A dispatcher, how it makes a handler of a rule, and the filter for a step.
    Made = tuple[Dispatcher, Callable[[str], Handler], Callable[[str], Any]]


def said(event: Message | CallbackQuery) -> str:
    return (event.data if isinstance(event, CallbackQuery) else event.text) or ""


def answering(event: Any, text: str) -> SendMessage:
    message = event.message if isinstance(event, CallbackQuery) else event
    assert isinstance(message, Message)
    return message.answer(text)


async def reply_by(rule: str, event: Message | CallbackQuery, data: Data) -> Reply:
    """Act between reading and writing, which takes a while."""
    await asyncio.sleep(random.uniform(0, 0.004))
    try:
        return act(rule, data, said(event))
    except OnPurposeError as failure:
        await answering(event, str(failure))
        raise


# Handlers answer themselves: what they return, and what handlers of errors say, is sent
# when the lock is free, and the next answer may overtake it.


def with_states(store: bs.SessionStore, lease: float) -> Made:
    """States and their data, exclusive handlers, a session for each topic."""

    def handling(rule: str) -> Handler:
        async def handle(event: Message | CallbackQuery, state: FSMContext) -> None:
            data = await state.get_data()
            reply = await reply_by(rule, event, data)
            await state.set_data(data)
            if reply.step != STAYS:
                await state.set_state(reply.step)
            await answering(event, reply.text)

        return handle

    dispatcher = Dispatcher(
        storage=SessionStorage(store),
        events_isolation=SessionIsolation(store, lease=lease),
        fsm_strategy=FSMStrategy.USER_IN_TOPIC,
    )
    return dispatcher, handling, StateFilter


def with_sessions(store: bs.SessionStore, lease: float) -> Made:
    """The middleware, and nothing of aiogram's states."""

    def handling(rule: str) -> Handler:
        async def handle(event: Message | CallbackQuery, session: Data) -> None:
            reply = await reply_by(rule, event, session)
            if reply.step is None:
                session.pop("step", None)
            elif reply.step != STAYS:
                session["step"] = reply.step
            await answering(event, reply.text)

        return handle

    def at(step: str) -> Callable[..., bool]:
        def is_there(event: Message, session: Data) -> bool:
            return bool(session.get("step") == step)

        return is_there

    dispatcher = Dispatcher()
    dispatcher.update.outer_middleware(SessionMiddleware(store, lease=lease))
    return dispatcher, handling, at


def routes(handling: Callable[[str], Handler], at: Callable[[str], Any]) -> Router:
    router = Router()
    for observer in (router.message, router.business_message):
        for command in COMMANDS:
            observer.register(handling(command), Command(command))
        for step in STEPS:
            observer.register(handling(step), at(step))
        observer.register(handling("talk"))
    router.callback_query.register(handling("press"))
    for observer in (router.edited_message, router.edited_business_message):
        observer.register(handling("edit"))
    for kind, field in [
        ("poll", "question"),
        ("inline_query", "query"),
        ("chosen_inline_result", "query"),
        ("channel_post", "text"),
    ]:
        router.observers[kind].register(telling(kind, field))
    return router


def telling(kind: str, field: str) -> Handler:
    async def tell(event: Any) -> SendMessage:
        _, mark = split(getattr(event, field))
        return SendMessage(chat_id=OWNER, text=f"{kind} #{mark}")

    return tell


def run(make: Callable[[bs.SessionStore, float], Made], setting: Setting) -> None:
    complain_into(setting.complaints)
    # It warns of the signal that ends it.
    logging.getLogger("aiogram.dispatcher").setLevel(logging.ERROR)
    asyncio.run(_poll(make, setting))


async def _poll(
    make: Callable[[bs.SessionStore, float], Made], setting: Setting
) -> None:
    async with bs.open_store(setting.url, namespace=setting.namespace) as store:
        dispatcher, *means = make(store, setting.lease)
        dispatcher.include_router(routes(*means))
        bot = bot_at(setting.api)
        await dispatcher.start_polling(bot, close_bot_session=False)
        await ended(dispatcher._handle_update_tasks)
        await bot.session.close()


def read_states(records: Mapping[bs.SessionKey, Data]) -> dict[Place, Kept]:
    kept: dict[Place, Kept] = {}
    for key, record in records.items():
        assert record.keys() <= {"state", "data"}
        place = place_of(key, bot_id=1, name="aiogram")
        kept[place] = Kept(record.get("data", {}), record.get("state"))
    return kept


def read_sessions(records: Mapping[bs.SessionKey, Data]) -> dict[Place, Kept]:
    kept: dict[Place, Kept] = {}
    for key, session in records.items():
        step = session.pop("step", None)
        kept[place_of(key)] = Kept(session, step)
    return kept


BOTS = [
    Bot(
        "aiogram-states",
        partial(run, with_states),
        read_states,
        Traits(by_topic=True),
    ),
    Bot(
        "aiogram-sessions",
        partial(run, with_sessions),
        read_sessions,
        Traits(answers_first=True),
    ),
]
