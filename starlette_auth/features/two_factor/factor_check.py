"""Checks the code of a second factor. All factors of a user share one counter of wrong codes."""

from starlette.requests import Request

from ...auth import Auth
from ...backends.model import report_throttled
from ...core.events import Event
from ...core.exceptions import Throttled, ValidationError
from ...core.feature_events import RecoveryCodeUsed, SecondFactorFailed
from ...core.translation import gettext
from ...pages.forms import Field, Form
from ...users.models import User
from .store import FactorStore

ACTION = "second_factor"
TOTP, RECOVERY_CODE = "totp", "recovery_code"  # the names of the login methods
MAX_LENGTH = 64  # characters


def code_fields() -> dict[str, Field]:
    """Returns the fields for a code of the app, and for a recovery code in its place."""
    help_text = gettext("Only if you do not have your app. Each recovery code works once.")
    code = Field(
        label=gettext("Code from your app"), required=False, max_length=MAX_LENGTH, autocomplete="one-time-code"
    )
    recovery = Field(label=gettext("Recovery code"), required=False, max_length=MAX_LENGTH, help_text=help_text)
    return {"code": code, "recovery_code": recovery}


async def check_factor(auth: Auth, store: FactorStore, request: Request, user: User, form: Form) -> str | None:
    """Returns the method that the form's code proves, and uses the code. None adds an error to the form.

    Each try is counted before the code is looked at, and known browsers of the user apart: an attacker who knows the
    password would otherwise lock the owner out. Raises Throttled if a try has to wait.
    """
    entered = [name for name in (RECOVERY_CODE, "code") if form.data[name]]
    if not entered and form.is_valid:
        form.add_error("code", ValidationError(gettext("This field is required."), "required"))
    if not form.is_valid:
        return None
    field, text = entered[0], form.data[entered[0]]
    form.data["code"] = form.data[RECOVERY_CODE] = ""  # a page that shows the form again must not contain a secret
    method = RECOVERY_CODE if field == RECOVERY_CODE else TOTP
    device = await auth.devices.known(request, user)
    counted = auth.throttle.attempt(
        ACTION, account=f"user {user.id}", address=auth.proxies.client_address(request), device=device
    )
    try:
        async with counted as attempt:
            attempt.succeeded = await _use(store, user, method, text)
    except Throttled as error:
        error.action = error.action or ACTION
        await report_throttled(auth.events, request, error, user)
        raise
    if attempt.succeeded:
        if method == RECOVERY_CODE:
            left = await store.recovery_codes_left(user)
            await _emit(auth, RecoveryCodeUsed(user=user, left=left, request=request))
        return method
    await _emit(auth, SecondFactorFailed(user=user, method=method, request=request))
    form.add_error(field, _wrong_code(method))
    return None


def _wrong_code(method: str) -> ValidationError:
    if method == RECOVERY_CODE:
        return ValidationError(gettext("This recovery code is wrong, or was used before."), "wrong_code")
    text = gettext("This code is wrong or was used before. Wait for the next one, and check the clock of your device.")
    return ValidationError(text, "wrong_code")


async def _use(store: FactorStore, user: User, method: str, code: str) -> bool:
    return await (store.use_recovery_code if method == RECOVERY_CODE else store.use_totp)(user, code)


async def _emit(auth: Auth, event: Event) -> None:
    async with auth.events.transaction(type(event)):
        await auth.events.emit(event)
