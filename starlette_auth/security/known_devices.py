"""Which browsers has a user logged in from before?"""

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
MAX_USERS = 5  # of one browser
SIGNATURE = re.compile("[0-9a-f]{64}")


class KnownDevices:
    """A cookie that holds a browser's identifier, and a signature for each user who logged in with it.

    It opens nothing. It lets the owner of an account try a password while strangers are kept waiting, and tells
    whether a login comes from somewhere new (OWASP: "device cookies").
    """

    def __init__(self, keys: SecretKeys, cookie: Cookie) -> None:
        self.keys = keys
        self.cookie = replace(cookie, name="device", max_age=ONE_YEAR)

    def known(self, conn: HTTPConnection, user: User) -> str:
        """This browser's identifier, if `user` logged in with it before; else nothing."""
        device, signatures = self._read(conn)
        subject = f"{device}:{user.id}"
        good = [self.keys.verify(PURPOSE, subject, signature) is not None for signature in signatures]
        return device if any(good) else ""

    def remember(self, conn: HTTPConnection, user: User) -> None:
        """Asks for the cookie to be set with the response."""
        device, signatures = self._read(conn)
        device = device or secrets.token_urlsafe(32)
        subject = f"{device}:{user.id}"
        # A signature of the same user's, by an older key, must not keep another's place.
        others = [signature for signature in signatures if self.keys.verify(PURPOSE, subject, signature) is None]
        mine = self.keys.sign(PURPOSE, subject)
        conn.scope[NEW_DEVICE] = ".".join([device, mine, *others[: MAX_USERS - 1]])

    def _read(self, conn: HTTPConnection) -> tuple[str, list[str]]:
        value = conn.scope.get(NEW_DEVICE) or self.cookie.read(conn.scope) or ""
        device, *signatures = value.split(".")
        # Whatever else stood there would be carried along; a browser keeps no cookie that is too long.
        ours = [signature for signature in signatures[:MAX_USERS] if SIGNATURE.fullmatch(signature)]
        return (device, ours) if is_key(device) else ("", [])
