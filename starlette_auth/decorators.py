"""Decorators that say what an endpoint requires. FastAPI takes them as dependencies too."""

import contextlib
import inspect
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence
from typing import Annotated, Any, overload

from starlette.requests import HTTPConnection

from .auth import get_auth
from .authentication import DEFAULT_OPTIONS, LoginOptions, not_authenticated
from .backends.permissions.guards import LoadObject, Test, tests_of
from .core.arguments import as_permissions, describe
from .core.exceptions import ImproperlyConfigured, Refused
from .core.translation import gettext
from .guards import F, Guard
from .http.dependencies import NotADependency, is_guard, mark_as_dependency
from .security.saved_forms import parse_keep
from .users.models import AnonymousUser


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
    guard = _login_guard if options == DEFAULT_OPTIONS else _user_guard("login_required", _is_authenticated, options)
    return guard if endpoint is None else guard(endpoint)


@overload
def staff_required(endpoint: F) -> F: ...


@overload
def staff_required(endpoint: HTTPConnection) -> Coroutine[Any, Any, Any]: ...


@overload
def staff_required(
    *, login_url: str | None = None, redirect_field_name: str | None = "", keep: Sequence[str] = ()
) -> Guard: ...


def staff_required(
    endpoint: Any = None,
    *,
    login_url: str | None = None,
    redirect_field_name: str | None = "",
    keep: Sequence[str] = (),
) -> Any:
    """Allows only users with `is_staff`, as Django's `staff_member_required`. Other users get 403.

    Superusers without `is_staff` get 403 too, as in Django. In FastAPI it is a dependency: `Depends(staff_required)`.
    The options are those of `login_required`.
    """
    options = _login_options(login_url, redirect_field_name, keep)
    guard = _staff_guard if options == DEFAULT_OPTIONS else _user_guard("staff_required", _is_staff, options)
    return guard if endpoint is None else guard(endpoint)


NAME_PERMISSION = NotADependency(
    'Name the permission in the dependency: Depends(permission_required("polls.add_vote")).'
)
NAME_TEST = NotADependency(
    "Name the test in the dependency: Depends(user_passes_test(lambda user: user.is_superuser))."
)


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

    A visitor who lacks an attribute that the test reads must log in. The test may be async; an endpoint that is not
    async waits for it in its worker thread. In FastAPI it is a dependency: `Depends(user_passes_test(test))`. The options
    are those of `login_required`.
    """
    if not callable(test) or (isinstance(test, type) and test is not bool) or is_guard(test):
        raise ImproperlyConfigured(
            f"{describe(test)} is not a test of a user. Pass a function, as in user_passes_test(lambda user: user.is_superuser)."
        )
    return _user_guard("user_passes_test", _test_of_user(test), _login_options(login_url, redirect_field_name, keep))


def _test_of_user(test: Test) -> Test:
    """Returns the test. A visitor who lacks an attribute that it reads, such as a column of the users, does not pass."""

    async def wait_for_visitor(passed: Awaitable[bool], visitor: AnonymousUser) -> bool:
        with _fails_without_attribute(visitor):
            return await passed
        return False

    def ask(user: Any) -> bool | Awaitable[bool]:
        if not isinstance(user, AnonymousUser):
            return test(user)
        with _fails_without_attribute(user):
            passed = test(user)
            return wait_for_visitor(passed, user) if inspect.isawaitable(passed) else passed
        return False

    return ask


@contextlib.contextmanager
def _fails_without_attribute(visitor: AnonymousUser) -> Iterator[None]:
    """Ends the block if the visitor lacks an attribute that it reads."""
    try:
        yield
    except AttributeError as error:
        if error.obj is not visitor:
            raise


def _login_options(login_url: str | None, redirect_field_name: str | None, keep: Sequence[str]) -> LoginOptions:
    return LoginOptions(login_url=login_url, redirect_field_name=redirect_field_name, keep=parse_keep(keep))


def _user_guard(name: str, test: Test, options: LoginOptions, perms: Sequence[str] = ()) -> Guard:
    return Guard(name, lambda conn: test(conn.user), lambda conn: _refusal(conn, options, perms), options)


def _is_authenticated(user: Any) -> bool:
    return bool(user.is_authenticated)


def _is_staff(user: Any) -> bool:
    return bool(getattr(user, "is_staff", False))


_login_guard = _user_guard("login_required", _is_authenticated, DEFAULT_OPTIONS)
_staff_guard = _user_guard("staff_required", _is_staff, DEFAULT_OPTIONS)
mark_as_dependency(login_required)
mark_as_dependency(staff_required)
login_required.guard = _login_guard  # type: ignore[attr-defined]
staff_required.guard = _staff_guard  # type: ignore[attr-defined]


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
