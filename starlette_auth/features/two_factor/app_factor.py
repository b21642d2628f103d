"""The factor of users with an authenticator app: its codes, and the recovery codes in its place."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import HTTPConnection

from ...auth import Auth
from ...backends.factors import Factor
from ...core.feature_events import RecoveryCodeUsed
from ...core.translation import gettext
from ...users.models import User
from .store import FactorStore

TOTP, RECOVERY_CODE = "totp", "recovery_code"  # the names of the login methods


class AppFactor(Factor):
    """Takes the codes of a user's app in the field `code`."""

    methods = (TOTP,)
    fields = ("code",)

    def __init__(self, store: FactorStore) -> None:
        self.store = store

    async def is_set_up(self, user: User) -> bool:
        return await self.store.has_app(user)

    async def offer(self, request: HTTPConnection, user: User) -> Mapping[str, Any]:
        return {TOTP: None} if await self.is_set_up(user) else {}

    async def check(self, request: HTTPConnection, user: User, field: str, value: str) -> str | None:
        return TOTP if await self.store.use_totp(user, value) else None

    def error(self, field: str) -> str:
        return gettext(
            "This code is wrong or was used before. Wait for the next one, and check the clock of your device."
        )


class RecoveryFactor(Factor):
    """Takes a recovery code in the field `recovery_code`. It replaces whichever factor a user has lost."""

    methods = (RECOVERY_CODE,)
    fields = ("recovery_code",)
    is_asked = False

    def __init__(self, auth: Auth, store: FactorStore) -> None:
        self.auth, self.store = auth, store

    async def is_set_up(self, user: User) -> bool:
        return bool(await self.store.recovery_codes_left(user))

    async def offer(self, request: HTTPConnection, user: User) -> Mapping[str, Any]:
        return {RECOVERY_CODE: None} if await self.is_set_up(user) else {}

    async def check(self, request: HTTPConnection, user: User, field: str, value: str) -> str | None:
        if not await self.store.use_recovery_code(user, value):
            return None
        event = RecoveryCodeUsed(user=user, left=await self.store.recovery_codes_left(user), request=request)
        async with self.auth.events.transaction(RecoveryCodeUsed):
            await self.auth.events.emit(event)
        return RECOVERY_CODE

    def error(self, field: str) -> str:
        return gettext("This recovery code is wrong, or was used before.")


async def has_main_factor(auth: Auth, user: User, *, besides: str = "") -> bool:
    """Returns whether the user has a factor other than recovery codes, and other than that of the method `besides`."""
    for factor in auth.factors():
        if RECOVERY_CODE not in factor.methods and besides not in factor.methods and await factor.is_set_up(user):
            return True
    return False
