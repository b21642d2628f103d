"""The pages that change and reset a password."""

from starlette.requests import Request
from starlette.responses import Response

from ..auth import Auth, get_auth
from ..authentication import complete_login, update_session_auth_hash
from ..core.translation import gettext
from ..http.urls import redirect
from ..passwords.passwords import is_usable
from ..security.reset_tokens import decode_uid, user_subject
from ..users.models import User
from .base import check_new_password, check_old_password, login_required_response, new_password_fields, render
from .forms import Field, Form, email_field
from .mailed_links import send_reset_mail

# Django's: where a link's secret waits in the session, and what stands in its place in the URL.
RESET_TOKEN = "_password_reset_token"  # noqa: S105
RESET_URL_TOKEN = "set-password"  # noqa: S105


async def password_change(request: Request) -> Response:
    """Of one's own password, by whoever knows the old one. This session goes on, all others of the user end."""
    auth, user = get_auth(request), request.user
    if not isinstance(user, User):
        return login_required_response(request)
    form = Form(
        old_password=Field(label=gettext("Old password"), type="password", autocomplete="current-password"),
        **new_password_fields(auth, "new_password1", "new_password2"),
    )
    if request.method == "POST":
        await form.fill_in(request)
        await check_new_password(auth, form, "new_password1", "new_password2", user)
        await check_old_password(auth, request, form, user)
        if form.is_valid:
            encoded = await auth.passwords.hash(form.data["new_password1"])
            if not await auth.users.replace_password(user, encoded, request=request):
                # It was reset while a thief, who knows the old one, was here: the owner's stays.
                return login_required_response(request)
            update_session_auth_hash(request, user)
            return redirect(request, "password_change_done")
    status = 422 if form.errors else 200
    template = "registration/password_change_form.html"
    return await render(auth, request, template, status, form=form, password_help=auth.password_help())


async def password_change_done(request: Request) -> Response:
    auth = get_auth(request)
    if not request.user.is_authenticated:
        return login_required_response(request)
    return await render(auth, request, "registration/password_change_done.html")


async def password_reset(request: Request) -> Response:
    """The answer is the same for every address, and does not wait for what is done about it."""
    auth = get_auth(request)
    form = Form(email=email_field())
    if request.method == "POST":
        auth.account_mailer.require_configured()
        await auth.throttle.hit("password_reset", ip=auth.proxies.client_address(request))
        if await form.fill_in(request):
            email = form.data["email"]
            auth.mail_queue.enqueue(lambda: _send_reset_mails(auth, request, email))
            return redirect(request, "password_reset_done")
    return await render(auth, request, "registration/password_reset_form.html", 422 if form.errors else 200, form=form)


async def password_reset_confirm(request: Request) -> Response:
    """The secret moves from the link into the session, so that neither the history nor a Referer holds it."""
    auth, token = get_auth(request), request.path_params["token"]
    user = await auth.users.get(decode_uid(request.path_params["uidb64"]))
    in_session = token == RESET_URL_TOKEN
    if in_session:
        token = auth.reset_tokens.from_session(str(request.session.get(RESET_TOKEN, "")))
    # Somebody who does not exist is looked for like anybody else.
    is_good = await auth.reset_tokens.check(user or User(id=None, username=""), token)
    if user is None or not user.is_active or not is_good:
        return await _reset_form(auth, request, 404, validlink=False)
    if request.method != "POST" and not in_session:
        await auth.throttle.hit("confirm", ip=auth.proxies.client_address(request))
        request.session[RESET_TOKEN] = auth.reset_tokens.to_session(token)
        params = {"uidb64": request.path_params["uidb64"], "token": RESET_URL_TOKEN}
        return redirect(request, "password_reset_confirm", **params)
    form = Form(**new_password_fields(auth, "new_password1", "new_password2"))
    if request.method != "POST":
        return await _reset_form(auth, request, form=form, account_name=user.username)
    await form.fill_in(request)
    await check_new_password(auth, form, "new_password1", "new_password2", user)
    if not form.is_valid:
        return await _reset_form(auth, request, 422, form=form, account_name=user.username)
    encoded = await auth.passwords.hash(form.data["new_password1"])
    if not await auth.gateway.run_in_transaction(lambda: _reset(auth, request, user.id, token, encoded)):
        # Another request used the link while this one made its hash.
        return await _reset_form(auth, request, 404, validlink=False)
    request.session.pop(RESET_TOKEN, None)
    if auth.login_after_reset:
        fresh = await auth.users.get(user.id)
        return await complete_login(request, fresh) if fresh is not None else login_required_response(request)
    return redirect(request, "password_reset_complete")


async def _reset(auth: Auth, request: Request, user_id: object, token: str, encoded: str) -> bool:
    """Uses the link up and sets the password; False for all but the first."""
    user = await auth.users.get(user_id)
    if user is None or not await auth.reset_tokens.consume(user, token):
        return False
    if not await auth.users.replace_password(user, encoded, request=request, by_reset=True):
        return False
    await auth.tokens.revoke_all(user_subject(user))
    return True


async def _send_reset_mails(auth: Auth, request: Request, email: str) -> None:
    """To the address that is stored, never to the one that was typed: the two may only look alike."""
    for user in await auth.users.list_by_email(email):
        # Whoever has no password here, but comes through a proxy or another site, is not given one.
        if not user.is_active or not is_usable(user.password):
            continue
        # By account, not by what was typed: an address that only looks alike would use up the owner's mail.
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
) -> Response:
    return await render(
        auth,
        request,
        "registration/password_reset_confirm.html",
        status_code,
        form=form,
        validlink=validlink,
        account_name=account_name,
        password_help=auth.password_help(),
    )
