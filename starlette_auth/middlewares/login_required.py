"""The middleware that requires a login for everything."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from ..authentication import redirect_to_login
from ..core.exceptions import ImproperlyConfigured
from ..http.scope import is_below, parse_prefixes


class LoginRequiredMiddleware:
    """Demands a login for everything, except endpoints marked with `login_not_required` and paths in `exclude`.

    What cannot be told apart, a path without a route included, demands it too.
    """

    def __init__(self, app: ASGIApp, exclude: Sequence[str] = ()) -> None:
        self.app = app
        self.exclude = parse_prefixes(exclude)

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
            await redirect_to_login(HTTPConnection(scope))(scope, receive, send)

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
