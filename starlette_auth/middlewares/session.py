"""The middleware that provides `request.session`."""

import time
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.arguments import require_instance
from ..core.clock import Clock
from ..http.cookies import Cookie
from ..http.mailed_secrets import call_without_secret, has_mailed_secret
from ..http.scope import is_below, parse_prefixes
from ..sessions.store import SessionStore
from .session_http import SessionResponder
from .session_websocket import WebSocketSessionResponder

MISSING: Any = None
FIX = (
    "Pass middleware=middleware(auth) to your app, or write Middleware(SessionMiddleware, store=auth.sessions, "
    "cookie=auth.cookie)."
)


class SessionMiddleware:
    """Loads `request.session`, and saves it when the response starts, if it changed.

    A request without a session cookie does not touch the store. Paths in `exclude` have no session.
    """

    def __init__(
        self,
        app: ASGIApp,
        store: SessionStore = MISSING,
        cookie: Cookie | None = None,
        exclude: Sequence[str] = (),
        clock: Clock = time.time,
    ) -> None:
        require_instance(store, SessionStore, "The store of SessionMiddleware", FIX)
        if cookie is not None:
            require_instance(cookie, Cookie, "The cookie of SessionMiddleware", "Pass cookie=auth.cookie.")
        self.app = app
        self.store = store
        self.cookie = cookie or Cookie()
        self.exclude = parse_prefixes(exclude)
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and has_mailed_secret(scope):
            await call_without_secret(self.run, scope, receive, send)
        else:
            await self.run(scope, receive, send)

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or (self.exclude and is_below(scope, self.exclude)):
            await self.app(scope, receive, send)
            return
        responder = WebSocketSessionResponder if scope["type"] == "websocket" else SessionResponder
        await responder(self.store, self.cookie, self.clock, scope, receive, send).run(self.app)
