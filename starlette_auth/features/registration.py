"""Pages on which visitors register an account."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..auth import Auth, Feature
from ..core.exceptions import AlreadyExists, ImproperlyConfigured, ValidationError
from ..core.text import ascii_lower, normalize_email, normalize_username
from ..core.translation import format_duration, gettext
from ..http.urls import redirect
from ..mail.account_mailer import TemplateMail
from ..pages.base import account_page, check_new_password, new_password_fields, render, template_page
from ..pages.forms import Field, Form, email_field
from ..pages.mailed_links import close_link, open_link, referenced_user, send_mail_once, user_reference
from ..security.tokens import Token
from ..users.models import User

REGISTER = "register"
BROWSER = "starlette_auth.registration"
MAX_CHECKED = 6  # passwords that one try is compared with
MAX_USERNAME_LENGTH = 150
USERNAME = re.compile(r"[\w.@+-]+")  # Django's UnicodeUsernameValidator


class Registration(Feature):
    """Pages on which visitors make an account: `Auth(features=[Registration()])`.

    With `verify="before"` there is no account until the link in a mail was opened, and no page says whether a name or
    an address is taken: that stands in the mail. With "after" the account is there at once, a taken name is told, and
    the address is noted when the link is opened. `fields` are "username", "email" or both; without an address nothing
    is verified. `max_age` of a link is in seconds.
    """

    def __init__(
        self,
        *,
        fields: Sequence[str] = ("username", "email"),
        verify: Literal["before", "after"] = "before",
        max_age: int = 24 * 60 * 60,
    ) -> None:
        if not fields or isinstance(fields, str) or set(fields) - {"username", "email"}:
            raise ImproperlyConfigured('fields is ["username"], ["email"] or ["username", "email"]. Choose one.')
        if verify not in ("before", "after"):
            raise ImproperlyConfigured(f'verify={verify!r} is not known. Use "before" (the default) or "after".')
        if verify == "after" and "username" not in fields:
            raise ImproperlyConfigured(
                'With an address as the name, an account that is there at once would tell who has one. Use verify="before".'
            )
        self.fields = tuple(fields)
        self.verify = verify if "email" in fields else ""
        self.max_age = max_age

    def attach(self, auth: Auth) -> None:
        self.auth = auth
        if self.verify:
            auth.account_mailer.require_configured()

    def routes(self) -> Sequence[BaseRoute]:
        both, get = ["GET", "POST"], ["GET"]
        routes = [
            Route("/register", account_page(self.register), name="register", methods=both),
            Route("/register/done", account_page(self.done), name="register_done", methods=get),
        ]
        if self.verify:
            routes += [
                Route("/register/resend", account_page(self.resend), name="register_resend", methods=both),
                Route("/register/confirm/{token}", account_page(self.confirm), name="register_confirm", methods=both),
                Route("/register/complete", template_page("register_complete"), name="register_complete", methods=get),
            ]
        return routes

    async def register(self, request: Request) -> Response:
        form = self._form()
        if request.method == "POST":
            await self.auth.throttle.hit("register", ip=self.auth.proxies.client_address(request))
            await form.fill_in(request)
            await self._check(form)
            if form.is_valid:
                encoded = await self.auth.passwords.hash(form.data["password1"])
                if await self._accept(request, form, encoded):
                    return redirect(request, "register_done")
        template, status = "registration/register_form.html", 422 if form.errors else 200
        return await render(self.auth, request, template, status, form=form, password_help=self.auth.password_help())

    async def done(self, request: Request) -> Response:
        return await render(self.auth, request, "registration/register_done.html", verify=self.verify)

    async def resend(self, request: Request) -> Response:
        """The same answer for every address, as for a first mail."""
        form = Form(email=email_field())
        if request.method == "POST":
            await self.auth.throttle.hit("register", ip=self.auth.proxies.client_address(request))
            await form.fill_in(request)
            if form.is_valid:
                email = normalize_email(form.data["email"])
                self.auth.mail_queue.enqueue(lambda: self._send_again(request, email))
                return redirect(request, "register_done")
        return await render(
            self.auth, request, "registration/register_resend.html", 422 if form.errors else 200, form=form
        )

    async def confirm(self, request: Request) -> Response:
        token = await open_link(self.auth, request, REGISTER, "register_confirm")
        if isinstance(token, Response):
            return token
        pending = await self._pending(token) if token is not None else []
        wanted = next((one for one in pending if self._is_from_here(request, one)), None)
        form = Form() if token is None or wanted is not None else _password_form()
        if token is not None and request.method == "POST" and await form.fill_in(request):
            wanted = wanted or await self._match_password(request, token, form, pending)
            try:
                if wanted is not None and await self._complete(token, wanted):
                    close_link(request, REGISTER)
                    return redirect(request, "register_complete")
                token = None if form.is_valid else token
            except AlreadyExists:
                message = gettext("Somebody else took this username meanwhile. Please register again, with another.")
                form.add_error("", ValidationError(message, "unique"))
        status = 404 if token is None else (422 if form.errors else 200)
        template = "registration/register_confirm.html"
        return await render(self.auth, request, template, status, form=form, validlink=token is not None)

    def _form(self) -> Form:
        fields: dict[str, Field] = {}
        if "username" in self.fields:
            fields["username"] = Field(
                label=gettext("Username"),
                autocomplete="username",
                max_length=MAX_USERNAME_LENGTH,
                help_text=gettext("Letters, digits and @ . + - _ only."),
            )
        if "email" in self.fields:
            fields["email"] = email_field(autocomplete="email" if "username" in self.fields else "username")
        passwords = new_password_fields(self.auth, "password1", "password2")
        labels = {"password1": gettext("Password"), "password2": gettext("Password, once more")}
        return Form(**fields, **{name: replace(passwords[name], label=label) for name, label in labels.items()})

    async def _check(self, form: Form) -> None:
        if "email" in form.fields:
            form.data["email"] = normalize_email(form.data["email"])
        if "username" in form.fields and "username" not in form.errors:
            form.data["username"] = normalize_username(form.data["username"])
            if not USERNAME.fullmatch(form.data["username"]):
                message = gettext(
                    "Enter a valid username. This value may contain only letters, numbers, and @/./+/-/_ characters."
                )
                form.add_error("username", ValidationError(message, "invalid"))
        # NFKC may make several characters of one. The column was measured for what comes out.
        name = "username" if "username" in form.fields else "email"
        if name not in form.errors and len(self._username(form.data)) > MAX_USERNAME_LENGTH:
            form.add_error(name, ValidationError(gettext("This is too long. Use something shorter."), "max_length"))
        user = User(id=None, username=self._username(form.data), email=form.data.get("email", ""))
        await check_new_password(self.auth, form, "password1", "password2", user)

    @staticmethod
    def _username(data: dict[str, str]) -> str:
        return data.get("username") or normalize_username(data.get("email", ""))

    async def _accept(self, request: Request, form: Form, encoded: str) -> bool:
        """Notes what is wanted. Whether it can be had is found out after the response, where nobody can measure it."""
        username, email = self._username(form.data), form.data.get("email", "")
        data: dict[str, Any] = {"username": username, "email": email, "password": encoded}
        if self.verify != "before":
            try:
                user = await self.auth.gateway.run_in_transaction(lambda: self._create(username, encoded))
            except AlreadyExists:
                message = gettext("A user with that username already exists.")
                form.add_error("username", ValidationError(message, "unique"))
                return False
            data = {**user_reference(user), "email": email}
        if email:
            data["browser"] = self._browser(request)
            token = await self.auth.tokens.create(REGISTER, _subject(email), max_age=self.max_age, data=data)
            self.auth.mail_queue.enqueue(lambda: self._send(request, token, data))
        return True

    async def _create(self, username: str, encoded: str, email: str = "") -> User:
        """Inside a transaction. AlreadyExists for a name that somebody has in another case, too."""
        await self.auth.tokens.lock(f"name {ascii_lower(username)}")
        if await self.auth.users.has_username(username):
            raise AlreadyExists(f"There is a user called {username!r} already. Choose another name.")
        user: User = await self.auth.users.create_user(username, email, encoded_password=encoded)
        return user

    async def _send(self, request: Request, token: str, data: dict[str, Any]) -> None:
        email, letters = data["email"], self.auth.account_mailer
        taken = "address_taken" if await self.auth.users.list_by_email(email) else ""
        if not taken and "username" in data and await self.auth.users.has_username(data["username"]):
            taken = "username_taken"
        if taken:
            await self.auth.tokens.discard(REGISTER, token)
        if taken == "address_taken":
            context = {"attempt": "register", "link": letters.link(request, "login")}
        elif taken:
            context = {"link": letters.link(request, "register")}
        else:
            link = letters.link(request, "register_confirm", token=token)
            context = {"link": link, "valid_for": format_duration(self.max_age)}
        await send_mail_once(self.auth, email, TemplateMail(to=email, name=taken or "register", context=context))

    async def _send_again(self, request: Request, email: str) -> None:
        pending = await self.auth.tokens.recent(REGISTER, _subject(email))
        if pending:
            data = dict(pending[0].data)
            again = await self.auth.tokens.create(REGISTER, _subject(email), max_age=self.max_age, data=data)
            await self._send(request, again, data)
        elif await self.auth.users.list_by_email(email):
            context = {"attempt": "register", "link": self.auth.account_mailer.link(request, "login")}
            await send_mail_once(self.auth, email, TemplateMail(to=email, name="address_taken", context=context))

    def _browser(self, request: Request) -> str:
        """What tells one browser from another, as far as it loaded a form of ours; "" for those that did not."""
        secret = self.auth.csrf_tokens.browser_secret(request)
        return self.auth.keys.sign(BROWSER, secret) if secret else ""

    def _is_from_here(self, request: Request, token: Token) -> bool:
        """Whether it was this browser in which the account was asked for."""
        secret, browser = self.auth.csrf_tokens.browser_secret(request), str(token.data["browser"])
        return secret is not None and self.auth.keys.verify(BROWSER, secret, browser) is not None

    async def _pending(self, token: Token) -> list[Token]:
        """All that is asked for with this address: the link proves the address, and not which of them is meant."""
        recent = await self.auth.tokens.recent(REGISTER, _subject(str(token.data["email"])))
        return [token, *(other for other in recent if other != token)]

    async def _match_password(
        self, request: Request, token: Token, form: Form, pending: Sequence[Token]
    ) -> Token | None:
        """What was asked for with the password in the form, by whoever opened the link; adds an error for None.

        A stranger may have registered the address a moment before its owner, with a password of the stranger's: the
        one mail that was sent is the stranger's then, and must not give the stranger an account in the owner's name.
        """
        auth, email, password = self.auth, str(token.data["email"]), form.data["password"]
        address = auth.proxies.client_address(request)
        async with auth.throttle.attempt("confirm", account=email, address=address) as attempt:
            for candidate in pending[:MAX_CHECKED]:
                encoded = await self._password_of(candidate)
                if (await auth.passwords.check(encoded, password)).matches:
                    attempt.succeeded = True
                    return candidate
        message = gettext(
            "This is not the password that you chose. If it was not you who registered, please do so now."
        )
        form.add_error("password", ValidationError(message, "password_incorrect"))
        return None

    async def _password_of(self, token: Token) -> str | None:
        if "user" not in token.data:
            return str(token.data["password"])
        user = await referenced_user(self.auth, token)
        return user.password if user is not None else None

    async def _complete(self, token: Token, wanted: Token) -> bool:
        """Makes the account, or notes the address of the one that is there; False when the link is no good any more."""
        auth, data = self.auth, wanted.data
        email = str(data["email"])

        async def complete() -> bool:
            await auth.tokens.lock(_subject(email))
            if not await auth.tokens.consume(token) or await auth.users.list_by_email(email):
                return False
            if "user" in data:
                user = await referenced_user(auth, wanted)
                if user is None or user.email:
                    return False
                await auth.users.update(user, email=email)
            else:
                await self._create(data["username"], data["password"], email)
            await auth.tokens.revoke_all(_subject(email))
            return True

        return await auth.gateway.run_in_transaction(complete)


def _subject(email: str) -> str:
    return f"address {ascii_lower(email)}"


def _password_form() -> Form:
    help_text = gettext("The one that you chose when you registered.")
    field = Field(label=gettext("Password"), type="password", autocomplete="current-password", help_text=help_text)
    return Form(password=field)
