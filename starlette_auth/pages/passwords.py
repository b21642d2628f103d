"""The pages that change and reset a password."""

import functools
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response

from ..answers import redirect_to_login
from ..auth import Auth
from ..authentication import update_session_auth_hash
from ..backends.login_methods import EMAIL
from ..core.exceptions import Refused
from ..core.text import is_usable
from ..core.translation import gettext
from ..http.urls import redirect
from ..mail.queue import note_recipient
from ..security.account_review import request_review
from ..security.reset_tokens import PASSWORD_RESET, decode_uid, user_subject
from ..users.models import User
from .app_sessions import add_client_field, begin_requested_session
from .base import (
    check_new_password,
    check_old_password,
    keep_form,
    new_password_fields,
    password_rules,
    redirect_to_page,
    render,
)
from .forms import Field, Form, PasswordChangeChoice, email_field
from .login_steps import complete_login
from .mailed_links import close_link, read_links, send_reset_mail, store_link, url_to_reload

RESET_URL_TOKEN = "set-password"  # noqa: S105  Django's name for what replaces the secret in the URL


async def password_change(auth: Auth, request: Request) -> Response:
    """Shows the form for a new password, which needs the old one. The user's other sessions end.

    A user without a password is redirected to the page `password_set`.
    """
    user = request.user
    if not isinstance(user, User):
        return redirect_to_login(request)
    if not is_usable(user.password):
        detail = gettext("This account has no password yet. Set one first.")
        return redirect_to_page(auth, request, Refused(409, detail, code="no_password"), "password_set")
    choices = [feature for feature in auth.features if isinstance(feature, PasswordChangeChoice)]
    offered = {choice.choice_name: await choice.choice_field(user) for choice in choices}
    form = Form(
        old_password=Field(label=gettext("Old password"), type="password", autocomplete="current-password"),
        **new_password_fields(auth, "new_password1", "new_password2"),
        **{name: field for name, field in offered.items() if field is not None},
    )
    template = "registration/password_change_form.html"
    page = functools.partial(render, auth, request, template, form=form, password_help=password_rules(auth))
    if request.method == "POST":
        await form.fill_in(request)
        await check_new_password(auth, form, "new_password1", "new_password2", user)
        with keep_form(auth, request, form, page):
            await check_old_password(auth, request, form, user, action="password_change")
            raw = form.data["new_password1"]
            encoded = await auth.passwords.hash(raw) if form.is_valid else ""
        if form.is_valid:
            chosen = [choice for choice in choices if form.data.get(choice.choice_name)]
            if not await _change(auth, request, user, encoded, raw, chosen):
                # The password was reset meanwhile. An attacker who knows the old password must not overwrite it.
                return redirect_to_login(request)
            update_session_auth_hash(request, user)
            return redirect(request, "password_change_done")
    return await page(422 if form.errors else 200)


async def _change(
    auth: Auth, request: Request, user: User, encoded: str, raw: str, chosen: Iterable[PasswordChangeChoice]
) -> bool:
    """Sets the password and does what the user has ticked, or neither. Returns False if the password has changed."""
    old = user.password

    async def change() -> bool:
        user.password = old  # a repeated transaction begins anew
        is_changed = await auth.users.replace_password(user, encoded, raw=raw, request=request)
        for choice in chosen if is_changed else ():
            await choice.choose(user, request)
        return is_changed

    return await auth.gateway.run_in_transaction(change)


async def password_change_done(auth: Auth, request: Request) -> Response:
    """Confirms that the password was changed."""
    if not request.user.is_authenticated:
        return redirect_to_login(request)
    return await render(auth, request, "registration/password_change_done.html")


async def password_reset(auth: Auth, request: Request) -> Response:
    """Shows the form that asks for an e-mail address, and queues the mails with the reset links.

    An attacker submits addresses to find out which have an account. Therefore the response is the same for every
    address, and the database is queried after it.
    """
    form = Form(email=email_field())
    page = functools.partial(render, auth, request, "registration/password_reset_form.html", form=form)
    if request.method == "POST":
        auth.account_mailer.require_configured()
        await form.fill_in(request)
        with keep_form(auth, request, form, page):
            await auth.throttle.hit("password_reset", ip=auth.proxies.client_address(request))
        if form.is_valid:
            email = form.data["email"]
            auth.mail_queue.enqueue(lambda: _send_reset_mails(auth, request, email))
            return redirect(request, "password_reset_done")
    return await page(422 if form.errors else 200)


async def password_reset_confirm(auth: Auth, request: Request) -> Response:
    """Shows the form for a new password to the owner of a reset link.

    What represents the secret moves from the URL into a cookie, so that neither the browser history nor a `Referer` contains it.
    """
    token = request.path_params["token"]
    user = await auth.users.get(decode_uid(request.path_params["uidb64"]))
    in_cookie = token == RESET_URL_TOKEN
    tokens, is_valid = [token], False
    if in_cookie:
        tokens = [auth.reset_tokens.from_session(text) for text in read_links(auth, request, PASSWORD_RESET) or [""]]
    for token in tokens:
        # An unknown user costs the same work, so that the response time does not reveal which users exist.
        is_valid = await auth.reset_tokens.check(user or User(id=None, username=""), token)
        if is_valid:
            break
    if user is None or not user.is_active or not is_valid:
        return await _reset_form(auth, request, 404, validlink=False)
    route, params = "password_reset_confirm", {"uidb64": request.path_params["uidb64"], "token": RESET_URL_TOKEN}
    if request.method != "POST" and not in_cookie:
        await auth.throttle.hit("confirm", ip=auth.proxies.client_address(request))
        text = auth.reset_tokens.to_session(token)
        return store_link(auth, request, PASSWORD_RESET, text, redirect(request, route, **params))
    form = Form(**new_password_fields(auth, "new_password1", "new_password2"))
    account_name = auth.model_backend.login_name(user)
    if request.method != "POST":
        reload = url_to_reload(auth, request, route, **params)
        return await _reset_form(auth, request, form=form, account_name=account_name, reload=reload)
    if auth.login_after_reset:
        add_client_field(auth, request, form)
    await form.fill_in(request)
    await check_new_password(auth, form, "new_password1", "new_password2", user)
    if not (form.is_valid and begin_requested_session(request, form)):
        return await _reset_form(auth, request, 422, form=form, account_name=account_name)
    page = functools.partial(_reset_form, auth, request, form=form, account_name=account_name)
    with keep_form(auth, request, form, page):
        is_used = await _use_link(auth, request, user, token, form.data["new_password1"])
    if not is_used:
        return await _reset_form(auth, request, 404, validlink=False)
    return close_link(auth, request, PASSWORD_RESET, await _finish_reset(auth, request, user))


async def _finish_reset(auth: Auth, request: Request, user: User) -> Response:
    if not auth.login_after_reset:
        return redirect(request, "password_reset_complete")
    current_user = await auth.users.get(user.id)
    if current_user is None:
        return redirect_to_login(request)
    return await complete_login(request, current_user, method=EMAIL)


async def _use_link(auth: Auth, request: Request, user: User, token: str, password: str) -> bool:
    """Sets the password; returns False if another request used the link before, or uses it at this moment.

    The claim is one for all links of the user, and ends in any case: if the hasher is busy, the link stays valid.
    """
    async with auth.tokens.claim(f"password reset of user {user.id}") as is_claimed:
        current_user = await auth.users.get(user.id) if is_claimed else None
        if current_user is None or not await auth.reset_tokens.check(current_user, token):
            return False
        encoded = await auth.passwords.hash(password)

        async def reset() -> bool:
            """Consumes the token and sets the password; returns False if another request consumed it first."""
            reset_user = await auth.users.get(user.id)
            if reset_user is None or not await auth.reset_tokens.consume(reset_user, token):
                return False
            if not await auth.users.replace_password(reset_user, encoded, raw=password, request=request, by_reset=True):
                return False
            await auth.tokens.revoke_all(user_subject(reset_user))
            if await auth.list_factors(reset_user):
                await request_review(auth.tokens, reset_user)
            return True

        return await auth.gateway.run_in_transaction(reset)


async def _send_reset_mails(auth: Auth, request: Request, email: str) -> None:
    """Sends a reset link to each active user with this address.

    An attacker types a look-alike of a victim's address, to which the mail would go. Therefore the mail goes to the
    stored address.
    """
    for user in await auth.users.list_by_email(email):
        # A user without a password logs in elsewhere, through a reverse proxy for example, and gets no password here.
        if not user.is_active or not is_usable(user.password):
            continue
        note_recipient(user)  # for the log, if composing the mail fails
        # The limit counts per account. An attacker could otherwise use up the owner's mails with look-alike addresses.
        if await auth.throttle.try_hit("password_reset_mail", account=f"user {user.id}"):
            await send_reset_mail(auth, request, user)


async def _reset_form(
    auth: Auth,
    request: Request,
    status_code: int = 200,
    *,
    form: Form | None = None,
    validlink: bool = True,
    account_name: str = "",
    reload: str = "",
) -> Response:
    return await render(
        auth,
        request,
        "registration/password_reset_confirm.html",
        status_code,
        form=form,
        validlink=validlink,
        account_name=account_name,
        password_help=password_rules(auth),
        reload=reload,
    )
