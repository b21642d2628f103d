"""Makes challenges that are stored only once they have been used."""

import json
import secrets
from collections.abc import Iterable

from ...core.clock import MINUTE
from ..tokens import Tokens

SALT = "starlette_auth.challenge"
RANDOM, TIME = 32, 8  # bytes
HEAD = RANDOM + TIME
CLOCK_SKEW = 5 * MINUTE  # between the servers of one site


class Challenges:
    """Makes and checks the challenges that a passkey signs. Each is accepted once.

    A challenge consists of 32 random bytes, its end, and a signature over these, the purpose, the browser and the user.
    Bots open the login page many times, which would fill a table with challenges. Therefore a challenge is stored only
    when it is used, until its end.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def make(self, purpose: str, *, browser: str, user: str = "", max_age: int = 5 * MINUTE) -> bytes:
        """Returns a new challenge of 72 bytes, valid for `max_age` seconds.

        `browser` is the secret in the cookie of the browser, and `user` the identity of its user, "" for a visitor.
        """
        end = int(self.tokens.clock()) + max_age
        head = secrets.token_bytes(RANDOM) + end.to_bytes(TIME, "big")
        signature = self.tokens.keys.sign(SALT, _content(head, purpose, browser, user))
        return head + bytes.fromhex(signature)

    def is_valid(self, challenge: bytes, purpose: str, *, browsers: Iterable[str], user: str = "") -> bool:
        """Returns whether the challenge was made for this purpose, browser and user, and has not ended.

        `browsers` are the secrets in the cookies of the browser: usually one. The challenge may have been used already.

        An attacker has a victim's browser send a credential that was made in the attacker's browser, which would log the
        victim in to the attacker's account. Therefore a challenge is valid in one browser only.
        """
        if _end(challenge) <= self.tokens.clock():
            return False
        head, signature = challenge[:HEAD], challenge[HEAD:].hex()
        contents = [_content(head, purpose, browser, user) for browser in browsers]
        return any(self.tokens.keys.verify(SALT, content, signature) is not None for content in contents)

    async def use(self, challenge: bytes, purpose: str, *, browsers: Iterable[str], user: str = "") -> bool:
        """Uses a valid challenge up. Returns True to exactly one of several concurrent callers.

        Call it after the signature of the passkey was verified: wrong signatures then store nothing.
        """
        if not self.is_valid(challenge, purpose, browsers=browsers, user=user):
            return False
        remaining = _end(challenge) - int(self.tokens.clock())
        return await self.tokens.burn(f"challenge {challenge[:HEAD].hex()}", remaining + CLOCK_SKEW)


def _end(challenge: bytes) -> int:
    return int.from_bytes(challenge[RANDOM:HEAD], "big")


def _content(head: bytes, purpose: str, browser: str, user: str) -> str:
    return json.dumps([purpose, browser, user, head.hex()])
