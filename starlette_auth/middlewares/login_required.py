"""The middleware that requires a login for every endpoint."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ..answers import WebSocketRefusal, respond
from ..auth import get_auth
from ..authentication import LoginOptions, login_options_of, not_authenticated
from ..core.arguments import require_application
from ..core.exceptions import ImproperlyConfigured
from ..http.endpoints import find_target, is_public
from ..http.scope import GUARDS, is_below, parse_prefixes
from ..http.urls import find_url_path, requested_path


class LoginRequiredMiddleware:
    """Requires a login for every endpoint that is not marked with `login_not_required` or in `exclude`.

    A request whose endpoint is unknown requires a login too, also a path without a route. The options of an endpoint
    with `login_required(…)` or another decorator of this package apply, such as `login_url`, also if the decorator is a
    dependency of FastAPI. If there are several, the options of the first one that a request meets apply.
    """

    def __init__(self, app: ASGIApp, exclude: Sequence[str] = ()) -> None:
        require_application(app, "LoginRequiredMiddleware")
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
        target = find_target(self.app, scope)
        if is_public(target.endpoint):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketRefusal(not_authenticated(HTTPConnection(scope)))(scope, receive, send)
        elif self._is_login_page(scope, options := login_options_of(target, scope["method"])):
            await self.app(scope, receive, send)
        else:
            request = Request(scope, receive)
            response = respond(get_auth(request), request, not_authenticated(request, options))
            await response(scope, receive, send)

    def _is_login_page(self, scope: Scope, options: LoginOptions) -> bool:
        """Returns whether this is the login page, which would redirect to itself in a loop."""
        login_url = find_url_path(scope, options.login_url or get_auth(HTTPConnection(scope)).login_url) or ""
        return login_url.partition("?")[0] == requested_path(scope)

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
