"""A Bot API server of our own on loopback, for real frameworks to talk to.

It hands out the updates that a test queues, again and again until they are confirmed,
as Telegram does, and keeps what bots send. It lives on a thread, so that a bot may be a
task, a thread, or another process.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds for which a bot that asks for updates is left waiting.
_POLL = 0.2
ME = {"id": 1, "is_bot": True, "first_name": "Bot", "username": "a_bot"}


class BotApi:
    """Every bot of this server is the same bot, number 1, whatever its token."""

    token = "1:a"  # noqa: S105 - nobody checks it

    def __init__(self) -> None:
        self.sent: list[dict[str, str]] = []
        """What bots sent by sendMessage, in order: the fields as text."""
        self.calls: dict[str, int] = {}
        """How often each method was called."""
        self.url = ""
        self._waiting: dict[int, dict[str, Any]] = {}
        self._ids = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._queued = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        started = threading.Event()
        self._loop.call_soon_threadsafe(
            lambda: self._loop.create_task(self._serve(started))
        )
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    def say(self, text: str, *, chat_id: int = 7, user_id: int = 7) -> None:
        """Let a user send a message to the bot (a private chat if both ids agree)."""
        private = {"id": chat_id, "type": "private", "first_name": "Ada"}
        group = {"id": chat_id, "type": "supergroup", "title": "All"}
        number = next(self._ids)
        message: dict[str, Any] = {
            "message_id": number,
            "date": int(time.time()),
            "chat": private if chat_id == user_id else group,
            "from": {"id": user_id, "is_bot": False, "first_name": "Ada"},
            "text": text,
        }
        if text.startswith("/"):
            length = len(text.partition(" ")[0])
            message["entities"] = [
                {"type": "bot_command", "offset": 0, "length": length}
            ]
        self.push({"update_id": number, "message": message})

    def push(self, update: dict[str, Any]) -> None:
        """Queue an update as it is; it needs an update_id of its own."""
        self._waiting[update["update_id"]] = update
        self._loop.call_soon_threadsafe(self._queued.set)

    @property
    def unconfirmed(self) -> int:
        """Return how many updates no bot has confirmed yet."""
        return len(self._waiting)

    def texts(self, chat_id: int = 7) -> list[str]:
        """Return what bots said in a chat, in order."""
        return [
            one["text"] for one in list(self.sent) if one["chat_id"] == str(chat_id)
        ]

    def wait_until(self, reached: Callable[[], bool], within: float = 20) -> None:
        """Wait on a thread; a coroutine calls it by ``asyncio.to_thread``."""
        until = time.monotonic() + within
        while not reached():
            assert time.monotonic() < until, (self.sent[-5:], self.calls)
            time.sleep(0.005)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _serve(self, started: threading.Event) -> None:
        app = web.Application()
        app.router.add_route("*", "/bot{token}/{method}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        started.set()

    async def _answer(self, request: web.Request) -> web.Response:
        fields = dict(request.query)
        if request.content_type == "application/json":
            fields |= await request.json()
        else:
            # Some frameworks send a form as the body of a GET, which has none.
            form = await request.clone(method="POST").post()
            fields |= {name: str(text) for name, text in form.items()}
        method = request.match_info["method"]
        self.calls[method] = self.calls.get(method, 0) + 1
        result: Any = True
        if method == "getMe":
            result = ME
        elif method == "getUpdates":
            result = await self._updates(int(fields.get("offset") or 0))
        elif method == "sendMessage":
            result = self._send({name: str(text) for name, text in fields.items()})
        return web.json_response({"ok": True, "result": result})

    async def _updates(self, offset: int) -> list[dict[str, Any]]:
        for number in [number for number in self._waiting if number < offset]:
            del self._waiting[number]
        if not self._waiting:
            self._queued.clear()
            try:
                async with asyncio.timeout(_POLL):
                    await self._queued.wait()
            except TimeoutError:
                return []
        return [self._waiting[number] for number in sorted(self._waiting)][:100]

    def _send(self, fields: dict[str, str]) -> dict[str, Any]:
        self.sent.append(fields)
        chat = {"id": int(fields["chat_id"]), "type": "private", "first_name": "Ada"}
        return {
            "message_id": len(self.sent),
            "date": int(time.time()),
            "chat": chat,
            "from": ME,
            "text": fields["text"],
        }
