"""What all account pages have in common."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ..auth import Auth, get_auth
from ..authentication import confirm_password, redirect_to_login
from ..context_processors import template_context
from ..core.exceptions import ValidationError
from ..core.translation import gettext
from ..decorators import login_not_required
from ..http.content import sent_json
from ..http.problems import error_message, problem_response
from ..middlewares.csrf import cross_site_message, is_cross_site, rejection
from ..users.models import User
from .forms import Field, Form

HIDDEN = "..."
View = Callable[[Request], Awaitable[Response]]


def account_page(view: View) -> View:
    """Around a view: nobody else's forms, nobody else's frames, no copy in any cache, an answer in the right language.

    What raises an HTTPException becomes a page; a client that sent JSON gets JSON back.
    """

    @login_not_required
    async def guarded(request: Request) -> Response:
        auth = get_auth(request)
        _mask_token_in_path(request)
        with auth.override_language(request):
            try:
                if request.method == "POST" and is_cross_site(auth, request):
                    response = await rejection(auth, request, cross_site_message())
                else:
                    response = await view(request)
            except HTTPException as error:
                response = await _error(auth, request, error)
        if sent_json(request) and response.status_code == 303:
            response = _redirect_as_json(response)
        auth.add_security_headers(response)
        return response

    return guarded


def template_page(name: str) -> View:
    """A page that only says something."""

    async def show(request: Request) -> Response:
        auth = get_auth(request)
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
    """One of our pages, or the application's own of that name. To a client that sent JSON: what is wrong with it."""
    if sent_json(conn) and status_code >= 400:
        detail = gettext("What you sent cannot be taken.")
        if not context.get("validlink", True):
            detail = gettext("This link was used before, or is too old. Ask for a new one.")
        return problem_response(status_code, detail, form.errors if form is not None else None)
    form = form if form is not None else Form()
    page = await auth.templates.render(template, {**template_context(auth, conn), "form": form, **context})
    return HTMLResponse(page, status_code)


def login_required_response(request: Request) -> Response:
    """For a page of somebody's own. A program must not take the way to the login for success."""
    if sent_json(request):
        return problem_response(401, gettext("Log in first, then send this request again."))
    return redirect_to_login(request)


def new_password_fields(auth: Auth, first: str, second: str) -> dict[str, Field]:
    """Two fields for a password that somebody makes up."""
    shortest = max((getattr(validator, "min_length", 0) for validator in auth.password_validators), default=0)
    rules = f"minlength: {shortest}; maxlength: 1024; allowed: unicode;" if shortest else ""
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
    """Adds what is wrong with a new password to the form's errors."""
    if first in form.errors or second in form.errors:
        return
    if form.data[first] != form.data[second]:
        form.add_error(second, ValidationError(gettext("The two password fields didn’t match."), "password_mismatch"))
        return
    for error in await auth.validate_password(form.data[first], user):
        form.add_error(first, error)


def _mask_token_in_path(request: Request) -> None:
    """Takes the secret of a mailed link out of the path: servers write that into their logs when the answer begins."""
    secret = request.path_params.get("token")
    if secret:
        request.scope["path"] = request.scope["path"].replace(secret, HIDDEN)
        request.scope["raw_path"] = request.scope["path"].encode("utf-8", "replace")


def _redirect_as_json(redirect: Response) -> Response:
    """For a program, which has no use for a redirect: where a browser would go next. Cookies and the like stay."""
    response = JSONResponse({"next": redirect.headers["location"]}, background=redirect.background)
    replaced = (b"location", b"content-length")
    response.raw_headers += [pair for pair in redirect.raw_headers if pair[0] not in replaced]
    return response


async def _error(auth: Auth, request: Request, error: HTTPException) -> Response:
    detail = error_message(error)
    if sent_json(request):
        response: Response = problem_response(error.status_code, detail)
    else:
        response = await render(
            auth, request, "auth_error.html", error.status_code, status=error.status_code, detail=detail
        )
    response.headers.update(error.headers or {})
    return response


async def check_old_password(auth: Auth, request: Request, form: Form, user: User) -> None:
    """Adds an error unless the field holds the user's password."""
    if "old_password" in form.errors:
        return
    if not await confirm_password(auth, request, user, form.data["old_password"], action="password_change"):
        message = gettext("Your old password was entered incorrectly. Please enter it again.")
        form.add_error("old_password", ValidationError(message, "password_incorrect"))
