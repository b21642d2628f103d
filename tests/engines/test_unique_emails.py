"""The tests of unique e-mail addresses run again here, with engines."""

from ..users.test_unique_emails import *  # noqa: F403
