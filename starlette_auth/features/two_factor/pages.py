"""The feature `TwoFactor`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from ...auth import Auth, Feature
from ...backends.factors import Factor, StoredFactor
from ...core.arguments import require_function, require_integer, require_text
from ...core.clock import DAY
from ...core.events import PasswordChanged
from ...core.exceptions import ImproperlyConfigured
from ...core.feature_events import FactorAdded, FactorRemoved
from ...core.functions import is_async
from ...core.signing import SecretKeys, require_strong_keys
from ...database.tables import Tables
from ...pages.factors.check import forgive_failures
from ...security.sealing import Sealer
from ...users.models import User
from .app_factor import TOTP, AppFactor, RecoveryFactor, has_main_factor
from .enrolment import EnrolStep
from .factor_pages import FactorPages
from .login_step import SecondFactorStep
from .store import FactorStore, recovery_code_table, totp_table
from .trusted_browsers import TrustedBrowsers

EXTRA = "two-factor"
MAX_TRUST = 365 * DAY  # seconds: for so long a logout everywhere is remembered


class TwoFactor(Feature):
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
        self.pages = FactorPages(
            self.store,
            trusted=self.trusted,
            enrol=self.enrol,
            issuer=self.issuer,
            number=self.number,
            extra=EXTRA,
        )
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
        trusted = self.trusted.routes() if self.trusted is not None else ()
        return [*self.step.routes(), *enrol, *self.pages.routes(), *trusted]

    async def list_factors(self, user: User) -> Sequence[StoredFactor]:
        app = await self.store.factors(user)
        if app.totp_since is None:
            return []
        return [StoredFactor(method=TOTP, label="", created=app.totp_since, last_used=app.totp_last_used)]

    async def security_section(self, request: HTTPConnection, user: User) -> tuple[str, Mapping[str, Any]] | None:
        if self.trusted is None:
            return None
        return "registration/trusted_browsers.html", await self.pages.trusted_context(request, user)

    async def _factors_changed(self, event: FactorAdded[Any] | FactorRemoved[Any]) -> None:
        """Ends the trusted browsers, and the recovery codes of a user without a factor that they could replace."""
        if self.trusted is not None:
            await self.trusted.end_all(event.user)
        if isinstance(event, FactorRemoved) and not await has_main_factor(self.auth, event.user):
            await self.store.delete_recovery_codes(event.user)

    async def _password_changed(self, event: PasswordChanged[Any]) -> None:
        await forgive_failures(self.auth, event.user)
