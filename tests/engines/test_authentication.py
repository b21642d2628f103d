"""The tests of logins run again here, with engines."""

from ..test_authentication import *  # noqa: F403
