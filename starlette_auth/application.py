"""Connects an `Auth` to an application: middleware, lifespan, well-known URLs."""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .answers import answer
from .auth import Auth
from .backends.base import has_token, session_key, token_schemes
from .core.arguments import require_bool, require_callable, require_instance
from .core.exceptions import Refused
from .database.migrations import migrate
from .http.endpoints import login_not_required
from .http.scope import SCOPE_KEY, parse_prefixes
from .http.urls import redirect
from .middlewares import route_check
from .middlewares.authentication import AuthenticationMiddleware
from .middlewares.csrf import CSRFMiddleware
from .middlewares.login_required import LoginRequiredMiddleware
from .middlewares.security_headers import SecurityHeaders, SecurityHeadersMiddleware
from .middlewares.session import SessionMiddleware
from .pages.openapi import document

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def middleware(
    auth: Auth,
    *,
    exclude: Sequence[str] = (),
    headers: SecurityHeaders | None = None,
    login_required: bool = False,
) -> list[Middleware]:
    """Returns the recommended middlewares in the right order. Paths in `exclude` have neither session nor user.

    `headers` adds security headers to every response, also of the paths in `exclude`. `login_required=True` requires a
    login for every endpoint that is not marked with `login_not_required`, except for the paths in `exclude`.
    """
    require_instance(auth, Auth, "auth", "Pass the Auth, as in middleware(auth).")
    exclude = parse_prefixes(exclude)
    if headers is not None:
        require_instance(headers, SecurityHeaders, "headers", "Pass headers=SecurityHeaders(…).")
    require_bool(login_required, "login_required")
    outside = [Middleware(SecurityHeadersMiddleware, headers=headers, is_https=auth.cookie.is_secure)]
    inside = [Middleware(LoginRequiredMiddleware, exclude=exclude)]
    schemes = token_schemes(auth.backends)
    readers = [backend for backend in auth.backends if backend.reads_sessions]
    return [
        *(outside if headers is not None else []),
        Middleware(
            SessionMiddleware,
            store=auth.sessions,
            cookie=auth.cookie,
            exclude=exclude,
            clock=auth.clock,
            answer=functools.partial(_answer, auth),
            has_token=functools.partial(has_token, schemes) if schemes else None,
            key_in_header=functools.partial(session_key, readers) if readers else None,
        ),
        Middleware(AuthenticationMiddleware, auth=auth, exclude=exclude),
        Middleware(CSRFMiddleware, auth=auth),
        *(inside if login_required else []),
    ]


async def _answer(auth: Auth, conn: HTTPConnection, refused: Refused) -> Response:
    conn.scope.setdefault(SCOPE_KEY, auth)  # is missing if the session could not be loaded
    return await answer(conn, refused)


def well_known(auth: Auth) -> list[BaseRoute]:
    """Returns the route `/.well-known/change-password` (W3C), to which password managers send users.

    It belongs to the routes of the outermost application, because the path is absolute.
    """

    require_instance(auth, Auth, "auth", "Pass the Auth, as in well_known(auth).")

    @login_not_required
    async def change_password(request: Request) -> Response:
        return redirect(request, "password_change")

    return [Route("/.well-known/change-password", change_password, methods=["GET"])]


def lifespan(
    auth: Auth, inner: Lifespan | None = None, *, create_tables: bool = False, check_routes: bool = True
) -> Lifespan:
    """Returns a lifespan that connects the database at startup and disconnects it at shutdown.

    `inner` is the application's own lifespan, which runs while the database is connected. A database that was already
    connected stays connected. `create_tables` creates or completes the tables at each start, as the command
    `starlette-auth migrate` does.

    The application does not start if a route calls a function past its decorator, as `@login_required` above
    `@app.get(…)` would have it: it would be open to all visitors. `check_routes=False` switches this check off, also
    for the first request, at which AuthenticationMiddleware makes it otherwise.
    """
    require_instance(auth, Auth, "auth", "Pass the Auth, as in lifespan(auth).")
    require_bool(create_tables, "create_tables")
    require_bool(check_routes, "check_routes")
    if inner is not None:
        require_callable(inner, "The inner lifespan", "Pass your own lifespan function, as in lifespan(auth, yours).")
    auth.check_routes = check_routes

    @contextlib.asynccontextmanager
    async def connected(app: Any) -> AsyncIterator[Any]:
        if check_routes:
            route_check.check_routes(app)
        must_connect = not auth.gateway.is_connected
        if must_connect:
            await auth.gateway.connect()
        document(app, auth)
        auth.app = app
        route_check.check_linked_pages(auth, app)
        try:
            if create_tables:
                await migrate(auth.gateway, auth.tables)
            async with contextlib.AsyncExitStack() as stack:
                state = await stack.enter_async_context(inner(app)) if inner is not None else None
                await auth.backend_permissions.prepare()  # afterwards: `inner` may create permissions
                yield state
        finally:
            try:
                await auth.close()
            finally:
                if must_connect:
                    await auth.gateway.disconnect()

    return connected
