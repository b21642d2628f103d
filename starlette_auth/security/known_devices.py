"""Known devices: which browsers has a user logged in from before?"""

import re
import secrets
from dataclasses import replace

from starlette.requests import HTTPConnection

from ..core.signing import SecretKeys, is_key
from ..http.cookies import Cookie
from ..http.scope import NEW_DEVICE
from ..users.models import User

PURPOSE = "starlette_auth.device"
ONE_YEAR = 365 * 24 * 60 * 60
MAX_USERS = 5  # per browser
SIGNATURE = re.compile("[0-9a-f]{64}")


class KnownDevices:
    """Recognizes the browsers that a user has logged in with, by a signed cookie.

    The cookie holds an identifier of the browser, and a signature for each user who logged in with it. It grants no
    access. It gives the browser its own counter in the throttle: the owner of an account can log in while an attacker's
    attempts have to wait. It also shows whether a login comes from a new browser. OWASP calls this "device cookies".
    """

    def __init__(self, keys: SecretKeys, cookie: Cookie) -> None:
        self.keys = keys
        self.cookie = replace(cookie, name="device", max_age=ONE_YEAR)

    def known(self, conn: HTTPConnection, user: User) -> str:
        """Returns this browser's identifier if `user` has logged in with it before; otherwise ""."""
        device, signatures = self._read(conn)
        subject = f"{device}:{user.id}"
        verified = [self.keys.verify(PURPOSE, subject, signature) is not None for signature in signatures]
        return device if any(verified) else ""

    def remember(self, conn: HTTPConnection, user: User) -> None:
        """Adds the user to this browser's cookie, which the response will set."""
        device, signatures = self._read(conn)
        device = device or secrets.token_urlsafe(32)
        subject = f"{device}:{user.id}"
        # The user's previous signature is dropped, even one by an older key: it would take the place of another user's.
        other_users = [signature for signature in signatures if self.keys.verify(PURPOSE, subject, signature) is None]
        new_signature = self.keys.sign(PURPOSE, subject)
        conn.scope[NEW_DEVICE] = ".".join([device, new_signature, *other_users[: MAX_USERS - 1]])

    def _read(self, conn: HTTPConnection) -> tuple[str, list[str]]:
        value = conn.scope.get(NEW_DEVICE) or self.cookie.read(conn.scope) or ""
        device, *signatures = value.split(".")
        # Malformed parts are dropped. Otherwise they would be copied into the next cookie, and browsers reject a cookie
        # that is too long.
        well_formed = [signature for signature in signatures[:MAX_USERS] if SIGNATURE.fullmatch(signature)]
        return (device, well_formed) if is_key(device) else ("", [])
