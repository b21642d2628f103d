"""The tests of requests at the same moment run again here, with engines."""

from ..features.test_token_races import *  # noqa: F403
