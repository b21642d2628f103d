"""Putting it all into an application."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.middleware import Middleware

from .auth import Auth
from .csrf import CSRFMiddleware
from .middlewares import AuthenticationMiddleware, SessionMiddleware
from .schema import migrate

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def middleware(auth: Auth, *, exclude: Sequence[str] = ()) -> list[Middleware]:
    """The recommended stack, in the right order. Paths in `exclude` have neither session nor user."""
    return [
        Middleware(SessionMiddleware, store=auth.sessions, cookie=auth.cookie, exclude=exclude),
        Middleware(AuthenticationMiddleware, auth=auth, exclude=exclude),
        Middleware(CSRFMiddleware, auth=auth),
    ]


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
            auth.passwords.close()
            await auth.gateway.close()
            if ours:
                await auth.database.disconnect()

    return connected
