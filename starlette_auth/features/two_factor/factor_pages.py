"""The pages for an authenticator app and recovery codes."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login
from ...auth import Auth, get_auth
from ...backends.pending_login import PendingLogin, add_proof
from ...backends.session import require_session
from ...core.clock import MINUTE
from ...core.exceptions import ImproperlyConfigured, Refused, ValidationError
from ...core.feature_events import FactorAdded, FactorRemoved, RecoveryCodesMade
from ...core.translation import format_time_since, gettext
from ...http.clients import wants_json
from ...http.content import sent_json
from ...http.urls import url_path_for
from ...pages.base import account_page, render
from ...pages.factors.check import app_code_field, require_address
from ...pages.factors.reauthentication import require_fresh_factor
from ...pages.factors.step_up import return_url
from ...pages.forms import Field, Form
from ...pages.login_steps import pending_login
from ...security.sealing import CannotUnseal
from ...sessions.base import SessionBase
from ...users.models import User
from .app_factor import TOTP, has_main_factor
from .enrolment import EnrolStep
from .store import Factors, FactorStore, owner_of
from .totp import find_step, grouped_key, new_secret, otpauth_uri
from .trusted_browsers import TrustedBrowsers

SETUP = "_totp_setup"  # in the session: [the sealed secret of an app that is not proved yet, its time]
SETUP_LIFETIME = 10 * MINUTE


class FactorPages:
    """The pages `totp`, `totp_remove` and `recovery_codes`."""

    def __init__(
        self,
        store: FactorStore,
        *,
        issuer: str,
        number: int,
        extra: str,
        enrol: EnrolStep | None = None,
        trusted: TrustedBrowsers | None = None,
    ) -> None:
        try:
            self._segno: Any = importlib.import_module("segno")
        except ImportError as error:
            raise ImproperlyConfigured(
                f"QR codes need segno. Run `pip install starlette-contrib-auth[{extra}]`."
            ) from error
        self.store, self.enrol, self.issuer, self.number = store, enrol, issuer, number
        self.trusted = trusted

    def routes(self) -> Sequence[BaseRoute]:
        both = ["GET", "POST"]
        return [
            Route("/totp", account_page(self.totp), name="totp", methods=both),
            Route("/totp/remove", account_page(self.remove), name="totp_remove", methods=both),
            Route("/recovery_codes", account_page(self.recovery_codes), name="recovery_codes", methods=both),
        ]

    async def totp(self, auth: Auth, request: Request) -> Response:
        """Shows the QR code of a new app, which a right code activates; or the app that the user has.

        With `replace`, the new app takes the place of the one that the user has, for a new phone.
        The user is logged in, or is in the step `enrol` of a login, which has proved enough to add an app.
        """
        login, user = await self.enrol.waiting(auth, request) if self.enrol is not None else None, request.user
        if login is not None and (auth.awaits_address(login.user) or EnrolStep.needs_mail(auth, login)):
            return RedirectResponse(url_path_for(request.scope, EnrolStep.name), status_code=303)
        if login is not None:
            return await self._set_up(auth, request, login.user, login)
        if not isinstance(user, User):
            return redirect_to_login(request)
        factors, form = await self.store.factors(user), Form(replace=Field(type="hidden", required=False))
        if request.method == "POST" and factors.has_totp:
            await form.fill_in(request)
        if factors.has_totp and not (form.data["replace"] or "replace" in request.query_params):
            return await self._status(auth, request, user, factors)
        await require_fresh_factor(auth, request, user)
        require_address(auth, request, user)
        return await self._set_up(auth, request, user, replace=factors.has_totp)

    async def _set_up(
        self, auth: Auth, request: Request, user: User, login: PendingLogin | None = None, *, replace: bool = False
    ) -> Response:
        session, hidden = require_session(request), Field(type="hidden", required=False)
        secret = self._secret(auth, session, user)
        form = Form(code=app_code_field(), login=hidden, next=hidden, replace=hidden)
        status = 200
        if request.method == "POST":
            is_filled_in = await form.fill_in(request)
            if login is not None:
                await pending_login(request, form.data["login"])  # refuses the form of another login
            if is_filled_in:
                step = find_step(secret, form.data["code"], auth.clock(), self.store.drift)
                if step is not None:
                    codes = await self._activate(auth, request, user, secret, step, login, replace=replace)
                    if not codes:  # another request was faster
                        return RedirectResponse(url_path_for(request.scope, "totp"), status_code=303)
                    url = await return_url(auth, request, user, form.data["next"]) if form.data["next"] else ""
                    return await self._show_codes(auth, request, codes, login=login, next=url)
                text = gettext(
                    "This code is wrong. Check the clock of your device, and enter the code that it shows now."
                )
                form.add_error("code", ValidationError(text, "wrong_code"))
            status, form.data["code"] = 422, ""
        else:
            form.data["next"] = auth.redirects.read(request) or ""
        form.data["login"], form.data["replace"] = login.id if login is not None else "", "1" if replace else ""
        uri = otpauth_uri(secret, issuer=self.issuer or auth.site_name, account=user.get_username())
        if wants_json(request) and status == 200:
            return JSONResponse({"secret": grouped_key(secret).replace(" ", ""), "uri": uri})
        qr = self._segno.make(uri, error="m", micro=False).svg_inline(svgclass="auth-qr", omitsize=True)
        page = {"qr": qr, "uri": uri, "key": grouped_key(secret), "login_name": user.get_username() if login else ""}
        return await render(auth, request, "registration/totp.html", status, form=form, **page)

    async def remove(self, auth: Auth, request: Request) -> Response:
        """Removes the app, and the recovery codes unless another factor remains which they replace."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        await require_fresh_factor(auth, request, user)
        if not await self.store.has_app(user):
            return RedirectResponse(url_path_for(request.scope, "totp"), status_code=303)
        if request.method != "POST":
            await self._require_other_factor(auth, user)
            return await render(auth, request, "registration/totp_remove.html")

        async def remove() -> None:
            await self.store.lock(user)
            await self._require_other_factor(auth, user)
            if await self.store.remove_app(user):
                await auth.events.emit(FactorRemoved(user=user, factor=TOTP, request=request))

        await auth.gateway.run_in_transaction(remove)
        await auth.user_sessions.revoke_others(request, user)
        return RedirectResponse(auth.find_url(request, "security") or auth.url_for(request, "totp"), status_code=303)

    @staticmethod
    async def _require_other_factor(auth: Auth, user: User) -> None:
        """Raises Refused if the policy requires a second factor of the user, and the app is the only one."""
        if auth.session_backend.required_level(user) < 2 or await has_main_factor(auth, user, besides=TOTP):
            return
        text = gettext(
            "Your account must have a second factor, and the app is the only one. Add another one first, or replace the app."
        )
        raise Refused(409, text, code="last_factor")

    async def recovery_codes(self, auth: Auth, request: Request) -> Response:
        """Makes new recovery codes, and shows them once. They replace any factor, also a passkey or security key."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        await require_fresh_factor(auth, request, user)
        if not await has_main_factor(auth, user):
            return RedirectResponse(url_path_for(request.scope, "totp"), status_code=303)
        if request.method != "POST":
            left = await self.store.recovery_codes_left(user)
            return await render(auth, request, "registration/recovery_codes.html", left=left)

        async def make() -> list[str]:
            codes = await self.store.make_recovery_codes(user, self.number)
            await auth.events.emit(RecoveryCodesMade(user=user, number=self.number, request=request))
            return codes

        return await self._show_codes(auth, request, await auth.gateway.run_in_transaction(make))

    async def _activate(
        self,
        auth: Auth,
        request: Request,
        user: User,
        secret: bytes,
        step: int,
        login: PendingLogin | None,
        *,
        replace: bool,
    ) -> list[str]:
        """Stores the app, ends the other sessions, which have no second factor, and returns new recovery codes.

        A login that waited for it goes on when the user has seen the codes. Returns none if the user has an app already.
        """

        async def add() -> list[str]:
            await self.store.lock(user)
            is_replaced = replace and await self.store.remove_app(user)
            if not await self.store.add_totp(user, secret, step):
                return []
            codes = await self.store.make_recovery_codes(user, self.number)
            if is_replaced:
                await auth.events.emit(FactorRemoved(user=user, factor=TOTP, request=request))
            await auth.events.emit(FactorAdded(user=user, factor=TOTP, request=request))
            return codes

        codes = await auth.gateway.run_in_transaction(add)
        if codes:
            session = require_session(request)
            session.pop(SETUP, None)
            await auth.user_sessions.revoke_others(request, user)
            if login is not None:
                auth.pending_logins.store(session, add_proof(login, TOTP, self.store.now()))
            else:
                auth.session_backend.add_method(session, TOTP)
        return codes

    async def _status(self, auth: Auth, request: Request, user: User, factors: Factors) -> Response:
        context = await self.trusted_context(request, user)
        if wants_json(request):
            trusted = [vars(browser) for browser in context["trusted_browsers"]]
            status: dict[str, Any] = {"created": factors.totp_since, "recovery_codes": factors.recovery_codes}
            return JSONResponse({**status, "trusted": trusted} if self.trusted is not None else status)
        return await render(auth, request, "registration/totp_status.html", factors=factors, **context)

    async def trusted_context(self, request: HTTPConnection, user: User) -> Mapping[str, Any]:
        """Returns the variables of the template "registration/trusted_browsers.html"."""
        now = int(get_auth(request).clock())
        browsers = await self.trusted.browsers(request, user) if self.trusted is not None else []
        return {"trusted_browsers": browsers, "format_time_since": lambda time: format_time_since(now - time)}

    async def _show_codes(
        self, auth: Auth, request: Request, codes: list[str], *, login: PendingLogin | None = None, next: str = ""
    ) -> Response:
        login_id = login.id if login is not None else ""
        if not sent_json(request):
            template = "registration/recovery_codes_made.html"
            next = next or auth.find_url(request, "security") or auth.url_for(request, "totp")
            return await render(auth, request, template, codes=codes, login=login_id, next=next)
        if login is None:
            return JSONResponse({"recovery_codes": codes})
        step = {"name": EnrolStep.name, "url": url_path_for(request.scope, EnrolStep.name), "login": login_id}
        return JSONResponse({"recovery_codes": codes, "step": step})

    def _secret(self, auth: Auth, session: SessionBase, user: User) -> bytes:
        """Returns the secret of the app that is being set up: the same for 10 minutes, sealed in the session."""
        now, entry = self.store.now(), session.get(SETUP)
        if isinstance(entry, list) and 0 <= now - entry[1] < SETUP_LIFETIME:
            try:
                return self.store.sealer.unseal(SETUP, owner_of(user), entry[0])[0]
            except CannotUnseal:
                pass
        secret = new_secret()
        session[SETUP] = [self.store.sealer.seal(SETUP, owner_of(user), secret), now]
        return secret
