"""Which response does a request get that failed because of the session, the database or Redis?"""

import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.exceptions import Refused, SessionInterrupted, TooManySessions, Unavailable
from ..http.clients import ClientKind, kind_of_client
from ..http.problems import close_message, error_message, problem_response
from ..http.scope import ANSWER, SCOPE_KEY

logger = logging.getLogger("starlette_auth")
START_MESSAGES = ("http.response.start", "websocket.accept", "websocket.http.response.start")
RETRY_AFTER = "3"  # seconds
#: Makes the response to a refused request.
Handler = Callable[[HTTPConnection, Refused], Awaitable[Response]]
Refusal = SessionInterrupted | TooManySessions | Unavailable


class UnavailableResponder:
    """Responds with 503 if the database or Redis is unavailable during a request without a session.

    `is_replaced` means that the 503 was sent; further messages of the application are then dropped.
    """

    has_started = False
    is_replaced = False

    def __init__(self, scope: Scope, receive: Receive, send: Send, answer: Handler | None) -> None:
        self.scope = scope
        self.answer = answer
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
        await send_refusal(self.scope, self.receive_on, self.send_on, error, self.answer)


def unavailable_behind(message: Message) -> Unavailable | None:
    """Returns the Unavailable exception behind a response with status 500, or None.

    A mounted application has its own handler of exceptions, which sends status 500 while it handles the exception.
    """
    if message.get("status") != 500:
        return None
    error = sys.exc_info()[1]
    return error if isinstance(error, Unavailable) else None


async def send_refusal(
    scope: Scope, receive: Receive, send: Send, error: Refusal, answer: Handler | None = None
) -> None:
    """Sends an error response, or the close code of a WebSocket, in the visitor's language."""
    conn, refused = HTTPConnection(scope), refusal_of(error)
    if scope["type"] == "websocket":
        auth = scope.get(SCOPE_KEY)
        with auth.override_language(conn) if auth is not None else contextlib.nullcontext():
            message = close_message(refused.status_code, error_message(error))
        await send(message)
        return
    answer = answer or scope.get(ANSWER)
    response = await answer(conn, refused) if answer is not None else plain_response(conn, refused)
    await response(scope, receive, send)


def plain_response(conn: HTTPConnection, refused: Refused) -> Response:
    """Returns the response of a middleware that is used without `Auth`, which has the templates."""
    if kind_of_client(conn) is ClientKind.PAGE:
        return PlainTextResponse(f"{refused.detail}\n", refused.status_code, refused.headers)
    response = problem_response(refused.status_code, refused.detail, code=refused.code)
    response.headers.update(refused.headers or {})
    return response


def refusal_of(error: Refusal) -> Refused:
    """Returns the refusal that tells the client about the error."""
    headers = {"Cache-Control": "no-store", "Vary": "Cookie"}
    if isinstance(error, TooManySessions):
        return error
    if isinstance(error, Unavailable):
        return Refused(503, error_message(error), code="unavailable", headers={**headers, "Retry-After": RETRY_AFTER})
    return Refused(400, error_message(error), code="session_ended", headers=headers)
