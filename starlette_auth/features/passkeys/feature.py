"""The feature `Passkeys`: a login with passkeys, and security keys as a second step."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login
from ...auth import Auth, Feature
from ...backends.factors import Factor, StoredFactor
from ...backends.session import require_session
from ...backends.ways import Way
from ...core.arguments import as_texts, require_bool, require_integer, require_text
from ...core.events import PasswordChanged
from ...core.exceptions import ImproperlyConfigured, ValidationError
from ...core.templating import ASSET_HASHES
from ...database.tables import Tables
from ...http.clients import wants_json
from ...http.urls import url_path_for, with_query
from ...pages.base import Endpoint, account_page, asset, keep_form, visitor_page
from ...pages.factors.check import credential_field, forgive_failures
from ...pages.factors.reauthentication import require_fresh_factor
from ...pages.factors.step_up import has_second_factor_step
from ...pages.forms import Field, Form
from ...pages.login import read_saved_form, show_login
from ...pages.login_steps import complete_login
from ...security.stored_forms import store_form
from ...security.webauthn.relying_party import RelyingParty
from ...users.models import User
from .ceremonies import KEY, LOGIN, LOGIN_MAX_AGE, PASSKEY, Ceremonies, Outcome
from .factors import KeyFactor, PasskeyFactor, refusal_text
from .pages import PasskeyPages, kind_of
from .store import Passkey, PasskeyStore, passkey_table
from .well_known import well_known_routes

SCRIPT = "auth_passkeys.js"
Change = Callable[[Auth, Request, User], Awaitable[Response]]
RELOAD = LOGIN_MAX_AGE - 60  # seconds after which the script loads the login page anew


class PasskeyLogin:
    """The page `passkey_login`. `conditional` is whether the browser offers passkeys in the username field."""

    def __init__(self, ceremonies: Ceremonies, *, conditional: bool) -> None:
        self.ceremonies, self.conditional = ceremonies, conditional

    def context(self, request: HTTPConnection) -> Mapping[str, Any]:
        options = self.ceremonies.login_options(request)
        return {"passkey": options, "passkey_autofill": self.conditional, "passkey_reload": RELOAD}

    async def page(self, auth: Auth, request: Request) -> Response:
        """Logs in the user of a passkey. A GET returns the options to a program, and leads a browser to the login page."""
        field = auth.redirects.field
        if request.method != "POST":
            if wants_json(request):
                return JSONResponse({"publicKey": self.ceremonies.login_options(request)})
            page = with_query(url_path_for(request.scope, auth.login_url), field, auth.redirects.read(request))
            return RedirectResponse(page, status_code=303)
        hidden = Field(type="hidden", required=False)
        remember = Field(type="checkbox", required=False)
        form = Form(credential=credential_field(), remember=remember, saved=hidden, **{field: hidden})
        await form.fill_in(request)
        url = form.data[field] or auth.redirects.read(request)

        async def show(status: int = 422, unknown_id: str = "") -> Response:
            unknown = {"rpId": self.ceremonies.relying_party.rp_id, "credentialId": unknown_id} if unknown_id else None
            saved = form.data["saved"]
            return await show_login(
                auth, request, url, status, errors=form.errors, saved=saved, unknown_passkey=unknown
            )

        outcome = Outcome()
        if form.is_valid:
            with keep_form(auth, request, form, show):
                await auth.throttle.hit("passkey", ip=auth.proxies.client_address(request))
                outcome = await self.ceremonies.check(
                    request, form.data["credential"], purpose=LOGIN, user=None, verified=True
                )
        if outcome.user is None:
            if form.is_valid:
                form.add_error("", ValidationError(refusal_text(), "passkey_refused"))
            return await show(unknown_id=outcome.unknown_id)
        saved = read_saved_form(auth, request, url, form.data["saved"])
        if saved:
            await store_form(auth.tokens, require_session(request), outcome.user.identity, url or "", saved)
        remembers = auth.session_limits is not None and auth.session_limits.offers_remember_me
        is_remembered = remembers and bool(form.data["remember"])
        return await complete_login(request, outcome.user, url, remember=is_remembered, method=PASSKEY)


class Passkeys(Feature):
    """Adds the login with passkeys: `Auth(base_url="https://example.org", features=[Passkeys()])`.

    Needs the extra `passkeys`, and JavaScript in the browser. Users add passkeys on the page `passkeys`, and log in with
    one in place of username and password. A passkey counts as two factors. With `TwoFactor()` users may also add security
    keys, which are a second step after the password.

    `rp_id` is the domain that the passkeys belong to, by default the host of `base_url`; it cannot be changed later
    without losing all passkeys. `origins` are further origins of the site, as in `["https://shop.example.org"]`; those on
    other domains need `well_known_routes()`. `rp_name` is the name of the site in the browser's dialog, by default
    `Auth(site_name=…)`. `conditional` is whether the browser offers passkeys in the username field. A user may have
    `max_per_user` passkeys and security keys.
    """

    def __init__(
        self,
        *,
        rp_id: str | None = None,
        origins: Sequence[str] = (),
        rp_name: str = "",
        conditional: bool = True,
        max_per_user: int = 20,
    ) -> None:
        if rp_id is not None:
            require_text(rp_id, "rp_id", 'Pass the domain of your site, as in rp_id="example.org".')
        self.rp_id, self.rp_name, self.conditional = rp_id, rp_name, conditional
        self.origins = as_texts(origins, "origins", 'Pass origins=["https://shop.example.org"].')
        require_text(rp_name, "rp_name", 'Pass the name of your site, as in rp_name="Shop".')
        require_bool(conditional, "conditional")
        require_integer(max_per_user, "max_per_user", maximum=1000)
        self.max_per_user = max_per_user

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        self._table = passkey_table(tables)
        return [self._table]

    def attach(self, auth: Auth) -> None:
        base_url = auth.site.base_url
        if base_url is None:
            raise ImproperlyConfigured(
                'Passkeys belong to a domain. Pass Auth(base_url="https://example.org"), or base_url="http://localhost:8000".'
            )
        rp_id = self.rp_id if self.rp_id is not None else str(urlsplit(base_url).hostname)
        origins = list(dict.fromkeys([auth.site.origin, *self.origins]))
        name = self.rp_name or auth.site_name
        self.auth = auth
        auth.events.on(PasswordChanged)(self._password_changed)
        self.relying_party = RelyingParty(rp_id, origins=origins, name=name, keys=auth.keys)
        self.store = PasskeyStore(auth, self._table)
        self.ceremonies = Ceremonies(auth, self.store, self.relying_party)
        self.login = PasskeyLogin(self.ceremonies, conditional=self.conditional)
        self.pages = PasskeyPages(self.ceremonies, max_per_user=self.max_per_user)

    async def _password_changed(self, event: PasswordChanged[Any]) -> None:
        await forgive_failures(self.auth, event.user)

    def routes(self) -> Sequence[BaseRoute]:
        script = Route(
            f"/auth_passkeys.{ASSET_HASHES[SCRIPT]}.js",
            asset(SCRIPT, "text/javascript"),
            name="passkeys_script",
            methods=["GET"],
        )
        pages, both, post = self.pages, ["GET", "POST"], ["POST"]
        rename, remove = _change(pages.rename, keep=("passkey", "name")), _change(pages.remove, keep=("passkey",))
        return [
            Route("/login/passkey", visitor_page(self.login.page), name="passkey_login", methods=both),
            Route("/passkeys", account_page(pages.list), name="passkeys", methods=["GET"]),
            Route("/passkeys/add", _change(pages.add), name="passkey_add", methods=both),
            Route("/passkeys/rename", rename, name="passkey_rename", methods=post),
            Route("/passkeys/remove", remove, name="passkey_remove", methods=post),
            script,
        ]

    def well_known_routes(self) -> Sequence[Route]:
        """Returns the routes of `/.well-known/…`, which the application puts at its root: `[*passkeys.well_known_routes()]`.

        `passkey-endpoints` tells password managers on which pages users add and manage passkeys (W3C). `webauthn` names
        the origins that use passkeys of this domain, if `origins` has some of other domains. Call it after `Auth(…)`.
        """
        return well_known_routes(self.relying_party, self.auth.site.base_url or "")

    def factors(self) -> Sequence[Factor]:
        return [PasskeyFactor(self.ceremonies), KeyFactor(self.ceremonies)]

    def login_context(self, request: HTTPConnection) -> Mapping[str, Any]:
        return self.login.context(request)

    async def ways_in(self, user: User) -> Sequence[str]:
        passkeys = await self.store.list_latest(user)
        return [PASSKEY] if any(passkey.credential.verified for passkey in passkeys) else []

    def describe(self) -> Sequence[Way]:
        limits = "60 attempts a minute from one address; each challenge is valid once"
        shared = "five wrong attempts, then waits of up to 900 seconds, counted together with all second factors"
        ways = [Way(name=PASSKEY, is_second_factor=False, level=2, phishing_resistant=True, limits=limits)]
        if has_second_factor_step(self.auth):
            ways.append(Way(name=KEY, is_second_factor=True, level=2, phishing_resistant=True, limits=shared))
        return ways

    async def list_factors(self, user: User) -> Sequence[StoredFactor]:
        return [_stored_factor(passkey) for passkey in await self.store.list(user)]

    async def remove_factors(self, user: User, *, since: int = 0, method: str | None = None) -> Sequence[StoredFactor]:
        removed = []
        for passkey in await self.store.list_latest(user):
            is_meant = passkey.created >= since and method in (None, kind_of(passkey))
            if is_meant and await self.store.delete(user, passkey.id):
                removed.append(_stored_factor(passkey))
        return removed

    async def reseal(self) -> tuple[int, int]:
        return await self.store.reseal()

    async def security_section(self, request: HTTPConnection, user: User) -> tuple[str, Mapping[str, Any]]:
        passkeys = await self.store.list(user)
        keys = sum(kind_of(passkey) == KEY for passkey in passkeys)
        return "registration/security_passkeys.html", {"passkeys": len(passkeys) - keys, "keys": keys}


def _change(view: Change, *, keep: Sequence[str] = ()) -> Endpoint:
    """Returns the page that changes the passkeys of a user, who has just proved enough.

    `keep` names the form fields that are kept while the user proves it.
    """

    async def page(auth: Auth, request: Request) -> Response:
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        await require_fresh_factor(auth, request, user, keep=keep)
        return await view(auth, request, user)

    return account_page(page)


def _stored_factor(passkey: Passkey) -> StoredFactor:
    return StoredFactor(
        method=kind_of(passkey), label=passkey.name, created=passkey.created, last_used=passkey.last_used
    )
