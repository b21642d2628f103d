"""What an endpoint requires: a decorator and a dependency of FastAPI in one object."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, TypeVar, overload

from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from .answers import WebSocketRefusal, respond
from .auth import get_auth
from .authentication import LoginOptions
from .backends.permissions.guards import Test
from .core.awaiting import PendingCall
from .core.exceptions import ImproperlyConfigured, Refused
from .core.functions import describe_function, is_async, record_decoration, wait_for_test
from .http.dependencies import mark_as_dependency
from .http.endpoints import csrf_exempt, is_endpoint_of, require_endpoint
from .http.scope import GUARDS, handle_refusals

F = TypeVar("F", bound=Callable[..., Any])
Refuse = Callable[[HTTPConnection], Refused]


class Guard:
    """A requirement of an endpoint: a decorator, and a dependency of FastAPI.

    `Depends(guard)` is the user. It refuses other requests before the endpoint is called.
    """

    def __init__(self, name: str, test: Test, refuse: Refuse, login: LoginOptions | None = None) -> None:
        self.name = name
        self.test = self.sync_test = test  # the second is that of an endpoint that is not async
        self.refuse = refuse
        self.login_options = login  # for LoginRequiredMiddleware
        self.perms: Sequence[str] = ()
        self.loads_object = False
        self.guard = self
        mark_as_dependency(self)

    @overload
    def __call__(self, endpoint: HTTPConnection) -> Coroutine[Any, Any, Any]: ...

    @overload
    def __call__(self, endpoint: F) -> F: ...

    @overload
    def __call__(self) -> "Guard": ...

    def __call__(self, endpoint: Any = None) -> Any:
        """Guards an endpoint, or asks about a request. `Depends(guard())` is the same as `Depends(guard)`."""
        if isinstance(endpoint, HTTPConnection):
            return PendingCall(self.name, functools.partial(self.require, endpoint))
        if endpoint is None:
            return self
        require_endpoint(endpoint, self.name)
        if inspect.isclass(endpoint) and issubclass(endpoint, (HTTPEndpoint, WebSocketEndpoint)):
            wrap = _guarded_class
        else:
            wrap = _guarded_async if is_async(endpoint) else _guarded_sync
        guarded = wrap(endpoint, self)
        if self.login_options is not None:
            guarded.login_options = self.login_options
        guarded.guard = self  # for `guards_of`
        record_decoration(endpoint, guarded, self.name)
        return guarded

    async def test_in_thread(self, conn: HTTPConnection) -> bool:
        """Returns the result of a test that may block the event loop, from a worker thread."""
        passed = await run_in_threadpool(lambda: self.sync_test(conn))
        return bool(await passed if inspect.isawaitable(passed) else passed)

    def for_scopes(self, scopes: Sequence[str]) -> "Guard":
        """Returns the guard that `Security(guard, scopes=[…])` means. This one reads no scopes."""
        return self

    async def require(self, conn: HTTPConnection) -> Any:
        """Returns the user of the request. Raises Refused if the request may not pass."""
        if "user" not in conn.scope:
            _without_user()
        if conn.scope.get("endpoint") is self:
            raise ImproperlyConfigured(f"{self.name} is not an endpoint. Write @{self.name}(…) above an endpoint.")
        passed = self.test(conn)
        if inspect.isawaitable(passed):
            passed = await passed
        if not passed:
            raise self.prepare(conn, self.refuse(conn))
        conn.scope.setdefault(GUARDS, set()).add(self.test)
        return conn.user

    def respond(self, conn: HTTPConnection, guarded: Any) -> Response:
        """Returns the response of a request that needs a login. Raises Refused for other requests, and in a dependency.

        FastAPI gives the endpoint what a dependency returns, so a dependency that returned the response would let the
        request pass. A user who lacks a permission gets the application's own page for the status 403.
        """
        refused = self.refuse(conn)
        try:
            if refused.remedy is None or not is_endpoint_of(conn.scope, guarded):
                raise self.prepare(conn, refused)
            return respond(get_auth(conn), conn, refused)
        finally:
            del refused  # or else its traceback, this frame and the exception would refer to each other

    def prepare(self, conn: HTTPConnection, refused: Refused) -> Refused:
        """Returns `refused` with its response, for the handlers of the application."""
        handle_refusals(conn.scope)
        if conn.scope["type"] == "http":
            refused.response = response = respond(get_auth(conn), conn, refused)
            refused.status_code = response.status_code  # that of a redirect, if the response is one
        return refused


def _guarded_async(endpoint: Any, guard: Guard) -> Any:
    test = guard.test

    @functools.wraps(endpoint)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        conn = _connection(endpoint, args, kwargs)
        passed = test(conn)
        if passed is not True and inspect.isawaitable(passed):
            passed = await passed
        if passed:
            conn.scope.setdefault(GUARDS, set()).add(test)
            return await endpoint(*args, **kwargs)
        if isinstance(conn, WebSocket) and is_endpoint_of(conn.scope, guarded):
            refusal = WebSocketRefusal(guard.refuse(conn), is_open=conn.application_state is WebSocketState.CONNECTED)
            await refusal(conn.scope, conn.receive, conn.send)
            return None
        return guard.respond(conn, guarded)

    return guarded


def _guarded_sync(endpoint: Any, guard: Guard) -> Any:
    test = guard.sync_test
    # Later checks of an open connection are made in the event loop, where they may wait, but not block.
    check = guard.test if guard.test is not test else guard.test_in_thread

    @functools.wraps(endpoint)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        conn = _connection(endpoint, args, kwargs)
        passed, later_test = test(conn), check
        if inspect.isawaitable(passed):
            passed, later_test = wait_for_test(passed, endpoint), test
        if not passed:
            return guard.respond(conn, guarded)
        conn.scope.setdefault(GUARDS, set()).add(later_test)
        return endpoint(*args, **kwargs)

    return guarded


def _guarded_class(endpoint: Any, guard: Guard) -> Any:
    """Returns a subclass that tests before it dispatches, so that the test covers every method."""

    class Guarded(endpoint):  # type: ignore[misc]
        async def dispatch(self) -> None:
            kind = WebSocket if self.scope["type"] == "websocket" else Request
            conn = kind(self.scope, self.receive, self.send)
            passed = guard.test(conn) if "user" in self.scope else _without_user()
            if inspect.isawaitable(passed):
                passed = await passed
            if passed:
                self.scope.setdefault(GUARDS, set()).add(guard.test)
                await super().dispatch()
            elif isinstance(conn, WebSocket):
                await WebSocketRefusal(guard.refuse(conn))(self.scope, self.receive, self.send)
            else:
                await guard.respond(conn, Guarded)(self.scope, self.receive, self.send)

    if vars(endpoint).get("csrf_exempt") is True:
        csrf_exempt(Guarded)
    return functools.update_wrapper(Guarded, endpoint, updated=())


def _connection(endpoint: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> HTTPConnection:
    for value in (*args, *kwargs.values()):
        if type(value) is Request or isinstance(value, HTTPConnection):  # isinstance() of an abstract class is slower
            return value if "user" in value.scope else _without_user()
    raise ImproperlyConfigured(
        f"{describe_function(endpoint)} is called without a request. Give it an argument `request: Request` "
        "(or `websocket: WebSocket`), which the decorator reads."
    )


def _without_user() -> NoReturn:
    raise ImproperlyConfigured(
        "This request has no user. Pass middleware=middleware(auth) to your app, and leave its path out of exclude."
    )
