"""What stands between the server and the application: sessions and users."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import NEW_CSRF_SECRET, ONE_YEAR, SCOPE_APP, SCOPE_KEY, Auth
from .authentication import ask_to_log_in, login, set_user
from .backends import session_of
from .clock import Clock
from .cookies import Cookie, Headers, add_vary, response_headers, set_header
from .devices import NEW_DEVICE
from .exceptions import ImproperlyConfigured
from .models import AnonymousUser
from .sessions.base import SessionBase
from .sessions.store import SessionStore
from .urls import is_below, path_prefixes
from .visits import STARTS, SocketVisit, Visit

IDENTIFIED_BY = "starlette_auth.backend"


class SessionMiddleware:
    """Puts a session into `request.session`, and saves it when the response starts, if it changed.

    A visitor without a cookie costs nothing. Paths in `exclude` have no session at all.
    """

    def __init__(
        self,
        app: ASGIApp,
        store: SessionStore,
        cookie: Cookie | None = None,
        exclude: Sequence[str] = (),
        clock: Clock = time.time,
    ) -> None:
        self.app = app
        self.store = store
        self.cookie = cookie or Cookie()
        self.exclude = path_prefixes(exclude)
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or (self.exclude and is_below(scope, self.exclude)):
            await self.app(scope, receive, send)
            return
        kind = SocketVisit if scope["type"] == "websocket" else Visit
        await kind(self.store, self.cookie, self.clock, scope, receive, send).run(self.app)


class AuthenticationMiddleware:
    """Asks each backend in turn who is making the request, and puts the answer into `request.user`."""

    def __init__(self, app: ASGIApp, auth: Auth, exclude: Sequence[str] = ()) -> None:
        self.app = app
        self.auth = auth
        self.exclude = path_prefixes(exclude)
        auth.defaults.name_backends(auth.backends)  # some may have come since

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
        amend, session = functools.partial(self.amend, scope), scope["session"]
        if isinstance(session, SessionBase):
            session.amend = amend
        else:
            send = amending(amend, send)
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
                is_held = self.auth.session_backend.holds(session, user)
            if backend.remembered and session is not None and not is_held:
                # Somebody else looks after who logs in from where; a client without cookies does so at each request.
                self.auth.devices.remember(conn, user)
                await login(conn, user, backend=backend.path)
                # Refused, the next request would come with the same header.
                session.admission = functools.partial(self.auth.logins.make_room, user, may_refuse=False)
            set_user(conn, user)
            return
        set_user(conn, AnonymousUser())

    def amend(self, scope: Scope, headers: Headers) -> None:
        """Every page was made for one user: no cache may show it to another. New cookies of ours go with it."""
        add_vary(headers, "Cookie")
        if NEW_DEVICE in scope:
            headers.append(self.auth.devices.cookie.header(scope, scope[NEW_DEVICE], ONE_YEAR))
        if NEW_CSRF_SECRET in scope:
            cookie = self.auth.csrf_cookie
            max_age = None if cookie.ends_with_browser else cookie.max_age
            headers.append(cookie.header(scope, scope[NEW_CSRF_SECRET], max_age))
            set_header(headers, "Cache-Control", "no-store")


def amending(amend: Callable[[Headers], None], send: Send) -> Send:
    """For sessions of another package, which do not do it themselves."""

    async def send_amended(message: Message) -> None:
        if message["type"] in STARTS:
            amend(response_headers(message))
        await send(message)

    return send_amended


class LoginRequiredMiddleware:
    """Demands a login for everything, except endpoints marked with `login_not_required` and paths in `exclude`.

    What cannot be told apart, a path without a route included, demands it too.
    """

    def __init__(self, app: ASGIApp, exclude: Sequence[str] = ()) -> None:
        self.app = app
        self.exclude = path_prefixes(exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] not in ("http", "websocket")
            or is_below(scope, self.exclude)
            or self._user(scope).is_authenticated
            # Its own mark: a class does not become public because it inherits from one that is.
            or getattr(find_endpoint(self.app, scope), "__dict__", {}).get("login_required", True) is False
        ):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "Log in first."})
        else:
            await ask_to_log_in(HTTPConnection(scope))(scope, receive, send)

    def _user(self, scope: Scope) -> Any:
        if "user" not in scope:
            raise ImproperlyConfigured(
                "LoginRequiredMiddleware needs AuthenticationMiddleware in front of it. "
                "Put it behind middleware(auth), and give both the same exclude=(…)."
            )
        return scope["user"]


def find_endpoint(app: Any, scope: Scope) -> Any:
    """What the routes behind `app` will call for this request; None when that cannot be told from here."""
    while app is not None and not hasattr(app, "routes"):
        app = getattr(app, "app", None)
    here: dict[str, Any] = dict(scope)
    routes = getattr(app, "routes", [])
    while routes:
        matches = [(match, child, route) for route in routes for match, child in [route.matches(here)]]
        # As Starlette decides: the first that fits wholly, else the first that fits but for the method.
        fitting = [found for found in matches if found[0] is Match.FULL] or [
            found for found in matches if found[0] is Match.PARTIAL
        ]
        if not fitting:
            return None
        _, child, route = fitting[0]
        here.update(child)
        routes = getattr(route, "routes", None)
    return here.get("endpoint")
