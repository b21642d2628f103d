"""The tests of users run again here, with engines."""

from ..users.test_users import *  # noqa: F403
