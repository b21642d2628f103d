"""The factors of users with passkeys or security keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection

from ...backends.factors import Factor
from ...core.translation import gettext
from ...users.models import User
from .ceremonies import KEY, PASSKEY, REAUTHENTICATE, SECOND_STEP, STEP_UP, Ceremonies
from .store import Passkey

CREDENTIAL = "credential"  # the form field


class PasskeyFactor(Factor):
    """A passkey, which proves alone who the user is. The page `reauthenticate` takes it in place of the password."""

    methods = (PASSKEY,)
    fields = (CREDENTIAL,)
    is_asked = False
    is_way_in = True
    page = "passkeys"

    def __init__(self, ceremonies: Ceremonies) -> None:
        self.ceremonies = ceremonies

    async def is_set_up(self, user: User) -> bool:
        return bool(await self._passkeys(user))

    async def offer(self, request: HTTPConnection, user: User) -> Mapping[str, Any]:
        passkeys = await self._passkeys(user)
        if not passkeys:
            return {}
        options = self.ceremonies.request_options(request, user, REAUTHENTICATE, passkeys, verified=True)
        return {PASSKEY: options}

    async def check(self, request: HTTPConnection, user: User, field: str, value: str) -> str | None:
        outcome = await self.ceremonies.check(request, value, purpose=REAUTHENTICATE, user=user, verified=True)
        return outcome.method or None

    def error(self, field: str) -> str:
        return refusal_text()

    async def _passkeys(self, user: User) -> Sequence[Passkey]:
        return [passkey for passkey in await self.ceremonies.store.list(user) if passkey.credential.verified]


class KeyFactor(Factor):
    """A security key, or a passkey in its place, as the second step after the password.

    Each login asks users who have a security key. A passkey alone is another way to log in, and does not make the second
    step necessary.
    """

    methods = (PASSKEY, KEY)
    fields = (CREDENTIAL,)
    page = "passkeys"

    def __init__(self, ceremonies: Ceremonies) -> None:
        self.ceremonies = ceremonies

    async def is_set_up(self, user: User) -> bool:
        return any(not passkey.credential.verified for passkey in await self.ceremonies.store.list(user))

    async def offer(self, request: HTTPConnection, user: User) -> Mapping[str, Any]:
        """Returns the same options for both methods: the browser shows one dialog for all credentials."""
        passkeys = await self.ceremonies.store.list(user)
        if not passkeys:
            return {}
        methods = [PASSKEY if passkey.credential.verified else KEY for passkey in passkeys]
        verified = KEY not in methods
        options = self.ceremonies.request_options(request, user, _purpose(request, user), passkeys, verified=verified)
        return dict.fromkeys(methods, options)

    async def check(self, request: HTTPConnection, user: User, field: str, value: str) -> str | None:
        purpose = _purpose(request, user)
        outcome = await self.ceremonies.check(request, value, purpose=purpose, user=user, verified=False)
        return outcome.method or None

    def error(self, field: str) -> str:
        return refusal_text()


def refusal_text() -> str:
    """Returns one message for all reasons: an attacker would otherwise learn which credentials exist."""
    return gettext("This passkey was not accepted. Try again, or log in in another way.")


def _purpose(request: HTTPConnection, user: User) -> str:
    """Returns the purpose of a challenge: a login in progress is another one than a step-up of the user."""
    return STEP_UP if request.user == user else SECOND_STEP
