"""The step of a login in which a user who must have a second factor adds one."""

import secrets
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...auth import Auth
from ...backends.login_methods import EMAIL, level_of
from ...backends.login_steps import LoginStep
from ...backends.pending_login import PendingLogin
from ...backends.session import session_of
from ...core.clock import MINUTE
from ...core.exceptions import ValidationError
from ...core.translation import format_duration, gettext
from ...http.clients import wants_json
from ...http.urls import url_path_for
from ...mail.account_mailer import TemplateMail
from ...pages.base import keep_form, render, visitor_page
from ...pages.factors.check import MAX_LENGTH, require_address
from ...pages.forms import Field, Form
from ...pages.login_steps import advance, pending_login
from ...users.models import User

ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1: 20 consonants, so that no code is a word
LENGTH = 8  # letters: 34.6 bits
PURPOSE = "enrol"
TRIES = 3  # for one mailed code
MAX_AGE = 10 * MINUTE


class EnrolStep(LoginStep):
    """Leads users who must have a second factor, and have none, to the page on which they add one.

    An attacker with a stolen password would otherwise add the attacker's app, and keep the owner out. Therefore, where
    mail is configured and the user has an address, a code mailed to it comes first.
    """

    name = "enrol"

    def __init__(self, auth: Auth, required_for: Callable[[User], bool]) -> None:
        self.auth, self.required_for = auth, required_for

    async def is_needed(self, request: Request, login: PendingLogin) -> bool:
        is_strong = level_of(login.methods) >= 2
        return not is_strong and self.required_for(login.user) and not await self.auth.has_any_factor(login.user)

    def url(self, request: Request) -> str:
        return url_path_for(request.scope, self.name)

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/enrol", visitor_page(self.page), name=self.name, methods=["GET", "POST"])]

    async def waiting(self, auth: Auth, request: Request) -> PendingLogin | None:
        """Returns the login of this session that waits for a second factor to be added."""
        session = session_of(request)
        login = await auth.pending_logins.find(session, auth.clock()) if session is not None else None
        return login if login is not None and await self.is_needed(request, login) else None

    @staticmethod
    def needs_mail(auth: Auth, login: PendingLogin) -> bool:
        """Returns whether the user has to prove the address first. An older proof, of the session, does not count."""
        is_proved = any(method.name == EMAIL and method.at >= login.began for method in login.methods)
        return auth.account_mailer.is_configured and bool(login.user.email) and not is_proved

    async def page(self, auth: Auth, request: Request) -> Response:
        """Mails a code, if `send` is in the form, and takes it. Then redirects to the page `totp`.

        It continues the login when the user has a second factor.
        """
        label, hidden = gettext("Code from the e-mail"), Field(type="hidden", required=False)
        code = Field(label=label, required=False, max_length=MAX_LENGTH, autocomplete="one-time-code")
        form, is_post = Form(code=code, login=hidden, send=hidden), request.method == "POST"
        if is_post:
            await form.fill_in(request)
        login = await pending_login(request, form.data["login"] if is_post else None)
        if not await self.is_needed(request, login):
            return await advance(request, login)
        require_address(auth, request, login.user)
        needs_mail = self.needs_mail(auth, login)
        if not is_post and wants_json(request):
            return JSONResponse({"step": {"name": self.name, "login": login.id, "needs_mail": needs_mail}})
        if not needs_mail:
            return RedirectResponse(url_path_for(request.scope, "totp"), status_code=303)

        async def show(status: int = 200) -> Response:
            is_sent = bool(await auth.tokens.recent(PURPOSE, _subject(login)))
            form.data["code"], form.data["login"], form.data["send"] = "", login.id, "1"
            page = {"login_name": login.user.get_username(), "is_sent": is_sent}
            return await render(auth, request, "registration/enrol.html", status, form=form, **page)

        if not is_post:
            return await show()
        if not form.is_valid:
            return await show(422)
        if form.data["send"]:
            with keep_form(auth, request, form, show):
                await self._send_code(auth, login)
            return await advance(request, login)
        if await self._check_code(auth, login, form.data["code"]):
            return await advance(request, login, EMAIL)
        text = gettext("This code is wrong or too old. After three wrong codes, ask for a new one.")
        form.add_error("code", ValidationError(text, "wrong_code"))
        return await show(422)

    async def _send_code(self, auth: Auth, login: PendingLogin) -> None:
        """Mails a new code, which replaces the earlier one. Raises Throttled after three mails in 15 minutes.

        The code is in no row: the rows contain its signature, together with the id of the login. There is one row for
        each try.
        """
        await auth.throttle.hit("enrol_mail", account=f"user {login.user.id}")
        code, subject = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH)), _subject(login)
        await auth.tokens.revoke_all(subject)
        for _ in range(TRIES):
            await auth.tokens.create(PURPOSE, subject, max_age=MAX_AGE, binding=_binding(login, code))
        shown = f"{code[: LENGTH // 2]}-{code[LENGTH // 2 :]}"
        context = {"user": login.user, "code": shown, "valid_for": format_duration(MAX_AGE)}
        auth.account_mailer.enqueue(TemplateMail(to=login.user.email, name="enrol", context=context))

    async def _check_code(self, auth: Auth, login: PendingLogin, text: str) -> bool:
        """Returns whether the code is right. Each try uses up one row, so that of many at once three are looked at."""
        code = "".join(letter for letter in text.upper() if letter.isalnum())
        for token in await auth.tokens.recent(PURPOSE, _subject(login)):
            if await auth.tokens.consume(token):
                if not auth.tokens.binding_matches(token, _binding(login, code)):
                    return False
                await auth.tokens.revoke_all(_subject(login))
                return True
        return False


def _subject(login: PendingLogin) -> str:
    return f"enrol {login.id}"


def _binding(login: PendingLogin, code: str) -> str:
    return f"{login.id} {login.user.email} {code}"
