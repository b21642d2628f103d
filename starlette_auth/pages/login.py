"""The login and logout pages."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..auth import Auth, get_auth
from ..authentication import authenticate, complete_login, logout, next_url, safe_next
from ..core.exceptions import ValidationError
from ..core.text import normalize_username
from ..core.translation import gettext
from .base import render
from .forms import Field, Form


async def login_page(request: Request) -> Response:
    auth = get_auth(request)
    form = _login_form(auth)
    if request.method != "POST":
        form.data["next"] = _next(auth, request, request.query_params.get("next"))
        return await render(auth, request, "registration/login.html", form=form)
    is_filled_in = await form.fill_in(request)
    wanted = form.data["next"] or request.query_params.get("next")
    if is_filled_in:
        credentials = {"username": normalize_username(form.data["username"]), "password": form.data["password"]}
        user = await authenticate(request, **credentials)
        if user is not None:
            return await complete_login(request, user, wanted, remember=bool(form.data.get("remember")))
        form.add_error("", _wrong(auth))
    form.data["next"] = _next(auth, request, wanted)
    return await render(auth, request, "registration/login.html", 422, form=form)


async def logout_page(request: Request) -> Response:
    auth = get_auth(request)
    form = Form(next=Field(type="hidden", required=False))
    if request.headers.get("content-type"):
        await form.fill_in(request)
    await logout(request)
    default = auth.url_for(request, auth.logout_redirect_url)
    response = RedirectResponse(safe_next(auth, request, form.data["next"], default), status_code=303)
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
        help_text = gettext("Not on a device that others use too.")
        fields["remember"] = Field(
            label=gettext("Stay logged in"), type="checkbox", required=False, help_text=help_text
        )
    return Form(**fields, next=Field(type="hidden", required=False))


def _wrong(auth: Auth) -> ValidationError:
    """The same for a wrong name, a wrong password and an account that is switched off."""
    names = {"username": gettext("username"), "email": gettext("email address")}
    username = gettext(" or ").join(names[name] for name in auth.login_fields)
    message = gettext("Please enter a correct %(username)s and password. Note that both fields may be case-sensitive.")
    return ValidationError(message % {"username": username}, "invalid_login")


def _next(auth: Auth, request: Request, wanted: str | None) -> str:
    """What the form carries along: nothing, where the default will do."""
    default = next_url(auth, request, None)
    found = next_url(auth, request, wanted)
    return "" if found == default else found
