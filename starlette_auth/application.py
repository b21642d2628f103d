"""Wiring an `Auth` into an application: middleware, lifespan, well-known URLs."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .auth import Auth
from .database.migrations import migrate
from .decorators import login_not_required
from .http.urls import redirect
from .middlewares.authentication import AuthenticationMiddleware
from .middlewares.csrf import CSRFMiddleware
from .middlewares.session import SessionMiddleware

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def middleware(auth: Auth, *, exclude: Sequence[str] = ()) -> list[Middleware]:
    """The recommended stack, in the right order. Paths in `exclude` have neither session nor user."""
    return [
        Middleware(SessionMiddleware, store=auth.sessions, cookie=auth.cookie, exclude=exclude, clock=auth.clock),
        Middleware(AuthenticationMiddleware, auth=auth, exclude=exclude),
        Middleware(CSRFMiddleware, auth=auth),
    ]


def well_known(auth: Auth) -> list[BaseRoute]:
    """`/.well-known/change-password` (W3C): where password managers send people. For the routes of the outermost app."""

    @login_not_required
    async def change_password(request: Request) -> Response:
        return redirect(request, "password_change")

    return [Route("/.well-known/change-password", change_password, methods=["GET"])]


def lifespan(auth: Auth, inner: Lifespan | None = None, *, create_tables: bool = False) -> Lifespan:
    """Connects the database when the application starts, disconnects it when it ends, with `inner` in between.

    A database that is connected already stays so. `create_tables` creates or completes the tables at each start, as
    the command `starlette-auth migrate` does.
    """

    @contextlib.asynccontextmanager
    async def connected(app: Any) -> AsyncIterator[Any]:
        ours = not auth.database.is_connected
        if ours:
            await auth.database.connect()
        try:
            if create_tables:
                await migrate(auth.gateway, auth.tables)
            async with contextlib.AsyncExitStack() as stack:
                yield await stack.enter_async_context(inner(app)) if inner is not None else None
        finally:
            await auth.close()
            if ours:
                await auth.database.disconnect()

    return connected
