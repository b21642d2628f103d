"""Secret keys: signatures under a key per purpose, and the random keys of sessions."""

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
    """One or more secret keys, newest first: the newest signs, all are accepted."""

    def __init__(self, secret_key: str | Sequence[str]) -> None:
        self.all = (secret_key,) if isinstance(secret_key, (str, bytes)) else tuple(secret_key or ())
        if not self.all or not all(isinstance(key, str) and key for key in self.all):
            raise ImproperlyConfigured(
                "secret_key is empty, or no text. Make one with "
                '`python -c "import secrets; print(secrets.token_urlsafe(50))"` and keep it out of the repository.'
            )
        if len(self.all[0]) < 32:
            logger.warning("secret_key has fewer than 32 characters; make one with secrets.token_urlsafe(50).")

    def __repr__(self) -> str:
        return f"<SecretKeys: {len(self.all)}>"

    def sign(self, purpose: str, value: str) -> str:
        """The newest key's signature, 64 hexadecimal digits."""
        return salted_hmac(purpose, value, self.all[0])

    def verify(self, purpose: str, value: str, signature: str) -> int | None:
        """Which key made the signature (0 is the newest); None if none of them did."""
        for index, key in enumerate(self.all):
            if hmac.compare_digest(salted_hmac(purpose, value, key).encode(), signature.encode("utf-8", "replace")):
                return index
        return None


def salted_hmac(salt: str, value: str, secret: str) -> str:
    """HMAC-SHA256 under a key made of salt and secret, as Django's `salted_hmac(…, algorithm="sha256")`."""
    return hmac.digest(_key(salt, secret), value.encode(), "sha256").hex()


@functools.lru_cache(maxsize=64)
def _key(salt: str, secret: str) -> bytes:
    return hashlib.sha256(salt.encode() + secret.encode()).digest()


def new_key() -> str:
    return secrets.token_urlsafe(32)


def is_key(cookie: str) -> bool:
    """Whether a cookie has the form of a key; anything else is not worth a question to the database."""
    return len(cookie) == KEY_LENGTH and cookie.isascii() and cookie.replace("-", "a").replace("_", "a").isalnum()


def hash_key(session_key: str) -> str:
    """What is stored in place of the key: whoever reads the database cannot log in with it."""
    return sha256_hex(session_key)


def sha256_hex(text: str) -> str:
    """Returns the SHA-256 of a text, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
