"""Django's tokens for password resets, which are not stored."""

import hmac
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from ..core.clock import Clock
from ..core.signing import SecretKeys, salted_hmac
from ..security.reset_tokens import HALF_AN_HOUR
from ..users.models import User

# Django's, so that a link made by either framework works in both.
DJANGO_SALT = "django.contrib.auth.tokens.PasswordResetTokenGenerator"
DJANGO_EPOCH = datetime(2001, 1, 1)
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class PasswordResetTokens:
    """Django's: nothing is stored, the token signs what a use of it changes (django.contrib.auth.tokens, 3.1 and later).

    `time_zone` is the project's TIME_ZONE: Django counts in local time, and links would live hours too long or too
    short otherwise. `use_tz` is its USE_TZ. `max_age` is in seconds, its PASSWORD_RESET_TIMEOUT.
    """

    def __init__(
        self,
        secret_key: str | Sequence[str] | SecretKeys,
        *,
        max_age: int = HALF_AN_HOUR,
        time_zone: tzinfo = UTC,
        use_tz: bool = True,
        clock: Clock = time.time,
    ) -> None:
        self.keys = secret_key if isinstance(secret_key, SecretKeys) else SecretKeys(secret_key)
        self.max_age = max_age
        self.time_zone = time_zone
        self.use_tz = use_tz
        self._clock = clock

    async def make(self, user: User) -> str:
        return self._sign(user, self._now(), self.keys.all[0])

    async def check(self, user: User, token: str) -> bool:
        stamp, dash, _ = token.partition("-")
        # As Django's own: longer ones would be numbers of any size.
        if not dash or not 0 < len(stamp) <= 13 or not all(mark in DIGITS for mark in stamp):
            return False
        made = int(stamp, 36)
        # All keys are tried: the time says nothing about which one signed.
        good = [
            hmac.compare_digest(self._sign(user, made, key).encode(), token.encode("utf-8", "replace"))
            for key in self.keys.all
        ]
        return any(good) and self._now() - made <= self.max_age

    async def consume(self, user: User, token: str) -> bool:
        """As `check`: once the password is another, the token is no more. `Users.replace_password` lets one win."""
        return await self.check(user, token)

    def to_session(self, token: str) -> str:
        """Returns the token itself, as Django stores it."""
        return token

    def from_session(self, text: str) -> str:
        return text

    def _sign(self, user: User, made: int, key: str) -> str:
        last_login = ""
        if user.last_login is not None:
            zone = UTC if self.use_tz else self.time_zone
            last_login = str(user.last_login.astimezone(zone).replace(microsecond=0, tzinfo=None))
        state = f"{user.id}{user.password}{last_login}{made}{user.email}"
        return f"{_base36(made)}-{salted_hmac(DJANGO_SALT, state, key)[::2]}"

    def _now(self) -> int:
        local = datetime.fromtimestamp(self._clock(), self.time_zone).replace(tzinfo=None)
        return (local - DJANGO_EPOCH) // timedelta(seconds=1)


def _base36(number: int) -> str:
    digits = ""
    while number > 0:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return digits or "0"
