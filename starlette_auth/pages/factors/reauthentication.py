"""Reauthentication: asks for the password or a second factor again before a sensitive action."""

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, overload

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from ...answers import redirect_to_login, respond
from ...auth import Auth, get_auth
from ...authentication import LoginOptions, confirm_password, login_redirect, not_authenticated, refused_redirect
from ...backends.login_methods import PASSWORD
from ...backends.session import SessionBackend, session_of
from ...core.arguments import require_integer
from ...core.deferred_response import DeferredResponse
from ...core.exceptions import Refused, Remedy, ValidationError
from ...core.text import is_usable
from ...core.translation import gettext
from ...guards import Guard
from ...http.clients import wants_json
from ...http.dependencies import mark_as_dependency
from ...http.scope import IS_CHECK
from ...http.urls import brings_json_only, find_url_path, requested_url, with_query
from ...security.saved_forms import parse_keep, read_form, read_signed_form, sign_form
from ...users.models import User
from ..base import keep_form, render
from ..forms import Field, Form
from .check import check_factor, credential_field, described_step, offered_factors, passkey_options
from .step_up import Need, missing_factor, refusal, requested_need, return_url

F = TypeVar("F", bound=Callable[..., Any])


@overload
def fresh_login_required(endpoint: F) -> F: ...


@overload
def fresh_login_required(endpoint: HTTPConnection) -> Coroutine[Any, Any, Any]: ...


@overload
def fresh_login_required(*, max_age: int = 300, keep: Sequence[str] = (), level: int = 1) -> Guard: ...


def fresh_login_required(endpoint: Any = None, *, max_age: int = 300, keep: Sequence[str] = (), level: int = 1) -> Any:
    """Allows only users who entered credentials in the last `max_age` seconds. Asks others for their password.

    After the password the user returns to the page. `keep` names form fields that are saved in the password page, as
    in keep=("title", "text"). A form of at most 16 KiB is then sent again with these fields only. Without `keep` the
    user has to submit the form again. A JSON client gets 403, and can send {"password": …} to the page
    "reauthenticate". With `level=2` a second factor must be as recent as the password: see `factor_required`. This
    decorator includes `login_required`, decorates the same endpoints, and is a dependency of FastAPI too:
    `Depends(fresh_login_required)`, `Depends(fresh_login_required(max_age=60))`.
    """
    require_integer(max_age, "max_age")
    names, need = parse_keep(keep), Need(level, False, max_age)
    login = LoginOptions(keep=names)

    def is_fresh(conn: HTTPConnection) -> bool:
        if conn.scope.get(IS_CHECK) and conn.scope["type"] == "http":
            # The request was fresh when it was made. A long download would otherwise be cut off after `max_age`.
            return bool(conn.user.is_authenticated) and (level < 2 or need.is_met(conn))
        return has_fresh_login(conn) and (level < 2 or need.is_met(conn))

    def has_fresh_login(conn: HTTPConnection) -> bool:
        backend = get_auth(conn).session_backend
        return bool(conn.user.is_authenticated) and backend.auth_age(session_of(conn), conn.user) < max_age

    def refuse(conn: HTTPConnection) -> Refused:
        if not conn.user.is_authenticated:
            return not_authenticated(conn, login)
        return refusal(conn, need, names) if has_fresh_login(conn) else _login_too_old(conn, names, max_age)

    guard = Guard("fresh_login_required", is_fresh, refuse, login)
    return guard if endpoint is None else guard(endpoint)


mark_as_dependency(fresh_login_required)
fresh_login_required.guard = fresh_login_required()  # type: ignore[attr-defined]


async def require_fresh_factor(auth: Auth, request: Request, user: User, *, keep: Sequence[str] = ()) -> None:
    """Raises Refused unless the user proved in the last five minutes as much as the user's factors allow.

    A page that changes the factors begins with it: an attacker with a stolen session would otherwise add a factor, and one
    who has the password too would remove the factor that keeps the attacker out. `keep` is that of `fresh_login_required`.
    """
    level = 2 if await auth.has_any_factor(user) else 1
    await fresh_login_required(level=level, keep=keep)(request)


@overload
def factor_required(endpoint: F) -> F: ...


@overload
def factor_required(endpoint: HTTPConnection) -> Coroutine[Any, Any, Any]: ...


@overload
def factor_required(
    *, level: int = 2, phishing_resistant: bool = False, max_age: int | None = None, keep: Sequence[str] = ()
) -> Guard: ...


def factor_required(
    endpoint: Any = None,
    *,
    level: int = 2,
    phishing_resistant: bool = False,
    max_age: int | None = None,
    keep: Sequence[str] = (),
) -> Any:
    """Allows only users who logged in with a second factor, and asks others for it.

    A user without a second factor is led to the page on which to add one, and back. `max_age`: for how many seconds the
    second factor counts. `phishing_resistant`: whether it must be a passkey or a security key; other users are led to the
    login page. `keep` names form fields that are kept meanwhile, as in keep=("title", "text"). A JSON client gets 403
    with `need`, and can send {"code": …} to its `url`. This decorator includes `login_required`, decorates the same
    endpoints, and is a dependency of FastAPI too: `Depends(factor_required)`, `Depends(factor_required(max_age=300))`.
    """
    need, login = Need(level, phishing_resistant, max_age), LoginOptions(keep=parse_keep(keep))

    def refuse(conn: HTTPConnection) -> Refused:
        return refusal(conn, need, login.keep) if conn.user.is_authenticated else not_authenticated(conn, login)

    guard = Guard("factor_required", need.is_met, refuse, login)
    return guard if endpoint is None else guard(endpoint)


mark_as_dependency(factor_required)
factor_required.guard = factor_required()  # type: ignore[attr-defined]


async def reauthenticate(auth: Auth, request: Request) -> Response:
    """Asks for the password, or for a passkey in its place, and returns the user to the page that required it.

    Where logins have no second step, it is the step-up too: with `need` in the query it asks for a passkey only.
    """
    user = request.user
    if not isinstance(user, User) or not _can_confirm(request):
        return redirect_to_login(request)
    form, is_post = _form(), request.method == "POST"
    if is_post:
        await form.fill_in(request)
    else:
        form.data["next"] = auth.redirects.choose(request.scope, auth.redirects.read(request))
    if form.data["credential"]:
        form.errors.pop("password", None)
    form.data["need"] = form.data["need"] or request.query_params.get("need", "")
    if not is_post or not form.is_valid:
        return await _page(auth, request, form, 422 if is_post else 200)
    with keep_form(auth, request, form, functools.partial(_page, auth, request, form)):
        method = await _proved_method(auth, request, user, form)
    return await _return_to_page(auth, request, form, method) if method else await _page(auth, request, form, 422)


async def _proved_method(auth: Auth, request: Request, user: User, form: Form) -> str | None:
    """Returns the login method that the form proves: a passkey or the password. None adds an error to the form."""
    if form.data["credential"]:
        return await check_factor(auth, request, user, form, auth.factors(), ways_in=True)
    if await confirm_password(auth, request, user, form.data["password"], action="reauthenticate"):
        return PASSWORD
    message = gettext("Your password was entered incorrectly. Please enter it again.")
    form.add_error("password", ValidationError(message, "password_incorrect"))
    return None


async def _return_to_page(auth: Auth, request: Request, form: Form, method: str) -> Response:
    """Redirects to the page that required the proof, or shows a page that sends the saved form to it again."""
    session = session_of(request)
    assert session is not None  # noqa: S101  _can_confirm() checks this
    auth.session_backend.renew_auth_time(session, method)
    if not form.data["saved"]:
        url = form.data["next"]
        if form.data["need"]:
            return RedirectResponse(await return_url(auth, request, request.user, url), status_code=303)
        return RedirectResponse(auth.redirects.choose(request.scope, url), status_code=303)
    saved = read_signed_form(auth.keys, request.user.identity, form.data["next"], form.data["saved"])
    return await render(auth, request, "registration/reauthenticated.html", action=form.data["next"], saved=saved)


def _login_too_old(conn: HTTPConnection, keep: frozenset[str], max_age: float) -> Refused:
    """Returns the refusal of a user who has to enter the password again, or to log in again without a password."""
    auth, can_confirm = get_auth(conn), _can_confirm(conn)
    name = "reauthenticate" if can_confirm else "login"
    page = "reauthenticate" if can_confirm else auth.login_url
    url = find_url_path(conn.scope, page) if brings_json_only(conn.scope) else auth.url_for(conn, page)
    return Refused(
        403,
        gettext("Confirm that it is you, then send this request again."),
        code="login_too_old",
        remedy=Remedy(name, url, auth.redirects.field),
        challenge={"error": "insufficient_user_authentication", "max_age": f"{max_age:g}"},  # RFC 9470 §3
        page=lambda: _ask_password(auth, conn, keep, url) if can_confirm and url else login_redirect(conn),
    )


def _ask_password(auth: Auth, conn: HTTPConnection, keep: frozenset[str], url: str) -> Response:
    """Returns the redirect to the page that asks for the password, or this page with the submitted form."""
    if conn.scope["method"] in ("GET", "HEAD"):
        return refused_redirect(with_query(url, auth.redirects.field, requested_url(conn.scope)))
    return DeferredResponse(functools.partial(_page_with_form, auth, conn, keep), 403)


async def _page_with_form(auth: Auth, conn: HTTPConnection, keep: frozenset[str]) -> Response:
    with auth.override_language(conn):
        current_url = requested_url(conn.scope)
        form, pairs = _form(), await read_form(conn, keep) if conn.scope["method"] == "POST" else []
        if pairs:
            form.data["next"] = current_url
            form.data["saved"] = sign_form(auth.keys, conn.user.identity, current_url, pairs)
        else:
            form.data["next"] = auth.redirects.referring_page(conn) or auth.redirects.choose(conn.scope, None)
        response = await _page(auth, conn, form, 403, is_lost=not pairs)
    auth.add_security_headers(response)
    return response


def _can_confirm(conn: HTTPConnection) -> bool:
    """Returns whether the session belongs to this user, who may have a password or another proof for the page."""
    user, session = conn.user, session_of(conn)
    is_logged_in = session is not None and user.is_authenticated and SessionBackend.belongs_to(session, user)
    has_other_ways = any(factor.is_way_in for factor in get_auth(conn).factors())
    return is_logged_in and (is_usable(user.password) or has_other_ways)


def _form() -> Form:
    hidden = Field(type="hidden", required=False)
    return Form(
        password=Field(label=gettext("Password"), type="password", autocomplete="current-password"),
        credential=credential_field(),
        next=hidden,
        saved=hidden,
        need=hidden,
    )


async def _page(auth: Auth, conn: HTTPConnection, form: Form, status: int = 200, *, is_lost: bool = False) -> Response:
    """Shows what this user can prove: the password and a passkey, or one of them."""
    user, need = conn.user, requested_need(form.data["need"])
    methods = await offered_factors(conn, user, auth.factors(), ways_in=True)
    if need is None and is_usable(user.password):
        methods = {PASSWORD: None, **methods}
    else:
        form.fields.pop("password")
        form.errors.pop("password", None)
    if not methods:
        missing = missing_factor(auth, conn, need, form.data["next"]) if need is not None else None
        return respond(auth, conn, missing) if missing is not None else redirect_to_login(conn)
    if status == 200 and wants_json(conn):
        return JSONResponse(described_step("reauthenticate", methods))
    context = {"is_lost": is_lost, "methods": methods, "passkey": passkey_options(methods)}
    return await render(auth, conn, "registration/reauthenticate.html", status, form=form, **context)
