"""The session around one WebSocket."""

import contextlib
import logging

from starlette.types import ASGIApp, Message
from starlette.websockets import WebSocketDisconnect

from ...core.exceptions import SessionInterrupted
from ..open_connection import run_logged
from .changes import list_names
from .http import SessionResponder

logger = logging.getLogger("starlette_auth")


class WebSocketSessionResponder(SessionResponder):
    """Loads the session of a WebSocket, and closes the WebSocket when its session ends or its guard would refuse it."""

    is_in_use = False

    async def run(self, app: ASGIApp) -> None:
        self.generation = self.store.open_websockets.generation
        await super().run(app)

    async def call_app(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
            await self.save_at_end()
        except WebSocketDisconnect:  # the usual end of a WebSocket
            await self.save_at_end()
            raise
        finally:
            self.stop_watching()
            if self.is_flushed_too_late:
                self.report_late_changes()
            await self.delete_at_end()

    async def receive(self) -> Message:
        message = await self.receive_on()
        if message["type"] == "websocket.receive":
            self.is_in_use = True
            if self.is_ended:
                return {"type": "websocket.disconnect", "code": 1008}
        return message

    async def send(self, message: Message) -> None:
        if self.is_ended:
            raise ConnectionAbortedError("The session of this WebSocket has ended, so the WebSocket was closed.")
        if not self.has_started:
            await super().send(message)
            return
        # The WebSocket may stay open for hours, so a logout in it takes effect before the next message.
        if self.is_flushed_too_late:
            self.report_late_changes()
        await self.delete_ended()
        if not self.is_replaced:
            await self.send_on(message)

    async def start(self, message: Message) -> None:
        await super().start(message)
        if message["type"] == "websocket.accept" and not self.is_replaced:
            user = self.scope.get("user")
            if self.session.session_key is not None or (user is not None and user.is_authenticated):
                self.start_watching()

    async def end(self, reason: str) -> None:
        self.is_ended = True
        with contextlib.suppress(Exception):  # the WebSocket is already closed
            await self.send_on({"type": "websocket.close", "code": 1008, "reason": reason})

    async def save_at_end(self) -> None:
        await run_logged(self.save_late_changes, "The last changes of a WebSocket to its session could not be saved.")

    async def save_late_changes(self) -> None:
        """Saves changes made after `accept()`. A WebSocket cannot set a cookie then, so the key must be unchanged."""
        session = self.session
        if not self.has_started or not session.modified:
            return
        names = list_names(session.unsaved_names())
        if session.session_key is None:
            logger.warning(
                "A WebSocket changed its session key after accept(), so its changes are lost: %s. Do it before accept().",
                names,
            )
        elif not self.store.is_server_side:
            logger.warning(
                "A WebSocket changed a session in a cookie after accept(); the change is lost: %s. Do it before "
                "accept().",
                names,
            )
        else:
            try:
                await self.store_session()
            except SessionInterrupted:
                logger.info(
                    "A session was ended while its WebSocket was open; the changes of the WebSocket are dropped."
                )
