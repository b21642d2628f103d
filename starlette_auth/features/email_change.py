"""Pages on which users change their e-mail address, and undo the change."""

import contextlib
import functools
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..answers import redirect_to_login
from ..auth import Auth, Feature
from ..core.arguments import require_integer
from ..core.events import EmailChanged, SessionsEnded
from ..core.exceptions import AlreadyExists, ValidationError
from ..core.feature_events import FactorRemoved
from ..core.text import ascii_lower, normalize_email
from ..core.translation import format_duration, gettext
from ..http.urls import redirect
from ..mail.account_mailer import TemplateMail
from ..pages.base import account_page, check_old_password, keep_form, render, template_page, visitor_page
from ..pages.forms import Field, Form, email_field
from ..pages.mailed_links import (
    IN_COOKIE,
    close_link,
    open_link,
    referenced_user,
    send_mail_once,
    send_reset_mail,
    url_to_reload,
    user_reference,
)
from ..security.reset_tokens import user_binding, user_subject
from ..security.tokens import EMAIL_UNDO, Token, TokenHash
from ..users.models import User
from ..users.users import username_at

EMAIL_CHANGE = "email_change"
PASSWORD_CHECK = "email_change_password"  # noqa: S105  the name under which wrong passwords are counted and logged


class EmailChange(Feature):
    """Adds pages on which users change their e-mail address: `Auth(features=[EmailChange()])`.

    The new address gets a link that confirms the change within `max_age` seconds. The old address gets a notice with
    a link that undoes the change within `undo_age` seconds. An attacker who changed the address knows the password;
    therefore the undo link also ends all sessions and replaces the password by a random one. Second factors and other ways
    to log in that were added since the change are removed: an attacker's passkey would otherwise open the account again.
    """

    def __init__(self, *, max_age: int = 24 * 60 * 60, undo_age: int = 7 * 24 * 60 * 60) -> None:
        require_integer(max_age, "max_age")
        require_integer(undo_age, "undo_age")
        self.max_age = max_age
        self.undo_age = undo_age

    def attach(self, auth: Auth) -> None:
        self.auth = auth
        auth.account_mailer.require_configured()

    async def security_section(self, request: HTTPConnection, user: User) -> tuple[str, Mapping[str, Any]] | None:
        return "registration/security_email.html", {"email": user.email}

    def routes(self) -> Sequence[BaseRoute]:
        both, get = ["GET", "POST"], ["GET"]
        return [
            Route("/email_change", account_page(self.change), name="email_change", methods=both),
            Route("/email_change/done", template_page("email_change_done"), name="email_change_done", methods=get),
            Route(
                "/email_change/complete",
                template_page("email_change_complete"),
                name="email_change_complete",
                methods=get,
            ),
            Route(
                "/email_change/confirm/{token}", account_page(self.confirm), name="email_change_confirm", methods=both
            ),
            Route(
                "/email_undo/complete", template_page("email_undo_complete"), name="email_undo_complete", methods=get
            ),
            Route(
                "/email_undo/confirm/{token}",
                visitor_page(self.undo),
                name="email_undo_confirm",
                methods=both,
            ),
        ]

    async def change(self, auth: Auth, request: Request) -> Response:
        """Shows the form for a new address, and mails a confirmation link to it.

        An attacker submits addresses to find out which have an account. Therefore the response is the same for every
        address; only the mail to the address tells that it is taken.
        """
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        form = Form(
            email=email_field(gettext("New e-mail address")),
            old_password=Field(label=gettext("Password"), type="password", autocomplete="current-password"),
        )
        page = functools.partial(render, auth, request, "registration/email_change_form.html", form=form)
        if request.method == "POST":
            await form.fill_in(request)
            with keep_form(auth, request, form, page):
                await auth.throttle.hit("email_change", ip=auth.proxies.client_address(request))
                await check_old_password(auth, request, form, user, action=PASSWORD_CHECK)
            if form.is_valid:
                await self._request_confirmation(request, user, normalize_email(form.data["email"]))
                return redirect(request, "email_change_done")
        return await page(422 if form.errors else 200)

    async def confirm(self, auth: Auth, request: Request) -> Response:
        """Shows the page of the confirmation link, and changes the address.

        It asks for the password unless the user is logged in. With one wrong letter in the new address, the link goes
        to a stranger, who could change the address and then reset the password.
        """

        def is_valid(token: Token, user: User) -> bool:
            return auth.tokens.binding_matches(token, user_binding(user))

        return await self._confirm_page(
            request, EMAIL_CHANGE, "email_change", is_valid, self._change, asks_password=True
        )

    async def undo(self, auth: Auth, request: Request) -> Response:
        """Shows the page of the undo link, and restores the old address."""
        return await self._confirm_page(request, EMAIL_UNDO, "email_undo", lambda token, user: True, self._undo)

    async def _confirm_page(
        self,
        request: Request,
        purpose: str,
        name: str,
        is_valid: Callable[[Token, User], bool],
        confirm: Callable[[Request, Token], Awaitable[bool]],
        *,
        asks_password: bool = False,
    ) -> Response:
        """Shows the page of a mailed link; a POST calls `confirm`.

        `asks_password`: whether a visitor who is not logged in as the token's user has to enter the password.
        """
        token = await open_link(self.auth, request, purpose, f"{name}_confirm")
        if isinstance(token, Response):
            return token
        user = await self._user(token)
        if token is not None and (user is None or not is_valid(token, user)):
            token = None
        form = _password_form() if asks_password and not _is_logged_in(request, user) else Form()
        if token is not None and user is not None and request.method == "POST":
            await form.fill_in(request)
            page = functools.partial(self._link_page, request, name, form, token)
            with keep_form(self.auth, request, form, page):
                is_usable = await self._use_link(request, token, user, form, confirm)
            if is_usable and form.is_valid:
                return close_link(self.auth, request, purpose, redirect(request, f"{name}_complete"))
            token = token if is_usable else None
        status = 404 if token is None else (422 if form.errors else 200)
        return await self._link_page(request, name, form, token, status)

    async def _link_page(self, request: Request, name: str, form: Form, token: Token | None, status: int) -> Response:
        template, email = f"registration/{name}_confirm.html", token.data["email"] if token is not None else ""
        reload = url_to_reload(self.auth, request, f"{name}_confirm") if token is not None else ""
        context = {"validlink": token is not None, "email": email, "reload": reload}
        context["here"] = self.auth.url_for(request, f"{name}_confirm", token=IN_COOKIE)
        return await render(self.auth, request, template, status, form=form, **context)

    async def _use_link(
        self,
        request: Request,
        token: Token,
        user: User,
        form: Form,
        confirm: Callable[[Request, Token], Awaitable[bool]],
    ) -> bool:
        """Calls `confirm` if the form is valid; returns False if the link was used, or is used at this moment.

        A password is hashed here, so the link is claimed before.
        """
        tokens = self.auth.tokens
        async with tokens.claim(f"link {token.token_hash}") as is_claimed:
            if not is_claimed or await tokens.find(token.purpose, TokenHash(token.token_hash)) is None:
                return False
            await self._check_password(request, form, user)
            try:
                return not form.is_valid or await confirm(request, token)
            except AlreadyExists:
                form.add_error("", ValidationError(_taken_message(), "unique"))
                return True

    async def _check_password(self, request: Request, form: Form, user: User) -> None:
        """Adds an error to the form if its field for the password has a wrong one.

        Wrong passwords count under the action "email_change_password". A weak hash is not replaced here, because the
        token is bound to the stored hash.
        """
        if "password" not in form.fields or not form.is_valid:
            return
        backend = self.auth.model_backend
        raw = form.data["password"]
        if not await backend.check_password(request, user, raw, action=PASSWORD_CHECK, upgrade=False):
            message = gettext("Your password was entered incorrectly. Please enter it again.")
            form.add_error("password", ValidationError(message, "password_incorrect"))

    async def _request_confirmation(self, request: Request, user: User, email: str) -> None:
        data = {**user_reference(user), "email": email}
        token = await self.auth.tokens.create(
            EMAIL_CHANGE, user_subject(user), max_age=self.max_age, binding=user_binding(user), data=data
        )
        self.auth.mail_queue.enqueue(lambda: self._send(request, user, token, email))

    async def _send(self, request: Request, user: User, token: str, email: str) -> None:
        mailer = self.auth.account_mailer
        link = mailer.link(request, "email_change_confirm", token=token)
        context = {"user": user, "link": link, "valid_for": format_duration(self.max_age)}
        mail = TemplateMail(to=email, name="email_change", context=context)
        if await self._is_taken(email, user):
            await self.auth.tokens.discard(EMAIL_CHANGE, token)
            context = {"attempt": "email_change", "link": mailer.link(request, "login")}
            mail = TemplateMail(to=email, name="address_taken", context=context)
        await send_mail_once(self.auth, email, mail)

    async def _change(self, request: Request, token: Token) -> bool:
        auth, new_email = self.auth, str(token.data["email"])

        async def change() -> bool:
            await auth.tokens.lock(f"address {ascii_lower(new_email)}")
            if not await auth.tokens.consume(token):
                return False
            user = await self._user(token)
            if (
                user is None
                or not auth.tokens.binding_matches(token, user_binding(user))
                or await self._is_taken(new_email, user)
            ):
                return False
            old_email = user.email
            await auth.users.update(user, email=new_email, **await username_at(auth.users, user, new_email))
            await auth.tokens.revoke_all(user_subject(user))
            await auth.events.emit(EmailChanged(user=user, old_email=old_email, request=request))
            emails = {"old_email": old_email, "new_email": new_email}
            auth.notices.notify("email_changed", user, request, **emails)
            if old_email:
                undo_token = await self._create_undo_token(user, old_email)
                link = auth.account_mailer.link(request, "email_undo_confirm", token=undo_token)
                undo = {"undo_link": link, "valid_for": format_duration(self.undo_age)}
                auth.notices.notify("email_changed", user, request, to=old_email, **emails, **undo)
            return True

        with contextlib.suppress(AlreadyExists):  # taken by a concurrent request
            return await auth.gateway.run_in_transaction(change)
        return False

    async def _create_undo_token(self, user: User, email: str) -> str:
        """Creates an undo token that expires at least one second after the user's earlier undo tokens.

        Using an undo token revokes all undo tokens that expire in the same second or later. An attacker who changes the
        address twice within one second would get a token as old as the owner's, and could revoke the owner's with it.
        """
        tokens, subject = self.auth.tokens, user_subject(user)
        earlier = await tokens.recent(EMAIL_UNDO, subject)
        min_lifetime = earlier[0].expires + 1 - int(self.auth.clock()) if earlier else 0
        data = {**user_reference(user), "email": email, "since": int(self.auth.clock())}
        return await tokens.create(EMAIL_UNDO, subject, max_age=max(self.undo_age, min_lifetime), data=data)

    async def _undo(self, request: Request, token: Token) -> bool:
        """Restores the old address, replaces the password, and removes the factors that were added since.

        Raises AlreadyExists if another user has the address, with which users log in. Nothing is changed then: with two
        accounts at that address, neither user could log in. The link stays valid.
        """
        auth = self.auth
        # A random password that is not stored anywhere; the old address gets a reset link.
        encoded = await auth.passwords.hash(secrets.token_urlsafe(32))

        async def undo() -> User | None:
            user = await self._user(token) if await auth.tokens.consume(token) else None
            if user is None:
                return None
            email = user.email
            await auth.tokens.revoke_all(user_subject(user))
            # An attacker may have changed the address again, and would hold an undo link for that change.
            await auth.tokens.revoke_undos(user_subject(user), made_after=token)
            old_email = str(token.data["email"])
            fields = {"password": encoded, **await username_at(auth.users, user, old_email)}
            await auth.users.update(user, email=old_email, **fields)
            # A token of an older version has no time; all of them are valid for `undo_age` or longer.
            since = int(token.data.get("since", token.expires - self.undo_age))
            for factor in await auth.remove_factors(user, since=since):
                await auth.events.emit(FactorRemoved(user=user, factor=factor.method, request=request))
            undone = EmailChanged(user=user, old_email=email, request=request, undone=True, since=since)
            await auth.events.emit(undone)
            await auth.events.emit(SessionsEnded(user=user, request=request))
            return user

        user = await auth.gateway.run_in_transaction(undo)
        if user is None:
            return False
        await send_reset_mail(self.auth, request, user)
        return True

    async def _user(self, token: Token | None) -> User | None:
        user = await referenced_user(self.auth, token) if token is not None else None
        return user if user is not None and user.is_active else None

    async def _is_taken(self, email: str, user: User) -> bool:
        return any(other.id != user.id for other in await self.auth.users.list_by_email(email))


def _is_logged_in(request: Request, user: User | None) -> bool:
    return isinstance(request.user, User) and user is not None and request.user.id == user.id


def _taken_message() -> str:
    return gettext(
        "Another account has this address now, so nothing was changed. Log in to that account (reset its password if you "
        "do not know it) and change its address. Then open the link in our e-mail again."
    )


def _password_form() -> Form:
    return Form(password=Field(label=gettext("Password"), type="password", autocomplete="current-password"))
