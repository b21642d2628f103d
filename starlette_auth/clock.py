"""What time it is."""

from collections.abc import Callable
from datetime import UTC, datetime

#: Gives the seconds since 1970, UTC. There is one for everything, `Auth(clock=…)`, and tests can set it.
Clock = Callable[[], float]


def moment(clock: Clock) -> datetime:
    """Now, with its time zone."""
    return datetime.fromtimestamp(clock(), UTC)
