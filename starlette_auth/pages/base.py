"""The parts that all account pages share."""

import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ..answers import csrf_refusal, respond
from ..auth import Auth, get_auth
from ..authentication import SHOWS_SAVED_FORMS, confirm_password, not_authenticated, refused_redirect
from ..backends.model import report_throttled
from ..backends.session import is_in_header, session_of
from ..context_processors import template_context
from ..core.deferred_response import DeferredResponse
from ..core.exceptions import HashingBusy, Refused, Remedy, Throttled, ValidationError
from ..core.translation import gettext
from ..http.content import sent_json
from ..http.endpoints import FOR_VISITORS, JSON_ONLY, login_not_required
from ..http.mailed_secrets import HIDDEN, set_logged_path
from ..http.problems import error_message, problem_response
from ..http.scope import FOR_PROGRAMS
from ..http.urls import JSON_SUFFIX, brings_json_only, find_url_path
from ..middlewares.csrf_reasons import Reason
from ..passwords.short_help import short_help
from ..sessions.detached import DetachedSession
from ..users.models import User
from .forms import Field, Form

View = Callable[[Auth, Request], Awaitable[Response]]
ACCOUNT_PAGE = "is_account_page"  # an attribute of the endpoints of account pages
JSON_FIELDS = "json_fields"  # an attribute of those whose fields depend on settings: their names, separated by spaces
Endpoint = Callable[[Request], Awaitable[Response]]
Page = Callable[..., Awaitable[Response]]  # called with the status code


def account_page(view: View, *, for_visitors: bool = False, shows_saved_forms: bool = False) -> Endpoint:
    """Wraps a view: rejects cross-site forms, adds security headers, selects the visitor's language.

    The headers forbid caches and frames. An HTTPException becomes an error page. A client that sent JSON gets JSON, and
    so does one that sends the key of its session in a header; that client gets no cookie.
    `for_visitors`: the page does not act for the logged-in user; its forms stay valid when another tab logs in.
    """

    @login_not_required
    async def guarded(request: Request) -> Response:
        auth = get_auth(request)
        _mask_token_in_path(request)
        if is_in_header(request):
            request.scope[FOR_PROGRAMS] = True
        with auth.override_language(request):
            try:
                if isinstance(session_of(request), DetachedSession):
                    response = respond(auth, request, _token_refusal(request))
                elif not is_in_header(request) and auth.site.is_cross_site(request):
                    auth.security_log.refused(request, "CSRF: This request came from another site.")
                    response = respond(auth, request, csrf_refusal(auth, request, Reason.CROSS_SITE.message))
                else:
                    response = await view(auth, request)
            except HTTPException as error:
                response = await _error(auth, request, error)
        if sent_json(request) and response.status_code == 303:
            response = _redirect_as_json(response)
        if is_in_header(request):
            response.raw_headers[:] = [pair for pair in response.raw_headers if pair[0] != b"set-cookie"]
        auth.add_security_headers(response)
        return response

    setattr(guarded, ACCOUNT_PAGE, True)
    setattr(guarded, FOR_VISITORS, for_visitors)
    setattr(guarded, SHOWS_SAVED_FORMS, shows_saved_forms)
    return guarded


def _token_refusal(request: Request) -> Refused:
    """Returns the refusal of a request with a token. An attacker with a stolen token would otherwise make another one."""
    if not request.user.is_authenticated:
        return not_authenticated(request)
    detail = gettext("This page takes no token. Log in with a browser.")
    return Refused(403, detail, code="token_refused", challenge={"error": "insufficient_scope"})


def json_endpoint(endpoint: Endpoint) -> Endpoint:
    """Wraps an account page for programs: it takes and returns JSON only."""

    @functools.wraps(endpoint)  # with the marks of the page
    async def for_programs(request: Request) -> Response:
        request.scope[FOR_PROGRAMS] = True
        return await endpoint(request)

    setattr(for_programs, JSON_ONLY, True)
    setattr(for_programs, SHOWS_SAVED_FORMS, False)
    return for_programs


def visitor_page(view: View) -> Endpoint:
    """Wraps a view as `account_page` does, with `for_visitors=True`."""
    return account_page(view, for_visitors=True)


def template_page(name: str) -> Endpoint:
    """Returns the view of a page that only renders the template "registration/<name>.html"."""

    async def show(auth: Auth, request: Request) -> Response:
        return await render(auth, request, f"registration/{name}.html")

    return account_page(show)


async def render(
    auth: Auth,
    conn: HTTPConnection,
    template: str,
    status_code: int = 200,
    *,
    form: Form | None = None,
    **context: Any,
) -> Response:
    """Renders a template of this package, or the application's template of that name.

    A client that sent JSON gets the errors as a problem (RFC 9457) if the status is 400 or above.
    """
    if sent_json(conn) and status_code >= 400:
        detail = gettext("The submitted data is not valid. Correct the errors and send it again.")
        if not context.get("validlink", True):
            detail = gettext("This link was used before, or is too old. Ask for a new one.")
        return problem_response(status_code, detail, form.errors if form is not None else None)
    form = form if form is not None else Form()
    page = await auth.templates.render(template, {**template_context(auth, conn), "form": form, **context})
    return HTMLResponse(page, status_code)


@contextlib.contextmanager
def keep_form(auth: Auth, request: HTTPConnection, form: Form, page: Page) -> Iterator[None]:
    """Shows the submitted form again if this block raises Throttled or HashingBusy.

    A browser gets `page` with the status and `Retry-After` of the exception, which is the first error of the form. The
    fields keep what was entered, except passwords, which no page contains. Other clients get their usual response.
    """
    try:
        yield
    except (Throttled, HashingBusy) as error:
        message = ValidationError(error_message(error), error.code)
        form.errors = {"": [message]}
        error.page = functools.partial(
            DeferredResponse, functools.partial(_page_with_form, auth, request, page, error), error.status_code
        )
        raise


async def _page_with_form(auth: Auth, request: HTTPConnection, page: Page, error: Refused) -> Response:
    with auth.override_language(request):
        response = await page(error.status_code)
    response.headers.update(error.headers or {})
    auth.add_security_headers(response)
    return response


def redirect_to_page(auth: Auth, request: Request, refused: Refused, name: str) -> Response:
    """Returns a browser's redirect to the page that does what it wants; the refusal, with its URL, for a program."""
    url = find_url_path(request.scope, name + JSON_SUFFIX if brings_json_only(request.scope) else name)
    refused.remedy = Remedy(name, url, None)
    if url is not None:
        refused.page = lambda: refused_redirect(url)
    return respond(auth, request, refused)


def password_rules(auth: Auth) -> list[str]:
    """Returns the rules for a new password as few short sentences, which fit into one line."""
    return short_help(auth.password_validators)


def new_password_fields(auth: Auth, first: str, second: str) -> dict[str, Field]:
    """Returns the two form fields for a new password."""
    min_length = max((getattr(validator, "min_length", 0) for validator in auth.password_validators), default=0)
    rules = f"minlength: {min_length}; maxlength: 1024; allowed: unicode;" if min_length else ""
    return {
        first: Field(label=gettext("New password"), type="password", autocomplete="new-password", passwordrules=rules),
        second: Field(
            label=gettext("New password, once more"),
            type="password",
            autocomplete="new-password",
            passwordrules=rules,
        ),
    }


async def check_new_password(auth: Auth, form: Form, first: str, second: str, user: User | None = None) -> None:
    """Adds an error to the form if its two passwords differ, and the errors of each password validator."""
    if first in form.errors:
        return
    if second not in form.errors and form.data[first] != form.data[second]:
        form.add_error(second, ValidationError(gettext("The two password fields didn’t match."), "password_mismatch"))
    for error in await auth.validate_password(form.data[first], user):
        form.add_error(first, error)


def _mask_token_in_path(request: Request) -> None:
    """Removes the secret of a mailed link from the path, which servers log when the response starts."""
    secret = request.path_params.get("token")
    if secret:
        path = request.scope["path"]
        set_logged_path(request.scope, path.removesuffix(secret) + HIDDEN if path.endswith(secret) else HIDDEN)


def _redirect_as_json(redirect: Response) -> Response:
    """Returns the redirect's location as JSON, for a program. Cookies and other headers stay."""
    response = JSONResponse({"next": redirect.headers["location"] or None}, background=redirect.background)
    replaced = (b"location", b"content-length")
    response.raw_headers += [pair for pair in redirect.raw_headers if pair[0] not in replaced]
    return response


async def _error(auth: Auth, request: Request, error: HTTPException) -> Response:
    if isinstance(error, Throttled):
        user = request.user if isinstance(request.user, User) else None
        await report_throttled(auth.events, request, error, user)
    if isinstance(error, Refused):
        return respond(auth, request, error)
    code = "too_large" if error.status_code == 413 else "invalid_request"
    return respond(auth, request, Refused(error.status_code, error.detail, code=code, headers=error.headers))


async def check_old_password(auth: Auth, request: Request, form: Form, user: User, *, action: str) -> None:
    """Adds an error to the form unless the field "old_password" holds the user's password.

    The attempt is counted and logged under the name `action`.
    """
    if "old_password" in form.errors:
        return
    if not await confirm_password(auth, request, user, form.data["old_password"], action=action):
        message = gettext("Your old password was entered incorrectly. Please enter it again.")
        if action != "password_change":  # a form with one password, which is not called old
            message = gettext("Your password was entered incorrectly. Please enter it again.")
        form.add_error("old_password", ValidationError(message, "password_incorrect"))
