"""Reports calls of coroutine functions, such as `logout(request)`, without `await`."""

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ParamSpec, TypeVar

from .exceptions import ImproperlyConfigured

logger = logging.getLogger("starlette_auth")
P = ParamSpec("P")
R = TypeVar("R")
UNAWAITED = "starlette_auth.unawaited"  # key of the ASGI scope: the message about a call that was not awaited


def must_be_awaited(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Makes a coroutine function report a call without `await`.

    An endpoint without `async` calls `logout(request)`, which would do nothing, without an error.
    `if authenticate(…):` would be true for any password. Therefore the response becomes an error, and the truth value
    of a call raises ImproperlyConfigured.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return PendingCall(function.__name__, functools.partial(function, *args, **kwargs))

    _mark_as_async(call)
    return call


def _mark_as_async(function: Any) -> None:
    """Marks a function as async for frameworks.

    Starlette would run BackgroundTask(logout, request) in a thread otherwise.
    """
    if hasattr(inspect, "markcoroutinefunction"):
        inspect.markcoroutinefunction(function)
    else:  # Python 3.11
        function._is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)


class PendingCall(Coroutine[Any, Any, R]):
    """A call of a coroutine function, which begins when the call is awaited."""

    def __init__(self, name: str, start: Callable[[], Coroutine[Any, Any, R]]) -> None:
        self._name = name
        self._start: functools.partial[Coroutine[Any, Any, R]] | None = start  # type: ignore[assignment]
        self._coroutine: Coroutine[Any, Any, R] | None = None

    @property
    def _message(self) -> str:
        return (
            f"{self._name}() was called without await, so it did nothing. Write `await {self._name}(…)`, in a function "
            "with `async def`."
        )

    def _begin(self) -> Coroutine[Any, Any, R]:
        if self._coroutine is None:
            assert self._start is not None  # noqa: S101  it is dropped here
            self._coroutine, self._start = self._start(), None
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, R]:
        return self._begin().__await__()

    def send(self, value: Any) -> Any:
        return self._begin().send(value)

    def throw(self, *error: Any) -> Any:
        return self._begin().throw(*error)

    def close(self) -> None:
        self._begin().close()

    def __bool__(self) -> bool:
        raise ImproperlyConfigured(self._message)

    def __del__(self) -> None:
        if self._start is None:
            return
        logger.error(self._message)
        for argument in (*self._start.args, *self._start.keywords.values()):
            scope = getattr(argument, "scope", None)
            if isinstance(scope, dict):
                scope[UNAWAITED] = self._message
