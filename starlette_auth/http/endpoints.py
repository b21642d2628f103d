"""Which endpoint do the routes call for a request, and which scopes does it require?"""

from collections.abc import Iterator
from typing import Any

from starlette import authentication
from starlette.routing import Match
from starlette.types import Scope

from ..core.functions import layers


def find_endpoint(app: Any, scope: Scope) -> Any:
    """Returns the endpoint that the routes behind `app` call for this request, or None if it is unknown.

    Starlette has no hook for this; therefore it matches the routes as Starlette's router does.
    """
    while app is not None and not hasattr(app, "routes"):
        app = getattr(app, "app", None)
    route_scope: dict[str, Any] = dict(scope)
    routes = getattr(app, "routes", [])
    while routes:
        matches = [(match, child, route) for route in routes for match, child in [route.matches(route_scope)]]
        # Starlette takes the first full match, or else the first that differs only in the method.
        best = [candidate for candidate in matches if candidate[0] is Match.FULL] or [
            candidate for candidate in matches if candidate[0] is Match.PARTIAL
        ]
        if not best:
            return None
        _, child, route = best[0]
        route_scope.update(child)
        routes = getattr(route, "routes", None)
    return route_scope.get("endpoint")


def is_public(endpoint: Any) -> bool:
    """Returns whether an endpoint is marked with `login_not_required`.

    Reads only the mark of the endpoint itself: a subclass of a public class is not public.
    """
    return getattr(endpoint, "__dict__", {}).get("login_required", True) is False


def required_scopes(scope: Scope) -> Iterator[str]:
    """Yields the scopes that Starlette's `@requires` demands of a request that was routed already.

    `@requires` leaves no record of them; they are read from the function that it returned.
    """
    endpoint = scope.get("endpoint")
    method = "on_connect" if scope["type"] == "websocket" else scope["method"].lower()
    for function in (endpoint, getattr(endpoint, method, None)):
        for layer in layers(function):
            if getattr(layer, "__globals__", None) is vars(authentication):
                cells = zip(layer.__code__.co_freevars, layer.__closure__ or (), strict=True)
                yield from next((cell.cell_contents for name, cell in cells if name == "scopes_list"), ())
