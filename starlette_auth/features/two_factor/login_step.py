"""The step of a login that asks for a second factor, and its page."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...auth import Auth
from ...backends.login_methods import SECOND_FACTORS
from ...backends.login_steps import LoginStep
from ...backends.pending_login import PendingLogin
from ...http.clients import wants_json
from ...http.urls import url_path_for
from ...pages.base import keep_form, render, visitor_page
from ...pages.forms import Field, Form
from ...pages.login_steps import advance, pending_login
from .factor_check import RECOVERY_CODE, TOTP, check_factor, code_fields
from .store import FactorStore


class SecondFactorStep(LoginStep):
    """Asks users who have an authenticator app for a code of it, or for a recovery code.

    It is not asked after a passkey, which is two factors in one.
    """

    name = "second_factor"

    def __init__(self, store: FactorStore) -> None:
        self.store = store

    async def is_needed(self, request: Request, login: PendingLogin) -> bool:
        return not login.has("passkey", *SECOND_FACTORS) and await self.store.has_app(login.user)

    def url(self, request: Request) -> str:
        # Without a mounted page this raises: the login must not end without the step.
        return url_path_for(request.scope, self.name)

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/second_factor", visitor_page(self.page), name=self.name, methods=["GET", "POST"])]

    async def page(self, auth: Auth, request: Request) -> Response:
        """Shows the form for the code, and continues the login after a right one."""
        form = Form(**code_fields(), login=Field(type="hidden", required=False))
        is_post = request.method == "POST"
        if is_post:
            await form.fill_in(request)
        login = await pending_login(request, form.data["login"] if is_post else None)
        if not await self.is_needed(request, login):  # the page of another tab, for example
            return await advance(request, login)
        factors = await self.store.factors(login.user)
        methods = [TOTP, *([RECOVERY_CODE] if factors.recovery_codes else [])]
        if not is_post and wants_json(request):
            return JSONResponse({"step": {"name": self.name, "login": login.id, "methods": methods}})

        async def show(status: int = 200) -> Response:
            form.data["login"] = login.id
            name = login.user.get_username()
            return await render(
                auth, request, "registration/second_factor.html", status, form=form, login_name=name, methods=methods
            )

        if not is_post:
            return await show()
        with keep_form(auth, request, form, show):
            method = await check_factor(auth, self.store, request, login.user, form)
        return await advance(request, login, method) if method is not None else await show(422)
