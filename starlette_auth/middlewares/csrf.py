"""The middleware against cross-site request forgery."""

import re
from collections.abc import Awaitable
from functools import cached_property
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..answers import WebSocketRefusal, csrf_refusal, respond
from ..auth import Auth
from ..authentication import LoginOptions, login_options_of, not_authenticated
from ..core.arguments import require_application, require_instance
from ..core.exceptions import ImproperlyConfigured
from ..http.clients import ClientKind, kind_of_client
from ..http.content import FORMS, content_type, is_utf8
from ..http.cookies import MAX_VALUES
from ..http.endpoints import FOR_VISITORS, Target, find_target
from ..http.scope import IDENTIFIED_BY, IS_STALE, SCOPE_KEY
from ..http.site import SAFE_METHODS, referring_origin
from ..security.csrf_tokens import HEADER
from ..security.token_readers import form_reader
from .csrf_reasons import Reason
from .early_guards import ask_guards

MISSING: Any = None
MAX_BODY = 1024 * 1024  # bytes that are searched for the token
BEARER = re.compile(r"bearer +[^\s,]+", re.IGNORECASE)


class Body:
    """Reads the body of a request up to its CSRF token, and replays it to the application."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.messages: list[Message] = []
        self.is_too_long = False  # the token is not in the part that was read

    async def find_token(self, conn: HTTPConnection) -> str | None:
        """Returns the token in a form, or None. Data behind the token, such as a large file, stays unread."""
        if content_type(conn) not in FORMS or not is_utf8(conn):
            return None
        reader = form_reader(conn)
        size, more_body = 0, reader is not None
        while reader is not None and more_body:
            message = await self.receive()
            self.messages.append(message)
            more_body = message.get("more_body", False)
            body = message.get("body", b"")[: MAX_BODY - size]
            size += len(body)
            if not reader.feed(body) or reader.is_found:
                break
            if size >= MAX_BODY:
                self.is_too_long = True
                return None
        return reader.finish() if reader is not None else None

    async def replay(self) -> Message:
        return self.messages.pop(0) if self.messages else await self.receive()


class Candidate:
    """Holds a request that is being checked. Its endpoint is looked up at most once."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        self.app = app
        self.scope = scope
        self.conn = HTTPConnection(scope)
        self.body = Body(receive)

    @cached_property
    def target(self) -> Target:
        return find_target(self.app, self.scope)


class CSRFMiddleware:
    """Rejects unsafe requests and WebSockets that come from another site.

    Browsers send the origin of a request in `Sec-Fetch-Site` (W3C Fetch Metadata) or `Origin`. Without both headers,
    or with `Auth(csrf="strict")`, the request needs a CSRF token, in the form or in the header `X-CSRFToken`. A
    request without cookies of this package needs no token, unless a reverse proxy identifies its user. A rejected
    request gets 403, a rejected WebSocket the close code 1008.

    An attacker's page posts the attacker's password to a login endpoint, and SameSite keeps our cookies out of that
    request. The victim would go on as the attacker's user (login CSRF). Therefore the origin is checked without
    cookies too. A request with `Authorization: Bearer`, or to an endpoint marked with `csrf_exempt`, is not checked.
    """

    def __init__(self, app: ASGIApp, auth: Auth = MISSING) -> None:
        require_instance(auth, Auth, "The auth of CSRFMiddleware", "Write Middleware(CSRFMiddleware, auth=auth).")
        require_application(app, "CSRFMiddleware")
        self.app = app
        self.auth = auth

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        if SCOPE_KEY not in scope:
            raise ImproperlyConfigured(
                "CSRFMiddleware needs AuthenticationMiddleware in front of it. "
                "Pass middleware=middleware(auth) to your app."
            )
        if "user" not in scope:
            # A path that the other middlewares exclude has no user in whose name an attacker could act.
            return self.app(scope, receive, send)
        if scope.get("method") in SAFE_METHODS:
            return self.app(scope, receive, send)
        return self._run_checked(scope, receive, send)

    async def _run_checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application, unless the request comes from another site."""
        candidate = Candidate(self.app, scope, receive)
        if not self.must_check(candidate):
            await self.app(scope, receive, send)
            return
        body = candidate.body
        reason = await self.check(candidate)
        if reason is None:
            await self.app(scope, body.replay, send)
            return
        options = self.login_options(candidate, reason)
        if options is not None:
            request = Request(scope, body.replay)
            await respond(self.auth, request, not_authenticated(request, options))(scope, body.replay, send)
            return
        await self.reject(candidate.conn, reason, receive, send)

    async def reject(self, conn: HTTPConnection, reason: Reason, receive: Receive, send: Send) -> None:
        """Logs the rejection, and sends a response with status 403 or closes the WebSocket with code 1008."""
        self.auth.security_log.refused(conn, f"CSRF: {reason.message}{reason.hint}")
        refused = csrf_refusal(self.auth, conn, reason.message)
        if conn.scope["type"] == "websocket":
            await WebSocketRefusal(refused)(conn.scope, receive, send)
        else:
            await respond(self.auth, conn, refused)(conn.scope, receive, send)

    async def check(self, candidate: Candidate) -> Reason | None:
        """Returns why the request is rejected; None if it may pass."""
        auth, conn, body = self.auth, candidate.conn, candidate.body
        is_own = auth.site.is_own_request(conn)
        if is_own is False:
            return Reason.CROSS_SITE
        if is_own is True and auth.csrf != "strict":
            return None
        if conn.scope["type"] == "websocket":
            # Browsers always send the origin of a WebSocket, so this client is no browser.
            return None
        must_name_page = is_own is None and auth.csrf_tokens.need_origin and auth.site.is_https(conn.scope)
        if must_name_page and not referring_origin(conn):
            return Reason.NO_PAGE
        token = conn.headers.get(HEADER)
        if not token:
            await self.ask_guards_of_program(candidate)
            token = await body.find_token(conn)
        if token is None:
            if body.is_too_long:
                return Reason.TOKEN_BEHIND_FILE
            is_program = kind_of_client(conn) is ClientKind.PROGRAM
            return Reason.NO_TOKEN_OF_PROGRAM if is_program else Reason.NO_TOKEN
        # A store that keeps sessions in cookies verifies a signature to read a key, which only a visitor's form may need.
        cookies = [] if conn.user.is_authenticated else auth.cookie.values(conn.scope)[:MAX_VALUES]
        ended_keys = [key for key in map(auth.sessions.key_in, cookies) if key]
        if auth.csrf_tokens.is_valid(conn, token, ended_keys=ended_keys):
            return None
        return self.check_older(candidate, token, is_own=is_own is True)

    async def ask_guards_of_program(self, candidate: Candidate) -> None:
        """Raises Refused for a program that may not use the endpoint, before its form is searched for a token.

        A browser gets a page, which may keep the form. Therefore its form is checked first.
        """
        target = candidate.target
        if target.endpoint is not None and kind_of_client(candidate.conn) is not ClientKind.PAGE:
            await ask_guards(Request(candidate.scope, candidate.body.receive), target.route)

    def check_older(self, candidate: Candidate, token: str, *, is_own: bool) -> Reason | None:
        """Checks a token that the current session rejects. Returns why the page rejects it, or None.

        The login page may be open in a second tab while the first tab logs in, and two tabs that open at once get
        different secrets. A page that does not act for the logged-in user accepts a token from before the login. For a
        token with another secret it shows the form again.
        """
        if getattr(candidate.target.endpoint, FOR_VISITORS, False):
            if self.auth.csrf_tokens.is_valid(candidate.conn, token, by_visitor=True):
                return None
            if is_own:
                candidate.scope[IS_STALE] = True
                return None
        return Reason.TOO_OLD

    def login_options(self, candidate: Candidate, reason: Reason) -> LoginOptions | None:
        """Returns how to ask for a login in place of a rejection; None if the request is to be rejected.

        The session of the visitor has ended, and with it the token of the form. The endpoint does not run, and the login
        keeps the fields that the endpoint names.
        """
        conn = candidate.conn
        is_own = self.auth.site.is_own_request(conn) is True
        if reason is not Reason.TOO_OLD or conn.user.is_authenticated or not is_own:
            return None
        options = login_options_of(candidate.target, conn.scope["method"])
        return options if options.keep else None

    def must_check(self, candidate: Candidate) -> bool:
        """Returns whether the request could be an attacker's, who acts through the browser of a visitor."""
        conn = candidate.conn
        if not self.has_ambient_credentials(candidate.scope) and self.auth.site.is_own_request(conn) is not False:
            return False
        return not self.has_bearer_token(conn) and not self.is_exempt(candidate)

    def has_bearer_token(self, conn: HTTPConnection) -> bool:
        """Returns whether the client itself sent a token (RFC 6750 §2.1).

        Browsers send Basic, Digest and Negotiate on their own, but a Bearer token only for a script, and to another
        site only if CORS allows it. A reverse proxy may add one to each request, also to an attacker's. Therefore the
        token does not count if a backend with `ambient` identified the user.
        """
        values = conn.headers.getlist("authorization")
        is_ambient = getattr(conn.scope.get(IDENTIFIED_BY), "ambient", False)
        return len(values) == 1 and BEARER.fullmatch(values[0].strip()) is not None and not is_ambient

    def is_exempt(self, candidate: Candidate) -> bool:
        """Returns whether the endpoint, or its method of an HTTPEndpoint, is marked with `csrf_exempt`."""
        endpoint = candidate.target.endpoint
        method: Any = getattr(endpoint, candidate.scope.get("method", "").lower() or " ", None)
        # Reads only the mark of the class itself: a subclass of an exempt class is not exempt.
        return any(getattr(part, "__dict__", {}).get("csrf_exempt") is True for part in (endpoint, method))

    def has_ambient_credentials(self, scope: Scope) -> bool:
        """Returns whether the browser sent credentials automatically: a cookie, or what a reverse proxy adds."""
        if scope["session"].session_key is not None or getattr(scope.get(IDENTIFIED_BY), "ambient", False):
            return True
        return any(cookie.values(scope) for cookie in (self.auth.cookie, self.auth.csrf_cookie))
