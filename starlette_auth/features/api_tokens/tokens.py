"""What does an API token look like, and what is known about one?"""

import json
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field
from typing import Any

from ...core.arguments import require_text
from ...core.exceptions import ImproperlyConfigured

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase  # base 62
RANDOM, CHECKSUM = 30, 6  # characters; 30 of base 62 have 178 bits
HINT = 4  # characters of a token that its owner sees later
PERMISSION = re.compile(r"[^\s*.]+\.[^\s*]+")
PREFIX = re.compile(r"[a-z][a-z0-9_]{0,18}[a-z0-9]")


@dataclass(frozen=True, kw_only=True)
class APIToken:
    """Represents a row of `auth_api_token`. Times are in seconds since 1970, UTC.

    `scopes` are the permissions to which the token is limited; None means all permissions of its owner. `hint` is the
    beginning of the token. `token` is the token itself: `create` returns it once, and it cannot be read again.
    """

    id: int
    name: str
    hint: str
    scopes: tuple[str, ...] | None
    created: int
    expires: int
    last_used: int | None = None
    last_address: str = ""
    token: str | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Returns the fields for JSON. `token` is among them only if it was just created."""
        fields = {**vars(self), "scopes": None if self.scopes is None else list(self.scopes)}
        return {name: value for name, value in fields.items() if name != "token" or value is not None}


class TokenFormat:
    """Makes and recognises tokens: the prefix, 30 random characters, and 6 characters of their CRC-32.

    The prefix and the checksum let scanners of source code find a token that was published, without false alarms. A
    double click selects the whole token.
    """

    def __init__(self, prefix: str) -> None:
        fix = 'Pass the name of the site, as in prefix="shop".'
        require_text(prefix, "prefix", fix)
        if not PREFIX.fullmatch(prefix):
            raise ImproperlyConfigured(
                f"prefix={prefix!r} is not 2 to 20 lower-case letters, digits and _ that begin with a letter. {fix}"
            )
        self.prefix = f"{prefix}_"
        self._pattern = re.compile(re.escape(self.prefix) + f"[0-9A-Za-z]{{{RANDOM + CHECKSUM}}}")

    def make(self) -> str:
        """Returns a new random token."""
        text = "".join(secrets.choice(ALPHABET) for _ in range(RANDOM))
        return f"{self.prefix}{text}{checksum(text)}"

    def is_valid(self, token: str) -> bool:
        """Returns whether a text has the format of a token and its checksum is right. It may be unknown."""
        if not self._pattern.fullmatch(token):
            return False
        return checksum(token[len(self.prefix) : -CHECKSUM]) == token[-CHECKSUM:]

    def hint(self, token: str) -> str:
        return token[: len(self.prefix) + HINT]


def checksum(text: str) -> str:
    """Returns the CRC-32 of a text in base 62, six characters."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECKSUM):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def is_permission(scope: str) -> bool:
    """Returns whether a scope names one permission. A wildcard would name several, and later ones, too."""
    return PERMISSION.fullmatch(scope) is not None


def parse_scopes(stored: str | None) -> tuple[str, ...] | None:
    return None if stored is None else tuple(json.loads(stored))
