"""The step of a login that asks for a second factor, and its page."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login, respond
from ...auth import Auth
from ...authentication import refused_redirect
from ...backends.login_methods import SECOND_FACTORS, level_of
from ...backends.login_steps import LoginStep
from ...backends.pending_login import PendingLogin
from ...backends.session import SessionBackend, require_session
from ...core.exceptions import Refused, Remedy
from ...core.translation import format_duration, gettext
from ...http.clients import wants_json
from ...http.scope import UNFINISHED_USER
from ...http.urls import url_path_for, with_query
from ...pages.base import keep_form, render, visitor_page
from ...pages.factors.check import check_factor, factor_fields, offered_factors
from ...pages.factors.step_up import return_url
from ...pages.forms import Field, Form
from ...pages.login_steps import advance, pending_login
from ...users.models import User
from .trusted_browsers import TrustedBrowsers

DEVICE = "device"  # the name of the method


class SecondFactorStep(LoginStep):
    """Asks users who have a second factor for one of theirs, or for a recovery code.

    It is not asked after a passkey, which is two factors in one. A passkey does not make the step necessary either: it is
    another way in. Only users whom the policy requires to have a second factor are asked for it after the password.
    """

    name = "second_factor"

    def __init__(self, auth: Auth, trusted: TrustedBrowsers | None = None) -> None:
        self.auth, self.trusted = auth, trusted

    async def is_needed(self, request: Request, login: PendingLogin) -> bool:
        if login.has("passkey", *SECOND_FACTORS):
            return False
        if await self.auth.has_factor(login.user):
            return not await self._is_trusted(request, login)
        level = self.auth.session_backend.required_level(login.user)
        return level_of(login.methods) < level and await self.auth.has_any_factor(login.user)

    async def proofs(self, request: Request, login: PendingLogin) -> Sequence[str]:
        is_proved = login.has("passkey", *SECOND_FACTORS)
        return () if is_proved or not await self._is_trusted(request, login) else (DEVICE,)

    async def _is_trusted(self, request: Request, login: PendingLogin) -> bool:
        """Returns whether the user trusts this browser, and may do so.

        A session that began elsewhere is asked all the same, because its browser may be another one: a proxy, for example.
        """
        is_elsewhere = request.scope.get(UNFINISHED_USER) == login.user
        may_trust = self.trusted is not None and not is_elsewhere and not self._must_prove(login.user)
        return may_trust and self.trusted is not None and await self.trusted.is_trusted(request, login.user)

    def _must_prove(self, user: User) -> bool:
        return self.auth.session_backend.required_level(user) > 1

    def url(self, request: Request) -> str:
        # Without a mounted page this raises: the login must not end without the step.
        return url_path_for(request.scope, self.name)

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/second_factor", visitor_page(self.page), name=self.name, methods=["GET", "POST"])]

    async def page(self, auth: Auth, request: Request) -> Response:
        """Shows the form for the code, and continues the login after a right one.

        A user who is logged in gets the step-up, unless the form is that of a login.
        """
        hidden = Field(type="hidden", required=False)
        form = Form(**factor_fields(), login=hidden, next=hidden, **self._trust_field())
        is_post = request.method == "POST"
        if is_post:
            await form.fill_in(request)
        if isinstance(request.user, User) and not form.data["login"]:
            return await self.step_up(auth, request, form, request.user)
        login = await pending_login(request, form.data["login"] if is_post else None)
        if not await self.is_needed(request, login):  # the page of another tab, for example
            return await advance(request, login)
        factors = auth.factors()
        methods = await offered_factors(request, login.user, factors)
        if not is_post and wants_json(request):
            return JSONResponse({"step": {"name": self.name, "login": login.id, "methods": list(methods)}})

        if self._must_prove(login.user):
            form.fields.pop("trust", None)

        async def show(status: int = 200) -> Response:
            form.data["login"] = login.id
            name = login.user.get_username()
            return await render(
                auth, request, "registration/second_factor.html", status, form=form, login_name=name, methods=methods
            )

        if not is_post:
            return await show()
        with keep_form(auth, request, form, show):
            method = await check_factor(auth, request, login.user, form, factors)
        if method is None:
            return await show(422)
        response = await advance(request, login, method)
        if self.trusted is not None and "trust" in form.fields and form.data["trust"]:
            await self.trusted.trust(request, response, login.user)
        return response

    def _trust_field(self) -> dict[str, Field]:
        if self.trusted is None:
            return {}
        label = gettext("Do not ask again in this browser for %(time)s") % {
            "time": format_duration(self.trusted.lifetime)
        }
        help_text = gettext("Do not use this on a shared device.")
        return {"trust": Field(label=label, type="checkbox", required=False, help_text=help_text)}

    async def step_up(self, auth: Auth, request: Request, form: Form, user: User) -> Response:
        """Shows the form for the code to a logged-in user, notes a right one in the session, and leads back to `next`.

        A user without a second factor is led to the page on which to add one.
        """
        session, is_post = require_session(request), request.method == "POST"
        url = form.data["next"] if is_post else auth.redirects.read(request) or ""
        if not SessionBackend.belongs_to(session, user):
            return redirect_to_login(request)
        if not await auth.has_any_factor(user):
            return respond(auth, request, self._no_factor(auth, request, url))
        factors = auth.factors()
        methods = await offered_factors(request, user, factors)
        if not is_post and wants_json(request):
            return JSONResponse({"step": {"name": self.name, "methods": list(methods)}})

        async def show(status: int = 200) -> Response:
            form.data["next"] = url
            context = {"login_name": user.get_username(), "methods": methods, "is_step_up": True}
            return await render(auth, request, "registration/second_factor.html", status, form=form, **context)

        if not is_post:
            return await show()
        with keep_form(auth, request, form, show):
            method = await check_factor(auth, request, user, form, factors)
        if method is None:
            return await show(422)
        auth.session_backend.add_method(session, method)
        return RedirectResponse(await return_url(auth, request, user, url), status_code=303)

    def _no_factor(self, auth: Auth, request: Request, next: str) -> Refused:
        page, field = url_path_for(request.scope, "totp"), auth.redirects.field
        return Refused(
            403,
            gettext("Add a second factor first."),
            code="factor_missing",
            remedy=Remedy("totp", page, field),
            page=lambda: refused_redirect(with_query(page, field, next)),
        )
