"""The tests of the throttle run again here, with engines: their upserts count rows in another way on MySQL."""

from ..security.test_throttle import *  # noqa: F403
