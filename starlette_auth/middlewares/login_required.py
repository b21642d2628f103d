"""The middleware that requires a login for every endpoint."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ..authentication import redirect_to_login
from ..core.exceptions import ImproperlyConfigured
from ..http.endpoints import find_endpoint, is_public
from ..http.scope import GUARDS, is_below, parse_prefixes


class LoginRequiredMiddleware:
    """Requires a login for every endpoint that is not marked with `login_not_required` or in `exclude`.

    A request whose endpoint is unknown requires a login too, also a path without a route.
    """

    def __init__(self, app: ASGIApp, exclude: Sequence[str] = ()) -> None:
        self.app = app
        self.exclude = parse_prefixes(exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_below(scope, self.exclude):
            await self.app(scope, receive, send)
            return
        if self._user(scope).is_authenticated:
            scope.setdefault(GUARDS, set()).add(_lets_in)
            await self.app(scope, receive, send)
            return
        if is_public(find_endpoint(self.app, scope)):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "Log in first."})
        else:
            await redirect_to_login(HTTPConnection(scope))(scope, receive, send)

    def _user(self, scope: Scope) -> Any:
        if "user" not in scope:
            raise ImproperlyConfigured(
                "LoginRequiredMiddleware needs AuthenticationMiddleware in front of it. "
                "Put it behind middleware(auth), and give both the same exclude=(…)."
            )
        return scope["user"]


def _lets_in(conn: HTTPConnection) -> bool:
    """Returns whether the middleware would let an open connection in again, whose endpoint is known by now."""
    return bool(conn.user.is_authenticated) or is_public(conn.scope.get("endpoint"))
