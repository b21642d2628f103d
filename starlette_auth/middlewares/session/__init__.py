"""The middleware that provides `request.session`."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ...core.arguments import require_application, require_clock, require_function, require_instance
from ...core.clock import Clock
from ...http.cookies import Cookie
from ...http.mailed_secrets import call_without_secret, has_mailed_secret
from ...http.scope import is_below, parse_prefixes
from ...sessions.store import SessionStore
from ..refusals import Handler, UnavailableResponder
from .http import SessionResponder
from .websocket import WebSocketSessionResponder

logger = logging.getLogger("starlette_auth")
MISSING: Any = None
FIX = (
    "Pass middleware=middleware(auth) to your app, or write Middleware(SessionMiddleware, store=auth.sessions, "
    "cookie=auth.cookie)."
)


class SessionMiddleware:
    """Loads `request.session`, and saves it when the response starts, if it changed.

    A request without a session cookie does not touch the store. Paths in `exclude` have no session. They also get 503
    if they need the database or Redis while it is unavailable.
    """

    def __init__(
        self,
        app: ASGIApp,
        store: SessionStore = MISSING,
        cookie: Cookie | None = None,
        exclude: Sequence[str] = (),
        clock: Clock = time.time,
        answer: Handler | None = None,
        has_token: Callable[[Scope], bool] | None = None,
        key_in_header: Callable[[Scope], str | None] | None = None,
    ) -> None:
        """`answer` makes the response if the session cannot be loaded or saved: a handler of the exception Refused.

        `has_token` tells whether a request has a token instead of a session. Its cookie is not read, and its
        `request.session` is empty and not saved. `key_in_header` returns the session key that a request sends in place
        of a cookie, or None. A new key then comes in the header `X-Session-Token` of the response.
        """
        require_instance(store, SessionStore, "The store of SessionMiddleware", FIX)
        if cookie is not None:
            require_instance(
                cookie, Cookie, "The cookie of SessionMiddleware", "Pass cookie=Cookie(…), or cookie=auth.cookie."
            )
        require_clock(clock)
        require_application(app, "SessionMiddleware")
        if answer is not None:
            require_function(answer, "The answer of SessionMiddleware", "Pass an async function, or leave it out.")
        if has_token is not None:
            require_function(has_token, "The has_token of SessionMiddleware", "Pass a function, or leave it out.")
        if key_in_header is not None:
            fix = "Pass a function, or leave it out."
            require_function(key_in_header, "The key_in_header of SessionMiddleware", fix)
        self.app = app
        self.answer = answer
        self.has_token = has_token
        self.key_in_header = key_in_header
        self.store = store
        self.cookie = cookie or Cookie()
        self.exclude = parse_prefixes(exclude)
        self.clock = clock
        self.must_check_scheme = self.cookie.secure is True or self.cookie.samesite == "none"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and has_mailed_secret(scope):
            return call_without_secret(self.run, scope, receive, send)
        return self.run(scope, receive, send)

    def run(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        if self.exclude and is_below(scope, self.exclude):
            return UnavailableResponder(scope, receive, send, self.answer).run(self.app)
        if self.must_check_scheme:
            self.check_scheme(scope)
        responder = WebSocketSessionResponder if scope["type"] == "websocket" else SessionResponder
        current = responder(self.store, self.cookie, self.clock, self.answer, scope, receive, send)
        key = None
        if self.key_in_header is not None:
            current.offers_header, key = True, self.key_in_header(scope)
        if key is not None:
            current.use_header(key)
        elif self.has_token is not None and self.has_token(scope):
            current.detach()
        return current.run(self.app)

    def check_scheme(self, scope: Scope) -> None:
        """Logs the first request over http whose cookie the browser would refuse."""
        name = self.cookie.name
        if scope.get("scheme") in ("https", "wss"):
            return
        if self.cookie.secure is True:
            logger.warning(
                "A request came over http, and the cookie %r has secure=True, so a browser keeps it only if it used https. "
                "If a reverse proxy terminates TLS, let it set X-Forwarded-Proto, and run uvicorn with --proxy-headers "
                '--forwarded-allow-ips=ADDRESS_OF_THE_PROXY. Otherwise open the site with https, or pass secure="auto".',
                name,
            )
        elif not self.cookie.is_secure(scope):
            logger.warning(
                'A request came over http, and the cookie %r has samesite="none", which browsers refuse without https. '
                'Open the site with https, or pass samesite="lax".',
                name,
            )
        else:
            return
        self.must_check_scheme = False
