"""The tests of permissions run again here, with engines."""

from ..users.test_permissions import *  # noqa: F403
