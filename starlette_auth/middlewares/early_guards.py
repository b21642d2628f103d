"""Asks the guards of a route before the body of the request is read."""

import inspect
import logging
import weakref
from collections.abc import Container, Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from ..core.functions import is_async
from ..http.dependencies import is_guard
from ..http.scope import GUARDS, IS_REFUSED
from .route_check import calls_of, decorators_of

logger = logging.getLogger("starlette_auth")
#: The guards of each route, by the id of the route, which has no hash. Two routes may be equal, and have different dependencies.
_guards: "dict[int, tuple[weakref.ref[Any], list[tuple[Any, bool]]]]" = {}


def guards_of(route: Any, overrides: Container[Any] = ()) -> list[tuple[Any, bool]]:
    """Returns the guards of a route: its decorators, and the dependencies of FastAPI at any depth.

    Each comes with whether it stands above a function that is not async. The dependencies in `overrides` are left out.
    """
    return list(dict.fromkeys(_find_guards(route, overrides)))


def _find_guards(route: Any, overrides: Container[Any]) -> Iterator[tuple[Any, bool]]:
    for call in calls_of(route, overrides=overrides):
        for guard, layer in decorators_of(call.function):
            yield guard.for_scopes(call.scopes), not (is_guard(layer) or is_async(layer))


def guard_body(scope: Scope, receive: Receive) -> Receive:
    """Returns a `receive` that asks the guards of the route when the application first reads the body.

    FastAPI reads the body before it calls dependencies and decorated endpoints. A visitor who may not use the route
    could otherwise keep the server busy with a large upload, and would get the errors in the data in place of 401. The
    request may have any method: FastAPI reads the body of a GET, too.
    """
    must_ask = True

    async def guarded() -> Message:
        nonlocal must_ask
        # A response to a refused request may read the form, to keep it.
        if must_ask and IS_REFUSED not in scope:
            route = _route_of(scope)
            if route is not None:
                must_ask = False
                await _ask_early(Request(scope, receive), route)
        return await receive()

    return guarded


def _route_of(scope: Scope) -> Any:
    """Returns the route of FastAPI that reads the body; None for other routes, whose decorators run before.

    The scope names the route of an included router with all dependencies. Below a mount in an included router, it still
    names the mount.
    """
    context, route = scope.get("fastapi"), scope.get("route")
    included = context.get("effective_route_context") if isinstance(context, dict) else None
    if included is not None and (route is None or getattr(included, "original_route", None) is route):
        route = included
    return route if hasattr(route, "dependant") else None


async def _ask_early(request: Request, route: Any) -> None:
    """Raises Refused, or another HTTPException of a guard.

    FastAPI would take other errors for a malformed body, and answer with 400. Therefore the guard raises them again when
    FastAPI calls it.
    """
    try:
        await ask_guards(request, route)
    except HTTPException:
        raise
    except Exception as error:
        logger.debug("A guard failed before the body was read: %r", error)


async def ask_guards(request: Request, route: Any) -> None:
    """Raises Refused if a guard refuses the request. Guards that let the request pass already are not asked again."""
    passed_tests = request.scope.get(GUARDS, ())
    for guard, is_sync in _guards_for(route):
        if guard.test in passed_tests or guard.test_in_thread in passed_tests:
            continue
        passed = guard.test_in_thread(request) if is_sync else guard.test(request)
        if inspect.isawaitable(passed):
            passed = await passed
        if not passed:
            raise guard.prepare(request, guard.refuse(request))


def _guards_for(route: Any) -> list[tuple[Any, bool]]:
    """Returns `guards_of(route)`, kept for each route. Tests of the application may override dependencies at any time."""
    overrides = getattr(getattr(route, "dependency_overrides_provider", None), "dependency_overrides", None)
    if overrides:
        return guards_of(route, overrides)
    key = id(route)
    if key not in _guards:
        _guards[key] = weakref.ref(route, lambda _: _guards.pop(key, None)), guards_of(route)
    return _guards[key][1]
