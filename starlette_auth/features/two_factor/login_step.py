"""The step of a login that asks for a second factor, and its page."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login, respond
from ...auth import Auth
from ...backends.login_methods import SECOND_FACTORS, level_of
from ...backends.login_steps import LoginStep
from ...backends.pending_login import PendingLogin
from ...backends.session import SessionBackend, require_session
from ...http.clients import wants_json
from ...http.urls import url_path_for
from ...pages.base import keep_form, render, visitor_page
from ...pages.factors.check import check_factor, described_step, factor_fields, offered_factors, passkey_options
from ...pages.factors.step_up import Need, missing_factor, requested_need, return_url
from ...pages.forms import Field, Form
from ...pages.login_steps import advance, pending_login
from ...users.models import User


class SecondFactorStep(LoginStep):
    """Asks users who have a second factor for one of theirs, or for a recovery code.

    It is not asked after a passkey, which is two factors in one. A passkey does not make the step necessary either: it is
    another way in. Only users whom the policy requires to have a second factor are asked for it after the password.
    """

    name = "second_factor"

    def __init__(self, auth: Auth) -> None:
        self.auth = auth

    async def is_needed(self, request: Request, login: PendingLogin) -> bool:
        if login.has("passkey", *SECOND_FACTORS):
            return False
        if await self.auth.has_factor(login.user):
            return True
        level = self.auth.session_backend.required_level(login.user)
        return level_of(login.methods) < level and await self.auth.has_any_factor(login.user)

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
        form = Form(**factor_fields(), login=hidden, next=hidden, need=hidden)
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
            return JSONResponse(described_step(self.name, methods, login=login.id))

        async def show(status: int = 200) -> Response:
            form.data["login"] = login.id
            name = login.user.get_username()
            context = {"login_name": name, "methods": methods, "passkey": passkey_options(methods)}
            return await render(auth, request, "registration/second_factor.html", status, form=form, **context)

        if not is_post:
            return await show()
        with keep_form(auth, request, form, show):
            method = await check_factor(auth, request, login.user, form, factors)
        return await advance(request, login, method) if method is not None else await show(422)

    async def step_up(self, auth: Auth, request: Request, form: Form, user: User) -> Response:
        """Shows the form for the code to a logged-in user, notes a right one in the session, and leads back to `next`.

        A user without a second factor is led to the page on which to add one.
        """
        session, is_post = require_session(request), request.method == "POST"
        url = form.data["next"] if is_post else auth.redirects.read(request) or ""
        if not SessionBackend.belongs_to(session, user):
            return redirect_to_login(request)
        need = requested_need(form.data["need"] or request.query_params.get("need")) or Need(2, False, None)
        offered = await offered_factors(request, user, factors := auth.factors())
        methods = {method: options for method, options in offered.items() if need.accepts(method)}
        missing = missing_factor(auth, request, need, url) if not methods else None
        if missing is not None:
            return respond(auth, request, missing)
        if not is_post and wants_json(request):
            return JSONResponse(described_step(self.name, methods))

        async def show(status: int = 200) -> Response:
            form.data["next"], form.data["need"] = url, need.name if need.phishing_resistant else ""
            context = {"login_name": user.get_username(), "methods": methods, "passkey": passkey_options(methods)}
            context["is_step_up"] = True
            return await render(auth, request, "registration/second_factor.html", status, form=form, **context)

        if not is_post:
            return await show()
        with keep_form(auth, request, form, show):
            method = await check_factor(auth, request, user, form, factors)
        if method is None:
            return await show(422)
        auth.session_backend.add_method(session, method)
        return RedirectResponse(await return_url(auth, request, user, url), status_code=303)
