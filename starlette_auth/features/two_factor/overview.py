"""What `TwoFactor` tells about the factors of users, and how they are removed by others than the user."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection

from ...auth import Auth, Feature
from ...backends.factors import StoredFactor
from ...backends.ways import Way
from ...security.throttling.descriptions import describe_codes
from ...users.models import User
from .app_factor import RECOVERY_CODE, TOTP
from .store import FactorStore


class ListsFactors(Feature):
    """The part of `TwoFactor` that lists, describes and removes the app and the recovery codes of users."""

    auth: Auth
    store: FactorStore

    def describe(self) -> Sequence[Way]:
        limits = {
            TOTP: f"Each code works once. {describe_codes(self.auth.throttle)}",
            RECOVERY_CODE: f"120 random bits, and each works once. {describe_codes(self.auth.throttle)}",
        }
        return [
            Way(name=name, is_second_factor=True, level=2, phishing_resistant=False, limits=text)
            for name, text in limits.items()
        ]

    async def list_factors(self, user: User) -> Sequence[StoredFactor]:
        """Returns the app of the user, and the recovery codes as one more factor, with the time of their last use."""
        return _stored_factors(await self.store.list_rows(user))

    async def remove_factors(self, user: User, *, since: int = 0, method: str | None = None) -> Sequence[StoredFactor]:
        """Deletes the app, or the recovery codes, if they were made at `since` or later.

        The recovery codes go with the app, and are listed only if they alone were removed. New ones have voided those of
        the owner, who has to make others.
        """
        await self.store.lock(user)
        made = _stored_factors(await self.store.list_rows(user, latest=True))
        fitting = {
            factor.method: factor for factor in made if factor.created >= since and method in (None, factor.method)
        }
        if TOTP in fitting:
            await self.store.remove_all(user)
            return [fitting[TOTP]]
        if RECOVERY_CODE in fitting:
            await self.store.remove_recovery_codes(user)
            return [fitting[RECOVERY_CODE]]
        return ()

    async def security_section(self, request: HTTPConnection, user: User) -> tuple[str, Mapping[str, Any]] | None:
        return "registration/security_two_factor.html", {"factors": await self.store.factors(user)}


def _stored_factors(rows: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]) -> list[StoredFactor]:
    apps, codes = rows
    factors = [StoredFactor(method=TOTP, label="", created=row["created"], last_used=row["last_used"]) for row in apps]
    if any(row["used"] is None for row in codes):
        created, used = max(row["created"] for row in codes), [row["used"] for row in codes if row["used"] is not None]
        factors.append(StoredFactor(method=RECOVERY_CODE, label="", created=created, last_used=max(used, default=None)))
    return factors
