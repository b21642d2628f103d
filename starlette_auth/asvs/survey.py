"""What the application serves: its endpoints and their guards, and a sample of its responses."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.routing import WebSocketRoute

from ..http.endpoints import is_public, required_scopes, routes_of
from ..http.urls import JSON_SUFFIX
from ..middlewares.login_required import LoginRequiredMiddleware
from ..middlewares.route_check import calls_of, decorators_of, walk
from ..middlewares.security_headers import SecurityHeaders
from .application import Target
from .clients import FROM_ATTACKER, Browser, Exchange

MOST = 60  # endpoints that are asked
PATIENCE = 3.0  # seconds for a response, whose start counts: a stream may have no end
DOCUMENTATION = ("openapi", "swagger_ui_html", "swagger_ui_redirect", "redoc_html")  # FastAPI's names of routes


@dataclass(frozen=True)
class Endpoint:
    """A route of the application, and the names of its guards."""

    path: str
    methods: Sequence[str]
    function: Any
    name: str
    guards: Sequence[str]
    is_public: bool
    is_websocket: bool

    def __str__(self) -> str:
        return f"{'WebSocket' if self.is_websocket else '/'.join(self.methods)} {self.path or '/'}"

    @property
    def is_ours(self) -> bool:
        """Returns whether it is an account page of this package, which has its own checks."""
        return str(getattr(self.function, "__module__", "")).startswith("starlette_auth.")

    @property
    def is_documentation(self) -> bool:
        return self.name in DOCUMENTATION and str(getattr(self.function, "__module__", "")).startswith("fastapi.")

    @property
    def can_be_asked(self) -> bool:
        return "GET" in self.methods and "{" not in self.path


def endpoints(target: Target) -> list[Endpoint]:
    if "endpoints" not in target.cache:
        target.cache["endpoints"] = list(_endpoints(target))
    found: list[Endpoint] = target.cache["endpoints"]
    return found


def _endpoints(target: Target) -> Iterator[Endpoint]:
    for route, path in walk(routes_of(target.app)):
        methods = sorted(set(getattr(route, "methods", None) or ("GET", "POST")) - {"HEAD"})
        is_websocket = isinstance(route, WebSocketRoute)
        yield Endpoint(
            path,
            [] if is_websocket else methods,
            route.endpoint,
            str(getattr(route, "name", "")),
            sorted(set(_guards(route, path, methods))),
            is_public(route.endpoint),
            is_websocket,
        )


def _guards(route: Any, path: str, methods: Sequence[str]) -> Iterator[str]:
    """Yields the names of the guards of a route: above its endpoint or a method of it, or in its dependencies."""
    functions = [call.function for call in calls_of(route, path)]
    if inspect.isclass(route.endpoint):
        functions += [getattr(route.endpoint, method.lower(), None) for method in methods]
    for function in functions:
        yield from (str(getattr(guard, "name", "guard")) for guard, _ in decorators_of(function))
    for method in methods:
        yield from required_scopes({"type": "http", "method": method, "endpoint": route.endpoint})


def _applications(target: Target) -> Iterator[Any]:
    """Yields the application and what it wraps."""
    app, seen = target.app, set[int]()
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        yield app
        app = getattr(app, "app", None)


def requires_login_everywhere(target: Target) -> bool:
    """Returns whether LoginRequiredMiddleware is in the middlewares of the application."""
    for app in _applications(target):
        classes = [entry.cls for entry in getattr(app, "user_middleware", ())]
        if any(isinstance(cls, type) and issubclass(cls, LoginRequiredMiddleware) for cls in (type(app), *classes)):
            return True
    return False


def security_headers(target: Target) -> SecurityHeaders | None:
    """Returns what the application passes to `middleware(auth, headers=…)`; None if it does not."""
    for app in _applications(target):
        for entry in getattr(app, "user_middleware", ()):
            if isinstance(headers := entry.kwargs.get("headers"), SecurityHeaders):
                return headers
    return None


async def responses(target: Target) -> list[Exchange]:
    """Returns the responses of all GET routes without parameters, to a visitor and to a user, and some refusals."""
    return [*await to_visitor(target), *await to_user(target)]


# The page of an unhandled exception is made outside of all middlewares, so responses with a 5xx are left out.
async def to_visitor(target: Target) -> list[Exchange]:
    if "visitor" not in target.cache:
        browser = target.browser()
        await _ask_all(target, browser)
        await browser.get(target.nowhere())
        await browser.post(target.nowhere(), headers=FROM_ATTACKER)
        target.cache["visitor"] = [exchange for exchange in browser.exchanges if 0 < exchange.status < 500]
    exchanges: list[Exchange] = target.cache["visitor"]
    return exchanges


async def to_user(target: Target) -> list[Exchange]:
    """Returns the responses to a logged-in user without any permission."""
    if "user" not in target.cache:
        browser = await target.logged_in()
        await _ask_all(target, browser)
        await browser.get(target.nowhere())
        target.cache["user"] = [exchange for exchange in browser.exchanges if 0 < exchange.status < 500]
    exchanges: list[Exchange] = target.cache["user"]
    return exchanges


async def _ask_all(target: Target, browser: Browser) -> None:
    asked = [endpoint for endpoint in endpoints(target) if endpoint.can_be_asked and not endpoint.is_websocket]
    for endpoint in asked[:MOST]:
        if not endpoint.name.endswith(JSON_SUFFIX):
            await browser.get(endpoint.path or "/", wait=PATIENCE)
