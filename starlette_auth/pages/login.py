"""The login and logout pages."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..auth import Auth
from ..authentication import authenticate, complete_login, logout
from ..core.exceptions import ValidationError
from ..core.text import normalize_username
from ..core.translation import gettext
from .base import render
from .forms import Field, Form


async def login_page(auth: Auth, request: Request) -> Response:
    """Shows the login form and logs the user in."""
    form = _login_form(auth)
    requested_url = request.query_params.get("next")
    if request.method == "POST":
        is_filled_in = await form.fill_in(request)
        requested_url = form.data["next"] or requested_url
        if is_filled_in:
            credentials = {"username": normalize_username(form.data["username"]), "password": form.data["password"]}
            user = await authenticate(request, **credentials)
            if user is not None:
                return await complete_login(request, user, requested_url, remember=bool(form.data.get("remember")))
            form.add_error("", _invalid_login_error(auth))
    form.data["next"] = _next_field(auth, request, requested_url)
    return await render(auth, request, "registration/login.html", 422 if form.errors else 200, form=form)


async def logout_page(auth: Auth, request: Request) -> Response:
    """Ends the session and redirects to `next`, or else to `logout_redirect_url`."""
    form = Form(next=Field(type="hidden", required=False))
    if request.headers.get("content-type"):
        await form.fill_in(request)
    await logout(request)
    url = auth.redirects.choose(request.scope, form.data["next"], auth.logout_redirect_url)
    response = RedirectResponse(url, status_code=303)
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
    return Form(**fields, next=Field(type="hidden", required=False))


def _invalid_login_error(auth: Auth) -> ValidationError:
    """Returns one error for an unknown user, a wrong password and an inactive account.

    With different errors an attacker could find out which accounts exist.
    """
    names = {"username": gettext("username"), "email": gettext("email address")}
    username = gettext(" or ").join(names[name] for name in auth.login_fields)
    message = gettext("Please enter a correct %(username)s and password. Note that both fields may be case-sensitive.")
    return ValidationError(message % {"username": username}, "invalid_login")


def _next_field(auth: Auth, request: Request, requested_url: str | None) -> str:
    """Returns the value of the hidden field `next`; "" if the login redirects to the default URL."""
    default_url = auth.redirects.choose(request.scope, None)
    url = auth.redirects.choose(request.scope, requested_url)
    return "" if url == default_url else url
