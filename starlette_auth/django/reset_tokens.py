"""Django's password reset tokens, which are signed and not stored."""

import hmac
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from ..core.arguments import require_bool, require_clock, require_instance, require_integer
from ..core.clock import Clock
from ..core.signing import SecretKeys, salted_hmac
from ..security.reset_tokens import HALF_AN_HOUR
from ..users.models import User

# Django's values, so that both applications accept each other's links.
DJANGO_SALT = "django.contrib.auth.tokens.PasswordResetTokenGenerator"
DJANGO_EPOCH = datetime(2001, 1, 1)
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class PasswordResetTokens:
    """Creates and checks Django's reset tokens (`django.contrib.auth.tokens`, Django 3.1 and later).

    Nothing is stored. The token signs the user's password hash and last login, which change when the token is used.
    `time_zone` is the project's TIME_ZONE: Django counts seconds in local time, so with another zone links would expire
    hours too early or too late. `use_tz` is USE_TZ. `max_age` is PASSWORD_RESET_TIMEOUT, in seconds.
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
        require_integer(max_age, "max_age")
        require_instance(time_zone, tzinfo, "time_zone", 'Pass zoneinfo.ZoneInfo("Europe/Berlin"), or leave it out.')
        require_bool(use_tz, "use_tz")
        require_clock(clock)
        self.keys = secret_key if isinstance(secret_key, SecretKeys) else SecretKeys(secret_key)
        self.max_age = max_age
        self.time_zone = time_zone
        self.use_tz = use_tz
        self._clock = clock

    async def make(self, user: User) -> str:
        return self._sign(user, self._now(), self.keys.all[0])

    async def check(self, user: User | None, token: str | None) -> bool:
        if user is None or token is None:
            return False
        stamp, dash, _ = token.partition("-")
        # 13 digits is Django's limit. An attacker sends a very long one, which would be slow to convert to a number.
        if not dash or not 0 < len(stamp) <= 13 or not all(digit in DIGITS for digit in stamp):
            return False
        created = int(stamp, 36)
        # All keys are always tried, so that the duration does not reveal which key signed the token.
        matches = [
            hmac.compare_digest(self._sign(user, created, key).encode(), token.encode("utf-8", "replace"))
            for key in self.keys.all
        ]
        return any(matches) and self._now() - created <= self.max_age

    async def consume(self, user: User | None, token: str | None) -> bool:
        """Returns whether the token is valid, as `check` does.

        The new password invalidates the token. Of two concurrent requests, `Users.replace_password` lets one succeed.
        """
        return await self.check(user, token)

    def to_session(self, token: str) -> str:
        """Returns the token itself, as Django stores it."""
        return token

    def from_session(self, text: str) -> str:
        return text

    def _sign(self, user: User, created: int, key: str) -> str:
        last_login = ""
        if user.last_login is not None:
            zone = UTC if self.use_tz else self.time_zone
            last_login = str(user.last_login.astimezone(zone).replace(microsecond=0, tzinfo=None))
        state = f"{user.id}{user.password}{last_login}{created}{user.email}"
        return f"{_base36(created)}-{salted_hmac(DJANGO_SALT, state, key)[::2]}"

    def _now(self) -> int:
        local = datetime.fromtimestamp(self._clock(), self.time_zone).replace(tzinfo=None)
        return (local - DJANGO_EPOCH) // timedelta(seconds=1)


def _base36(number: int) -> str:
    digits = ""
    while number > 0:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return digits or "0"
