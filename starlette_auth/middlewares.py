"""What stands between the server and the application: sessions and users."""

import logging
from collections.abc import Sequence
from typing import Any

import anyio
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from .auth import ONE_YEAR, SCOPE_APP, SCOPE_KEY, Auth
from .authentication import ask_to_log_in, login, set_user
from .backends import SessionBackend, session_of
from .cookies import Cookie, add_vary, response_headers, set_header
from .devices import NEW_DEVICE
from .exceptions import ImproperlyConfigured, SessionInterrupted
from .models import AnonymousUser
from .sessions.base import SessionBase, SessionStore
from .urls import is_below, path_prefixes

logger = logging.getLogger("starlette_auth")

STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
IDENTIFIED_BY = "starlette_auth.backend"


class SessionMiddleware:
    """Puts a session into `request.session`, and saves it when the response starts, if it changed.

    A visitor without a cookie costs nothing. Paths in `exclude` have no session at all.
    """

    def __init__(
        self, app: ASGIApp, store: SessionStore, cookie: Cookie | None = None, exclude: Sequence[str] = ()
    ) -> None:
        self.app = app
        self.store = store
        self.cookie = cookie or Cookie()
        self.exclude = path_prefixes(exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_below(scope, self.exclude):
            await self.app(scope, receive, send)
            return
        value = self.cookie.read(scope)
        scope["session"] = session = await self.store.load(value) if value else SessionBase()
        session.max_age = self.cookie.max_age
        await Visit(self.store, self.cookie, session, scope, receive, send).run(self.app)


class Visit:
    """One request, or one WebSocket, and its session."""

    def __init__(
        self, store: SessionStore, cookie: Cookie, session: SessionBase, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.store = store
        self.cookie = cookie
        self.session = session
        self.scope = scope
        self.receive = receive
        self.send_on = send
        self.had_key = session.session_key is not None
        self.started = False
        self.interrupted = False

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
            await self.end()
        except WebSocketDisconnect:  # how a socket usually ends
            await self.end()
            raise
        finally:
            # A crash may cost a visitor what the request wrote, but never undo a logout.
            await self.delete_discarded()

    async def send(self, message: Message) -> None:
        if message["type"] in STARTS and not self.started:
            self.started = True
            await self.start(message)
        elif not self.interrupted:
            # A socket may go on for hours: a logout in it counts before it says anything more.
            await self.delete_discarded()
            await self.send_on(message)

    async def start(self, message: Message) -> None:
        headers = response_headers(message)
        try:
            set_cookie = await self.commit(keep=message.get("status", 200) < 500)
        except SessionInterrupted:
            self.interrupted = True
            await self.refuse()
            return
        if set_cookie is not None:
            headers.append(set_cookie)
            set_header(headers, "Cache-Control", "no-store")
        if self.session.accessed or set_cookie is not None:
            add_vary(headers, "Cookie")
        await self.send_on(message)

    async def commit(self, *, keep: bool) -> tuple[bytes, bytes] | None:
        """Carries out what was wished of the session; gives the cookie to set, if there is one."""
        session = self.session
        if not session and session.session_key is not None:
            session.flush()
        if session and keep and session.modified:
            cookie = await self.save()
            await self.delete_discarded()
            return cookie
        await self.delete_discarded()
        if self.had_key and session.session_key is None:
            return self.cookie.deletion(self.scope)
        return None

    async def save(self) -> tuple[bytes, bytes]:
        session, max_age = self.session, self.session.get_expiry_age()
        client = self.scope.get("client")
        session.address = client[0] if client else ""
        session.user_agent = next(
            (value.decode("latin-1") for name, value in self.scope["headers"] if name == b"user-agent"), ""
        )
        value = await self.store.save(session, max_age)
        return self.cookie.header(self.scope, value, None if session.get_expire_at_browser_close() else max_age)

    async def end(self) -> None:
        """A WebSocket has no way to set a cookie after its start: what is stored under a known key can still change."""
        session = self.session
        if self.scope["type"] != "websocket" or not self.started or not session.modified:
            return
        if session.session_key is None:
            logger.warning("A WebSocket changed the key of its session after accept(); what it stored is lost.")
            return
        before = session.session_key
        try:
            if await self.store.save(session, session.get_expiry_age()) != before:
                logger.warning(
                    "A WebSocket changed a session that lives in its cookie after accept(); the change is lost."
                )
        except SessionInterrupted:
            logger.info("A session was ended while its WebSocket was open; what the socket stored is dropped.")

    async def delete_discarded(self) -> None:
        key, self.session.discarded_key = self.session.discarded_key, None
        if key is not None:
            # Whoever gives up on the answer, a closed browser or a time limit, does not stop the logout.
            with anyio.CancelScope(shield=True):
                await self.store.delete(key)

    async def refuse(self) -> None:
        if self.scope["type"] == "websocket":
            await self.send_on({"type": "websocket.close", "code": 1008, "reason": "Your session has ended."})
            return
        response = PlainTextResponse("Your session ended while this page was loading. Please log in again.", 400)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Vary"] = "Cookie"
        await response(self.scope, self.receive, self.send_on)


class AuthenticationMiddleware:
    """Asks each backend in turn who is making the request, and puts the answer into `request.user`."""

    def __init__(self, app: ASGIApp, auth: Auth, exclude: Sequence[str] = ()) -> None:
        self.app = app
        self.auth = auth
        self.exclude = path_prefixes(exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        scope[SCOPE_KEY] = self.auth
        if "app" in scope:
            scope[SCOPE_APP] = (scope["app"], scope.get("root_path", ""))
        if is_below(scope, self.exclude):
            await self.app(scope, receive, send)
            return
        if "session" not in scope:
            raise ImproperlyConfigured(
                "AuthenticationMiddleware needs SessionMiddleware in front of it. "
                "Pass middleware=middleware(auth) to your app."
            )
        await self.identify(scope)
        await self.app(scope, receive, self.varying(scope, send))

    async def identify(self, scope: Scope) -> None:
        conn = HTTPConnection(scope)
        for backend in self.auth.backends:
            user = await backend.identify(conn)
            if user is None:
                continue
            scope[IDENTIFIED_BY] = backend
            if backend.remembered and not SessionBackend.is_of(session_of(conn), user):
                # Somebody else looks after who logs in from where; a client without cookies does so at each request.
                self.auth.devices.remember(conn, user)
                await login(conn, user, backend=backend.path)
            set_user(conn, user)
            return
        set_user(conn, AnonymousUser())

    def varying(self, scope: Scope, send: Send) -> Send:
        """Every page was made for one user: no cache may show it to another."""

        async def send_varying(message: Message) -> None:
            if message["type"] in STARTS:
                headers = response_headers(message)
                add_vary(headers, "Cookie")
                if NEW_DEVICE in scope:
                    headers.append(self.auth.devices.cookie.header(scope, scope[NEW_DEVICE], ONE_YEAR))
            await send(message)

        return send_varying


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
