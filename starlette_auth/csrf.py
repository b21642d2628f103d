"""Keeping other sites from acting in a visitor's name."""

import base64
import secrets
from dataclasses import replace

from markupsafe import Markup
from starlette.formparsers import MultiPartException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import SCOPE_KEY, Auth, get_auth
from .backends import session_of
from .cookies import Cookie, response_headers, set_header
from .exceptions import ImproperlyConfigured
from .middlewares import IDENTIFIED_BY, STARTS
from .sessions.base import is_key

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
FIELD = "csrfmiddlewaretoken"  # Django's names
HEADER = "x-csrftoken"
PURPOSE = "starlette_auth.csrf"
NEW_SECRET = "starlette_auth.csrf"  # noqa: S105  a key of the scope
MAX_BODY = 1024 * 1024
FROM_ANOTHER_SITE = "This request came from another site."


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
        # Where SessionMiddleware was told to keep out, there is nothing to protect.
        if scope["type"] not in ("http", "websocket") or "session" not in scope:
            await self.app(scope, receive, send)
            return
        if SCOPE_KEY not in scope:
            raise ImproperlyConfigured(
                "CSRFMiddleware needs AuthenticationMiddleware in front of it. Pass middleware=middleware(auth) to your app."
            )
        conn = HTTPConnection(scope)
        send = setting_cookie(csrf_cookie(self.auth), scope, send)
        if not self.is_ours(conn) or scope.get("method") in SAFE_METHODS:
            await self.app(scope, receive, send)
            return
        body = Body(receive)
        reason = await refusal(conn, body)
        if reason is None:
            await self.app(scope, body.again, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await refuse(conn, reason)(scope, receive, send)

    def is_ours(self, conn: HTTPConnection) -> bool:
        """Whether the browser, unasked, sent something that gives the request a right."""
        ambient = getattr(conn.scope.get(IDENTIFIED_BY), "ambient", False)
        return ambient or any(cookie.read(conn.scope) for cookie in (self.auth.cookie, csrf_cookie(self.auth)))


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

    async def again(self) -> Message:
        return self.messages.pop(0) if self.messages else await self.receive()


async def refusal(conn: HTTPConnection, body: Body) -> str | None:
    """Why a request must not pass, in words for a visitor; None when it may."""
    auth = get_auth(conn)
    told = _told_by_headers(auth, conn)
    if told is False:
        return FROM_ANOTHER_SITE
    if told is True and auth.csrf != "strict":
        return None
    if conn.scope["type"] == "websocket":
        # A program, not a browser: browsers always name the origin of a WebSocket.
        return None
    token = conn.headers.get(HEADER) or await _token_in_form(conn, body)
    if token is None:
        return "This form was sent without its token. Go back, load the page again, and send it once more."
    if not is_valid(conn, token):
        return "This form is too old. Go back, load the page again, and send it once more."
    return None


def refuse(conn: HTTPConnection, reason: str) -> Response:
    accept = conn.headers.get("accept", "")
    if "text/html" not in accept and "*/*" not in accept:
        return JSONResponse({"detail": reason}, 403)
    auth = get_auth(conn)
    page = auth.templates.render("403_csrf.html", {"reason": reason, "auth_style": auth.style_url(conn)})
    return HTMLResponse(page, 403, {"Cache-Control": "no-store"})


def _told_by_headers(auth: Auth, conn: HTTPConnection) -> bool | None:
    """Whether the browser says that this is our own page (True) or another's (False); None when it says nothing."""
    origin = conn.headers.get("origin", "").lower()
    if origin in auth.trusted_origins:
        return True
    site = conn.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    if not origin:
        return None
    scheme = "https" if auth.cookie.is_secure(conn.scope) else "http"
    return origin == f"{scheme}://{conn.headers.get('host', '').lower()}"


def is_from_another_site(conn: HTTPConnection) -> bool:
    """Whether a browser says so. For pages that matter without any cookie too: a login, above all."""
    return _told_by_headers(get_auth(conn), conn) is False


async def _token_in_form(conn: HTTPConnection, body: Body) -> str | None:
    kind = conn.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in ("application/x-www-form-urlencoded", "multipart/form-data"):
        return None
    copy = Body(body.read)
    try:
        async with Request(conn.scope, copy.read).form() as form:
            token = form.get(FIELD)
    except Exception:
        return None
    return token if isinstance(token, str) else None


# Tokens


def csrf_cookie(auth: Auth) -> Cookie:
    """Beside the session cookie: a secret of the browser's own, so that a visitor without a session can have a form."""
    return replace(auth.cookie, name=f"{auth.cookie.name}_csrf")


def csrf_token(conn: HTTPConnection) -> str:
    """A token for a form of this visitor, another text each time (a page that is compressed would betray a fixed one)."""
    secret = conn.scope.get(NEW_SECRET) or _secret(conn)
    if secret is None:
        secret = conn.scope[NEW_SECRET] = secrets.token_urlsafe(32)
    signature = get_auth(conn).keys.sign(PURPOSE, _binding(conn, secret, bound=True))
    return _mask(bytes.fromhex(signature))


def csrf_input(conn: HTTPConnection) -> Markup:
    """The hidden field for a form."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, csrf_token(conn))


def is_valid(conn: HTTPConnection, token: str) -> bool:
    secret, given = _secret(conn), _unmask(token)
    if secret is None or given is None:
        return False
    # A page of an anonymous visitor may be older than the session that another page began meanwhile.
    bindings = [True] if conn.user.is_authenticated else [True, False]
    auth = get_auth(conn)
    return any(
        auth.keys.verify(PURPOSE, _binding(conn, secret, bound=bound), given.hex()) is not None for bound in bindings
    )


class LazyToken:
    """In a template: made when it is written into the page, so that a page without a form sets no cookie."""

    def __init__(self, conn: HTTPConnection, *, as_input: bool) -> None:
        self.conn = conn
        self.as_input = as_input

    def __html__(self) -> str:
        return str(csrf_input(self.conn) if self.as_input else csrf_token(self.conn))

    __str__ = __html__


def _secret(conn: HTTPConnection) -> str | None:
    value = csrf_cookie(get_auth(conn)).read(conn.scope)
    return value if value is not None and is_key(value) else None


def _binding(conn: HTTPConnection, secret: str, *, bound: bool) -> str:
    session = session_of(conn)
    key = session.session_key if session is not None and bound else None
    return f"{secret}:{key or ''}"


def _mask(signature: bytes) -> str:
    pad = secrets.token_bytes(len(signature))
    mixed = bytes(a ^ b for a, b in zip(pad, signature, strict=True))
    return base64.urlsafe_b64encode(pad + mixed).decode().rstrip("=")


def _unmask(token: str) -> bytes | None:
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii") + b"==")
    except ValueError:
        return None
    half = len(raw) // 2
    return bytes(a ^ b for a, b in zip(raw[:half], raw[half:], strict=True)) if len(raw) == 64 else None


def setting_cookie(cookie: Cookie, scope: Scope, send: Send) -> Send:
    """Adds the secret's cookie to the response, when a token was made for a browser that had none."""

    async def send_with_cookie(message: Message) -> None:
        if message["type"] in STARTS and NEW_SECRET in scope:
            headers = response_headers(message)
            headers.append(cookie.header(scope, scope[NEW_SECRET], None))
            set_header(headers, "Cache-Control", "no-store")
        await send(message)

    return send_with_cookie
