"""Which function wraps which: decorators, partial functions and bound methods."""

import contextlib
import functools
import inspect
import sys
import weakref
from collections.abc import Awaitable, Iterator
from typing import Any

from .concurrency import WouldWait, run_now
from .exceptions import ImproperlyConfigured


class Decoration:
    """Which decorators wrap a function, and what they returned. An application may have dropped the latter."""

    def __init__(self, function: Any, decorator: str) -> None:
        self.decorator = decorator
        self.results: weakref.WeakSet[Any] = weakref.WeakSet()
        self._function = function  # an object without weak references is kept, with the id that it has


_decorations: dict[int, Decoration] = {}  # by the id of the function


def layers(function: Any) -> Iterator[Any]:
    """Yields a function and then what it wraps, from the outside to the inside."""
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        yield function
        seen.add(id(function))
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            # A subclass inherits `__wrapped__` from a decorated class, but is not what the decorator returned.
            function = getattr(function, "__dict__", {}).get("__wrapped__")


def record_decoration(function: Any, result: Any, decorator: str) -> None:
    """Records that a decorator wraps `function`, so that `find_decoration` finds it for each layer of the function.

    A partial function ends the layers: others may be made of the same function, and need no decorator.
    """
    for layer in layers(function):
        if not inspect.ismethod(layer):  # each access to a method makes a new object; its function is the next layer
            _decoration_of(layer, decorator).results.add(result)
        if isinstance(layer, functools.partial):
            return


def find_decoration(function: Any) -> Decoration | None:
    """Returns what is recorded about a function itself, or None."""
    return _decorations.get(id(function))


def is_hidden(function: Any) -> bool:
    """Returns whether the name of a function of a module, or of a class, stands for what a decorator made of it."""
    value: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for name in str(getattr(function, "__qualname__", "<locals>")).split("."):
        value = getattr(value, name, None)
    return value is not function and any(layer is function for layer in layers(value))


def is_async(function: Any) -> bool:
    """Returns whether calling this returns an awaitable: a coroutine function, or an object with such a `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def wait_for_test(result: Awaitable[bool], endpoint: Any) -> bool:
    """Returns the awaited result of an async test, in the worker thread of a sync endpoint.

    Raises ImproperlyConfigured if the endpoint is called in the event loop and the test waits.
    """

    async def wait() -> bool:
        return await result

    try:
        return run_now(wait)
    except WouldWait as error:
        raise ImproperlyConfigured(
            f"{describe_function(endpoint)} is called in the event loop, where its test cannot wait. Write it with `async def`."
        ) from error


def describe_function(function: Any) -> str:
    """Returns the name of a function and where it is written, as in "shop.orders (shop.py:41)"."""
    *_, inner = layers(function)
    name = f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"
    code = getattr(inner, "__code__", None)
    if code is None:
        return name
    return f"{name} ({code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{code.co_firstlineno})"


def closure_of(function: Any) -> Iterator[Any]:
    """Yields the variables of outer functions that a function reads."""
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # not assigned yet
            yield cell.cell_contents


def _decoration_of(function: Any, decorator: str) -> Decoration:
    key = id(function)
    if key not in _decorations:
        try:
            reference: Any = weakref.ref(function, lambda _: _decorations.pop(key, None))
        except TypeError:
            reference = function
        _decorations[key] = Decoration(reference, decorator)
    return _decorations[key]
