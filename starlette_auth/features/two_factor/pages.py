"""The feature `TwoFactor`, and its pages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login
from ...auth import Auth, get_auth
from ...backends.factors import Factor
from ...core.arguments import require_function, require_integer, require_text
from ...core.clock import DAY
from ...core.events import PasswordChanged
from ...core.exceptions import ImproperlyConfigured, Refused
from ...core.feature_events import FactorAdded, FactorRemoved, RecoveryCodesMade
from ...core.functions import is_async
from ...core.signing import SecretKeys, require_strong_keys
from ...core.translation import format_time_since, gettext
from ...database.tables import Tables
from ...http.clients import wants_json
from ...http.urls import url_path_for
from ...pages.base import account_page, render
from ...pages.factors.check import forgive_failures, require_address
from ...pages.factors.reauthentication import fresh_login_required, require_fresh_factor
from ...pages.forms import Field, Form
from ...security.sealing import Sealer
from ...users.models import User
from .app_factor import TOTP, AppFactor, RecoveryFactor, has_main_factor
from .app_setup import AppSetup
from .enrolment import EnrolStep
from .login_step import SecondFactorStep
from .overview import ListsFactors
from .store import Factors, FactorStore, recovery_code_table, totp_table
from .trusted_browsers import TrustedBrowsers, end_all

EXTRA = "two-factor"
MAX_TRUST = 365 * DAY  # seconds: for so long a logout everywhere is remembered


class TwoFactor(ListsFactors):
    """Adds a second factor: `Auth(features=[TwoFactor()])`. Needs the extra `two-factor`.

    Users add an authenticator app (TOTP, RFC 6238) on the page `totp` and get `recovery_codes` recovery codes, each of
    which replaces the app once. From then on each login asks for a code. `required_for` is a function of the user, as in
    `lambda user: user.is_staff`: users for whom it is true must have a second factor, and add one at their next request.
    It is called at each request, and must be quick. With `trust_device`, such as 30 * 24 * 60 * 60, users may tick a box
    so that their browser is not asked again for so many seconds; this never counts as the second factor that
    `required_for` or `factor_required` ask for. `issuer` is the name of the site in the app, by default
    `Auth(site_name=…)`. Codes of the `drift` time steps of 30 seconds before the current one are accepted.

    The database stores the app's secret encrypted, with a key derived from `secret_key`, or from the first of `keys`. Keep
    an old key in the list until `starlette-auth reseal` has run: the apps of all users would otherwise be lost.
    """

    def __init__(
        self,
        *,
        required_for: Callable[[Any], bool] | None = None,
        trust_device: int = 0,
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
        require_integer(trust_device, "trust_device", minimum=0, maximum=MAX_TRUST)
        require_integer(recovery_codes, "recovery_codes", maximum=50)
        require_text(issuer, "issuer", 'Pass the name of your site, as in issuer="Shop".')
        require_integer(drift, "drift", minimum=0, maximum=10)
        self.required_for, self.trust_device = required_for, trust_device
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
        self.trusted = TrustedBrowsers(auth, self.trust_device) if self.trust_device else None
        self.step = SecondFactorStep(auth, self.trusted)
        self.enrol = EnrolStep(auth, self.required_for) if self.required_for is not None else None
        setup = AppSetup(self.store, issuer=self.issuer, number=self.number, extra=EXTRA)
        self.pages = FactorPages(setup, enrol=self.enrol, trusted=self.trusted)
        auth.login_steps += [self.step, *([self.enrol] if self.enrol is not None else [])]
        auth.session_backend.assurance = self
        auth.events.on(FactorAdded)(self._factors_changed)
        auth.events.on(FactorRemoved)(self._factors_changed)
        auth.events.on(PasswordChanged)(self._password_changed)

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

    async def security_section(self, request: HTTPConnection, user: User) -> tuple[str, Mapping[str, Any]]:
        context = await self.pages.context(request, user)
        return "registration/security_two_factor.html", {"factors": await self.store.factors(user), **context}

    async def _factors_changed(self, event: FactorAdded[Any] | FactorRemoved[Any]) -> None:
        """Ends the trusted browsers, and the recovery codes of a user without a factor that they could replace."""
        await end_all(self.auth.tokens, event.user)
        if isinstance(event, FactorRemoved) and not await has_main_factor(self.auth, event.user):
            await self.store.remove_recovery_codes(event.user)

    async def _password_changed(self, event: PasswordChanged[Any]) -> None:
        await forgive_failures(self.auth, event.user)


class FactorPages:
    """The pages `totp`, `totp_remove`, `recovery_codes` and `trusted_devices_end`."""

    def __init__(self, setup: AppSetup, *, enrol: EnrolStep | None, trusted: TrustedBrowsers | None) -> None:
        self.setup, self.store, self.enrol, self.trusted = setup, setup.store, enrol, trusted

    def routes(self) -> Sequence[BaseRoute]:
        both = ["GET", "POST"]
        trusted = Route("/trusted_devices/end", account_page(self.end), name="trusted_devices_end", methods=["POST"])
        return [
            Route("/totp", account_page(self.totp), name="totp", methods=both),
            Route("/totp/remove", account_page(self.remove), name="totp_remove", methods=both),
            Route("/recovery_codes", account_page(self.recovery_codes), name="recovery_codes", methods=both),
            *([trusted] if self.trusted is not None else []),
        ]

    async def totp(self, auth: Auth, request: Request) -> Response:
        """Shows the QR code of a new app, which a right code activates; or the app that the user has.

        With the query `replace`, the new app takes the place of the one that the user has, for a new phone.
        The user is logged in, or is in the step `enrol` of a login, which has proved enough to add an app.
        """
        login, user = await self.enrol.waiting(auth, request) if self.enrol is not None else None, request.user
        if login is not None and (auth.awaits_address(login.user) or EnrolStep.needs_mail(auth, login)):
            return RedirectResponse(url_path_for(request.scope, EnrolStep.name), status_code=303)
        if login is not None:
            return await self.setup.page(auth, request, login.user, login)
        if not isinstance(user, User):
            return redirect_to_login(request)
        factors = await self.store.factors(user)
        if factors.has_totp and "replace" not in request.query_params:
            return await self._status(auth, request, user, factors)
        await require_fresh_factor(auth, request, user)
        require_address(auth, request, user)
        return await self.setup.page(auth, request, user, replace=factors.has_totp)

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
    async def _may_remove(auth: Auth, user: User) -> bool:
        """Returns whether the policy lets the user do without the app: no factor is required, or there is another one."""
        return auth.session_backend.required_level(user) < 2 or await has_main_factor(auth, user, besides=TOTP)

    async def _require_other_factor(self, auth: Auth, user: User) -> None:
        if await self._may_remove(auth, user):
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
            codes = await self.store.make_recovery_codes(user, self.setup.number)
            await auth.events.emit(RecoveryCodesMade(user=user, number=self.setup.number, request=request))
            return codes

        return await self.setup.show_codes(auth, request, await auth.gateway.run_in_transaction(make))

    async def _status(self, auth: Auth, request: Request, user: User, factors: Factors) -> Response:
        context = await self.context(request, user)
        if wants_json(request):
            trusted = [vars(browser) for browser in context["trusted_browsers"]]
            status: dict[str, Any] = {"created": factors.totp_since, "recovery_codes": factors.recovery_codes}
            return JSONResponse({**status, "trusted": trusted} if self.trusted is not None else status)
        return await render(auth, request, "registration/totp_status.html", factors=factors, **context)

    async def context(self, request: HTTPConnection, user: User) -> Mapping[str, Any]:
        """Returns the variables of the pages that show the app and the trusted browsers."""
        auth = get_auth(request)
        now = int(auth.clock())
        return {
            "trusted_browsers": await self.trusted.browsers(request, user) if self.trusted is not None else [],
            "may_remove_app": await self._may_remove(auth, user),
            "format_time_since": lambda time: format_time_since(now - time),
        }

    async def end(self, auth: Auth, request: Request) -> Response:
        """Ends the trusted browser with the id `device`, or with `all` every one. Then redirects to the list."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._end(auth, request, user)

    @fresh_login_required(keep=("device", "all"))
    async def _end(self, auth: Auth, request: Request, user: User) -> Response:
        form = Form(device=Field(required=False, max_length=64), all=Field(type="checkbox", required=False))
        await form.fill_in(request)
        if self.trusted is not None and form.data["all"]:
            await end_all(auth.tokens, user)
        elif self.trusted is not None and form.data["device"] and form.is_valid:
            await self.trusted.end(user, form.data["device"])
        else:
            raise HTTPException(400, gettext("No browser was selected. Go back and select one."))
        url = auth.find_url(request, "security") or auth.url_for(request, "totp")
        return RedirectResponse(url, status_code=303)
