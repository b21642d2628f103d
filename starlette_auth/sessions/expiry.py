"""When does a session expire?"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..core.arguments import describe, require_bool, require_integer
from ..core.clock import TWO_WEEKS, Clock, utc_now
from ..core.exceptions import ImproperlyConfigured
from .records import SessionRecord, user_in

EXPIRY = "_session_expiry"  # as in Django
TOUCH_EVERY = 60  # seconds between two updates of `last_seen`


class _Missing:
    """Represents an argument that was not passed, where None has a meaning."""


MISSING: Final = _Missing()
Expiry = int | str | datetime | None


@dataclass(frozen=True, kw_only=True)
class SessionLimit:
    """The timeouts of one login, in seconds.

    `absolute` is the time after the login at which it ends. `idle` is the time without a request after which it ends.
    `persistent`: whether the browser keeps the cookie when it is closed. Raises ImproperlyConfigured unless
    0 < idle <= absolute.
    """

    absolute: int
    idle: int
    persistent: bool = False

    def __post_init__(self) -> None:
        require_integer(self.absolute, "absolute of SessionLimit")
        require_integer(self.idle, "idle of SessionLimit")
        require_bool(self.persistent, "persistent")
        if not 0 < self.idle <= self.absolute:
            raise ImproperlyConfigured(
                f"SessionLimit(absolute={self.absolute}, idle={self.idle}) is not possible. "
                "Pass both in seconds, with 0 < idle <= absolute."
            )

    def at_most(self, other: "SessionLimit") -> "SessionLimit":
        """Returns the stricter limit: the shorter timeouts, and persistent only if both limits are."""
        return SessionLimit(
            absolute=min(self.absolute, other.absolute),
            idle=min(self.idle, other.idle),
            persistent=self.persistent and other.persistent,
        )


class ExpiringSession(dict[str, Any]):
    """A dict with an age, timeouts, and the time for which the browser keeps its cookie."""

    # Class attributes, because every request creates a session and most requests change none of these.
    record: SessionRecord | None = None
    max_age = TWO_WEEKS
    expire_at_browser_close = False
    limit: SessionLimit | None = None
    _clock: Clock

    @property
    def user_id(self) -> str | None:
        """Returns the id of the logged-in user as text; None for an anonymous visitor."""
        return user_in(self)

    @property
    def created(self) -> int:
        """Returns when the session was created or logged in, in seconds since 1970."""
        return self.record.created if self.record is not None else int(self._clock())

    @property
    def last_seen(self) -> int:
        """Returns when the session was last used, in seconds since 1970, accurate to a minute."""
        return self.record.last_seen if self.record is not None else int(self._clock())

    @property
    def needs_touch(self) -> bool:
        """Returns whether `last_seen` of a logged-in session is at least 60 seconds old."""
        record = self.record
        return record is not None and int(self._clock()) - record.last_seen >= TOUCH_EVERY and self.user_id is not None

    @property
    def is_expired(self) -> bool:
        """Returns whether the absolute timeout or the idle timeout of the login has passed."""
        limit, record = self.limit, self.record
        if limit is None or record is None:
            return False
        now = int(self._clock())
        return now >= record.created + limit.absolute or now >= record.last_seen + limit.idle

    def set_expiry(self, value: int | timedelta | datetime | None) -> None:
        """Sets when the session expires, as Django's method of this name.

        An int is a number of seconds after each change, 0 means when the browser closes, a timedelta or a datetime
        with a time zone is a fixed time, and None restores the default. For a logged-in user this can only shorten
        what `Auth(session_limits=…)` allows. Raises ValueError for a datetime without a time zone.
        """
        if value is None:
            self.pop(EXPIRY, None)
            return
        if isinstance(value, timedelta):
            value = utc_now(self._clock) + value
        _require_expiry(value, "set_expiry()")
        self[EXPIRY] = self.format_expiry(_aware(value)) if isinstance(value, datetime) else value

    def get_expiry_age(self, *, modification: datetime | None = None, expiry: Expiry | _Missing = MISSING) -> int:
        """Returns the seconds from the last change until the session expires, if no further request arrives.

        As in Django, `modification` is the time of the change (default: now), and `expiry` replaces the value of
        `set_expiry()`: seconds, a datetime with a time zone or its text, or None. Raises ValueError for a datetime
        without a time zone.
        """
        changed, value = self._expiry(modification, expiry)
        if isinstance(value, datetime):
            value = max(0, int((_aware(value) - changed).total_seconds()))
            return min(value, self._allowed_age(changed, value))
        return min(value, self._allowed_age(changed, value)) if value else self._allowed_age(changed, self.max_age)

    def get_expiry_date(self, *, modification: datetime | None = None, expiry: Expiry | _Missing = MISSING) -> datetime:
        """Returns when the session expires. The arguments are those of `get_expiry_age()`."""
        changed, value = self._expiry(modification, expiry)
        longest = timedelta(seconds=self._allowed_age(changed, 0))
        if isinstance(value, datetime) and (self.limit is None or changed + longest > _aware(value)):
            return _aware(value)  # with the fraction of a second, which the age does not have
        return changed + timedelta(seconds=self.get_expiry_age(modification=changed, expiry=value))

    def get_cookie_age(self) -> int | None:
        """Returns how many seconds the browser keeps the cookie; None means until the browser closes.

        The cookie of a remembered login lasts until the absolute timeout. The store checks the idle timeout, which
        each request extends (sliding expiry) without setting the cookie again.
        """
        if self.get_expire_at_browser_close():
            return None
        if self.limit is None or EXPIRY in self:
            return self.get_expiry_age()
        return max(0, self.created + self.limit.absolute - int(self._clock()))

    def get_expire_at_browser_close(self) -> bool:
        if self.limit is not None and not self.limit.persistent:
            return True
        return self[EXPIRY] == 0 if EXPIRY in self else self.expire_at_browser_close

    def format_expiry(self, end: datetime) -> str:
        """Returns the text that `set_expiry` stores for a datetime."""
        return end.astimezone(UTC).isoformat()

    def parse_expiry(self, text: str) -> datetime:
        """Returns the datetime of a text from `format_expiry`."""
        return datetime.fromisoformat(text)

    def _expiry(
        self, modification: datetime | None, expiry: Expiry | _Missing
    ) -> tuple[datetime, int | datetime | None]:
        """Returns the time of the change and the expiry: the arguments, or else now and the value of `set_expiry()`.

        Raises ValueError for a text that is not a datetime, and TypeError for other types.
        """
        changed = utc_now(self._clock) if modification is None else _aware(modification)
        value = self.get(EXPIRY) if isinstance(expiry, _Missing) else expiry
        if not isinstance(expiry, _Missing) and value is not None:
            _require_expiry(value, "expiry", str)
        if isinstance(value, str):
            try:
                value = self.parse_expiry(value)
            except ValueError as error:
                raise ValueError(f"{value!r} is no date and time. Pass a text of datetime.isoformat().") from error
        return changed, value

    def _allowed_age(self, changed: datetime, requested: int) -> int:
        """Returns the seconds that the timeouts of a login leave after a change, or else `requested`."""
        if self.limit is None:
            return requested
        return max(0, min(self.limit.idle, self.created + self.limit.absolute - int(changed.timestamp())))


def _require_expiry(value: object, name: str, *further: type) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, datetime, *further)):
        raise TypeError(
            f"{name} takes seconds as a whole number, a datetime or None, and got {describe(value)}. Pass one of these."
        )


def _aware(moment: datetime) -> datetime:
    if not isinstance(moment, datetime):
        raise TypeError(f"This is {describe(moment)}, and not a datetime. Pass datetime.now(UTC).")
    if moment.tzinfo is None:
        raise ValueError("The datetime has no time zone. Use datetime.now(UTC) + timedelta(…).")
    return moment
