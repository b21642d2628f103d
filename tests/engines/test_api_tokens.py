"""The tests of API tokens run again here, with engines."""

from ..features.test_api_tokens import *  # noqa: F403
