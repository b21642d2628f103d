"""The account pages that every site has."""

import hashlib

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from .auth import Auth, get_auth
from .authentication import (
    authenticate,
    complete_login,
    confirm_password,
    logout,
    next_url,
    safe_next,
    update_session_auth_hash,
)
from .decorators import login_not_required
from .durations import in_words
from .exceptions import ValidationError
from .fields import ascii_lower, normalize_username
from .forms import Field, Form
from .fresh_login import reauthenticate
from .letters import Letter
from .models import User
from .pages import View, check_new_password, log_in_first, new_password_fields, page, plain_page, render
from .passwords import UNUSABLE
from .templating import ASSETS
from .tokens import decode_uid, encode_uid, hide, subject_of, unhide
from .translation import gettext

# Django's: where a link's secret waits in the session, and what stands in its place in the URL.
RESET_TOKEN = "_password_reset_token"  # noqa: S105
RESET_URL_TOKEN = "set-password"  # noqa: S105
MAX_EMAIL_LENGTH = 254


def routes(auth: Auth) -> list[BaseRoute]:
    """The account pages, to be mounted: `Mount("/accounts", routes=routes(auth))`."""
    both, get, post = ["GET", "POST"], ["GET"], ["POST"]
    own: list[BaseRoute] = [
        Route("/login", page(login_page), name="login", methods=both),
        Route("/logout", page(logout_page), name="logout", methods=post),
        Route("/logged_out", plain_page("logged_out"), name="logged_out", methods=get),
        Route("/reauthenticate", page(reauthenticate), name="reauthenticate", methods=both),
        Route("/password_change", page(password_change), name="password_change", methods=both),
        Route("/password_change/done", page(password_change_done), name="password_change_done", methods=get),
        Route("/password_reset", page(password_reset), name="password_reset", methods=both),
        Route("/password_reset/done", plain_page("password_reset_done"), name="password_reset_done", methods=get),
        Route("/reset/{uidb64}/{token}", page(password_reset_confirm), name="password_reset_confirm", methods=both),
        Route("/reset/done", plain_page("password_reset_complete"), name="password_reset_complete", methods=get),
        Route("/auth.css", asset("auth.css", "text/css"), name="auth_style", methods=get),
        Route("/auth.js", asset("auth.js", "text/javascript"), name="auth_script", methods=get),
    ]
    return [*own, *(route for feature in auth.features for route in feature.routes())]


async def login_page(request: Request) -> Response:
    auth = get_auth(request)
    form = _login_form(auth)
    if request.method != "POST":
        form.data["next"] = _next(request, request.query_params.get("next"))
        return await render(request, "registration/login.html", form=form)
    is_filled_in = await form.fill_in(request)
    wanted = form.data["next"] or request.query_params.get("next")
    if is_filled_in:
        credentials = {"username": normalize_username(form.data["username"]), "password": form.data["password"]}
        user = await authenticate(request, **credentials)
        if user is not None:
            return await complete_login(request, user, wanted, remember=bool(form.data.get("remember")))
        form.add_error("", _wrong(auth))
    form.data["next"] = _next(request, wanted)
    return await render(request, "registration/login.html", 422, form=form)


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


async def password_change(request: Request) -> Response:
    """Of one's own password, by whoever knows the old one. This session goes on, all others of the user end."""
    auth, user = get_auth(request), request.user
    if not isinstance(user, User):
        return log_in_first(request)
    form = Form(
        old_password=Field(label=gettext("Old password"), type="password", autocomplete="current-password"),
        **new_password_fields(auth, "new_password1", "new_password2"),
    )
    if request.method == "POST":
        await form.fill_in(request)
        await check_new_password(auth, form, "new_password1", "new_password2", user)
        await check_old_password(request, form, user)
        if form.is_valid:
            encoded = await auth.passwords.hash(form.data["new_password1"])
            if not await auth.users.replace_password(user, encoded, request=request):
                # It was reset while a thief, who knows the old one, was here: the owner's stays.
                return log_in_first(request)
            update_session_auth_hash(request, user)
            return RedirectResponse(auth.url_for(request, "password_change_done"), status_code=303)
    status = 422 if form.errors else 200
    template = "registration/password_change_form.html"
    return await render(request, template, status, form=form, password_help=auth.password_help())


async def password_change_done(request: Request) -> Response:
    if not request.user.is_authenticated:
        return log_in_first(request)
    return await render(request, "registration/password_change_done.html")


async def password_reset(request: Request) -> Response:
    """The answer is the same for every address, and does not wait for what is done about it."""
    auth = get_auth(request)
    form = Form(email=email_field())
    if request.method == "POST":
        auth.letters.require()
        await auth.throttle.hit("password_reset", ip=auth.client_address(request))
        if await form.fill_in(request):
            email = form.data["email"]
            auth.outbox.post(lambda: _send_reset_mails(request, email))
            return RedirectResponse(auth.url_for(request, "password_reset_done"), status_code=303)
    return await render(request, "registration/password_reset_form.html", 422 if form.errors else 200, form=form)


async def password_reset_confirm(request: Request) -> Response:
    """The secret moves from the link into the session, so that neither the history nor a Referer holds it."""
    auth, token = get_auth(request), request.path_params["token"]
    user = await auth.users.get(decode_uid(request.path_params["uidb64"]))
    in_session = token == RESET_URL_TOKEN
    if in_session:
        token = unhide(auth.keys, str(request.session.get(RESET_TOKEN, "")))
    # Somebody who does not exist is looked for like anybody else.
    is_good = await auth.reset_tokens.check(user or User(id=None, username=""), token)
    if user is None or not user.is_active or not is_good:
        return await _reset_form(request, 404, validlink=False)
    if request.method != "POST" and not in_session:
        await auth.throttle.hit("confirm", ip=auth.client_address(request))
        request.session[RESET_TOKEN] = hide(auth.keys, token)
        params = {"uidb64": request.path_params["uidb64"], "token": RESET_URL_TOKEN}
        return RedirectResponse(auth.url_for(request, "password_reset_confirm", **params), status_code=303)
    form = Form(**new_password_fields(auth, "new_password1", "new_password2"))
    if request.method != "POST":
        return await _reset_form(request, form=form, account_name=user.username)
    await form.fill_in(request)
    await check_new_password(auth, form, "new_password1", "new_password2", user)
    if not form.is_valid:
        return await _reset_form(request, 422, form=form, account_name=user.username)
    encoded = await auth.passwords.hash(form.data["new_password1"])
    if not await auth.gateway.in_transaction(lambda: _reset(request, user.id, token, encoded)):
        # Another request used the link while this one made its hash.
        return await _reset_form(request, 404, validlink=False)
    request.session.pop(RESET_TOKEN, None)
    if auth.login_after_reset:
        fresh = await auth.users.get(user.id)
        return await complete_login(request, fresh) if fresh is not None else log_in_first(request)
    return RedirectResponse(auth.url_for(request, "password_reset_complete"), status_code=303)


async def _reset(request: Request, user_id: object, token: str, encoded: str) -> bool:
    """Uses the link up and sets the password; False for all but the first."""
    auth = get_auth(request)
    user = await auth.users.get(user_id)
    if user is None or not await auth.reset_tokens.consume(user, token):
        return False
    if not await auth.users.replace_password(user, encoded, request=request, by_reset=True):
        return False
    await auth.tokens.void(subject_of(user))
    return True


async def check_old_password(request: Request, form: Form, user: User) -> None:
    """Adds an error unless the field holds the user's password."""
    if "old_password" in form.errors:
        return
    if not await confirm_password(request, user, form.data["old_password"], action="password_change"):
        message = gettext("Your old password was entered incorrectly. Please enter it again.")
        form.add_error("old_password", ValidationError(message, "password_incorrect"))


def email_field(label: str = "", *, autocomplete: str = "email") -> Field:
    return Field(
        label=label or gettext("E-mail address"),
        type="email",
        autocomplete=autocomplete,
        max_length=MAX_EMAIL_LENGTH,
    )


async def send_reset_mail(request: Request, user: User) -> None:
    auth = get_auth(request)
    token = await auth.reset_tokens.make(user)
    link = auth.letters.link(request, "password_reset_confirm", uidb64=encode_uid(user), token=token)
    context = {"user": user, "link": link, "valid_for": in_words(auth.reset_tokens.max_age)}
    auth.letters.send(Letter(to=user.email, name="password_reset", context=context))


async def send_letter_once(auth: Auth, email: str, letter: Letter) -> None:
    """Nobody's mailbox is filled by somebody who types its address again and again."""
    # Hashed, so that addresses that only look alike are not counted as one; by kind, so that none keeps out another.
    account = hashlib.sha256(f"{letter.name} {ascii_lower(email)}".encode()).hexdigest()
    if await auth.throttle.allows("register_mail", account=account):
        auth.letters.send(letter)


def asset(name: str, media_type: str) -> View:
    """A file that pages need, under a URL that changes with it."""

    @login_not_required
    async def serve(request: Request) -> Response:
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(ASSETS[name], media_type=media_type, headers=headers)

    return serve


async def _send_reset_mails(request: Request, email: str) -> None:
    """To the address that is stored, never to the one that was typed: the two may only look alike."""
    auth = get_auth(request)
    for user in await auth.users.all_by_email(email):
        # Whoever has no password here, but comes through a proxy or another site, is not given one.
        if not user.is_active or user.password.startswith(UNUSABLE):
            continue
        # By account, not by what was typed: an address that only looks alike would use up the owner's mail.
        if await auth.throttle.allows("password_reset_mail", account=f"user {user.id}"):
            await send_reset_mail(request, user)


async def _reset_form(
    request: Request,
    status_code: int = 200,
    *,
    form: Form | None = None,
    validlink: bool = True,
    account_name: str = "",
) -> Response:
    return await render(
        request,
        "registration/password_reset_confirm.html",
        status_code,
        form=form,
        validlink=validlink,
        account_name=account_name,
        password_help=get_auth(request).password_help(),
    )


def _login_form(auth: Auth) -> Form:
    by_email = auth.login_fields == ("email",)
    label = gettext("E-mail address") if by_email else gettext("Username")
    if len(auth.login_fields) > 1:
        label = gettext("Username or e-mail address")
    fields = {
        "username": Field(label=label, type="email" if by_email else "text", autocomplete="username"),
        "password": Field(label=gettext("Password"), type="password", autocomplete="current-password"),
    }
    if auth.session_limits is not None and auth.session_limits.offers_choice:
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


def _next(request: Request, wanted: str | None) -> str:
    """What the form carries along: nothing, where the default will do."""
    default = next_url(request, None)
    found = next_url(request, wanted)
    return "" if found == default else found
