"""What time is it? The shared clock, and units of time in seconds."""

from collections.abc import Callable
from datetime import UTC, datetime

#: Returns the seconds since 1970 (UTC). All parts share the one passed as `Auth(clock=…)`; tests can replace it.
Clock = Callable[[], float]
MINUTE, HOUR, DAY = 60, 60 * 60, 24 * 60 * 60
TWO_WEEKS = 14 * DAY


def utc_now(clock: Clock) -> datetime:
    """Returns the current time as an aware datetime in UTC."""
    return datetime.fromtimestamp(clock(), UTC)
