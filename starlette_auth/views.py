"""The account pages."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from .auth import Auth, get_auth
from .authentication import authenticate, complete_login, logout, next_url, safe_next
from .context import auth_context
from .csrf import FROM_ANOTHER_SITE, is_from_another_site, refuse
from .decorators import login_not_required
from .forms import Form, read_form
from .templating import STYLE
from .users import normalize_username

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Not no-referrer: with it, browsers send our own forms with "Origin: null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# The same for a wrong name, a wrong password and an account that is switched off.
WRONG = "Please enter a correct {} and password. Note that both fields may be case-sensitive."
View = Callable[[Request], Awaitable[Response]]


def routes(auth: Auth) -> list[BaseRoute]:
    """The account pages, to be mounted: `Mount("/accounts", routes=routes(auth))`."""
    own: list[BaseRoute] = [
        Route("/login", page(login_page), name="login", methods=["GET", "POST"]),
        Route("/logout", page(logout_page), name="logout", methods=["POST"]),
        Route("/logged_out", page(logged_out_page), name="logged_out", methods=["GET"]),
        Route("/auth.css", login_not_required(style), name="auth_style", methods=["GET"]),
    ]
    return [*own, *(route for feature in auth.features for route in feature.routes())]


def page(view: View) -> View:
    """What all account pages have in common: nobody else's forms, nobody else's frames, no copy in any cache."""

    @login_not_required
    async def guarded(request: Request) -> Response:
        if request.method == "POST" and is_from_another_site(request):
            return await refuse(request, FROM_ANOTHER_SITE)
        response = await view(request)
        response.headers.update(HEADERS)
        return response

    return guarded


async def login_page(request: Request) -> Response:
    auth = get_auth(request)
    if request.method != "POST":
        return await render(
            request,
            "registration/login.html",
            form=Form(),
            next=_next(request, request.query_params.get("next")),
        )
    form = await read_form(request, ["username", "password", "next"])
    label = " or ".join("e-mail address" if field == "email" else field for field in auth.login_fields)
    form.require("username", f"Enter your {label}.")
    form.require("password", "Enter your password.")
    if form.is_valid:
        credentials = {
            "username": normalize_username(form.data["username"]),
            "password": form.data["password"],
        }
        user = await authenticate(request, **credentials)
        if user is not None:
            return await complete_login(request, user, form.data["next"])
        form.add_error("", WRONG.format(label))
    next_page = _next(request, form.data["next"])
    return await render(request, "registration/login.html", 422, form=form, next=next_page)


async def logout_page(request: Request) -> Response:
    auth = get_auth(request)
    form = await read_form(request, ["next"]) if request.headers.get("content-type") else Form()
    await logout(request)
    default = auth.url_for(request, auth.logout_redirect_url)
    return RedirectResponse(safe_next(auth, request, form.data.get("next"), default), status_code=303)


async def logged_out_page(request: Request) -> Response:
    return await render(request, "registration/logged_out.html")


async def style(request: Request) -> Response:
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(STYLE, media_type="text/css", headers=headers)


async def render(request: Request, template: str, status_code: int = 200, **context: Any) -> HTMLResponse:
    """One of our pages, or the application's own of that name."""
    page = await get_auth(request).templates.render(template, {**auth_context(request), **context})
    return HTMLResponse(page, status_code)


def _next(request: Request, wanted: str | None) -> str:
    """What the form carries along: nothing, where the default will do."""
    default = next_url(request, None)
    found = next_url(request, wanted)
    return "" if found == default else found
