"""Which response does a request get that failed because of the session, the database or Redis?"""

import contextlib
import logging
import sys

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.exceptions import SessionInterrupted, TooManySessions, Unavailable
from ..http.content import prefers_json
from ..http.problems import error_message
from ..http.scope import SCOPE_KEY

logger = logging.getLogger("starlette_auth")
START_MESSAGES = ("http.response.start", "websocket.accept", "websocket.http.response.start")
RETRY_AFTER = "3"  # seconds
Refusal = SessionInterrupted | TooManySessions | Unavailable


class UnavailableResponder:
    """Responds with 503 if the database or Redis is unavailable during a request without a session.

    `is_replaced` means that the 503 was sent; further messages of the application are then dropped.
    """

    has_started = False
    is_replaced = False

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive_on = receive
        self.send_on = send

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive_on, self.send)
        except Unavailable as error:
            if self.is_replaced:
                return
            if self.has_started:
                raise
            await self.refuse(error)

    async def send(self, message: Message) -> None:
        error = None if self.has_started else unavailable_behind(message)
        self.has_started = self.has_started or message["type"] in START_MESSAGES
        if error is not None:
            await self.refuse(error)
        elif not self.is_replaced:
            await self.send_on(message)

    async def refuse(self, error: Unavailable) -> None:
        self.is_replaced = True
        logger.error("A request was answered with 503. %s", error)
        await send_refusal(self.scope, self.receive_on, self.send_on, error)


def unavailable_behind(message: Message) -> Unavailable | None:
    """Returns the Unavailable exception behind a response with status 500, or None.

    A mounted application has its own handler of exceptions, which sends status 500 while it handles the exception.
    """
    if message.get("status") != 500:
        return None
    error = sys.exc_info()[1]
    return error if isinstance(error, Unavailable) else None


async def send_refusal(scope: Scope, receive: Receive, send: Send, error: Refusal) -> None:
    """Sends an error response, or the close code of a WebSocket, in the visitor's language."""
    status, auth, conn = status_code_for(error), scope.get(SCOPE_KEY), HTTPConnection(scope)
    with auth.override_language(conn) if auth is not None else contextlib.nullcontext():
        detail = error_message(error)
    if scope["type"] == "websocket":
        # The registry of RFC 6455 §7.4.1: 1013 means "try again later", 1008 "policy violation".
        code = 1013 if status == 503 else 1008
        await send({"type": "websocket.close", "code": code, "reason": detail[:120]})
        return
    headers = {"Cache-Control": "no-store", "Vary": "Cookie"} | ({"Retry-After": RETRY_AFTER} if status == 503 else {})
    if prefers_json(conn):
        response: Response = JSONResponse({"detail": detail}, status, headers)
    else:
        response = PlainTextResponse(f"{detail}\n", status, headers)
    await response(scope, receive, send)


def status_code_for(error: Refusal) -> int:
    if isinstance(error, Unavailable):
        return 503
    return error.status_code if isinstance(error, TooManySessions) else 400
