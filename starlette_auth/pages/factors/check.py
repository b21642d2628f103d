"""Checks a second factor that was entered. All factors of a user share one counter of wrong ones."""

import logging
from collections.abc import Iterable
from typing import Any

from starlette.requests import HTTPConnection, Request

from ...auth import Auth, get_auth
from ...backends.factors import Factor
from ...backends.model import report_throttled
from ...core.events import Event
from ...core.exceptions import Refused, Remedy, Throttled, ValidationError
from ...core.feature_events import SecondFactorFailed
from ...core.translation import gettext
from ...users.models import User
from ..forms import Field, Form

logger = logging.getLogger("starlette_auth")
ACTION = "second_factor"
MAX_LENGTH = 64  # characters of a code
RECOVERY_CODE = "recovery_code"  # the name of the method, and of its field


def factor_fields() -> dict[str, Field]:
    """Returns the fields for a code of the app, and for a recovery code in its place."""
    help_text = gettext("Only if you do not have your app. Each recovery code works once.")
    recovery = Field(label=gettext("Recovery code"), required=False, max_length=MAX_LENGTH, help_text=help_text)
    return {"recovery_code": recovery, "code": app_code_field(required=False)}


def app_code_field(*, required: bool = True) -> Field:
    """Returns the field for a code of the app. Phones show a keyboard with digits."""
    return Field(
        label=gettext("Code from your app"),
        required=required,
        max_length=MAX_LENGTH,
        autocomplete="one-time-code",
        inputmode="numeric",
    )


async def offered_factors(request: Request, user: User, factors: Iterable[Factor]) -> dict[str, Any]:
    """Returns the login methods that the user can prove now, each with what the page needs for it.

    The one that the user used last comes first, and recovery codes come last: they are used up.
    """
    offered = {method: value for factor in factors for method, value in (await factor.offer(request, user)).items()}
    if len(offered) < 2:
        return offered
    used: dict[str, int] = {}
    for stored in await get_auth(request).list_factors(user):
        used[stored.method] = max(used.get(stored.method, 0), stored.last_used or 0)
    order = sorted(offered, key=lambda method: (method == RECOVERY_CODE, -used.get(method, 0)))
    return {method: offered[method] for method in order}


async def check_factor(auth: Auth, request: Request, user: User, form: Form, factors: Iterable[Factor]) -> str | None:
    """Returns the method that the form proves, and uses the code. None adds an error to the form.

    Each try is counted before the code is looked at, and known browsers of the user apart: an attacker who knows the
    password would otherwise lock the owner out. Raises Throttled if a try has to wait. After 100 wrong ones in a row
    (NIST SP 800-63B-4 §3.2.2) it raises TooManyFailures in unknown browsers, until the user has a new password.
    """
    by_field = {name: factor for factor in factors for name in factor.fields}
    entered = [name for name in form.fields if name in by_field and form.data[name]]
    if not entered and form.is_valid:
        form.add_error("code", ValidationError(gettext("This field is required."), "required"))
    if not form.is_valid:
        return None
    field, factor, text = entered[0], by_field[entered[0]], form.data[entered[0]]
    for name in entered:
        form.data[name] = ""  # a page that shows the form again must not contain a secret
    account, device = _account(user), await auth.devices.known(request, user)

    async def report_block() -> None:
        logger.warning(
            "Too many wrong second factors in a row were entered for the user %r. Unknown browsers are refused until the "
            "user has a new password.",
            user.username,
        )

    counted = auth.throttle.attempt(
        ACTION,
        account=account,
        address=auth.proxies.client_address(request),
        device=device,
        policy=lambda: "refuse",
        on_block=report_block,
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
        failures = await auth.throttle.failures_in_a_row(ACTION, account, device)
        await _emit(auth, SecondFactorFailed(user=user, method=factor.methods[0], failures=failures, request=request))
        form.add_error(field, ValidationError(factor.error(field), "wrong_code"))
    return method


def require_address(auth: Auth, conn: HTTPConnection, user: User) -> None:
    """Raises Refused if the user has to confirm the e-mail address before adding a factor. Pages that add one call it."""
    if not auth.awaits_address(user):
        return
    text = gettext(
        "Confirm your e-mail address first: open the link in the mail that we sent you. Then add the factor."
    )
    remedy = Remedy("register_resend", auth.find_url(conn, "register_resend"), auth.redirects.field)
    raise Refused(403, text, code="address_unconfirmed", remedy=remedy)


async def forgive_failures(auth: Auth, user: User) -> None:
    """Counts the wrong factors of a user from 0 again. A new password ends the block: an attacker knew the old one."""
    await auth.throttle.forgive([_account(user)], ACTION)


def _account(user: User) -> str:
    return f"user {user.id}"


async def _emit(auth: Auth, event: Event) -> None:
    async with auth.events.transaction(type(event)):
        await auth.events.emit(event)
