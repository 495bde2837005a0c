"""A bot behind a webhook, without a framework: it counts what each person writes.

    WEBHOOK_SECRET=… uvicorn --factory examples.webhook_starlette:make_app

Tell Telegram once where it is, with the same secret (letters, digits, _ and -):

    curl https://api.telegram.org/bot$BOT_TOKEN/setWebhook \
        -d url=https://bot.example.com/telegram -d secret_token=$WEBHOOK_SECRET

The answer goes back in the reply, so that the bot calls nobody and needs no token. As
many processes as you like may share the store.
"""

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import botsessions as bs

# Telegram sends an update again when the answer to it got lost, so each session
# remembers the ids of its last ones.
REMEMBERED = 100


class State(TypedDict):
    """What every request finds in its ``state``."""

    store: bs.SessionStore
    secret: str


def make_app() -> Starlette:
    """Return the app; it has its store open for as long as it runs."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        url = os.environ.get("SESSIONS", "sqlite:///sessions.db")
        async with bs.open_store(url) as store:
            yield {"store": store, "secret": os.environ["WEBHOOK_SECRET"]}

    routes = [Route("/telegram", webhook, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)


async def webhook(request: Request) -> Response:
    """Answer one update; whatever fails here, Telegram sends it again later."""
    secret: str = request.state.secret
    given = request.headers.get("X-Telegram-Bot-Api-Secret-Token", "")
    if not hmac.compare_digest(given.encode(), secret.encode()):
        return Response(status_code=403)
    try:
        origin = bs.origin(await request.body())
        key = bs.chat_user_key(origin)
    except bs.InvalidUpdateDocumentError:
        return Response(status_code=400)
    except bs.MissingKeyPart:
        return Response()  # a poll, an inline query: nobody to count for
    if origin.event != "message":
        return Response()
    store: bs.SessionStore = request.state.store
    session = await store.update(key, lambda s: count(s, origin.update_id))
    said = f"That makes {session['count']}."
    return JSONResponse(
        {"method": "sendMessage", "chat_id": origin.chat_id, "text": said}
    )


def count(session: dict[str, Any], update_id: int | None) -> dict[str, Any]:
    """Count an update once, however often it comes."""
    counted = session.get("counted", ())
    if update_id in counted:
        return session
    return {
        "count": session.get("count", 0) + 1,
        "counted": (*counted, update_id)[-REMEMBERED:],
    }
