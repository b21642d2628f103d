"""Asks the guards of a route before the body of the request is read."""

import inspect
import weakref
from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from ..core.functions import is_async, layers
from ..http.dependencies import is_guard
from ..http.scope import IS_REFUSED
from .route_check import functions_of

_guards: "weakref.WeakKeyDictionary[Any, list[tuple[Any, bool]]]" = weakref.WeakKeyDictionary()


def guards_of(route: Any) -> list[tuple[Any, bool]]:
    """Returns the guards of a route: its decorators, and the dependencies of FastAPI at any depth.

    Each comes with whether it stands above a function that is not async.
    """
    return list(dict.fromkeys(_find_guards(route)))


def _find_guards(route: Any) -> Iterator[tuple[Any, bool]]:
    for function in functions_of(route):
        for layer in layers(function):
            guard = getattr(layer, "__dict__", {}).get("guard")
            if guard is not None:
                yield guard, not (is_guard(layer) or is_async(layer))


def guard_body(scope: Scope, receive: Receive) -> Receive:
    """Returns a `receive` that asks the guards of the route when the application first reads the body.

    FastAPI reads the body before it calls dependencies and decorated endpoints. A visitor who may not use the route
    could otherwise keep the server busy with a large upload, and would get the errors in the data in place of 401.
    """
    must_ask = True

    async def guarded() -> Message:
        nonlocal must_ask
        # A response to a refused request may read the form, to keep it.
        route = None if IS_REFUSED in scope else _route_of(scope)
        if must_ask and route is not None:
            must_ask = False
            await _ask_guards(Request(scope, receive), route)
        return await receive()

    return guarded


def _route_of(scope: Scope) -> Any:
    """Returns the route of FastAPI that reads the body; None for other routes, whose decorators run before.

    The scope of an included router names the route with all dependencies. An application that overrides dependencies,
    as tests do, has its guards asked after the body: an overridden dependency may be, or contain, a guard.
    """
    if getattr(scope.get("app"), "dependency_overrides", None):
        return None
    context = scope.get("fastapi")
    included = context.get("effective_route_context") if isinstance(context, dict) else None
    route = included or scope.get("route")
    return route if hasattr(route, "dependant") else None


async def _ask_guards(request: Request, route: Any) -> None:
    """Raises Refused if a guard refuses the request."""
    try:
        guards = _guards.get(route)
    except TypeError:  # an object without weak references
        guards = guards_of(route)
    if guards is None:
        guards = _guards[route] = guards_of(route)
    for guard, is_sync in guards:
        passed = await run_in_threadpool(guard.sync_test, request) if is_sync else guard.test(request)
        if inspect.isawaitable(passed):
            passed = await passed
        if not passed:
            raise guard.prepare(request, guard.refuse(request))
