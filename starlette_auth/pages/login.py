"""The login and logout pages."""

import functools

from starlette.authentication import has_required_scope
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..answers import redirect_to_login
from ..auth import Auth
from ..authentication import MAX_VISITS, SAVED_FORM, authenticate, has_weak_login, logout
from ..backends.session import require_session
from ..core.exceptions import DoesNotExist, ValidationError
from ..core.text import normalize_username
from ..core.translation import gettext
from ..http.clients import wants_json
from ..http.endpoints import required_scopes
from ..http.problems import problem_response
from ..http.urls import endpoint_of, find_url_path, is_absolute, requested_path, requested_url
from ..security.saved_forms import Pairs, read_signed_form, sign_form
from ..security.stored_forms import find_form, store_form
from ..users.models import User
from .app_sessions import add_client_field, begin_requested_session
from .base import keep_form, render
from .forms import Field, Form
from .login_steps import ask_steps, begin_login, finish_login, resume_login


async def login_page(auth: Auth, request: Request) -> Response:
    """Shows the login form and logs the user in. Redirects a logged-in user to `next`."""
    form, field = _login_form(auth), auth.redirects.field
    add_client_field(auth, request, form)
    pairs: Pairs = request.scope.pop(SAVED_FORM, [])
    if pairs:
        return await _login_to_send_form(auth, request, form, pairs)
    url = auth.redirects.read(request)
    if request.method == "POST":
        is_filled_in = await form.fill_in(request)
        url = form.data[field] or url
        is_filled_in = is_filled_in and begin_requested_session(request, form)
        if is_filled_in:
            with keep_form(auth, request, form, functools.partial(_login_form_page, auth, request, form, url)):
                response = await _log_in(auth, request, form, url)
            if response is not None:
                return response
            form.add_error("", _invalid_login_error(auth))
    else:
        response = await resume_login(auth, request, url) or _send_on(auth, request, url)
        if response is not None:
            return response
    return await _login_form_page(auth, request, form, url, 422 if form.errors else 200)


async def _login_form_page(auth: Auth, request: Request, form: Form, url: str | None, status: int) -> Response:
    form.data[auth.redirects.field] = url or "" if form.data["saved"] else _next_field(auth, request, url)
    is_weak = has_weak_login(request) and not form.errors
    return await render(auth, request, "registration/login.html", status, form=form, is_weak=is_weak)


async def _log_in(auth: Auth, request: Request, form: Form, url: str | None) -> Response | None:
    """Logs a user in and returns the response; None if the credentials are wrong.

    The response is a redirect, the page of a saved form, or that of a login step.
    """
    saved: Pairs = []
    if form.data["saved"]:  # checked before the login, which may give the browser a new secret
        saved = read_signed_form(auth.keys, _browser(auth, request), url or "", form.data["saved"])
    credentials = {"username": normalize_username(form.data["username"]), "password": form.data["password"]}
    user = await authenticate(request, **credentials)
    if user is None:
        return None
    login = begin_login(auth, request, user, url, remember=bool(form.data.get("remember")))
    step_response = await ask_steps(auth, request, login)
    if step_response is not None:
        if saved:
            await store_form(auth.tokens, require_session(request), user.identity, url or "", saved)
        return step_response
    try:
        response = await finish_login(auth, request, login)
    except DoesNotExist:  # the user was deleted after the password was checked
        return None
    if not saved:
        return response
    return await render(auth, request, "registration/saved_form.html", action=url, saved=saved)


async def saved_form_page(auth: Auth, request: Request) -> Response:
    """Shows the form that was stored during the login steps, so that the user can send it.

    Redirects to the default page if there is none, and visitors to the login page.
    """
    if not isinstance(request.user, User):
        return redirect_to_login(request)
    form = await find_form(auth.tokens, require_session(request), request.user.identity, is_waiting=False)
    if form is None:
        return RedirectResponse(auth.redirects.choose(request.scope, None), status_code=303)
    return await render(auth, request, "registration/saved_form.html", action=form.action, saved=form.pairs)


async def _login_to_send_form(auth: Auth, request: Request, form: Form, pairs: Pairs) -> Response:
    """Shows the login form with the kept fields of a form whose user is no longer logged in."""
    url = requested_url(request.scope)
    form.data[auth.redirects.field] = url
    form.data["saved"] = sign_form(auth.keys, _browser(auth, request), url, pairs)
    return await render(auth, request, "registration/login.html", 403, form=form)


def _browser(auth: Auth, request: Request) -> str:
    return f"browser {auth.csrf_tokens.ensure_secret(request)}"


def _send_on(auth: Auth, request: Request, url: str | None) -> Response | None:
    """Returns the redirect to `url` for a logged-in user; None if the login page is to be shown.

    An attacker's site loads the login page as an image or a frame, with a `next` whose result it can see, which would
    show who is logged in (Django's warning about `redirect_authenticated_user`). Therefore only the visitor's own
    navigation is redirected. A page that redirects a user without a permission to the login page would cause a loop.
    Therefore the scopes that the page requires are checked, and a page is tried at most four times in ten seconds.
    """
    is_navigation = request.headers.get("sec-fetch-dest") == "document"
    is_own = request.headers.get("sec-fetch-site") in ("none", "same-origin")
    wants_redirect = auth.redirect_authenticated_user and request.method == "GET" and not wants_json(request)
    if not (wants_redirect and request.user.is_authenticated and is_navigation and is_own):
        return None
    target = auth.redirects.choose(request.scope, url)
    if _leads_to_login(auth, request, target):
        target = auth.redirects.choose(request.scope, None)
    visits = auth.redirects.visits(request.scope) + 1
    if visits > MAX_VISITS or _leads_to_login(auth, request, target) or not _has_scopes(request, target):
        return None
    response = RedirectResponse(target, status_code=303)
    auth.redirects.count_visit(request.scope, response, visits)
    return response


def _leads_to_login(auth: Auth, request: Request, url: str) -> bool:
    """Returns whether a URL is that of the login page, with any query."""
    return url.partition("?")[0].partition("#")[0] in (
        find_url_path(request.scope, auth.login_url),
        requested_path(request.scope),
    )


def _has_scopes(request: Request, url: str) -> bool:
    """Returns whether the user has the known scopes that `@requires` of Starlette demands of a page."""
    endpoint = None if is_absolute(url) else endpoint_of(request.scope, url)
    page = {"type": "http", "method": "GET", "endpoint": endpoint}
    return has_required_scope(request, list(required_scopes(page)))


async def logout_page(auth: Auth, request: Request) -> Response:
    """Ends the session and redirects to `next`, or else to `logout_redirect_url`. A GET shows the button for it.

    An attacker's site shows an image or a link with this URL, which would log visitors out; therefore only a POST ends
    the session.
    """
    field, url = auth.redirects.field, auth.redirects.read(request)
    form = Form(**{field: Field(type="hidden", required=False)})
    if request.method != "POST":
        if wants_json(request):
            response: Response = problem_response(405, gettext("Send a POST to log out."))
            response.headers["Allow"] = "POST"
            return response
        if not request.user.is_authenticated:
            return await render(auth, request, "registration/logged_out.html")
        form.data[field] = auth.redirects.choose(request.scope, url, auth.logout_redirect_url) if url else ""
        return await render(auth, request, "registration/logout.html", form=form)
    if request.headers.get("content-type"):
        await form.fill_in(request)
    await logout(request)
    target = auth.redirects.choose(request.scope, form.data[field] or url, auth.logout_redirect_url)
    response = RedirectResponse(target, status_code=303)
    if auth.clear_site_data:
        response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


def _login_form(auth: Auth) -> Form:
    by_email = auth.login_fields == ("email",)
    label = gettext("E-mail address") if by_email else gettext("Username")
    if len(auth.login_fields) > 1:
        label = gettext("Username or e-mail address")
    fields = {
        "username": Field(label=label, type="email" if by_email else "text", autocomplete="username"),
        "password": Field(label=gettext("Password"), type="password", autocomplete="current-password"),
    }
    if auth.session_limits is not None and auth.session_limits.offers_remember_me:
        help_text = gettext("Do not use this on a shared device.")
        fields["remember"] = Field(
            label=gettext("Stay logged in"), type="checkbox", required=False, help_text=help_text
        )
    hidden = Field(type="hidden", required=False)
    return Form(**fields, **{auth.redirects.field: hidden, "saved": hidden})


def _invalid_login_error(auth: Auth) -> ValidationError:
    """Returns one error for an unknown user, a wrong password and an inactive account.

    With different errors an attacker could find out which accounts exist.
    """
    names = {"username": gettext("username"), "email": gettext("email address")}
    username = gettext(" or ").join(names[name] for name in auth.login_fields)
    message = gettext("Please enter a correct %(username)s and password. Note that both fields may be case-sensitive.")
    return ValidationError(message % {"username": username}, "invalid_login")


def _next_field(auth: Auth, request: Request, requested: str | None) -> str:
    """Returns the value of the hidden field `next`; "" if the login redirects to the default URL."""
    default_url = auth.redirects.choose(request.scope, None)
    url = auth.redirects.choose(request.scope, requested)
    return "" if url == default_url else url
