"""How FastAPI reads a guard as a dependency, and which parameters it must not fill from the request."""

import functools
import itertools
from collections.abc import Callable, Container, Iterator
from typing import Any, NoReturn

from starlette.requests import HTTPConnection

from ..core.exceptions import ImproperlyConfigured
from ..core.functions import layers


class NotADependency:
    """Refuses a parameter that FastAPI would fill from the request, as in `Depends(permission_required)`.

    An attacker would choose the permission, as in ?perm=polls.view_poll, which would let the attacker in. Therefore
    the hook raises by which Pydantic asks an annotation for its schema: FastAPI asks when it adds the route.
    """

    def __init__(self, message: str) -> None:
        self.message = message

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> NoReturn:
        raise ImproperlyConfigured(self.message)


RETURNS_USER = "returns_user"  # an attribute of a dependency that refuses no request
_signatures: list[Callable[..., Any]] = []


async def _dependency(endpoint: HTTPConnection) -> None:
    """Shows FastAPI what a guard takes, and that it is awaited."""


def mark_as_dependency(guard: Callable[..., Any], signature: Callable[..., Any] = _dependency) -> None:
    """Makes FastAPI call `guard` with the parameters of `signature`, an async function, and await the result.

    FastAPI reads the signature of what a function wraps. It would call a function that is not async in a thread.
    """
    if signature not in _signatures:
        _signatures.append(signature)
    functools.update_wrapper(guard, signature, assigned=(), updated=())


def dependencies_of(route: Any, overrides: Container[Any] = ()) -> Iterator[Any]:
    """Yields the dependencies of a FastAPI route, in the order in which FastAPI calls them.

    Each is an object of FastAPI's class Dependant, whose `call` is the function. It calls none of those that are in
    `overrides`, the `dependency_overrides` of the application.
    """
    yield from _flatten_dependencies(getattr(route, "dependant", None), overrides)


def _flatten_dependencies(dependant: Any, overrides: Container[Any]) -> Iterator[Any]:
    for dependency in getattr(dependant, "dependencies", ()):
        if overrides and dependency.call in overrides:
            continue
        yield from _flatten_dependencies(dependency, overrides)
        yield dependency


def tree_of(dependency: Any) -> list[Any]:
    """Returns a dependency and those below it, as objects of FastAPI's class Dependant."""
    return [*_flatten_dependencies(dependency, ()), dependency]


def scopes_of(dependency: Any) -> list[str]:
    """Returns the scopes of `Security(…)` for a dependency: its own, and those of the dependencies above it."""
    scopes = [*(getattr(dependency, name, None) or () for name in ("parent_oauth_scopes", "own_oauth_scopes"))]
    return list(dict.fromkeys(itertools.chain(*scopes)))


def is_guard(function: Any) -> bool:
    """Returns whether this is a guard, such as `login_required`, and not an endpoint."""
    return any(layer in _signatures for layer in layers(function))


def returns_user(function: Any) -> bool:
    """Returns whether this is a guard, or `maybe_user`."""
    return is_guard(function) or any(hasattr(layer, RETURNS_USER) for layer in layers(function))


def makes_guard(function: Any) -> bool:
    """Returns whether this makes a guard, as `permission_required` does, or is one."""
    hints = getattr(function, "__annotations__", {}).values()
    return is_guard(function) or any(
        isinstance(mark, NotADependency) for hint in hints for mark in getattr(hint, "__metadata__", ())
    )
