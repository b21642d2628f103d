"""The middleware against cross-site request forgery."""

from urllib.parse import urlsplit

from starlette.formparsers import MultiPartException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..auth import Auth
from ..context_processors import template_context
from ..core.exceptions import ImproperlyConfigured
from ..core.translation import gettext
from ..http.content import FORMS, content_type, is_utf8, sent_json
from ..http.problems import problem_response
from ..http.scope import IDENTIFIED_BY, SCOPE_KEY
from ..security.csrf_tokens import FIELD, HEADER

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
MAX_BODY = 1024 * 1024


class CSRFMiddleware:
    """Lets a request that changes something pass only when it comes from our own pages.

    Browsers say where a request comes from: `Sec-Fetch-Site` (W3C Fetch Metadata), or `Origin`. Where neither is
    sent, or with `Auth(csrf="strict")`, a token must come along, in the form or in the header `X-CSRFToken`. Requests
    that carry none of our cookies pass, unless a proxy vouches for their user. WebSockets obey the same rules.
    """

    def __init__(self, app: ASGIApp, auth: Auth) -> None:
        self.app = app
        self.auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if SCOPE_KEY not in scope:
            raise ImproperlyConfigured(
                "CSRFMiddleware needs AuthenticationMiddleware in front of it. Pass middleware=middleware(auth) to your app."
            )
        if "user" not in scope:
            # Where the middlewares in front were told to keep out, there is nobody in whose name one could act.
            await self.app(scope, receive, send)
            return
        if scope.get("method") in SAFE_METHODS or not self.has_ambient_credentials(scope):
            await self.app(scope, receive, send)
            return
        conn, body = HTTPConnection(scope), Body(receive)
        with self.auth.override_language(conn):
            reason = await check(self.auth, conn, body)
            response = await rejection(self.auth, conn, reason) if reason and scope["type"] == "http" else None
        if reason is None:
            await self.app(scope, body.replay, send)
        elif response is None:
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await response(scope, receive, send)

    def has_ambient_credentials(self, scope: Scope) -> bool:
        """Whether the browser, unasked, sent something that gives the request a right."""
        if scope["session"].session_key is not None or getattr(scope.get(IDENTIFIED_BY), "ambient", False):
            return True
        return any(cookie.read(scope) for cookie in (self.auth.cookie, self.auth.csrf_cookie))


class Body:
    """The body of a request, which can be read here and once more in the application."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.messages: list[Message] = []
        self.size = 0

    async def read(self) -> Message:
        message = await self.receive()
        self.messages.append(message)
        self.size += len(message.get("body", b""))
        if self.size > MAX_BODY:
            raise MultiPartException("too large")
        return message

    async def replay(self) -> Message:
        return self.messages.pop(0) if self.messages else await self.receive()


async def check(auth: Auth, conn: HTTPConnection, body: Body) -> str | None:
    """Why a request must not pass, in words for a visitor; None when it may."""
    told = _check_origin(auth, conn)
    if told is False:
        return cross_site_message()
    if told is True and auth.csrf != "strict":
        return None
    if conn.scope["type"] == "websocket":
        # A program, not a browser: browsers always name the origin of a WebSocket.
        return None
    token = conn.headers.get(HEADER) or await _token_in_form(conn, body)
    if token is None and sent_json(conn):
        return gettext("This was sent without a token. Send the header Origin, or X-CSRFToken.")
    if token is None:
        return gettext("This form was sent without its token. Go back, load the page again, and send it once more.")
    if not auth.csrf_tokens.is_valid(conn, token):
        return gettext("This form is too old. Go back, load the page again, and send it once more.")
    return None


async def rejection(auth: Auth, conn: HTTPConnection, reason: str) -> Response:
    accept = conn.headers.get("accept", "")
    if "text/html" not in accept and (sent_json(conn) or "*/*" not in accept):
        response: Response = problem_response(403, reason)
    else:
        page = await auth.templates.render("403_csrf.html", {**template_context(auth, conn), "reason": reason})
        response = HTMLResponse(page, 403)
    auth.add_security_headers(response)
    return response


def _check_origin(auth: Auth, conn: HTTPConnection) -> bool | None:
    """Whether the browser says that this is our own page (True) or another's (False); None when it says nothing."""
    origin = conn.headers.get("origin", "").lower()
    if origin in auth.trusted_origins:
        return True
    site = conn.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    if not origin:
        return False if _comes_from_elsewhere(auth, conn) else None
    scheme = "https" if auth.cookie.is_secure(conn.scope) else "http"
    return origin == f"{scheme}://{conn.headers.get('host', '').lower()}"


def _comes_from_elsewhere(auth: Auth, conn: HTTPConnection) -> bool:
    """By the Referer of a browser that says nothing else: whoever can plant a cookie cannot write that."""
    try:
        referer = urlsplit(conn.headers.get("referer", ""))
    except ValueError:
        return True
    host = referer.netloc.lower()
    is_known = host == conn.headers.get("host", "").lower() or f"{referer.scheme}://{host}" in auth.trusted_origins
    return bool(host) and not is_known


def cross_site_message() -> str:
    return gettext("This request came from another site.")


def is_cross_site(auth: Auth, conn: HTTPConnection) -> bool:
    """Whether a browser says so. For pages that matter without any cookie too: a login, above all."""
    return _check_origin(auth, conn) is False


async def _token_in_form(conn: HTTPConnection, body: Body) -> str | None:
    if content_type(conn) not in FORMS or not is_utf8(conn):
        return None
    try:
        async with Request(conn.scope, body.read).form() as form:
            token = form.get(FIELD)
    except Exception:
        return None
    return token if isinstance(token, str) else None
