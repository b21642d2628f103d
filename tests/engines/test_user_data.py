"""The tests of user data run again here, with engines."""

from ..users.test_user_data import *  # noqa: F403
