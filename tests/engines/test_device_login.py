"""The tests of device login run again here, with engines."""

from ..features.test_device_login import *  # noqa: F403
