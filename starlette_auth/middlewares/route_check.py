"""Checks that the guards of an application protect its routes."""

import functools
import inspect
from collections.abc import Container, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, get_origin

from starlette.routing import WebSocketRoute

from ..auth import Auth
from ..core.exceptions import ImproperlyConfigured
from ..core.functions import closure_of, describe_function, find_decoration, is_hidden, layers
from ..http.dependencies import dependencies_of, is_guard, returns_user, scopes_of, tree_of
from ..http.endpoints import JSON_ONLY, is_public, routes_of
from ..http.urls import JSON_SUFFIX, connection_to
from .parameter_check import check_parameters

INTENDED = "Where this is intended, pass check_routes=False to lifespan()."
LINKED_BY_FEATURES = tuple(f"{name}{JSON_SUFFIX}" for name in ("login", "register"))


class Call(NamedTuple):
    """A function that a route calls: its endpoint, or a dependency of FastAPI with its scopes."""

    route: str  # as in "GET /orders"
    function: Any
    is_endpoint: bool
    scopes: Sequence[str] = ()
    dependant: Any = None  # of FastAPI: what it gives the function


class Place(NamedTuple):
    """A route in the application."""

    route: Any
    path: str  # with the paths of the mounts
    guards: Sequence[Any] = ()  # dependencies of the routers and applications above it that are guards


def check_routes(*apps: Any) -> None:
    """Raises ImproperlyConfigured if a guard of the application protects nothing.

    A decorator above the route's own decorator protects nothing: the route has the function already. Another route may
    call the decorated function; then the one without is meant, unless its name stands for the decorated function. The
    first of `apps` that has routes is checked.
    """
    app = next(filter(routes_of, apps), None)
    places = list(_walk(routes_of(app), Place(app, "", _router_guards(app))))
    calls = [call for place in places for call in calls_of(place.route, place.path)]
    called = {id(layer) for call in calls for layer in layers(call.function)}
    for call in calls:
        _check_guard(call)
        _check_scopes(call)
        _check_annotated(call)
        check_parameters(call)
        _check_decorators(call, called)
    for place in places:
        _check_router_guards(place)


def _check_decorators(call: Call, called: Container[int]) -> None:
    """Refuses a function that is called past its decorator. `called` has the ids of all that the routes call."""
    own = {id(layer) for layer in layers(call.function)}
    for layer in layers(call.function):
        decoration = find_decoration(layer)
        if decoration is None:
            continue
        results = {id(result) for result in decoration.results}
        if results & own or (any(result in called for result in results) and not is_hidden(layer)):
            continue
        raise ImproperlyConfigured(
            f"{call.route} calls {describe_function(layer)} past its @{decoration.decorator}, which protects nothing. "
            f"Write the decorator below the one of the route, or give the decorated function to the route. {INTENDED}"
        )


def check_linked_pages(auth: Auth, app: Any) -> None:
    """Raises ImproperlyConfigured if mails would link to a page that `routes(auth, pages=False)` leaves out."""
    routes = [route for route, _ in walk(routes_of(app)) if getattr(route.endpoint, JSON_ONLY, False)]
    linked = [route for route in routes if "token" in route.param_convertors]
    if len(linked) > 1:  # the mails of features link to these pages, too
        linked += [route for route in routes if route.name in LINKED_BY_FEATURES]
    if auth.account_mailer.is_configured:
        missing = [route for route in linked if not _has_page(auth, app, route)]
        if missing:
            raise ImproperlyConfigured(
                "Mails link to pages that pages=False leaves out. Add pages of your own with these names and parameters, "
                "under paths that you choose, as in " + ", ".join(map(_example_of_page, missing)) + "."
            )


def _has_page(auth: Auth, app: Any, route: Any) -> bool:
    """Returns whether the application has the page whose JSON this route takes."""
    try:
        auth.url_for(connection_to(app), _page_of(route), **dict.fromkeys(route.param_convertors, "x"))
    except ImproperlyConfigured:
        return False
    return True


def _page_of(route: Any) -> str:
    return str(route.name).removesuffix(JSON_SUFFIX)


def _example_of_page(route: Any) -> str:
    name = _page_of(route)
    path = "/".join(["", name.replace("_", "-"), *(f"{{{parameter}}}" for parameter in route.param_convertors)])
    return f'@app.get("{path}", name="{name}")'


def _check_guard(call: Call) -> None:
    """Refuses a guard where FastAPI calls it but it cannot work."""
    if not is_guard(call.function):
        return
    name = _name_of(call.function)
    if call.is_endpoint:
        raise ImproperlyConfigured(
            f"{call.route} calls @{name} instead of an endpoint. Call the decorator first, as in "
            "@user_passes_test(lambda user: user.is_superuser)."
        )
    for guard, _ in decorators_of(call.function):
        try:
            guard.for_scopes(call.scopes)
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(
                f"{call.route} gives {name} scopes that are no permissions. {error} For users with is_staff write "
                "Depends(staff_required), for superusers Depends(user_passes_test(lambda user: user.is_superuser))."
            ) from error


def _check_scopes(call: Call) -> None:
    """Refuses scopes of `Security(…)` that no function reads: users without these permissions would pass.

    A dependency may leave the scopes to one below it. One without users is of another security scheme.
    """
    scopes = getattr(call.dependant, "own_oauth_scopes", None)
    if not scopes:
        return
    tree = tree_of(call.dependant)
    if any(getattr(dependency, "security_scopes_param_name", None) for dependency in tree):
        return
    if any(returns_user(dependency.call) or _has_guard(dependency.call) for dependency in tree):
        name = _name_of(call.function) if is_guard(call.function) else describe_function(call.function)
        raise ImproperlyConfigured(
            f"{call.route} gives scopes to {name}, which reads none. "
            f"Write Depends(permission_required({list(scopes)!r}))."
        )


def _check_annotated(call: Call) -> None:
    """Refuses `Depends(CurrentUser)`: FastAPI calls the class with parameters of the query, and asks no guard."""
    if get_origin(call.function) is not Annotated:
        return
    for mark in call.function.__metadata__:
        dependency = getattr(mark, "dependency", None)
        if dependency is not None:
            raise ImproperlyConfigured(
                f"{call.route} has an Annotated[…] in Depends(…), so FastAPI does not call {_name_of(dependency)}. "
                f"Write Depends({_name_of(dependency)}), or annotate a parameter."
            )


def _check_router_guards(place: Place) -> None:
    """Refuses a route that a guard in `dependencies` of a router seems to protect, and does not.

    FastAPI gives these dependencies to its own routes only, and only to those that are added afterwards. A mounted
    application, and a route of Starlette, would be open to all visitors.
    """
    calls = list(calls_of(place.route, place.path))
    functions = [call.function for call in calls]
    missing = next((guard for guard in place.guards if guard not in functions), None)
    endpoint = place.route.endpoint
    is_of_fastapi = str(getattr(endpoint, "__module__", "")).startswith("fastapi.")  # such as /docs
    if missing is None or is_public(endpoint) or is_of_fastapi:
        return
    if any(map(_has_guard, functions)):
        return
    raise ImproperlyConfigured(
        f"{calls[0].route} calls {describe_function(endpoint)} past Depends({_name_of(missing)}): FastAPI gives the "
        "dependencies of an application or a router neither to mounted applications, nor to routes of Starlette, nor to "
        "routes that are there already. Guard the endpoint itself, or write @login_not_required above it; for a mounted "
        f"application login_not_required(app). {INTENDED}"
    )


def walk(routes: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Yields every route and its path, through mounts, hosts and included routers."""
    return ((place.route, place.path) for place in _walk(routes, Place(None, "")))


def _walk(routes: Sequence[Any], above: Place, seen: frozenset[int] = frozenset()) -> Iterator[Place]:
    if id(routes) in seen:
        return
    for route in routes:
        if hasattr(route, "effective_route_contexts"):  # a router that FastAPI includes
            guards = [*above.guards, *_guards_in(route.include_context), *_guards_in(route.original_router)]
            yield from _walk(_included(route), above._replace(guards=guards), seen)
            continue
        path = above.path + str(getattr(route, "path", None) or "")
        if getattr(route, "endpoint", None) is not None:
            yield Place(route, path, above.guards)
            continue
        app = getattr(route, "app", None)
        _check_mounted(app, path)
        if not routes_of(app):  # a middleware that is a function, perhaps
            app = next(filter(routes_of, closure_of(app)), app)
        guards = [] if is_public(app) else [*above.guards, *_router_guards(app)]
        yield from _walk(routes_of(app), Place(route, path, guards), seen | {id(routes)})


def _included(route: Any) -> list[Any]:
    candidates = getattr(route, "effective_candidates", route.effective_route_contexts)()
    return [getattr(candidate, "starlette_route", None) or candidate for candidate in candidates]


def _router_guards(app: Any) -> list[Any]:
    return _guards_in(getattr(app, "router", app))


def _guards_in(router: Any) -> list[Any]:
    """Returns the functions in the `dependencies` of a router of FastAPI that ask a guard."""
    dependencies = getattr(router, "dependencies", None) or ()
    for depends in dependencies:
        if is_guard(depends):
            name = _name_of(depends)
            raise ImproperlyConfigured(
                f"dependencies=[…] contains {name} itself, which FastAPI does not call. Write Depends({name})."
            )
    functions = [getattr(depends, "dependency", None) for depends in dependencies]
    return [function for function in functions if _asks_guard(function, frozenset())]


def _asks_guard(function: Any, seen: frozenset[int]) -> bool:
    """Returns whether FastAPI asks a guard when it calls this: a guard, a guarded function, or one that depends on either."""
    if function is None or id(function) in seen:
        return False
    if is_guard(function) or _has_guard(function):
        return True
    return any(_asks_guard(other, seen | {id(function)}) for other in _dependencies_in(function))


def _dependencies_in(function: Any) -> Iterator[Any]:
    """Yields what the parameters of a function depend on: `Depends(…)` as default, or in `Annotated`."""
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except (NameError, TypeError, ValueError):  # a name that only type checkers know, or no signature
        return
    for parameter in parameters:
        for part in (parameter.default, *getattr(parameter.annotation, "__metadata__", ())):
            yield getattr(part, "dependency", None)


def _check_mounted(app: Any, path: str) -> None:
    """Refuses a guard above a mounted application: servers call it with a scope, not with a request."""
    guard = getattr(app, "__dict__", {}).get("guard")
    if guard is not None:
        raise ImproperlyConfigured(
            f"The application at {path or '/'} is below @{guard.name}, which guards endpoints. Guard each of its endpoints, "
            "or put LoginRequiredMiddleware around it."
        )


def decorators_of(function: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the guards above a function, or above `__call__` of an object, and what each returned.

    A guard itself is yielded with itself.
    """
    call = type(function).__call__ if callable(function) and not is_guard(function) else None
    for layer in (*layers(function), *layers(call)):
        guard = getattr(layer, "__dict__", {}).get("guard")
        if guard is not None:
            yield guard, layer


def _has_guard(function: Any) -> bool:
    return next(decorators_of(function), None) is not None


def _name_of(function: Any) -> str:
    guard = next((layer for layer in layers(function) if not isinstance(layer, functools.partial)), function)
    return str(getattr(guard, "name", None) or getattr(guard, "__name__", type(guard).__name__))


def calls_of(route: Any, path: str = "", overrides: Container[Any] = ()) -> Iterator[Call]:
    """Yields what a route calls: its endpoint, and its dependencies of FastAPI at any depth."""
    methods = sorted(getattr(route, "methods", None) or ())
    kind = "WebSocket" if isinstance(route, WebSocketRoute) else "GET" if "GET" in methods else "/".join(methods)
    name = f"{kind} {path or '/'}".strip()
    yield Call(name, route.endpoint, True, dependant=getattr(route, "dependant", None))
    for dependency in dependencies_of(route, overrides):
        yield Call(name, dependency.call, False, scopes_of(dependency), dependency)
