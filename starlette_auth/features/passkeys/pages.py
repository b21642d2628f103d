"""The pages on which users see, add, rename and remove their passkeys and security keys."""

from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from ...answers import redirect_to_login
from ...auth import Auth
from ...backends.session import require_session
from ...core.exceptions import IntegrityError, Refused, ValidationError
from ...core.feature_events import FactorAdded, FactorRemoved
from ...core.translation import format_time_since, gettext
from ...http.clients import wants_json
from ...http.content import sent_json
from ...http.urls import find_url_path, next_path, with_query
from ...http.user_agents import describe_user_agent
from ...pages.base import keep_form, render
from ...pages.factors.check import credential_field
from ...pages.factors.step_up import has_second_factor_step, return_url
from ...pages.forms import Field, Form
from ...pages.ways_in import lock_factors, remove_way_in
from ...security.webauthn.credentials import CredentialRefused, encode
from ...users.models import User
from .ceremonies import HANDLE, KEY, PASSKEY, Ceremonies
from .factors import CREDENTIAL
from .store import MAX_NAME, Passkey

SIGNAL = "_passkey_signal"  # in the session after a removal: what the browser is told, so that it forgets the passkey


class PasskeyPages:
    """The pages `passkeys`, `passkey_add`, `passkey_rename` and `passkey_remove`."""

    def __init__(self, ceremonies: Ceremonies, *, max_per_user: int) -> None:
        self.ceremonies, self.store, self.max_per_user = ceremonies, ceremonies.store, max_per_user

    async def list(self, auth: Auth, request: Request) -> Response:
        """Shows the user's passkeys and security keys; as JSON for a client that wants JSON."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        passkeys = await self.store.list(user)
        if wants_json(request):
            return JSONResponse({"passkeys": [_as_json(passkey) for passkey in passkeys], "max": self.max_per_user})
        now = int(auth.clock())
        return await render(
            auth,
            request,
            "registration/passkeys.html",
            passkeys=[{**_as_json(passkey), "is_key": kind_of(passkey) == KEY} for passkey in passkeys],
            offers_keys=has_second_factor_step(auth),
            is_full=len(passkeys) >= self.max_per_user,
            signal=require_session(request).pop(SIGNAL, None),
            next=auth.redirects.read(request) or "",
            format_time_since=lambda time: format_time_since(now - time),
            is_done="done" in request.query_params,
        )

    async def add(self, auth: Auth, request: Request, user: User) -> Response:
        """Shows the form with the options for the browser, and stores the passkey that it sends."""
        hidden, help_text = Field(type="hidden", required=False), gettext("Such as the name of the device.")
        name = Field(label=gettext("Name"), required=False, max_length=MAX_NAME, help_text=help_text)
        form, is_post = (
            Form(name=name, credential=credential_field(), kind=hidden, next=hidden),
            request.method == "POST",
        )
        if is_post:
            await form.fill_in(request)
        else:
            form.data["kind"] = request.query_params.get("kind", "")
            form.data["next"] = auth.redirects.read(request) or ""
        kind = KEY if form.data["kind"] == KEY else PASSKEY
        if kind == KEY and not has_second_factor_step(auth):
            raise HTTPException(400, gettext("Security keys are a second step, which this site does not have."))
        if is_post and form.is_valid:

            async def show_again(status: int) -> Response:
                return await self._form_page(auth, request, user, form, kind, status)

            with keep_form(auth, request, form, show_again):
                await auth.throttle.hit("passkey", ip=auth.proxies.client_address(request))
            if await self._store(auth, request, user, form, kind):
                return RedirectResponse(await self._after_adding(auth, request, user, form, kind), status_code=303)
        return await self._form_page(auth, request, user, form, kind, 422 if is_post else 200)

    async def _form_page(
        self, auth: Auth, request: Request, user: User, form: Form, kind: str, status: int
    ) -> Response:
        passkeys = await self.store.list(user)
        self._require_room(passkeys)
        options = self.ceremonies.creation_options(request, user, kind, passkeys)
        if wants_json(request) and status == 200:
            return JSONResponse({"publicKey": options})
        form.data["credential"], form.data["kind"] = "", kind if kind == KEY else ""
        context = {"passkey": options, "is_key": kind == KEY}
        return await render(auth, request, "registration/passkey_add.html", status, form=form, **context)

    async def _store(self, auth: Auth, request: Request, user: User, form: Form, kind: str) -> bool:
        """Verifies and stores the credential in the form. Returns False, with an error in the form, if it is refused."""
        existing = await self.store.list(user)
        self._require_room(existing)
        name = form.data["name"] or _default_name(request, kind)
        try:
            credential = await self.ceremonies.check_new(request, user, kind, form.data[CREDENTIAL], existing)

            async def insert() -> bool:
                await lock_factors(auth, user)
                latest = await self.store.list_latest(user)
                self._require_room(latest)
                if any(passkey.credential.user_handle != credential.user_handle for passkey in latest):
                    raise CredentialRefused("Another browser added the first passkey at the same moment.")
                is_first = not await auth.has_any_factor(user)
                await self.store.insert(user, credential, name)
                await auth.events.emit(FactorAdded(user=user, factor=kind, request=request))
                return is_first

            is_first = await auth.gateway.run_in_transaction(insert)
        except CredentialRefused:
            text = gettext("This did not work. Please try again.")
            form.add_error("", ValidationError(text, "passkey_refused"))
            return False
        except IntegrityError:
            text = gettext("This passkey or security key is registered already. Use another one.")
            form.add_error("", ValidationError(text, "passkey_exists"))
            return False
        session = require_session(request)
        session.pop(HANDLE, None)
        if is_first:  # the other sessions were begun without a factor
            await auth.user_sessions.revoke_others(request, user)
        auth.session_backend.add_method(session, kind)
        return True

    async def _after_adding(self, auth: Auth, request: Request, user: User, form: Form, kind: str) -> str:
        """Returns the URL of the next page. Users of a security key need recovery codes, in case that they lose it."""
        next, codes = form.data["next"], find_url_path(request.scope, "recovery_codes")
        if kind == KEY and codes is not None and not await _has_recovery_codes(auth, user):
            return with_query(codes, auth.redirects.field, next)
        if next:
            return await return_url(auth, request, user, next)
        page = next_path(request.scope, "passkeys")
        return f"{page}?done" if page else ""

    def _require_room(self, passkeys: Sequence[Passkey]) -> None:
        if len(passkeys) >= self.max_per_user:
            text = gettext("You cannot have more than %(number)d passkeys and security keys. Remove one first.")
            raise Refused(409, text % {"number": self.max_per_user}, code="too_many_passkeys")

    async def rename(self, auth: Auth, request: Request, user: User) -> Response:
        """Renames the passkey with the number in the field `passkey`."""
        form = Form(passkey=_number_field(), name=Field(label=gettext("Name"), max_length=MAX_NAME))
        await form.fill_in(request)
        passkey = await self._find(user, form)
        if not form.is_valid:
            messages = [str(error) for errors in form.errors.values() for error in errors]
            raise Refused(422, " ".join(messages), code="invalid")
        await self.store.rename(user, passkey.id, form.data["name"])
        return _list_page(request)

    async def remove(self, auth: Auth, request: Request, user: User) -> Response:
        """Removes the passkey with the number in the field `passkey`, unless it is the last way to log in."""
        form = Form(passkey=_number_field())
        await form.fill_in(request)
        passkey = await self._find(user, form)

        async def remove_one() -> bool:
            latest = await self.store.list_latest(user)
            if all(other.id != passkey.id for other in latest) or not await self.store.delete(user, passkey.id):
                return False
            if auth.session_backend.required_level(user) >= 2 and not await _has_factor(auth, user):
                text = gettext("Your account must have a second factor. Add another one first.")
                raise Refused(409, text, code="last_factor")
            await auth.events.emit(FactorRemoved(user=user, factor=kind_of(passkey), request=request))
            return True

        if not await remove_way_in(auth, user, remove_one):
            raise _not_found()
        if not await _has_factor(auth, user):
            await auth.user_sessions.revoke_others(request, user)
        if not sent_json(request):
            rest = await self.store.list(user)
            require_session(request)[SIGNAL] = {
                "rpId": self.ceremonies.relying_party.rp_id,
                "userId": encode(passkey.credential.user_handle),
                "allAcceptedCredentialIds": [encode(other.credential.credential_id) for other in rest],
            }
        return _list_page(request)

    async def _find(self, user: User, form: Form) -> Passkey:
        """Returns the user's passkey with the number in the form. Raises HTTPException 400 without one, and 404."""
        number = form.data["passkey"]
        if not (number.isascii() and number.isdecimal() and len(number) <= 18):
            raise HTTPException(400, gettext("No passkey was selected. Go back and select one."))
        for passkey in await self.store.list(user):
            if passkey.id == int(number):
                return passkey
        raise _not_found()


def kind_of(passkey: Passkey) -> str:
    """Returns "passkey", or "key" for a security key, which is a second step only."""
    return PASSKEY if passkey.credential.verified else KEY


def _number_field() -> Field:
    return Field(type="hidden", required=False)


def _not_found() -> HTTPException:
    return HTTPException(404, gettext("There is no such passkey."))


def _list_page(request: Request) -> Response:
    page = next_path(request.scope, "passkeys")
    return RedirectResponse(f"{page}?done" if page else "", status_code=303)


def _default_name(request: Request, kind: str) -> str:
    """Returns the name of a passkey that the user gave none: the browser that made it."""
    browser = describe_user_agent(request.headers.get("user-agent", "")) if kind == PASSKEY else ""
    return browser or (gettext("Security key") if kind == KEY else gettext("Passkey"))


def _as_json(passkey: Passkey) -> dict[str, Any]:
    return {
        "id": passkey.id,
        "name": passkey.name,
        "kind": kind_of(passkey),
        "created": passkey.created,
        "last_used": passkey.last_used,
        "synced": passkey.credential.backup_eligible,
    }


async def _has_factor(auth: Auth, user: User) -> bool:
    """Returns whether the user has a factor besides recovery codes, which only replace one."""
    return any([await factor.is_set_up(user) for factor in auth.factors() if factor.page])


async def _has_recovery_codes(auth: Auth, user: User) -> bool:
    factors = [factor for factor in auth.factors() if "recovery_code" in factor.methods]
    return any([await factor.is_set_up(user) for factor in factors])
