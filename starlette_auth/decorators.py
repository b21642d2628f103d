"""Decorators that say what an endpoint requires. FastAPI takes them as dependencies too."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar, overload

from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from .answers import WebSocketRefusal, respond
from .auth import get_auth
from .authentication import DEFAULT_OPTIONS, LoginOptions, not_authenticated
from .backends.permissions.guards import LoadObject, Test, tests_of
from .core.arguments import as_permissions, describe
from .core.awaiting import PendingCall
from .core.exceptions import ImproperlyConfigured, Refused
from .core.functions import describe_function, is_async, record_decoration, wait_for_test
from .core.translation import gettext
from .http.dependencies import NotADependency, is_guard, mark_as_dependency
from .http.endpoints import csrf_exempt, is_endpoint_of, require_endpoint
from .http.scope import GUARDS, handle_refusals
from .security.saved_forms import parse_keep

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


@overload
def login_required(endpoint: F) -> F: ...


@overload
def login_required(endpoint: HTTPConnection) -> Coroutine[Any, Any, Any]: ...


@overload
def login_required(
    *, login_url: str | None = None, redirect_field_name: str | None = "", keep: Sequence[str] = ()
) -> Guard: ...


def login_required(
    endpoint: Any = None,
    *,
    login_url: str | None = None,
    redirect_field_name: str | None = "",
    keep: Sequence[str] = (),
) -> Any:
    """Allows only logged-in users. Browsers are redirected to the login page; JSON clients get 401.

    It decorates functions (async or not), HTTPEndpoint classes and their methods, and WebSocket endpoints. An
    anonymous WebSocket is closed with code 1008. In FastAPI it is a dependency too: `Depends(login_required)`.

    `keep` names form fields, as in keep=("title", "text"): if the session has ended when a form of at most 16 KiB is
    sent, these fields stay in the login page, and the user sends them after the login with one click.
    """
    options = _login_options(login_url, redirect_field_name, keep)
    guard = _login_guard if options == LoginOptions() else _user_guard("login_required", _is_authenticated, options)
    return guard if endpoint is None else guard(endpoint)


NAME_PERMISSION = NotADependency(
    'Name the permission in the dependency: Depends(permission_required("polls.add_vote")).'
)
NAME_TEST = NotADependency("Name the test in the dependency: Depends(user_passes_test(lambda user: user.is_staff)).")


def permission_required(
    perm: Annotated[str | Iterable[str], NAME_PERMISSION],
    *,
    obj: Annotated[LoadObject | None, NAME_PERMISSION] = None,
    login_url: Annotated[str | None, NAME_PERMISSION] = None,
    redirect_field_name: Annotated[str | None, NAME_PERMISSION] = "",
    keep: Annotated[Sequence[str], NAME_PERMISSION] = (),
) -> Guard:
    """Allows only users with the permission, or with all permissions of a list.

    Anonymous visitors are redirected to the login page, or get 401 if they want JSON. Other users get 403. In FastAPI
    it is a dependency too: `Depends(permission_required("polls.add_vote"))`. `obj` is a function, async or not, that
    takes the request and returns the object that the permissions must be about; for None the response is 404. It is
    called for logged-in users only. The other options are those of `login_required`.
    """
    if callable(perm):
        raise ImproperlyConfigured('Name the permission: @permission_required("polls.add_vote").')
    perms, options = as_permissions(perm, "perm"), _login_options(login_url, redirect_field_name, keep)
    return permission_guard("permission_required", perms, obj=obj, options=options)


def permission_guard(
    name: str,
    perms: Sequence[str],
    any_of: Sequence[str] = (),
    *,
    obj: LoadObject | None = None,
    options: LoginOptions = DEFAULT_OPTIONS,
) -> Guard:
    """Returns the guard that allows users with all of `perms`, and at least one of `any_of` if it is not empty."""
    if not perms and not any_of:
        raise ImproperlyConfigured(
            "An empty list of permissions would allow every user. Name a permission, or use login_required."
        )
    all_perms = [*perms, *any_of]
    test, sync_test = tests_of(get_auth, perms, any_of, obj)
    guard = Guard(name, test, lambda conn: _refusal(conn, options, all_perms), options)
    guard.sync_test, guard.perms, guard.loads_object = sync_test, all_perms, obj is not None
    return guard


def user_passes_test(
    test: Annotated[Test, NAME_TEST],
    *,
    login_url: Annotated[str | None, NAME_TEST] = None,
    redirect_field_name: Annotated[str | None, NAME_TEST] = "",
    keep: Annotated[Sequence[str], NAME_TEST] = (),
) -> Guard:
    """Allows only users for whom `test(user)` is true. Anonymous visitors must log in; other users get 403.

    The test may be async; an endpoint that is not async waits for it in its worker thread. In FastAPI it is a
    dependency: `Depends(user_passes_test(test))`. The options are those of `login_required`.
    """
    if not callable(test) or (isinstance(test, type) and test is not bool) or is_guard(test):
        raise ImproperlyConfigured(
            f"{describe(test)} is not a test of a user. Pass a function, as in user_passes_test(lambda user: user.is_staff)."
        )
    return _user_guard("user_passes_test", test, _login_options(login_url, redirect_field_name, keep))


def _login_options(login_url: str | None, redirect_field_name: str | None, keep: Sequence[str]) -> LoginOptions:
    return LoginOptions(login_url=login_url, redirect_field_name=redirect_field_name, keep=parse_keep(keep))


def _user_guard(name: str, test: Test, options: LoginOptions, perms: Sequence[str] = ()) -> Guard:
    return Guard(name, lambda conn: test(conn.user), lambda conn: _refusal(conn, options, perms), options)


def _is_authenticated(user: Any) -> bool:
    return bool(user.is_authenticated)


_login_guard = _user_guard("login_required", _is_authenticated, LoginOptions())
mark_as_dependency(login_required)
login_required.guard = _login_guard  # type: ignore[attr-defined]


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


def _refusal(conn: HTTPConnection, options: LoginOptions, perms: Sequence[str]) -> Refused:
    """Returns the refusal that asks to log in; for a logged-in user that with status 403, against redirect loops."""
    if not conn.user.is_authenticated:
        return not_authenticated(conn, options)
    scope = {"scope": " ".join(perms)} if perms else {}
    return Refused(
        403,
        gettext("You are logged in, but you may not do this. Ask the people who run this site."),
        code="permission_denied",
        challenge={"error": "insufficient_scope", **scope},
    )
