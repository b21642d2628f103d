"""Decorators that say what an endpoint requires."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NoReturn, TypeVar, cast, overload

from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from .authentication import redirect_to_login
from .core.exceptions import ImproperlyConfigured

F = TypeVar("F", bound=Callable[..., Any])
Test = Callable[[Any], bool | Awaitable[bool]]


@overload
def login_required(endpoint: F) -> F: ...


@overload
def login_required(*, login_url: str | None = None) -> Callable[[F], F]: ...


def login_required(endpoint: F | None = None, *, login_url: str | None = None) -> Any:
    """Allows only logged-in users. Other browsers are redirected to the login page; JSON clients get 401.

    It decorates functions (async or not), HTTPEndpoint classes and their methods, and WebSocket endpoints. An
    anonymous WebSocket is closed with code 1008.
    """
    decorate = user_passes_test(lambda user: user.is_authenticated, login_url=login_url)
    return decorate if endpoint is None else decorate(endpoint)


def permission_required(perm: str | Iterable[str], *, login_url: str | None = None) -> Callable[[F], F]:
    """Allows only users with the permission, or with all permissions of a list.

    Anonymous visitors are redirected to the login page, or get 401 if they want JSON. Other users get 403.
    """
    if callable(perm):
        raise ImproperlyConfigured('Name the permission: @permission_required("polls.add_vote").')
    perms = [perm] if isinstance(perm, str) else list(perm)
    if not perms:
        raise ImproperlyConfigured(
            "An empty list of permissions would allow every user. Name a permission, or use login_required."
        )
    for name in perms:
        if "." not in name:
            raise ImproperlyConfigured(
                f"{name!r} is not a permission. Write it as app.codename, as in 'polls.add_vote'."
            )
    return user_passes_test(lambda user: user.has_perms(perms), login_url=login_url)


def user_passes_test(test: Test, *, login_url: str | None = None) -> Callable[[F], F]:
    """Allows only users for whom `test(user)` is true. Anonymous visitors must log in; other users get 403.

    The test may be async if the endpoint is async.
    """
    return require(lambda conn: test(conn.user), lambda conn: _forbidden(conn, login_url))


def require(
    test: Test, refuse: Callable[[HTTPConnection], Response], reason: str = "Log in first, with a user who may do this."
) -> Callable[[F], F]:
    """Returns a decorator that calls the endpoint only if `test(conn)` is true.

    Otherwise `refuse(conn)` makes the response; a WebSocket is closed with code 1008 and `reason`.
    """

    def decorate(endpoint: F) -> F:
        if inspect.isclass(endpoint) and issubclass(endpoint, (HTTPEndpoint, WebSocketEndpoint)):
            wrap = _guarded_class
        else:
            wrap = _guarded_async if _is_async(endpoint) else _guarded_sync
        guarded: F = wrap(endpoint, test, refuse, reason)
        return guarded

    return decorate


def login_not_required(endpoint: F) -> F:
    """Marks an endpoint for which LoginRequiredMiddleware requires no login."""
    endpoint.login_required = False  # type: ignore[attr-defined]
    return endpoint


def csrf_exempt(endpoint: F) -> F:
    """Marks an endpoint to which other sites may post, such as a webhook. CSRFMiddleware does not check it.

    It marks functions, HTTPEndpoint classes and their methods, and WebSocket endpoints. `login` and `complete_login`
    still raise PermissionDenied for a request that another site sent.
    """
    endpoint.csrf_exempt = True  # type: ignore[attr-defined]
    return endpoint


def _guarded_async(endpoint: Any, test: Test, refuse: Callable[[HTTPConnection], Response], reason: str) -> Any:
    @functools.wraps(endpoint)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        conn = _connection(endpoint, args, kwargs)
        passed = test(conn)
        if passed is not True and inspect.isawaitable(passed):
            passed = await passed
        if passed:
            return await endpoint(*args, **kwargs)
        if isinstance(conn, WebSocket):
            await conn.close(1008, reason)
            return None
        return refuse(conn)

    return guarded


def _guarded_sync(endpoint: Any, test: Test, refuse: Callable[[HTTPConnection], Response], reason: str) -> Any:
    @functools.wraps(endpoint)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        conn = _connection(endpoint, args, kwargs)
        passed = test(conn)
        if inspect.isawaitable(passed):
            cast(Coroutine[Any, Any, bool], passed).close()
            raise ImproperlyConfigured(f"{endpoint!r} is not async, but its test is. Write it with `async def`.")
        return endpoint(*args, **kwargs) if passed else refuse(conn)

    return guarded


def _guarded_class(endpoint: Any, test: Test, refuse: Callable[[HTTPConnection], Response], reason: str) -> Any:
    """Returns a subclass that tests before it dispatches, so that the test covers every method."""

    class Guarded(endpoint):  # type: ignore[misc]
        async def dispatch(self) -> None:
            conn = _connection_of(self.scope, self.receive, self.send)
            passed = test(conn) if "user" in self.scope else _without_user()
            if inspect.isawaitable(passed):
                passed = await passed
            if passed:
                await super().dispatch()
            elif isinstance(conn, WebSocket):
                await conn.close(1008, reason)
            else:
                await refuse(conn)(self.scope, self.receive, self.send)

    if vars(endpoint).get("csrf_exempt") is True:
        csrf_exempt(Guarded)
    return functools.update_wrapper(Guarded, endpoint, updated=())


def _connection_of(scope: Scope, receive: Receive, send: Send) -> HTTPConnection:
    return WebSocket(scope, receive, send) if scope["type"] == "websocket" else Request(scope, receive, send)


def _connection(endpoint: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> HTTPConnection:
    for value in (*args, *kwargs.values()):
        if type(value) is Request or isinstance(value, HTTPConnection):  # isinstance() of an abstract class is slower
            return value if "user" in value.scope else _without_user()
    raise ImproperlyConfigured(
        f"{endpoint!r} is called without a request. Give it an argument `request: Request` "
        "(or `websocket: WebSocket`), which the decorator reads."
    )


def _without_user() -> NoReturn:
    raise ImproperlyConfigured(
        "This request has no user. Pass middleware=middleware(auth) to your app, and leave its path out of exclude."
    )


def _forbidden(conn: HTTPConnection, login_url: str | None) -> Response:
    """Returns the redirect to the login page. Raises 403 for a logged-in user, whom it would redirect in a loop."""
    if conn.user.is_authenticated:
        raise HTTPException(403, "You are logged in, but you may not do this. Ask the people who run this site.")
    return redirect_to_login(conn, login_url)


def _is_async(endpoint: Any) -> bool:
    while isinstance(endpoint, functools.partial):
        endpoint = endpoint.func
    return inspect.iscoroutinefunction(endpoint) or inspect.iscoroutinefunction(type(endpoint).__call__)
