"""Pages on which visitors register an account."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..auth import Auth, Feature
from ..core.arguments import as_texts, require_integer
from ..core.events import PasswordRefused
from ..core.exceptions import AlreadyExists, ImproperlyConfigured, ValidationError
from ..core.signing import salted_hmac
from ..core.text import ascii_lower, normalize_email, normalize_username
from ..core.translation import format_duration, gettext
from ..http.urls import redirect
from ..mail.account_mailer import TemplateMail
from ..pages.base import account_page, check_new_password, new_password_fields, render, template_page, visitor_page
from ..pages.forms import Field, Form, email_field, password_field
from ..pages.mailed_links import close_link, open_link, referenced_user, send_mail_once, url_to_reload, user_reference
from ..pages.usernames import MAX_USERNAME_LENGTH, check_new_username, username_field
from ..passwords.password_changes import has_change_listener
from ..security.tokens import Token, TokenHash
from ..users.models import User

REGISTER = "register"
FIELDS = 'Pass fields=["username"], ["email"] or ["username", "email"].'
BROWSER = "starlette_auth.registration"
PASSWORD_TAG = "starlette_auth.registration.password"  # noqa: S105  a purpose
MAX_CHECKED = 6  # pending registrations whose password hash is compared with one submitted password


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

    def attach(self, auth: Auth) -> None:
        self.auth = auth
        if self.verify:
            auth.account_mailer.require_configured()

    def routes(self) -> Sequence[BaseRoute]:
        both, get = ["GET", "POST"], ["GET"]
        routes = [
            Route("/register", visitor_page(self.register), name="register", methods=both),
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
        form = self._form()
        if request.method == "POST":
            await auth.throttle.hit("register", ip=auth.proxies.client_address(request))
            await form.fill_in(request)
            await self._check(form)
            if form.is_valid:
                encoded = await auth.passwords.hash(form.data["password1"])
                if await self._request_account(request, form, encoded):
                    return redirect(request, "register_done")
        rules, status = auth.password_help(), 422 if form.errors else 200
        return await render(auth, request, "registration/register_form.html", status, form=form, password_help=rules)

    async def done(self, auth: Auth, request: Request) -> Response:
        """Confirms the registration, and asks the visitor to open the link in the mail, if one was sent."""
        return await render(auth, request, "registration/register_done.html", verify=self.verify)

    async def resend(self, auth: Auth, request: Request) -> Response:
        """Shows the form that requests another confirmation mail. The response is the same for every address."""
        form = Form(email=email_field())
        if request.method == "POST":
            await auth.throttle.hit("register", ip=auth.proxies.client_address(request))
            await form.fill_in(request)
            if form.is_valid:
                email = normalize_email(form.data["email"])
                auth.mail_queue.enqueue(lambda: self._resend(request, email))
                return redirect(request, "register_done")
        return await render(auth, request, "registration/register_resend.html", 422 if form.errors else 200, form=form)

    async def confirm(self, auth: Auth, request: Request) -> Response:
        """Shows the page of the confirmation link, and creates the account.

        It asks for the password unless the CSRF cookie proves that this browser sent the registration (see
        `CSRFTokens.own_secrets`) and no validator has the method `password_changed`.
        """
        token = await open_link(auth, request, REGISTER, "register_confirm")
        if isinstance(token, Response):
            return token
        pending = await self._pending_tokens(token) if token is not None else []
        match = next((candidate for candidate in pending if self._is_same_browser(request, candidate)), None)
        if self.verify == "before" and has_change_listener(auth.password_validators):
            match = None
        text = gettext("The password that you chose when you registered.")
        form = Form() if token is None or match is not None else Form(password=password_field(text))
        if token is not None and request.method == "POST" and await form.fill_in(request):
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
        async with tokens.claim(_subject(str(token.data["email"]))) as is_claimed:
            if not is_claimed or await tokens.find(REGISTER, TokenHash(token.token_hash)) is None:
                return False
            match = match or await self._match_password(request, form, pending)
            try:
                raw = form.data.get("password")
                return not form.is_valid or (match is not None and await self._complete(token, match, raw))
            except AlreadyExists as error:
                text = gettext("Another user has taken this username meanwhile. Please register with a different one.")
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
        name = "username" if "username" in form.fields else "email"
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
            data["browser"] = self._sign_browser(request)
            data["tag"] = self._tags(email, form.data["password1"])[0]
            token = await self.auth.tokens.create(REGISTER, _subject(email), max_age=self.max_age, data=data)
            self.auth.mail_queue.enqueue(lambda: self._send(request, token, data))
        return True

    async def _create(self, username: str, encoded: str, raw: str | None, email: str = "") -> User:
        """Creates the user. Needs a transaction. Raises AlreadyExists also for a name that differs only in case."""
        await self.auth.tokens.lock(f"name {ascii_lower(username)}")
        if await self.auth.users.has_username(username):
            raise AlreadyExists(f"There is a user called {username!r} already. Choose another name.")
        user: User = await self.auth.users.create_user(username, email, raw, encoded_password=encoded)
        return user

    async def _send(self, request: Request, token: str, data: dict[str, Any]) -> None:
        email, name, mailer = data["email"], "register", self.auth.account_mailer
        if await self.auth.users.list_by_email(email):
            name = "address_taken"
        elif "username" in data and await self.auth.users.has_username(data["username"]):
            name = "username_taken"
        if name != "register":
            await self.auth.tokens.discard(REGISTER, token)
        if name == "address_taken":
            context = {"attempt": "register", "link": mailer.link(request, "login")}
        elif name == "username_taken":
            context = {"link": mailer.link(request, "register")}
        else:
            link = mailer.link(request, "register_confirm", token=token)
            context = {"link": link, "valid_for": format_duration(self.max_age)}
        await send_mail_once(self.auth, email, TemplateMail(to=email, name=name, context=context))

    async def _resend(self, request: Request, email: str) -> None:
        pending = await self.auth.tokens.recent(REGISTER, _subject(email))
        if pending:
            data = dict(pending[0].data)
            token = await self.auth.tokens.create(REGISTER, _subject(email), max_age=self.max_age, data=data)
            await self._send(request, token, data)
        elif await self.auth.users.list_by_email(email):
            context = {"attempt": "register", "link": self.auth.account_mailer.link(request, "login")}
            await send_mail_once(self.auth, email, TemplateMail(to=email, name="address_taken", context=context))

    def _sign_browser(self, request: Request) -> str:
        """Returns a signature that identifies this browser by its CSRF cookie; "" if it has none."""
        secrets_of_browser = self.auth.csrf_tokens.browser_secrets(request)
        return self.auth.keys.sign(BROWSER, secrets_of_browser[-1]) if secrets_of_browser else ""

    def _is_same_browser(self, request: Request, token: Token) -> bool:
        """Returns whether a cookie that only this host can have set proves that this browser sent the registration."""
        is_local, verify = self.auth.site.is_local(request.scope), self.auth.keys.verify
        own_secrets = self.auth.csrf_tokens.own_secrets(request, is_local=is_local)
        return any(verify(BROWSER, secret, str(token.data["browser"])) is not None for secret in own_secrets)

    async def _pending_tokens(self, token: Token) -> list[Token]:
        """Returns all pending registrations of the token's address, this token first.

        The link proves that the visitor owns the address. It does not prove which registration is the visitor's.
        """
        recent = await self.auth.tokens.recent(REGISTER, _subject(str(token.data["email"])))
        return [token, *(candidate for candidate in recent if candidate != token)]

    async def _match_password(self, request: Request, form: Form, pending: Sequence[Token]) -> Token | None:
        """Returns the pending registration with the password in the form; adds an error and returns None for no match.

        An attacker registers the victim's address, with a password of the attacker, just before the victim does. The
        victim gets one mail, which belongs to the attacker's registration. Opening its link would create an account
        with the attacker's password. Therefore the visitor must know the password of the registration.

        Only a few hashes are compared, because each takes long. An attacker could register the address so often that
        the victim's registration is not among them. Therefore those with the tag of the password come first.
        """
        password, tags = form.data["password"], self._tags(str(pending[0].data["email"]), form.data["password"])
        candidates = sorted(pending, key=lambda token: token.data.get("tag") not in tags)[:MAX_CHECKED]
        new, check = [row for row in candidates if "user" not in row.data], self.auth.model_backend.check_password
        if new and (match := await self._match_new(request, password, new)):
            return match
        for candidate in candidates:
            # The password of an existing user is guessed here: its attempts count as those of a login.
            user = await referenced_user(self.auth, candidate) if "user" in candidate.data else None
            if user is not None and await check(request, user, password, upgrade=False):
                return candidate
        message = gettext("This is not the password that you chose. If you did not register, please register now.")
        form.add_error("password", ValidationError(message, "password_incorrect"))
        return None

    async def _match_new(self, request: Request, password: str, pending: Sequence[Token]) -> Token | None:
        """Returns which of these registrations, whose accounts do not exist yet, has this password."""
        account, address = str(pending[0].data["email"]), self.auth.proxies.client_address(request)
        async with self.auth.throttle.attempt("confirm", account=account, address=address) as attempt:
            for candidate in pending:
                if (await self.auth.passwords.check(str(candidate.data["password"]), password)).matches:
                    attempt.succeeded = True
                    return candidate
        await self.auth.events.emit(PasswordRefused(user=None, request=request, action="confirm"))
        return None

    def _tags(self, email: str, password: str) -> list[str]:
        """Returns the tag of a password by each secret key, newest first.

        A tag has 12 bits, so that it hardly helps an attacker who has read the database and the secret key.
        """
        content = f"{ascii_lower(email)}\n{password}"
        return [salted_hmac(PASSWORD_TAG, content, key)[:3] for key in self.auth.keys.all]

    async def _complete(self, token: Token, match: Token, raw: str | None) -> bool:
        """Creates the account, or stores the address of the existing one; returns False if the link is invalid."""
        auth, data = self.auth, match.data
        email = str(data["email"])

        async def complete() -> bool:
            await auth.tokens.lock(_subject(email))
            if not await auth.tokens.consume(token) or await auth.users.list_by_email(email):
                return False
            if "user" in data:
                user = await referenced_user(auth, match)
                if user is None or user.email:
                    return False
                await auth.users.update(user, email=email)
            else:
                await self._create(data["username"], data["password"], raw, email)
            await auth.tokens.revoke_all(_subject(email))
            return True

        return await auth.gateway.run_in_transaction(complete)


def _subject(email: str) -> str:
    return f"address {ascii_lower(email)}"
