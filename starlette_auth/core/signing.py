"""Secret keys: signatures with a derived key per purpose, and random session keys."""

import functools
import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence

from .exceptions import ImproperlyConfigured

logger = logging.getLogger("starlette_auth")
KEY_LENGTH = 43  # characters of base64 that hold 256 bits


class SecretKeys:
    """Holds one or more secret keys, newest first. The newest signs; signatures by all are accepted."""

    def __init__(self, secret_key: str | Sequence[str]) -> None:
        self.all = (secret_key,) if isinstance(secret_key, (str, bytes)) else tuple(secret_key or ())
        if not self.all or not all(isinstance(key, str) and key for key in self.all):
            raise ImproperlyConfigured(
                "secret_key is empty or not a str. Generate one with "
                '`python -c "import secrets; print(secrets.token_urlsafe(50))"` and keep it out of the repository.'
            )
        if len(self.all[0]) < 32:
            logger.warning("secret_key has fewer than 32 characters. Generate one with secrets.token_urlsafe(50).")

    def __repr__(self) -> str:
        return f"<SecretKeys: {len(self.all)}>"

    def sign(self, purpose: str, value: str) -> str:
        """Returns the signature by the newest key, 64 hexadecimal digits."""
        return salted_hmac(purpose, value, self.all[0])

    def verify(self, purpose: str, value: str, signature: str) -> int | None:
        """Returns the index of the key that made the signature (0 is the newest), or None."""
        for index, key in enumerate(self.all):
            if hmac.compare_digest(salted_hmac(purpose, value, key).encode(), signature.encode("utf-8", "replace")):
                return index
        return None


def salted_hmac(salt: str, value: str, secret: str) -> str:
    """Returns the HMAC-SHA256 of a value, 64 hexadecimal digits, with a key derived from salt and secret.

    The result equals Django's `salted_hmac(…, algorithm="sha256")`.
    """
    return hmac.digest(_key(salt, secret), value.encode(), "sha256").hex()


@functools.lru_cache(maxsize=64)
def _key(salt: str, secret: str) -> bytes:
    return hashlib.sha256(salt.encode() + secret.encode()).digest()


def new_key() -> str:
    return secrets.token_urlsafe(32)


def is_key(cookie: str) -> bool:
    """Tells whether a cookie value has the format of a session key. Other values need no database query."""
    return len(cookie) == KEY_LENGTH and cookie.isascii() and cookie.replace("-", "a").replace("_", "a").isalnum()


def hash_key(session_key: str) -> str:
    """Returns the SHA-256 of a session key, which is stored in place of the key.

    An attacker who reads the database could otherwise use the stored keys as cookies.
    """
    return sha256_hex(session_key)


def sha256_hex(text: str) -> str:
    """Returns the SHA-256 of a text, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
