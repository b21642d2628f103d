"""Checks what FastAPI gives the functions that a route calls: does a client choose the user?"""

import dis
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

from ..core.exceptions import ImproperlyConfigured
from ..core.functions import closure_of, describe_function
from ..http.dependencies import is_guard, makes_guard
from ..users.models import AnonymousUser, User

SOURCES = ("path_params", "query_params", "header_params", "cookie_params", "body_params")
CONNECTIONS = ("request_param_name", "websocket_param_name", "http_connection_param_name")


def check_parameters(call: Any) -> None:
    """Raises ImproperlyConfigured if a function of a FastAPI route gets no request, or its user from the client."""
    if call.dependant is None or is_guard(call.function):
        return
    for source in SOURCES:
        for field in getattr(call.dependant, source, ()):
            _check_field(call, field)
    if any(getattr(call.dependant, name, None) for name in CONNECTIONS):
        return
    if any(dependency.name for dependency in call.dependant.dependencies):
        return  # a dependency may return the request
    if getattr(call.function, "__dict__", {}).get("guard") is not None:
        raise ImproperlyConfigured(
            f"{call.route} calls {describe_function(call.function)} without a request. Give it an argument "
            "`request: Request` (or `websocket: WebSocket`), which the decorator reads."
        )
    if not call.is_endpoint and any(map(makes_guard, _names_in(call.function))):
        raise ImproperlyConfigured(
            f"{call.route} depends on {describe_function(call.function)}, which returns a guard, but asks none. Write "
            "Depends(guard), with the guard that the function returns."
        )


def _check_field(call: Any, field: Any) -> None:
    """Refuses a parameter for a user that lacks `Depends(…)`.

    FastAPI reads it from the request. An attacker would send any user as JSON; therefore the start fails.
    """
    info = field.field_info
    parts = [info.default, *info.metadata, *_parts_of(info.annotation)]
    is_user = any(inspect.isclass(part) and issubclass(part, (User, AnonymousUser)) for part in parts)
    if is_user or any(map(is_guard, parts)):
        raise ImproperlyConfigured(
            f"{call.route} takes the parameter {field.name!r} of {describe_function(call.function)} from the client, which "
            f"could name any user. Write `{field.name}: CurrentUser`, or Annotated[User, Depends(current_user)]."
        )


def _parts_of(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts_of(part)


def _names_in(function: Any) -> Iterator[Any]:
    """Yields what a function reads: global variables, attributes of modules, and variables of outer functions."""
    code = getattr(function, "__code__", None)
    if code is None:
        return
    value: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            value = function.__globals__.get(instruction.argval)
            yield value
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, ModuleType):
            value = getattr(value, str(instruction.argval), None)
            yield value
    yield from closure_of(function)
