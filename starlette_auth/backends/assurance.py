"""What must the login of a session have proved, so that the session counts at each request?"""

from typing import Protocol

from ..users.models import User


class Assurance(Protocol):
    """Says what the logins of a user must have proved: `auth.session_backend.assurance`, which a feature sets.

    The login pages ask for it with a step. A session can also begin elsewhere: at a Django page, by a proxy, by a bare
    `login()`, or before the feature was there. Therefore each request asks too.
    """

    async def has_factor(self, user: User) -> bool:
        """Returns whether the user has a second factor. It is asked once for a session that did not begin by our pages."""

    def required_level(self, user: User) -> int:
        """Returns the level that a session of this user must have. It is asked at each request, and must be quick."""
