"""Checks a second factor that was entered. All factors of a user share one counter of wrong ones."""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import HTTPConnection, Request

from ...auth import Auth
from ...backends.factors import Factor
from ...backends.model import report_throttled
from ...core.events import Event
from ...core.exceptions import Throttled, ValidationError
from ...core.feature_events import SecondFactorFailed
from ...core.translation import gettext
from ...users.models import User
from ..forms import Field, Form

ACTION = "second_factor"
MAX_LENGTH = 64  # characters of a code


def factor_fields() -> dict[str, Field]:
    """Returns the fields for a code of the app, a recovery code in its place, and a passkey or security key."""
    help_text = gettext("Only if you do not have your app. Each recovery code works once.")
    code = Field(
        label=gettext("Code from your app"), required=False, max_length=MAX_LENGTH, autocomplete="one-time-code"
    )
    recovery = Field(label=gettext("Recovery code"), required=False, max_length=MAX_LENGTH, help_text=help_text)
    return {"recovery_code": recovery, "code": code, "credential": credential_field()}


def credential_field() -> Field:
    """Returns the field for what the browser sends of a passkey or security key."""
    return Field(type="json", required=False)


async def offered_factors(
    request: HTTPConnection, user: User, factors: Iterable[Factor], *, ways_in: bool = False
) -> dict[str, Any]:
    """Returns the login methods that the user can prove now, each with what the page needs for it.

    They are those of second steps, or with `ways_in` those that replace the password.
    """
    offering = [factor for factor in factors if factor.is_way_in is ways_in]
    return {method: value for factor in offering for method, value in (await factor.offer(request, user)).items()}


def passkey_options(methods: Mapping[str, Any]) -> Any:
    """Returns the options of a passkey or security key among the offered methods; None without."""
    return methods.get("passkey") or methods.get("key")


def described_step(name: str, methods: Mapping[str, Any], **members: str) -> dict[str, Any]:
    """Returns the offered methods for a program, and the options of a passkey (`publicKey`)."""
    options = passkey_options(methods)
    public_key = {"publicKey": options} if options is not None else {}
    return {"step": {"name": name, **members, "methods": list(methods), **public_key}}


async def check_factor(
    auth: Auth, request: Request, user: User, form: Form, factors: Iterable[Factor], *, ways_in: bool = False
) -> str | None:
    """Returns the method that the form proves, and uses the code. None adds an error to the form.

    `ways_in` is that of `offered_factors`.

    Each try is counted before the code is looked at, and known browsers of the user apart: an attacker who knows the
    password would otherwise lock the owner out. Raises Throttled if a try has to wait.
    """
    by_field = {name: factor for factor in factors if factor.is_way_in is ways_in for name in factor.fields}
    entered = [name for name in form.fields if name in by_field and form.data[name]]
    if not entered and form.is_valid:
        form.add_error("code", ValidationError(gettext("This field is required."), "required"))
    if not form.is_valid:
        return None
    field, factor, text = entered[0], by_field[entered[0]], form.data[entered[0]]
    for name in entered:
        form.data[name] = ""  # a page that shows the form again must not contain a secret
    device = await auth.devices.known(request, user)
    counted = auth.throttle.attempt(
        ACTION, account=f"user {user.id}", address=auth.proxies.client_address(request), device=device
    )
    method = None
    try:
        async with counted as attempt:
            method = await factor.check(request, user, field, text)
            attempt.succeeded = method is not None
    except Throttled as error:
        error.action = error.action or ACTION
        await report_throttled(auth.events, request, error, user)
        raise
    if method is None:
        await _emit(auth, SecondFactorFailed(user=user, method=factor.methods[0], request=request))
        form.add_error(field, ValidationError(factor.error(field), "wrong_code"))
    return method


async def _emit(auth: Auth, event: Event) -> None:
    async with auth.events.transaction(type(event)):
        await auth.events.emit(event)
