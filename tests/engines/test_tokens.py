"""The tests of single-use tokens run again here, with engines."""

from ..security.test_tokens import *  # noqa: F403
