"""The page on which a user adds an authenticator app, and the page with the recovery codes."""

import importlib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from ...auth import Auth
from ...backends.pending_login import PendingLogin, add_proof
from ...backends.session import require_session
from ...core.clock import MINUTE
from ...core.exceptions import ImproperlyConfigured, ValidationError
from ...core.feature_events import FactorAdded, FactorRemoved
from ...core.translation import gettext
from ...http.clients import wants_json
from ...http.content import sent_json
from ...http.urls import url_path_for
from ...pages.base import render
from ...pages.factors.check import app_code_field
from ...pages.factors.step_up import return_url
from ...pages.forms import Field, Form
from ...pages.login_steps import pending_login
from ...pages.ways_in import lock_factors
from ...security.sealing import CannotUnseal
from ...sessions.base import SessionBase
from ...users.models import User
from .app_factor import TOTP
from .store import FactorStore, owner_of
from .totp import find_step, grouped_key, new_secret, otpauth_uri

SETUP = "_totp_setup"  # in the session: [the sealed secret of an app that is not proved yet, its time]
SETUP_LIFETIME = 10 * MINUTE
ENROL = "enrol"  # the name of the step of a login in which the app is added


class AppSetup:
    """Adds an app: shows its QR code, checks its first code, and shows the recovery codes."""

    def __init__(self, store: FactorStore, *, issuer: str, number: int, extra: str) -> None:
        try:
            self._segno: Any = importlib.import_module("segno")
        except ImportError as error:
            raise ImproperlyConfigured(
                f"QR codes need segno. Run `pip install starlette-contrib-auth[{extra}]`."
            ) from error
        self.store, self.issuer, self.number = store, issuer, number

    async def page(
        self, auth: Auth, request: Request, user: User, login: PendingLogin | None = None, *, replace: bool = False
    ) -> Response:
        """Shows the QR code, which a right code activates. With `replace` the app takes the place of an earlier one.

        `login` is the pending login of a user who has to add an app before it ends.
        """
        session, hidden = require_session(request), Field(type="hidden", required=False)
        secret = self._secret(auth, session, user)
        form = Form(code=app_code_field(), login=hidden, next=hidden)
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
                    return await self.show_codes(auth, request, codes, login=login, next=url)
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
        page = {
            "replaces": replace,
            "qr": qr,
            "uri": uri,
            "key": grouped_key(secret),
            "login_name": user.get_username() if login else "",
        }
        return await render(auth, request, "registration/totp.html", status, form=form, **page)

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
            await lock_factors(auth, user)
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

    async def show_codes(
        self, auth: Auth, request: Request, codes: list[str], *, login: PendingLogin | None = None, next: str = ""
    ) -> Response:
        """Shows recovery codes, once. `next` is the page for afterwards."""
        login_id = login.id if login is not None else ""
        if not sent_json(request):
            template = "registration/recovery_codes_made.html"
            next = next or auth.find_url(request, "security") or auth.url_for(request, "totp")
            return await render(auth, request, template, codes=codes, login=login_id, next=next)
        if login is None:
            return JSONResponse({"recovery_codes": codes})
        step = {"name": ENROL, "url": url_path_for(request.scope, ENROL), "login": login_id}
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
