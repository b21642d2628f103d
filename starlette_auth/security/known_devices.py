"""Known devices: which browsers has a user logged in from before?"""

import re
import secrets
from dataclasses import replace

from starlette.requests import HTTPConnection

from ..core.signing import is_key
from ..http.cookies import MAX_VALUES, Cookie
from ..http.scope import NEW_DEVICE
from ..users.models import User
from .tokens import Tokens

PURPOSE = "starlette_auth.device"
GENERATION = "devices"  # the purpose of the token that marks a user's current generation of cookies
DAY = 24 * 60 * 60
ONE_YEAR = 365 * DAY
MAX_USERS = 5  # per browser
# When the user logged in (Unix time), the generation of the cookie, and the signature.
ENTRY = re.compile("([0-9]{1,12})-([0-9a-f]{16})?-([0-9a-f]{64})")

Browser = tuple[str, list[re.Match[str]]]  # the identifier of a browser, and an entry for each user


class KnownDevices:
    """Recognizes the browsers that a user has logged in with, by a signed cookie.

    The cookie holds an identifier of the browser, and a signed entry for each user who logged in with it. It grants no
    access. It gives the browser its own counter in the throttle: the owner of an account can log in while an attacker's
    attempts have to wait. It also shows whether a login comes from a new browser. OWASP calls this "device cookies".
    Passwords and second factors are counted so.

    An attacker may copy the cookie from a browser, and would stay known for ever. Therefore an entry is valid for a
    year after the login, and `revoke_all` ends the generation of all entries of a user.
    """

    def __init__(self, tokens: Tokens, cookie: Cookie) -> None:
        self.tokens = tokens
        self.keys = tokens.keys
        self.cookie = replace(cookie, name="device", max_age=ONE_YEAR)

    async def known(self, conn: HTTPConnection, user: User) -> str:
        """Returns the name of this browser's counter if `user` has logged in with it before; otherwise "".

        An attacker measures response times, which would show that an account exists. Therefore the database is asked
        only about an entry with a valid signature.
        """
        browsers = [
            (device, generations)
            for device, entries in self._browsers(conn)
            if (generations := {entry[2] or "" for entry in entries if self._is_signed(device, user, entry)})
        ]
        if not browsers:
            return ""
        generation = await self.generation(user)
        # Without a stored generation no entry was revoked within a year.
        counters = (
            device + (generation or max(own)) for device, own in browsers if not generation or generation in own
        )
        return next(counters, "")

    async def remember(self, conn: HTTPConnection, user: User) -> None:
        """Adds the user to this browser's cookie, which the response will set."""
        browsers = self._browsers(conn) or [(secrets.token_urlsafe(32), [])]

        def has_entry(browser: Browser) -> bool:
            return any(self._is_signed(browser[0], user, entry) for entry in browser[1])

        # Of several cookies, the one with an entry of this user is kept, or else the one with the most entries.
        device, entries = max(browsers, key=lambda browser: (has_entry(browser), len(browser[1])))
        # The user's previous entry is dropped, even one by an older key: it would take the place of another user's.
        other_users = [entry[0] for entry in entries if not self._is_signed(device, user, entry)]
        generation, issued = await self.generation(user), str(int(self.tokens.clock()))
        signature = self.keys.sign(PURPOSE, _subject(device, user, issued, generation))
        new_entry = f"{issued}-{generation}-{signature}"
        conn.scope[NEW_DEVICE] = ".".join([device, new_entry, *other_users[: MAX_USERS - 1]])

    async def revoke_all(self, user: User, *, keep: HTTPConnection | None = None) -> None:
        """Makes all browsers unknown to the user, except that of the request `keep` if it was known."""
        is_kept = keep is not None and await self.known(keep, user)
        now, max_age = int(self.tokens.clock()), ONE_YEAR + DAY
        for token in await self.tokens.recent(GENERATION, owner_of_devices(user)):
            # The latest expiry marks the current generation, also among those of one second.
            max_age = max(max_age, token.expires + 1 - now)
            await self.tokens.consume(token)
        await self.tokens.create(GENERATION, owner_of_devices(user), max_age=max_age)
        if keep is not None and is_kept:
            await self.remember(keep, user)

    async def generation(self, user: User) -> str:
        """Returns the user's current generation of entries; "" if none was revoked within a year."""
        newest = await self.tokens.recent(GENERATION, owner_of_devices(user))
        return newest[0].token_hash[:16] if newest else ""

    def _is_signed(self, device: str, user: User, entry: re.Match[str]) -> bool:
        issued, generation, signature = entry.groups(default="")
        return self.keys.verify(PURPOSE, _subject(device, user, issued, generation), signature) is not None

    def _browsers(self, conn: HTTPConnection) -> list[Browser]:
        """Returns the identifier and the entries of each cookie that the browser sends."""
        new = conn.scope.get(NEW_DEVICE)
        # Malformed and expired entries are dropped. Otherwise they would be copied into the next cookie, and browsers
        # reject a cookie that is too long.
        oldest, browsers = self.tokens.clock() - ONE_YEAR, list[Browser]()
        for value in [new] if new else self.cookie.values(conn.scope)[:MAX_VALUES]:
            device, *texts = value.split(".")
            matches = [ENTRY.fullmatch(text) for text in texts[:MAX_USERS]]
            entries = [match for match in matches if match is not None and int(match[1]) > oldest]
            if is_key(device):
                browsers.append((device, entries))
        return browsers


def owner_of_devices(user: User) -> str:
    """Returns the subject of the token that marks the current generation of a user's cookies."""
    return f"devices of user {user.id}"


def _subject(device: str, user: User, issued: str, generation: str) -> str:
    # SQLite reuses the primary keys of deleted rows; therefore `date_joined` must match too.
    return f"{device}:{user.id}:{user.date_joined}:{issued}:{generation}"
