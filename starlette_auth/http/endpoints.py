"""Which endpoint do the routes call for a request, and which path has a named route?"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from starlette import authentication
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match, Router, replace_params
from starlette.types import Scope

from ..core.arguments import describe
from ..core.exceptions import ImproperlyConfigured
from ..core.functions import layers
from .dependencies import NotADependency
from .scope import SCOPE_KEY, route_path

FOR_VISITORS = "for_visitors"  # an attribute of endpoints that do not act for the logged-in user
JSON_ONLY = "is_json_only"  # an attribute of endpoints that are account pages without the page
OPERATION = "operation"  # marks an endpoint with what the OpenAPI schema says about its POST
F = TypeVar("F", bound=Callable[..., Any])


class Target(NamedTuple):
    """Holds what a router calls for a request: the endpoint, or None if it is unknown, and its route."""

    endpoint: Any
    route: Any


def find_endpoint(app: Any, scope: Scope, *, any_method: bool = True) -> Any:
    """Returns the endpoint of a request to `app`, or None if it is unknown. See `find_target`."""
    return find_target(app, scope, any_method=any_method).endpoint


def find_target(app: Any, scope: Scope, *, any_method: bool = True) -> Target:
    """Returns the endpoint that the routes of `app` call for this request, and its route.

    Starlette has no hook for this; therefore it matches the routes as Starlette's router does. `any_method=False`
    passes over routes that do not allow the method.
    """
    route: Any = None
    route_scope: dict[str, Any] = {**scope, "endpoint": None}
    routes = routes_of(app)
    while routes:
        matches = [
            (match, child, candidate)
            for candidate in flat_routes(routes)
            for match, child in [candidate.matches(route_scope)]
        ]
        # Starlette takes the first full match, or else the first that differs only in the method.
        best = [result for result in matches if result[0] is Match.FULL] or [
            result for result in matches if result[0] is Match.PARTIAL and any_method
        ]
        if not best:
            return Target(None, None)
        _, child, route = best[0]
        route_scope.update(child)
        routes = routes_of(route) if getattr(route, "endpoint", None) is None else ()
    return Target(route_scope.get("endpoint"), route)


def is_endpoint_of(scope: Scope, function: Any) -> bool:
    """Returns whether the route called `function` as its endpoint, so that it sends what `function` returns.

    FastAPI calls dependencies too, and iterates over what a generator function returns.
    """
    endpoint = scope.get("endpoint", function)
    inner = inspect.unwrap(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        return False
    return inspect.isclass(endpoint) or any(layer is function for layer in layers(endpoint))


def require_endpoint(value: Any, decorator: str) -> None:
    """Raises ImproperlyConfigured if a decorator stands above something that no route calls with a request."""
    if isinstance(value, (Router, Starlette, BaseRoute)):
        raise ImproperlyConfigured(
            f"@{decorator} guards endpoints, and no {type(value).__name__}. Guard each of its endpoints, or put "
            "LoginRequiredMiddleware around it."
        )
    if isinstance(value, staticmethod | classmethod):
        kind = type(value).__name__
        raise ImproperlyConfigured(f"A {kind} is not an endpoint. Write @{decorator} below @{kind}.")
    if not callable(value):
        raise ImproperlyConfigured(
            f"{describe(value)} is not an endpoint. Write @{decorator} above a function or an endpoint class, and give "
            "options by name."
        )


def routes_of(app: Any) -> Sequence[Any]:
    """Returns the routes of an application, also if middlewares wrap it."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        routes = getattr(app, "routes", None)
        if routes and isinstance(routes, Sequence):
            return routes
        app = getattr(app, "app", None)
    return ()


def find_route_path(app: Any, scope: Scope, name: str, params: Mapping[str, Any]) -> str | None:
    """Returns the path of the route with this name, relative to `app`; None if there is no such route.

    The first route with the name counts, so that an application can replace a page of this package. If that page is
    mounted several times, the mount that shares the most segments with the requested path counts. Parameters of a
    mount, as in "/{tenant}/accounts", get their values from the request. Routes of a mounted application with another
    `Auth` count last: their login page is for other users.
    """
    requested_path = route_path(scope)
    place = _Place("", "", requested_path, scope.get("path_params", {}))
    matches = list(_Search(name, params, scope.get(SCOPE_KEY)).run(routes_of(app), place))
    matches = matches or list(_Search(name, params).run(routes_of(app), place))
    paths = [path for path, kind in matches if kind == matches[0][1]]
    return max(paths, key=lambda path: _shared_segments(path, requested_path), default=None)


class _Place(NamedTuple):
    """The position of a search in the routes: the mounts above it."""

    prefix: str  # the path of the mounts
    names: str  # their names, as in "shop:"
    path: str  # the requested path without the path of the mounts
    values: Mapping[str, Any]  # path parameters of the request


class _Search:
    """Searches routes for a name, below mounts and hosts, and in included routers."""

    def __init__(self, name: str, params: Mapping[str, Any], auth: object = None) -> None:
        self.name = name
        self.params = params
        self.auth = auth  # whose applications are searched; None for all
        self.seen: set[int] = set()  # the routes that the search is in; an application may be mounted in itself

    def run(self, routes: Sequence[Any], place: _Place) -> Iterator[tuple[str, Any]]:
        """Yields the path of each route with the name, and what identifies the page of the route.

        The name may begin with names of mounts, as in "shop:login".
        """
        if id(routes) in self.seen:
            return
        self.seen.add(id(routes))
        for route in flat_routes(routes):
            own_name = getattr(route, "name", None) or ""
            is_endpoint = getattr(route, "endpoint", None) is not None
            # A mount without routes, such as one of static files, has a name with the parameter "path".
            if (is_endpoint or "path" in self.params) and self.name in (own_name, place.names + own_name):
                path = self.path_of(route, place)
                if path is not None:
                    yield place.prefix + path, _kind_of(getattr(route, "endpoint", None))
            is_foreign = self.auth is not None and not is_endpoint and _auth_of(route) not in (None, self.auth)
            if not is_endpoint and not is_foreign and (inner := self.enter(route, place, own_name)) is not None:
                yield from self.run(routes_of(route), inner)
        self.seen.remove(id(routes))

    def path_of(self, route: Any, place: _Place) -> str | None:
        """Returns the path of a route; None if its parameters are not exactly the given ones."""
        values, convertors = {**place.values, **self.params}, getattr(route, "param_convertors", {})
        if any(key not in convertors and key not in place.values for key in self.params):
            return None
        if getattr(route, "endpoint", None) is None:
            values["path"] = str(values["path"]).lstrip("/")  # as Starlette's mounts do
        return _expand(route, values)

    def enter(self, route: Any, place: _Place, name: str) -> _Place | None:
        """Returns the place below a mount or host; None if a parameter of it is unknown."""
        regex, names = getattr(route, "path_regex", None), f"{place.names}{name}:" if name else place.names
        if regex is None or "path" not in regex.groupindex:
            return place._replace(names=names)
        match = regex.match(place.path)
        given = {key: self.params[key] for key in route.param_convertors if key in self.params and key != "path"}
        values = {**place.values, **(match.groupdict() if match else {}), **given}
        prefix = _expand(route, {**values, "path": ""})
        if prefix is None:
            return None
        rest = "/" + match["path"] if match else place.path
        return _Place(place.prefix + prefix.rstrip("/"), names, rest, values)


def _auth_of(route: Any) -> object:
    """Returns the `Auth` in the middleware of a mounted application; None if it has none."""
    app, seen = getattr(route, "app", None), set[int]()
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        found = [entry.kwargs.get("auth") for entry in getattr(app, "user_middleware", ())]
        auth: object = next(filter(None, [getattr(app, "auth", None), *found]), None)
        if auth is not None:
            return auth
        app = getattr(app, "app", None)
    return None


def _expand(route: Any, values: Mapping[str, Any]) -> str | None:
    """Returns the path with its parameters filled in; None if one is missing or invalid."""
    convertors = route.param_convertors
    if not convertors.keys() <= values.keys():
        return None
    try:
        return str(replace_params(route.path_format, convertors, {key: values[key] for key in convertors})[0])
    except (AssertionError, TypeError, ValueError):  # such as a slash in a parameter that holds one segment
        return None


def _kind_of(endpoint: Any) -> tuple[Any, Any]:
    return getattr(endpoint, "__module__", None), getattr(endpoint, "__qualname__", None)


def _shared_segments(path: str, other: str) -> int:
    pairs = list(zip(path.split("/"), other.split("/"), strict=False))
    return next((index for index, (one, two) in enumerate(pairs) if one != two), len(pairs))


def flat_routes(routes: Sequence[Any]) -> Iterator[Any]:
    """Yields the routes. A router that FastAPI includes is replaced by its routes."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            for context in route.effective_route_contexts():
                yield getattr(context, "starlette_route", None) or context
        else:
            yield route


def login_not_required(
    endpoint: Annotated[F, NotADependency("Write @login_not_required above the endpoint: it is not a dependency.")],
) -> F:
    """Marks an endpoint for which LoginRequiredMiddleware requires no login."""
    endpoint.login_required = False  # type: ignore[attr-defined]
    return endpoint


def csrf_exempt(
    endpoint: Annotated[F, NotADependency("Write @csrf_exempt above the endpoint: it is not a dependency.")],
) -> F:
    """Marks an endpoint to which other sites may post, such as a webhook. CSRFMiddleware does not check it.

    `login` and `complete_login` still raise PermissionDenied for a request that another site sent.
    """
    endpoint.csrf_exempt = True  # type: ignore[attr-defined]
    return endpoint


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
