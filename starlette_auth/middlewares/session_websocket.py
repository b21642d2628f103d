"""The session around one WebSocket."""

import asyncio
import contextlib
import logging

from starlette.types import ASGIApp, Message
from starlette.websockets import WebSocketDisconnect

from ..core.exceptions import SessionInterrupted
from ..core.text import one_line
from ..http.problems import error_message
from ..http.scope import SCOPE_KEY
from ..sessions.base import SessionBase
from ..sessions.open_websockets import SessionWatch
from .session_http import Refusal, SessionResponder, status_code_for

logger = logging.getLogger("starlette_auth")


class WebSocketSessionResponder(SessionResponder):
    """Loads the session of a WebSocket, and closes the WebSocket when its session ends.

    A WebSocket may be open for hours. Without this, it would outlive a logout on another device.
    """

    check_interval = 45.0  # seconds between two checks of the session, at most

    is_in_use = False  # the browser has sent a message since the last check
    is_closed = False
    watcher: asyncio.Task[None] | None = None

    async def run(self, app: ASGIApp) -> None:
        self.generation = self.store.open_websockets.generation
        await super().run(app)

    async def call_app(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
            await self.save_late_changes()
        except WebSocketDisconnect:  # the usual end of a WebSocket
            await self.save_late_changes()
            raise
        finally:
            # The cancelled task refers to this object through its traceback, so this object drops the task.
            watcher, self.watcher = self.watcher, None
            if watcher is not None:
                watcher.cancel()
            await self.delete_old_key()

    async def receive(self) -> Message:
        message = await self.receive_on()
        if message["type"] == "websocket.receive":
            self.is_in_use = True
            if self.is_closed:
                return {"type": "websocket.disconnect", "code": 1008}
        return message

    async def send(self, message: Message) -> None:
        if self.is_closed:
            raise ConnectionAbortedError("The session of this WebSocket has ended, so the WebSocket was closed.")
        if self.has_started:
            # The WebSocket may stay open for hours, so a logout in it takes effect before the next message.
            await self.delete_old_key()
        await super().send(message)

    async def start(self, message: Message) -> None:
        await super().start(message)
        if message["type"] == "websocket.accept" and not self.is_replaced and self.session.session_key is not None:
            self.watcher = asyncio.create_task(self.watch_session())

    async def watch_session(self) -> None:
        with self.store.open_websockets.watching(self.session, since=self.generation) as watch:
            while await self.is_still_valid(watch):
                pass
        if self.session.session_key is not None:
            await self.close_ended()

    async def is_still_valid(self, watch: SessionWatch) -> bool:
        """Waits for the check interval or a change; returns whether the session is still valid for this user."""
        await watch.wait(self.check_interval)
        if self.session.session_key is None:
            return False  # this WebSocket logged out; the application decides whether it stays open
        try:
            session = await self.store.load(self.value or "")
            session.max_age = self.session.max_age
            if session.session_key is None or not await self.is_same_user(session):
                return False
            if self.is_in_use:
                self.is_in_use = False
                if session.needs_touch:
                    await self.touch(session)
        except Exception as error:
            # Any error must not end the checks: without them the WebSocket would stay open for good.
            logger.warning("An open WebSocket's session cannot be looked up: %s", one_line(error))
        return True

    async def is_same_user(self, session: SessionBase) -> bool:
        auth = self.scope.get(SCOPE_KEY)
        if auth is None or self.session.user_id is None:
            return True
        user = await auth.session_backend.get_user(session)
        return user is not None and user.identity == self.session.user_id

    async def close_ended(self) -> None:
        self.is_closed = True
        with contextlib.suppress(OSError, RuntimeError):  # it is already closed
            await self.send_on({"type": "websocket.close", "code": 1008, "reason": "Your session has ended."})

    async def save_late_changes(self) -> None:
        """Saves changes made after `accept()`. A WebSocket cannot set a cookie then, so the key must be unchanged."""
        session = self.session
        if not self.has_started or not session.modified:
            return
        if session.session_key is None:
            logger.warning(
                "A WebSocket changed its session key after accept(); its changes are lost. Do it before accept()."
            )
        elif not self.store.is_server_side:
            logger.warning(
                "A WebSocket changed a CookieStore session after accept(); the change is lost. Do it before accept()."
            )
        else:
            try:
                await self.store.save(session, session.get_expiry_age())
            except SessionInterrupted:
                logger.info(
                    "A session was ended while its WebSocket was open; the changes of the WebSocket are dropped."
                )

    async def send_error(self, error: Refusal) -> None:
        self.is_replaced = True
        # The registry of RFC 6455 §7.4.1: 1013 means "try again later", 1008 "policy violation".
        code = 1013 if status_code_for(error) == 503 else 1008
        await self.send_on({"type": "websocket.close", "code": code, "reason": error_message(error)[:120]})
