"""For the tests of applications: being somebody, without filling in a form."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol, overload

from .auth import Auth
from .exceptions import ImproperlyConfigured
from .models import User
from .sessions.base import SessionBase


class Client(Protocol):
    """Starlette's TestClient, or a client of httpx."""

    cookies: Any
    headers: Any


class AsyncClient(Client, Protocol):
    """A client whose requests are awaited."""

    async def aclose(self) -> None: ...


@overload
def log_in(  # type: ignore[overload-overlap]
    client: AsyncClient, user: User | None, auth: Auth | None = None
) -> Awaitable[None]: ...
@overload
def log_in(client: Client, user: User | None, auth: Auth | None = None) -> None: ...
def log_in(client: Client, user: User | None, auth: Auth | None = None) -> Awaitable[None] | None:
    """Makes `user` the user of this client, as a login would, without a password.

    With a TestClient that is all; with an AsyncClient, `await log_in(…)`. The Auth is found in a TestClient's app;
    pass it where that is not possible. From then on the client says of its requests what a browser says of those that
    come from the site's own pages (`Sec-Fetch-Site: same-origin`), so that a POST needs no token.
    """
    if user is None:
        raise ValueError("log_in() was given None in place of a user. Create the user first.")
    auth = auth or _find_auth(getattr(client, "app", None))
    task = _log_in(client, user, auth)
    if hasattr(client, "aclose"):
        return task
    portal = getattr(client, "portal", None)
    if portal is not None:
        portal.call(lambda: task)
    else:
        asyncio.run(task)
    return None


async def _log_in(client: Client, user: User, auth: Auth) -> None:
    session = SessionBase()
    auth.session_backend.remember(session, user, auth.model_backend.path)
    value = await auth.sessions.save(session, auth.cookie.max_age)
    base = str(getattr(client, "base_url", "http://testserver"))
    name = auth.cookie.name_for({"scheme": base.partition(":")[0]})
    client.cookies.delete(name) if name in client.cookies else None
    client.cookies.set(name, value)
    client.headers["Sec-Fetch-Site"] = "same-origin"


def _find_auth(app: Any) -> Auth:
    for entry in getattr(app, "user_middleware", ()):
        auth = entry.kwargs.get("auth")
        if isinstance(auth, Auth):
            return auth
    raise ImproperlyConfigured("This client's app does not show its Auth. Pass it: log_in(client, user, auth).")
