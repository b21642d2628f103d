"""Which time is it? The clock that every part shares, and units of time in seconds."""

from collections.abc import Callable
from datetime import UTC, datetime

#: Gives the seconds since 1970, UTC. There is one for everything, `Auth(clock=…)`, and tests can set it.
Clock = Callable[[], float]
MINUTE, HOUR, DAY = 60, 60 * 60, 24 * 60 * 60
TWO_WEEKS = 14 * DAY


def utc_now(clock: Clock) -> datetime:
    """Now, with its time zone."""
    return datetime.fromtimestamp(clock(), UTC)
