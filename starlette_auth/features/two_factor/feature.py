"""The feature that asks for a second factor at the login."""

from collections.abc import Sequence

import sqlalchemy as sa
from starlette.routing import BaseRoute

from ...auth import Auth, Feature
from ...core.arguments import require_integer, require_text
from ...core.signing import SecretKeys, require_strong_keys
from ...database.tables import Tables
from ...security.sealing import Sealer
from .login_step import SecondFactorStep
from .pages import FactorPages
from .store import FactorStore, recovery_code_table, totp_table

EXTRA = "two-factor"


class TwoFactor(Feature):
    """Adds a second factor: `Auth(features=[TwoFactor()])`. Needs the extra `two-factor`.

    Users add an authenticator app (TOTP, RFC 6238) on the page `totp` and get `recovery_codes` recovery codes, each of
    which replaces the app once. From then on each login asks for a code. `issuer` is the name of the site in the app, by
    default `Auth(site_name=…)`. Codes of the `drift` time steps of 30 seconds before the current one are accepted.

    The database stores the app's secret encrypted, with a key derived from `secret_key`, or from the first of `keys`. Keep
    an old key in the list until `starlette-auth reseal` has run: the apps of all users would otherwise be lost.
    """

    def __init__(
        self, *, recovery_codes: int = 10, issuer: str = "", drift: int = 1, keys: str | Sequence[str] | None = None
    ) -> None:
        require_integer(recovery_codes, "recovery_codes", maximum=50)
        require_text(issuer, "issuer", 'Pass the name of your site, as in issuer="Shop".')
        require_integer(drift, "drift", minimum=0, maximum=10)
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
        self.step = SecondFactorStep(self.store)
        self.pages = FactorPages(self.store, issuer=self.issuer, number=self.number, extra=EXTRA)
        auth.login_steps.append(self.step)

    def routes(self) -> Sequence[BaseRoute]:
        return [*self.step.routes(), *self.pages.routes()]
