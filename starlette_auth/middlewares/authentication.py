"""The middleware that provides `request.user`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..answers import WebSocketRefusal, answer
from ..auth import Auth
from ..backends.base import token_schemes
from ..backends.login_methods import PROXY, LoginMethod
from ..backends.request_user import set_user
from ..backends.session import SessionBackend, session_of
from ..core.arguments import require_application, require_instance
from ..core.awaiting import UNAWAITED
from ..core.exceptions import ImproperlyConfigured, Refused
from ..http.endpoints import routes_of
from ..http.headers import Headers, add_vary, response_headers, set_header
from ..http.proxies import client_network
from ..http.scope import (
    ANSWER,
    GUARDS,
    IDENTIFIED_BY,
    IDENTIFIED_USER,
    NEW_CSRF_SECRET,
    NEW_DEVICE,
    SCOPE_APP,
    SCOPE_KEY,
    UNFINISHED_USER,
    full_path,
    is_below,
    parse_prefixes,
)
from ..http.site import SAFE_METHODS
from ..sessions.base import SessionBase
from ..users.models import AnonymousUser, User
from .early_guards import guard_body
from .refusals import START_MESSAGES
from .revalidation import revalidate
from .route_check import check_routes

MISSING: Any = None
REFUSALS = (403, 429)  # status codes


class AuthenticationMiddleware:
    """Sets `request.user`: asks the backends in turn which user the request is from."""

    def __init__(self, app: ASGIApp, auth: Auth = MISSING, exclude: Sequence[str] = ()) -> None:
        require_instance(
            auth, Auth, "The auth of AuthenticationMiddleware", "Write Middleware(AuthenticationMiddleware, auth=auth)."
        )
        require_application(app, "AuthenticationMiddleware")
        self.app = app
        self.auth = auth
        self.exclude = parse_prefixes(exclude)
        self.must_check_routes = True
        self.routed: ASGIApp | None = None  # the application behind this middleware, which has the routes
        self.revalidate = functools.partial(revalidate, auth)
        auth.defaults.assign_backend_paths(auth.backends)  # features may have added backends
        self.reads_tokens = bool(token_schemes(auth.backends))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self.must_check_routes:
            # Here for applications that do not use our lifespan. Each request fails until the routes are right.
            if self.auth.check_routes:
                check_routes(scope.get("app"), self.app)
            self.must_check_routes = False
            self.auth.proxies.client_address(HTTPConnection(scope))  # logs a warning if there is no address
            self.routed = self.app if routes_of(self.app) else None
        outer = _take_outer(scope) if scope.get(SCOPE_KEY, self.auth) is not self.auth else {}
        scope[SCOPE_KEY], scope[ANSWER] = self.auth, answer
        if root_path := scope.get("root_path", ""):
            scope["path"] = full_path(scope)  # after a proxy has removed its prefix, Starlette's mounts match no path
        scope[SCOPE_APP] = (scope.get("app") if self.routed is None else self.routed, root_path)
        if self.exclude and is_below(scope, self.exclude):
            await self.app(scope, receive, send)
            return
        if "session" not in scope:
            raise ImproperlyConfigured(
                "AuthenticationMiddleware needs SessionMiddleware in front of it. "
                "Pass middleware=middleware(auth) to your app."
            )
        try:
            await self.identify(scope)
        except Refused as refused:  # a backend refuses the request, for example because of its token
            set_user(scope, AnonymousUser())
            await refuse(refused, scope, receive, send)
            return
        scope[GUARDS] = set()
        session = scope["session"]
        edit_headers = functools.partial(self.edit_headers, scope, outer, session)
        if isinstance(session, SessionBase):
            session.edit_headers, session.revalidate = edit_headers, self.revalidate
        else:
            send = with_headers(edit_headers, send)
        if scope["type"] == "websocket":
            send = self.log_refusal(scope, send)
        else:
            receive = guard_body(scope, receive)
        try:
            if scope.get("method", "GET") in SAFE_METHODS:
                await self.app(scope, receive, send)
            else:
                client = client_network(self.auth.proxies.client_address(HTTPConnection(scope)))
                with self.auth.passwords.for_client(client):
                    await self.app(scope, receive, send)
        except Refused as refused:  # no application has handled it
            await refuse(refused, scope, receive, send)

    async def identify(self, scope: Scope) -> None:
        conn = HTTPConnection(scope)
        user: User | AnonymousUser | None
        for backend in self.auth.backends:
            user = await backend.identify(conn) if backend.identifies else None
            if user is None:
                continue
            session, is_logged_in = session_of(conn), True
            if not user.is_active:
                if (
                    backend.persists_login
                    and session is not None
                    and SessionBackend.backend_of(session) == backend.path
                ):
                    # The proxy names another user now, so its earlier login must not continue.
                    await SessionBackend.expire(session, conn, self.auth.events, "proxy")
                continue
            scope[IDENTIFIED_BY], own = backend, self.auth.session_backend
            if backend is not own:
                scope[IDENTIFIED_USER] = user
                # The limits of a session apply to its login, whichever backend identified the user.
                is_logged_in = session is None or own.is_valid_for(session, user)
            if backend.persists_login and session is not None and not is_logged_in:
                # The proxy watches for new devices. A client without cookies logs in at each request, which would
                # otherwise send the user a mail each time.
                await self.auth.devices.remember(conn, user)
                self.auth.csrf_tokens.rotate(conn)
                # A refusal would not help: the next request has the same header and logs in again.
                # The assurance adds the methods, after it has asked whether the user has a second factor.
                methods = () if own.assurance is not None else (LoginMethod(PROXY, int(self.auth.clock())),)
                await self.auth.user_sessions.begin(conn, user, backend.path, methods=methods, may_refuse=False)
                if await own.is_finished(session, user):
                    return
                scope[UNFINISHED_USER], user = user, AnonymousUser()
            elif own.assurance is not None and session is not None and not await own.is_finished(session, user):
                scope[UNFINISHED_USER], user = user, AnonymousUser()
            break
        else:
            user = AnonymousUser()
        permissions = self.auth.backend_permissions
        if permissions.are_asked or permissions.known != self.auth.backends:
            await permissions.load(conn, user)
        set_user(scope, user)

    def log_refusal(self, scope: Scope, send: Send) -> Send:
        """Returns a `send` that logs WebSockets closed with code 1008 before they were accepted."""
        is_accepted = False

        async def send_logged(message: Message) -> None:
            nonlocal is_accepted
            is_accepted = is_accepted or message["type"] == "websocket.accept"
            if message["type"] == "websocket.close" and message.get("code") == 1008 and not is_accepted:
                self.auth.security_log.refused(HTTPConnection(scope), str(message.get("reason") or "code 1008"))
            await send(message)

        return send_logged

    def edit_headers(
        self, scope: Scope, outer: Mapping[str, Any], session: object, headers: Headers, status: int = 200
    ) -> None:
        """Adds `Vary`, because each page is made for one user, and the new cookies of this package.

        A shared cache would answer a request with a token from the stored page of a visitor. Therefore the responses to
        visitors vary by Authorization, too, where a backend reads it. A client that sends the key of its `session` in a
        header gets no cookie. Logs a refusal: a response with the status 403 or 429.

        `outer` are the scope entries of the Auth of the application in which this one is mounted. They are restored for
        the cookies of that Auth.
        """
        add_vary(headers, "Cookie")
        is_in_header = getattr(session, "is_in_header", False)
        if self.reads_tokens or is_in_header:
            add_vary(headers, "Authorization")
        if is_in_header:
            for name in (NEW_DEVICE, NEW_CSRF_SECRET):
                scope.pop(name, None)
        if NEW_DEVICE in scope:
            cookie = self.auth.devices.cookie
            headers.append(cookie.header(scope, scope.pop(NEW_DEVICE), cookie.max_age))
        if NEW_CSRF_SECRET in scope:
            cookie = self.auth.csrf_cookie
            max_age = None if cookie.expire_at_browser_close else cookie.max_age
            headers.append(cookie.header(scope, scope.pop(NEW_CSRF_SECRET), max_age))
            set_header(headers, "Cache-Control", "no-store")
        if UNAWAITED in scope:
            # The application called a function such as logout() without await. Its response would claim success.
            raise ImproperlyConfigured(scope.pop(UNAWAITED))
        if status in REFUSALS or (status == 401 and scope["type"] == "websocket"):
            self.auth.security_log.refused(HTTPConnection(scope), f"status {status}")
        scope.update(outer)


async def refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the response to a refused request."""
    if scope["type"] == "websocket":
        await WebSocketRefusal(refused)(scope, receive, send)
    else:
        response = await answer(HTTPConnection(scope), refused)
        await response(scope, receive, send)


def _take_outer(scope: Scope) -> dict[str, Any]:
    """Removes what another Auth, around this application, left in the scope; returns its new cookies.

    Its user is a row of another table, perhaps, and must not be taken for a user of this Auth.
    """
    for name in ("user", "auth", IDENTIFIED_BY, IDENTIFIED_USER, UNFINISHED_USER):
        scope.pop(name, None)
    return {name: scope.pop(name) for name in (NEW_DEVICE, NEW_CSRF_SECRET) if name in scope}


def with_headers(edit_headers: Callable[[Headers, int], None], send: Send) -> Send:
    """Returns a `send` that edits the headers. Sessions of other packages do not call `edit_headers`."""

    async def send_edited(message: Message) -> None:
        if message["type"] in START_MESSAGES:
            edit_headers(response_headers(message), message.get("status", 200))
        await send(message)

    return send_edited
