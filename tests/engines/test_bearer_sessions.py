"""The tests of sessions of apps run again here, with engines."""

from ..features.test_bearer_sessions import *  # noqa: F403
