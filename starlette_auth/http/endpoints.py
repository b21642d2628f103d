"""Which endpoint do the routes call for a request?"""

from typing import Any

from starlette.routing import Match
from starlette.types import Scope


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
