"""Pages on which visitors register an account."""

import functools
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...auth import Auth, Feature
from ...core.arguments import as_texts, require_integer
from ...core.exceptions import AlreadyExists, ImproperlyConfigured, ValidationError
from ...core.text import ascii_lower, normalize_email, normalize_username
from ...core.translation import format_duration, gettext
from ...http.urls import redirect
from ...mail.account_mailer import TemplateMail
from ...pages.base import (
    JSON_FIELDS,
    account_page,
    check_new_password,
    keep_form,
    new_password_fields,
    password_rules,
    render,
    template_page,
    visitor_page,
)
from ...pages.forms import Field, Form, email_field, password_field
from ...pages.mailed_links import close_link, open_link, referenced_user, send_mail_once, url_to_reload, user_reference
from ...pages.usernames import MAX_USERNAME_LENGTH, check_new_username, username_field
from ...passwords.password_changes import has_change_listener
from ...security.tokens import Token, TokenHash
from ...users.models import User
from .pending import REGISTER, PendingRegistrations, subject_of

FIELDS = 'Pass fields=["username"], ["email"] or ["username", "email"].'


class Registration(Feature):
    """Adds pages on which visitors register an account: `Auth(features=[Registration()])`.

    With `verify="before"` the account is created when the link in the mail is opened. No page reveals whether a
    username or an address is taken; only the mail does. With "after" the account is created at once, the page reveals
    that a username is taken, and the address is stored when the link is opened. `fields` are "username", "email" or
    both; without "email" there is no verification. `max_age` is the lifetime of a link in seconds.
    """

    def __init__(
        self,
        *,
        fields: Sequence[str] = ("username", "email"),
        verify: Literal["before", "after"] = "before",
        max_age: int = 24 * 60 * 60,
    ) -> None:
        fields = as_texts(fields, "fields", FIELDS)
        if not fields or set(fields) - {"username", "email"}:
            raise ImproperlyConfigured(f"fields={fields!r} is not known. {FIELDS}")
        if verify not in ("before", "after"):
            raise ImproperlyConfigured(f'verify={verify!r} is not known. Use "before" (the default) or "after".')
        if verify == "after" and "username" not in fields:
            raise ImproperlyConfigured(
                'Without a username, verify="after" would reveal which addresses are taken. Use verify="before".'
            )
        require_integer(max_age, "max_age")
        self.fields, self.verify, self.max_age = tuple(fields), verify if "email" in fields else "", max_age
        self._name_field = "username" if "username" in fields else "email"

    def attach(self, auth: Auth) -> None:
        self.auth, self.pending = auth, PendingRegistrations(auth)
        is_hidden = auth.login_fields == ("email",) and auth.tables.username is not auth.tables.email
        self._has_hidden_username = is_hidden and "username" not in self.fields
        if self.verify:
            auth.account_mailer.require_configured()

    def awaits_address(self, user: User) -> bool:
        """With `verify="after"` an account has no address before its link was opened. Staff is made by the operator."""
        return self.verify == "after" and not user.email and not (user.is_staff or user.is_superuser)

    def routes(self) -> Sequence[BaseRoute]:
        both, get = ["GET", "POST"], ["GET"]
        register = visitor_page(self.register)
        setattr(register, JSON_FIELDS, " ".join([*self.fields, "password1 password2"]))
        routes = [
            Route("/register", register, name="register", methods=both),
            Route("/register/done", account_page(self.done), name="register_done", methods=get),
        ]
        if self.verify:
            routes += [
                Route("/register/resend", visitor_page(self.resend), name="register_resend", methods=both),
                Route("/register/confirm/{token}", visitor_page(self.confirm), name="register_confirm", methods=both),
                Route("/register/complete", template_page("register_complete"), name="register_complete", methods=get),
            ]
        return routes

    async def register(self, auth: Auth, request: Request) -> Response:
        """Shows the registration form, and mails a confirmation link."""
        form, template = self._form(), "registration/register_form.html"
        page = functools.partial(render, auth, request, template, form=form, password_help=password_rules(auth))
        if request.method == "POST":
            await form.fill_in(request)
            with keep_form(auth, request, form, page):
                await auth.throttle.hit("register", ip=auth.proxies.client_address(request))
                await self._check(form)
                encoded = await auth.passwords.hash(form.data["password1"]) if form.is_valid else ""
            if form.is_valid and await self._request_account(request, form, encoded):
                return redirect(request, "register_done")
        return await page(422 if form.errors else 200)

    async def done(self, auth: Auth, request: Request) -> Response:
        """Confirms the registration, and asks the visitor to open the link in the mail, if one was sent."""
        return await render(auth, request, "registration/register_done.html", verify=self.verify)

    async def resend(self, auth: Auth, request: Request) -> Response:
        """Shows the form that requests another confirmation mail. The response is the same for every address."""
        form = Form(email=email_field())
        page = functools.partial(render, auth, request, "registration/register_resend.html", form=form)
        if request.method == "POST":
            await form.fill_in(request)
            with keep_form(auth, request, form, page):
                await auth.throttle.hit("register", ip=auth.proxies.client_address(request))
            if form.is_valid:
                email = normalize_email(form.data["email"])
                auth.mail_queue.enqueue(lambda: self._resend(request, email))
                return redirect(request, "register_done")
        return await page(422 if form.errors else 200)

    async def confirm(self, auth: Auth, request: Request) -> Response:
        """Shows the page of the confirmation link, and creates the account.

        It asks for the password unless the CSRF cookie proves that this browser sent the registration (see
        `CSRFTokens.own_secrets`) and no validator has the method `password_changed`.
        """
        token = await open_link(auth, request, REGISTER, "register_confirm")
        if isinstance(token, Response):
            return token
        pending = await self.pending.for_link(token) if token is not None else []
        match = next((candidate for candidate in pending if self.pending.is_same_browser(request, candidate)), None)
        if self.verify == "before" and has_change_listener(auth.password_validators):
            match = None
        text = gettext("The password that you chose when you registered.")
        form = Form() if token is None or match is not None else Form(password=password_field(text))
        if token is not None and request.method == "POST" and await form.fill_in(request):
            page = functools.partial(
                render, auth, request, "registration/register_confirm.html", form=form, validlink=True
            )
            with keep_form(auth, request, form, page):
                is_usable = await self._use_link(request, form, pending, match)
            if is_usable and form.is_valid:
                return close_link(auth, request, REGISTER, redirect(request, "register_complete"))
            token = token if is_usable else None
        status = 404 if token is None else (422 if form.errors else 200)
        shown = {"validlink": token is not None, "reload": token and url_to_reload(auth, request, "register_confirm")}
        return await render(auth, request, "registration/register_confirm.html", status, form=form, **shown)

    async def _use_link(self, request: Request, form: Form, pending: Sequence[Token], match: Token | None) -> bool:
        """Completes a registration, or adds an error to the form. Returns False if the link is used up or in use.

        Passwords are hashed here, so the address of the link is claimed before.
        """
        tokens, token = self.auth.tokens, pending[0]
        async with tokens.claim(subject_of(str(token.data["email"]))) as is_claimed:
            if not is_claimed or await tokens.find(REGISTER, TokenHash(token.token_hash)) is None:
                return False
            match = match or await self.pending.match_password(request, form, pending)
            try:
                raw = form.data.get("password")
                return not form.is_valid or (match is not None and await self._complete(token, match, raw))
            except AlreadyExists as error:
                text = gettext("Another user has taken this username meanwhile. Please register with a different one.")
                if self._name_field == "email":
                    text = gettext(
                        "Another account has your address as its username. Please register with a different one."
                    )
                form.add_error("", ValidationError(text, "unique"))
                return error.field != "email"  # no registration with an address that is taken can be completed

    def _form(self) -> Form:
        fields: dict[str, Field] = {}
        if "username" in self.fields:
            fields["username"] = username_field(self.auth)
        if "email" in self.fields:
            fields["email"] = email_field(autocomplete="email" if "username" in self.fields else "username")
        passwords = new_password_fields(self.auth, "password1", "password2")
        labels = {"password1": gettext("Password"), "password2": gettext("Password, once more")}
        return Form(**fields, **{name: replace(passwords[name], label=label) for name, label in labels.items()})

    async def _check(self, form: Form) -> None:
        if "email" in form.fields:
            form.data["email"] = normalize_email(form.data["email"])
        if "username" in form.fields and "username" not in form.errors:
            await check_new_username(self.auth, form)
        # NFKC normalization may lengthen a text, and the database column limits the normalized text.
        name = self._name_field
        if name not in form.errors and len(self._username(form.data)) > MAX_USERNAME_LENGTH:
            form.add_error(name, ValidationError(gettext("This is too long. Use something shorter."), "max_length"))
        user = User(id=None, username=self._username(form.data), email=form.data.get("email", ""))
        await check_new_password(self.auth, form, "password1", "password2", user)

    @staticmethod
    def _username(data: dict[str, str]) -> str:
        return data.get("username") or normalize_username(data.get("email", ""))

    async def _request_account(self, request: Request, form: Form, encoded: str) -> bool:
        """Stores the request for an account and queues the mail; returns False if the username is taken.

        An attacker measures response times, which would show whether a username or an address is taken. Therefore
        `verify="before"` checks both after the response.
        """
        username, email = self._username(form.data), form.data.get("email", "")
        data: dict[str, Any] = {"username": username, "email": email, "password": encoded}
        if self.verify != "before":
            try:
                user = await self.auth.gateway.run_in_transaction(
                    lambda: self._create(username, encoded, form.data["password1"])
                )
            except AlreadyExists:
                message = gettext("A user with that username already exists.")
                form.add_error("username", ValidationError(message, "unique"))
                return False
            data = {**user_reference(user), "email": email}
        if email:
            data["browser"] = self.pending.sign_browser(request)
            data["tag"] = self.pending.tags(email, form.data["password1"])[0]
            token = await self.auth.tokens.create(REGISTER, subject_of(email), max_age=self.max_age, data=data)
            self.auth.mail_queue.enqueue(lambda: self._send(request, token, data))
        return True

    async def _create(self, username: str, encoded: str, raw: str | None, email: str = "") -> User:
        """Creates the user. Needs a transaction. Raises AlreadyExists also for a name that differs only in case.

        Users who log in with their address only never see their username, which is the address. If it is the former
        address of another user, the new user gets a random name.
        """
        await self.auth.tokens.lock(f"name {ascii_lower(username)}")
        if await self.auth.users.has_username(username):
            if self._has_hidden_username:
                username = f"user-{secrets.token_hex(8)}"
            else:
                raise AlreadyExists(f"There is a user called {username!r} already. Choose another name.")
        user: User = await self.auth.users.create_user(username, email, raw, encoded_password=encoded)
        return user

    async def _is_username_taken(self, username: str) -> bool:
        return not self._has_hidden_username and await self.auth.users.has_username(username)

    async def _send(self, request: Request, token: str, data: dict[str, Any]) -> None:
        email, name, mailer = data["email"], "register", self.auth.account_mailer
        if await self.auth.users.list_by_email(email):
            name = "address_taken"
        elif "username" in data and await self._is_username_taken(data["username"]):
            name = "username_taken"
        if name != "register":
            await self.auth.tokens.discard(REGISTER, token)
        if name == "address_taken":
            context = {"attempt": "register", "link": mailer.link(request, "login")}
        elif name == "username_taken":
            field = self._name_field
            context = {"link": mailer.link(request, "register" if field == "username" else "login"), "field": field}
        else:
            link = mailer.link(request, "register_confirm", token=token)
            context = {"link": link, "valid_for": format_duration(self.max_age)}
        await send_mail_once(self.auth, email, TemplateMail(to=email, name=name, context=context))

    async def _resend(self, request: Request, email: str) -> None:
        pending = await self.auth.tokens.recent(REGISTER, subject_of(email))
        if pending:
            data = dict(pending[0].data)
            token = await self.auth.tokens.create(REGISTER, subject_of(email), max_age=self.max_age, data=data)
            await self._send(request, token, data)
        elif await self.auth.users.list_by_email(email):
            context = {"attempt": "register", "link": self.auth.account_mailer.link(request, "login")}
            await send_mail_once(self.auth, email, TemplateMail(to=email, name="address_taken", context=context))

    async def _complete(self, token: Token, match: Token, raw: str | None) -> bool:
        """Creates the account, or stores the address of the existing one; returns False if the link is invalid."""
        auth, data = self.auth, match.data
        email = str(data["email"])

        async def complete() -> bool:
            await auth.tokens.lock(subject_of(email))
            if not await auth.tokens.consume(token) or await auth.users.list_by_email(email):
                return False
            if "user" in data:
                user = await referenced_user(auth, match)
                if user is None or user.email:
                    return False
                await auth.users.update(user, email=email)
            else:
                await self._create(data["username"], data["password"], raw, email)
            await auth.tokens.revoke_all(subject_of(email))
            return True

        return await auth.gateway.run_in_transaction(complete)
