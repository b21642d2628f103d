"""The tests of usernames run again here, with engines."""

from ..users.test_usernames import *  # noqa: F403
