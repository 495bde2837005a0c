"""A bot that asks for its updates, without a framework: a list for each person.

    BOT_TOKEN=… python examples/raw_polling.py

Whatever is written to it goes on the list, /list shows it, /clear empties it. Ended by
SIGTERM or ctrl-C it answers the update that it has in hand; killed at any moment, it
goes on at its next start, and takes nothing twice.
"""

import asyncio
import contextlib
import os
import signal
import sys
from typing import Any

import httpx

import botsessions as bs

Session = dict[str, Any]

# Updates are confirmed by asking for the next ones. Until then so many may come again,
# and each session remembers the ids of so many.
BATCH = 50
POLL_SECONDS = 50


async def main() -> None:
    """Take updates until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = os.environ.get("BOT_API", "https://api.telegram.org")
    api = httpx.AsyncClient(
        base_url=f"{server}/bot{os.environ['BOT_TOKEN']}/", timeout=POLL_SECONDS + 10
    )
    url = os.environ.get("SESSIONS", "sqlite:///sessions.db")
    async with bs.open_store(url) as store, api:
        await poll(api, store, stop)


async def poll(
    api: httpx.AsyncClient, store: bs.SessionStore, stop: asyncio.Event
) -> None:
    """Handle one update after the other; to ask for more confirms them."""
    offset = 0
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        asking = asyncio.create_task(
            call(api, "getUpdates", offset=offset, limit=BATCH, timeout=POLL_SECONDS)
        )
        await asyncio.wait([asking, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            asking.cancel()
            await asyncio.wait([asking])
            break
        for update in asking.result():
            await handle(api, store, update)
            offset = update["update_id"] + 1
            if stop.is_set():
                break
    if offset:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await call(api, "getUpdates", offset=offset, limit=1, timeout=0)


async def handle(
    api: httpx.AsyncClient, store: bs.SessionStore, update: dict[str, Any]
) -> None:
    """Change the session of whoever wrote, then answer."""
    text = update.get("message", {}).get("text")
    if text is None:
        return
    origin = bs.origin(update)
    try:
        key = bs.chat_user_key(origin)
    except bs.MissingKeyPart:
        return  # nobody whom a session could belong to
    session = await store.update(key, lambda s: take(s, text, origin.update_id))
    said = "\n".join(session["list"]) if text == "/list" else str(len(session["list"]))
    try:
        await call(api, "sendMessage", chat_id=origin.chat_id, text=said[:4096] or "-")
    except RefusedError as exc:  # the bot was blocked, for example
        print(exc, file=sys.stderr)


def take(session: Session, text: str, update_id: int | None) -> Session:
    """Return the session after a message, which counts once however often it comes."""
    taken = session.get("taken", ())
    if update_id in taken:
        return session
    listed = session.get("list", [])
    if text == "/clear":
        listed = []
    elif not text.startswith("/"):
        listed = [*listed, text][-100:]
    return {"list": listed, "taken": (*taken, update_id)[-BATCH:]}


async def call(api: httpx.AsyncClient, method: str, **fields: Any) -> Any:
    """Return what a method of the Bot API gives; outlast a server that is away."""
    while True:
        try:
            answer = (await api.post(method, json=fields)).json()
        except (httpx.TransportError, ValueError) as exc:
            answer = {"error_code": 500, "description": type(exc).__name__}
        if answer.get("ok"):
            return answer["result"]
        refusal = f"{method}: {answer.get('description')}"
        pause = answer.get("parameters", {}).get("retry_after")
        if pause is None and answer.get("error_code", 500) < 500:
            raise RefusedError(refusal)
        print(f"{refusal}, trying again", file=sys.stderr)
        await asyncio.sleep(pause or 1)


class RefusedError(Exception):
    """The Bot API understood, and said no."""


if __name__ == "__main__":
    asyncio.run(main())
