"""Checks that routes call the decorated functions, and not the functions below the decorators."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from starlette.routing import WebSocketRoute

from ..auth import Auth
from ..core.exceptions import ImproperlyConfigured
from ..core.functions import describe_function, find_decoration, layers
from ..http.dependencies import dependencies_of, is_guard, reads_scopes
from ..http.endpoints import JSON_ONLY, routes_of
from ..http.urls import JSON_SUFFIX, connection_to

LINKED_BY_FEATURES = tuple(f"{name}{JSON_SUFFIX}" for name in ("login", "register"))


class Call(NamedTuple):
    """A function that a route calls: its endpoint, or a dependency of FastAPI with its scopes."""

    route: str  # as in "GET /orders"
    function: Any
    is_endpoint: bool
    scopes: Sequence[str] = ()


def check_routes(*apps: Any) -> None:
    """Raises ImproperlyConfigured if a route calls a function past its decorator.

    A decorator above the route's own decorator protects nothing: the route has the function already. The first of
    `apps` that has routes is checked.
    """
    routes = next(filter(None, map(routes_of, apps)), ())
    calls = [call for route, path in walk(routes) for call in _calls_of(route, path)]
    called = {id(layer) for call in calls for layer in layers(call.function)}
    for call in calls:
        _check_guard(call)
        for layer in layers(call.function):
            decoration = find_decoration(layer)
            if decoration is not None and not any(id(result) in called for result in decoration.results):
                raise ImproperlyConfigured(
                    f"{call.route} calls {describe_function(layer)} past its @{decoration.decorator}, which protects nothing. "
                    "Write the decorator below the one of the route, or give the decorated function to the route. "
                    "Where this is intended, pass check_routes=False to lifespan()."
                )


def check_linked_pages(auth: Auth, app: Any) -> None:
    """Raises ImproperlyConfigured if mails would link to a page that `routes(auth, pages=False)` leaves out."""
    routes = [route for route, _ in walk(routes_of(app)) if getattr(route.endpoint, JSON_ONLY, False)]
    linked = [route for route in routes if "token" in route.param_convertors]
    if len(linked) > 1:  # the mails of features link to these pages, too
        linked += [route for route in routes if route.name in LINKED_BY_FEATURES]
    for route in linked if auth.account_mailer.is_configured else ():
        name = route.name.removesuffix(JSON_SUFFIX)
        try:
            auth.url_for(connection_to(app), name, **dict.fromkeys(route.param_convertors, "x"))
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(
                f"Mails link to the page {name!r}, which pages=False leaves out. Add a page of yours with this name and "
                f'these parameters, as in @app.get("/account{route.path}", name="{name}").'
            ) from error


def _check_guard(call: Call) -> None:
    """Refuses a guard where FastAPI calls it but it cannot work."""
    if not is_guard(call.function):
        return
    guard = next(layer for layer in layers(call.function) if not isinstance(layer, functools.partial))
    name = getattr(guard, "name", None) or guard.__name__
    if call.is_endpoint:
        raise ImproperlyConfigured(
            f"{call.route} calls @{name} instead of an endpoint. Call the decorator first, as in "
            "@user_passes_test(lambda user: user.is_staff)."
        )
    if call.scopes and not reads_scopes(call.function):
        raise ImproperlyConfigured(
            f"{call.route} gives scopes to {name}, which reads none. "
            f"Write Depends(permission_required({list(call.scopes)!r}))."
        )


def walk(routes: Sequence[Any], prefix: str = "", seen: frozenset[int] = frozenset()) -> Iterator[tuple[Any, str]]:
    """Yields every route and its path, through mounts, hosts and included routers."""
    if id(routes) in seen:
        return
    for route in routes:
        if hasattr(route, "effective_route_contexts"):  # a router that FastAPI includes
            contexts = route.effective_route_contexts()
            included = [getattr(context, "starlette_route", None) or context for context in contexts]
            yield from walk(included, prefix, seen)
            continue
        path = prefix + str(getattr(route, "path", None) or "")
        if getattr(route, "endpoint", None) is not None:
            yield route, path
        else:
            yield from walk(routes_of(route), path, seen | {id(routes)})


def functions_of(route: Any) -> Iterator[Any]:
    """Yields the endpoint of a route, and its dependencies of FastAPI at any depth."""
    return (call.function for call in _calls_of(route, ""))


def _calls_of(route: Any, path: str) -> Iterator[Call]:
    methods = sorted(getattr(route, "methods", None) or ())
    kind = "WebSocket" if isinstance(route, WebSocketRoute) else "GET" if "GET" in methods else "/".join(methods)
    name = f"{kind} {path or '/'}".strip()
    yield Call(name, route.endpoint, True)
    for dependency in dependencies_of(route):
        yield Call(name, dependency.call, False, getattr(dependency, "own_oauth_scopes", None) or ())
