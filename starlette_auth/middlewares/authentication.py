"""The middleware that provides `request.user`."""

import functools
from collections.abc import Callable, Sequence

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..auth import Auth
from ..authentication import login, set_user
from ..backends.session import session_of
from ..core.exceptions import ImproperlyConfigured
from ..http.headers import Headers, add_vary, response_headers, set_header
from ..http.scope import IDENTIFIED_BY, NEW_CSRF_SECRET, NEW_DEVICE, SCOPE_APP, SCOPE_KEY, is_below, parse_prefixes
from ..sessions.base import SessionBase
from ..users.models import AnonymousUser
from .session_http import START_MESSAGES


class AuthenticationMiddleware:
    """Asks each backend in turn who is making the request, and puts the answer into `request.user`."""

    def __init__(self, app: ASGIApp, auth: Auth, exclude: Sequence[str] = ()) -> None:
        self.app = app
        self.auth = auth
        self.exclude = parse_prefixes(exclude)
        auth.defaults.assign_backend_paths(auth.backends)  # some may have come since

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        scope[SCOPE_KEY] = self.auth
        if "app" in scope:
            scope[SCOPE_APP] = (scope["app"], scope.get("root_path", ""))
        if self.exclude and is_below(scope, self.exclude):
            await self.app(scope, receive, send)
            return
        if "session" not in scope:
            raise ImproperlyConfigured(
                "AuthenticationMiddleware needs SessionMiddleware in front of it. "
                "Pass middleware=middleware(auth) to your app."
            )
        await self.identify(scope)
        amend, session = functools.partial(self.edit_headers, scope), scope["session"]
        if isinstance(session, SessionBase):
            session.edit_headers = amend
        else:
            send = with_headers(amend, send)
        await self.app(scope, receive, send)

    async def identify(self, scope: Scope) -> None:
        conn = HTTPConnection(scope)
        for backend in self.auth.backends:
            user = await backend.identify(conn) if backend.identifies else None
            if user is None:
                continue
            scope[IDENTIFIED_BY] = backend
            session, is_held = session_of(conn), True
            if session is not None and backend is not self.auth.session_backend:
                # Whoever says so: a login lasts no longer than any other.
                is_held = self.auth.session_backend.is_valid_for(session, user)
            if backend.persists_login and session is not None and not is_held:
                # Somebody else looks after who logs in from where; a client without cookies does so at each request.
                self.auth.devices.remember(conn, user)
                await login(conn, user, backend=backend.path)
                # Refused, the next request would come with the same header.
                session.after_save = functools.partial(self.auth.user_sessions.enforce_limit, user, may_refuse=False)
            set_user(conn, user)
            return
        set_user(conn, AnonymousUser())

    def edit_headers(self, scope: Scope, headers: Headers) -> None:
        """Every page was made for one user: no cache may show it to another. New cookies of ours go with it."""
        add_vary(headers, "Cookie")
        if NEW_DEVICE in scope:
            cookie = self.auth.devices.cookie
            headers.append(cookie.header(scope, scope[NEW_DEVICE], cookie.max_age))
        if NEW_CSRF_SECRET in scope:
            cookie = self.auth.csrf_cookie
            max_age = None if cookie.expire_at_browser_close else cookie.max_age
            headers.append(cookie.header(scope, scope[NEW_CSRF_SECRET], max_age))
            set_header(headers, "Cache-Control", "no-store")


def with_headers(amend: Callable[[Headers], None], send: Send) -> Send:
    """For sessions of another package, which do not do it themselves."""

    async def send_amended(message: Message) -> None:
        if message["type"] in START_MESSAGES:
            amend(response_headers(message))
        await send(message)

    return send_amended
