"""The feature `TwoFactor`, and its pages for an authenticator app and recovery codes."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login
from ...auth import Auth
from ...backends.factors import Factor
from ...backends.pending_login import PendingLogin, add_proof
from ...backends.session import require_session
from ...core.arguments import require_function, require_integer, require_text
from ...core.clock import MINUTE
from ...core.exceptions import ImproperlyConfigured, ValidationError
from ...core.feature_events import FactorAdded, FactorRemoved, RecoveryCodesMade
from ...core.functions import is_async
from ...core.signing import SecretKeys, require_strong_keys
from ...core.translation import format_time_since, gettext
from ...database.tables import Tables
from ...http.clients import wants_json
from ...http.content import sent_json
from ...http.urls import url_path_for
from ...pages.base import account_page, keep_form, render
from ...pages.factors.check import MAX_LENGTH, check_factor, factor_fields
from ...pages.factors.reauthentication import fresh_login_required
from ...pages.factors.step_up import return_url
from ...pages.forms import Field, Form
from ...pages.login_steps import pending_login
from ...security.sealing import CannotUnseal, Sealer
from ...sessions.base import SessionBase
from ...users.models import User
from .app_factor import TOTP, AppFactor, RecoveryFactor
from .enrolment import EnrolStep
from .login_step import SecondFactorStep
from .overview import ListsFactors
from .store import Factors, FactorStore, owner_of, recovery_code_table, totp_table
from .totp import find_step, grouped_key, new_secret, otpauth_uri

SETUP = "_totp_setup"  # in the session: [the sealed secret of an app that is not proved yet, its time]
SETUP_LIFETIME = 10 * MINUTE
EXTRA = "two-factor"


class TwoFactor(ListsFactors):
    """Adds a second factor: `Auth(features=[TwoFactor()])`. Needs the extra `two-factor`.

    Users add an authenticator app (TOTP, RFC 6238) on the page `totp` and get `recovery_codes` recovery codes, each of
    which replaces the app once. From then on each login asks for a code. `required_for` is a function of the user, as in
    `lambda user: user.is_staff`: users for whom it is true must have a second factor, and add one at their next request.
    It is called at each request, and must be quick. `issuer` is the name of the site in the app, by default
    `Auth(site_name=…)`. Codes of the `drift` time steps of 30 seconds before the current one are accepted.

    The database stores the app's secret encrypted, with a key derived from `secret_key`, or from the first of `keys`. Keep
    an old key in the list until `starlette-auth reseal` has run: the apps of all users would otherwise be lost.
    """

    def __init__(
        self,
        *,
        required_for: Callable[[Any], bool] | None = None,
        recovery_codes: int = 10,
        issuer: str = "",
        drift: int = 1,
        keys: str | Sequence[str] | None = None,
    ) -> None:
        if required_for is not None:
            fix = "Pass a function, as in required_for=lambda user: user.is_staff."
            require_function(required_for, "required_for", fix)
            if is_async(required_for):
                raise ImproperlyConfigured(f"required_for is asked at each request, and does not wait. {fix}")
        require_integer(recovery_codes, "recovery_codes", maximum=50)
        require_text(issuer, "issuer", 'Pass the name of your site, as in issuer="Shop".')
        require_integer(drift, "drift", minimum=0, maximum=10)
        self.required_for = required_for
        self.number, self.issuer, self.drift = recovery_codes, issuer, drift
        self.keys = SecretKeys(keys) if keys is not None else None

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        self._tables = [totp_table(tables), recovery_code_table(tables)]
        return self._tables

    def attach(self, auth: Auth) -> None:
        require_strong_keys(auth.site.base_url, self)
        keys = self.keys.scoped(auth.tables.namespace) if self.keys is not None else auth.keys
        self.auth = auth
        self.store = FactorStore(auth, self._tables, Sealer(keys, extra=EXTRA), drift=self.drift)
        self.step = SecondFactorStep(auth)
        self.enrol = EnrolStep(auth, self.required_for) if self.required_for is not None else None
        self.pages = FactorPages(self.store, enrol=self.enrol, issuer=self.issuer, number=self.number, extra=EXTRA)
        auth.login_steps += [self.step, *([self.enrol] if self.enrol is not None else [])]
        auth.session_backend.assurance = self

    def factors(self) -> Sequence[Factor]:
        return [AppFactor(self.store), RecoveryFactor(self.auth, self.store)]

    async def has_factor(self, user: User) -> bool:
        return await self.auth.has_factor(user)

    def required_level(self, user: User) -> int:
        return 2 if self.required_for is not None and self.required_for(user) else 0

    def routes(self) -> Sequence[BaseRoute]:
        enrol = self.enrol.routes() if self.enrol is not None else ()
        return [*self.step.routes(), *enrol, *self.pages.routes()]

    async def reseal(self) -> tuple[int, int]:
        return await self.store.reseal()


class FactorPages:
    """The pages `totp`, `totp_remove` and `recovery_codes`."""

    def __init__(
        self, store: FactorStore, *, issuer: str, number: int, extra: str, enrol: EnrolStep | None = None
    ) -> None:
        try:
            self._segno: Any = importlib.import_module("segno")
        except ImportError as error:
            raise ImproperlyConfigured(
                f"QR codes need segno. Run `pip install starlette-contrib-auth[{extra}]`."
            ) from error
        self.store, self.enrol, self.issuer, self.number = store, enrol, issuer, number

    def routes(self) -> Sequence[BaseRoute]:
        both = ["GET", "POST"]
        return [
            Route("/totp", account_page(self.totp), name="totp", methods=both),
            Route("/totp/remove", account_page(self.remove), name="totp_remove", methods=both),
            Route("/recovery_codes", account_page(self.recovery_codes), name="recovery_codes", methods=both),
        ]

    async def totp(self, auth: Auth, request: Request) -> Response:
        """Shows the QR code of a new app, which a right code activates; or the app that the user has.

        The user is logged in, or is in the step `enrol` of a login, which has proved enough to add an app.
        """
        login, user = await self.enrol.waiting(auth, request) if self.enrol is not None else None, request.user
        if login is not None and EnrolStep.needs_mail(auth, login):
            return RedirectResponse(url_path_for(request.scope, EnrolStep.name), status_code=303)
        if login is not None:
            return await self._set_up(auth, request, login.user, login)
        if not isinstance(user, User):
            return redirect_to_login(request)
        factors = await self.store.factors(user)
        if factors.has_totp:
            return await self._status(auth, request, factors)
        return await self._set_up_freshly(auth, request, user)

    @fresh_login_required
    async def _set_up_freshly(self, auth: Auth, request: Request, user: User) -> Response:
        return await self._set_up(auth, request, user)

    async def _set_up(self, auth: Auth, request: Request, user: User, login: PendingLogin | None = None) -> Response:
        session, hidden = require_session(request), Field(type="hidden", required=False)
        secret = self._secret(auth, session, user)
        form = Form(
            code=Field(label=gettext("Code from your app"), max_length=MAX_LENGTH, autocomplete="one-time-code"),
            login=hidden,
            next=hidden,
        )
        status = 200
        if request.method == "POST":
            is_filled_in = await form.fill_in(request)
            if login is not None:
                await pending_login(request, form.data["login"])  # refuses the form of another login
            if is_filled_in:
                step = find_step(secret, form.data["code"], auth.clock(), self.store.drift)
                if step is not None:
                    codes = await self._activate(auth, request, user, secret, step, login)
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
        form.data["login"] = login.id if login is not None else ""
        uri = otpauth_uri(secret, issuer=self.issuer or auth.site_name, account=user.get_username())
        if wants_json(request) and status == 200:
            return JSONResponse({"secret": grouped_key(secret).replace(" ", ""), "uri": uri})
        qr = self._segno.make(uri, error="m", micro=False).svg_inline(svgclass="auth-qr", omitsize=True)
        page = {"qr": qr, "uri": uri, "key": grouped_key(secret), "login_name": user.get_username() if login else ""}
        return await render(auth, request, "registration/totp.html", status, form=form, **page)

    async def remove(self, auth: Auth, request: Request) -> Response:
        """Removes the app and the recovery codes, after a code of the app or a recovery code."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._remove(auth, request, user)

    @fresh_login_required
    async def _remove(self, auth: Auth, request: Request, user: User) -> Response:
        form = Form(**factor_fields())
        refusal = await self._require_factor(auth, request, user, form, "registration/totp_remove.html")
        if refusal is not None:
            return refusal

        async def remove() -> None:
            if await self.store.remove_all(user):
                await auth.events.emit(FactorRemoved(user=user, factor=TOTP, request=request))

        await auth.gateway.run_in_transaction(remove)
        await auth.user_sessions.revoke_others(request, user)
        return RedirectResponse(url_path_for(request.scope, "totp"), status_code=303)

    async def recovery_codes(self, auth: Auth, request: Request) -> Response:
        """Makes new recovery codes, after a code of the app or an old recovery code, and shows them once."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._recovery_codes(auth, request, user)

    @fresh_login_required
    async def _recovery_codes(self, auth: Auth, request: Request, user: User) -> Response:
        form = Form(**factor_fields())
        refusal = await self._require_factor(auth, request, user, form, "registration/recovery_codes.html")
        if refusal is not None:
            return refusal

        async def make() -> list[str]:
            codes = await self.store.make_recovery_codes(user, self.number)
            await auth.events.emit(RecoveryCodesMade(user=user, number=self.number, request=request))
            return codes

        return await self._show_codes(auth, request, await auth.gateway.run_in_transaction(make))

    async def _require_factor(
        self, auth: Auth, request: Request, user: User, form: Form, template: str
    ) -> Response | None:
        """Returns the page with the form until a right code has been entered, and None then.

        An attacker with a stolen session and the password would otherwise remove the factor that keeps the attacker out.
        """
        factors = await self.store.factors(user)
        if not factors.has_totp:
            return RedirectResponse(url_path_for(request.scope, "totp"), status_code=303)

        async def show(status: int = 200) -> Response:
            return await render(auth, request, template, status, form=form, left=factors.recovery_codes)

        if request.method != "POST":
            return await show()
        await form.fill_in(request)
        with keep_form(auth, request, form, show):
            method = await check_factor(auth, request, user, form, auth.factors())
        return None if method is not None else await show(422)

    async def _activate(
        self, auth: Auth, request: Request, user: User, secret: bytes, step: int, login: PendingLogin | None
    ) -> list[str]:
        """Stores the app, ends the other sessions, which have no second factor, and returns new recovery codes.

        A login that waited for it goes on when the user has seen the codes. Returns none if the user has an app already.
        """

        async def add() -> list[str]:
            if not await self.store.add_totp(user, secret, step):
                return []
            codes = await self.store.make_recovery_codes(user, self.number)
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

    async def _status(self, auth: Auth, request: Request, factors: Factors) -> Response:
        now = self.store.now()
        if wants_json(request):
            return JSONResponse({"created": factors.totp_since, "recovery_codes": factors.recovery_codes})
        return await render(
            auth,
            request,
            "registration/totp_status.html",
            factors=factors,
            format_time_since=lambda time: format_time_since(now - time),
        )

    async def _show_codes(
        self, auth: Auth, request: Request, codes: list[str], *, login: PendingLogin | None = None, next: str = ""
    ) -> Response:
        login_id = login.id if login is not None else ""
        if not sent_json(request):
            template = "registration/recovery_codes_made.html"
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
