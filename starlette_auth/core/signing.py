"""Secret keys: signatures with a derived key per purpose, and random session keys."""

import copy
import functools
import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence

from .exceptions import ImproperlyConfigured
from .text import visible_characters

logger = logging.getLogger("starlette_auth")
GENERATE_KEY = 'Generate a key with `python -c "import secrets; print(secrets.token_urlsafe(50))"`.'
MIN_KEY_LENGTH, MIN_DIFFERENT_CHARACTERS = 32, 5
RECOMMENDED_KEY_LENGTH = 50  # as in Django's check security.W009
PLACEHOLDER = "changeme"  # from our own documentation: "change-me-to-fifty-random-characters-please"
KEY_LENGTH = 43  # characters of base64 that hold 256 bits


class SecretKeys:
    """Holds one or more secret keys, newest first. The newest signs; signatures by all are accepted.

    Logs a warning for each key that could be guessed. `require_strong` refuses such keys.
    """

    def __init__(self, secret_key: str | Sequence[str]) -> None:
        self._scope = ""
        is_one = isinstance(secret_key, str | bytes | Mapping) or not isinstance(secret_key, Iterable)
        self.all: tuple[str, ...] = (secret_key,) if is_one else tuple(secret_key)  # type: ignore[assignment]
        if not self.all or not all(isinstance(key, str) and key for key in self.all):
            raise ImproperlyConfigured(
                f"secret_key is empty or not a str. {GENERATE_KEY[:-1]} and keep it out of the repository."
            )
        for index, key in enumerate(self.all):
            if reason := _weakness(key) or _doubt(key):
                logger.warning("%s %s. %s", _name(index), reason, GENERATE_KEY)

    def scoped(self, namespace: str) -> "SecretKeys":
        """Returns the same keys for the users of one table, named by `namespace`. "" stands for the default table.

        Two user tables may have the same secret key, and users of the same number. A signature for a user of one table
        would otherwise be valid for a user of the other.
        """
        keys = copy.copy(self)
        keys._scope = f" {namespace}" if namespace else ""
        return keys

    def salt(self, purpose: str) -> str:
        """Returns what distinguishes the signatures for a purpose, and a user table, from all others."""
        return purpose + self._scope

    def require_strong(self) -> None:
        """Raises ImproperlyConfigured if one of the keys could be guessed.

        An attacker who guesses a key signs links and cookies, which would log in as any user. Old keys are still
        accepted. Therefore all keys must be strong.
        """
        for index, key in enumerate(self.all):
            if reason := _weakness(key):
                raise ImproperlyConfigured(
                    f"{_name(index)} {reason}, which is too weak for a site with an https base_url. {GENERATE_KEY}"
                )

    def __repr__(self) -> str:
        return f"<SecretKeys: {len(self.all)}>"

    def sign(self, purpose: str, value: str) -> str:
        """Returns the signature by the newest key, 64 hexadecimal digits."""
        return salted_hmac(self.salt(purpose), value, self.all[0])

    def verify(self, purpose: str, value: str, signature: str) -> int | None:
        """Returns the index of the key that made the signature (0 is the newest), or None."""
        salt = self.salt(purpose)
        for index, key in enumerate(self.all):
            if hmac.compare_digest(salted_hmac(salt, value, key).encode(), signature.encode("utf-8", "replace")):
                return index
        return None


def require_strong_keys(base_url: str | None, *holders: object) -> None:
    """Raises ImproperlyConfigured if the site is public, with an https `base_url`, and uses a key that could be guessed.

    `holders` are objects that may have keys of their own, in the attribute `keys`.
    """
    for holder in holders if (base_url or "").startswith("https://") else ():
        keys = getattr(holder, "keys", None)
        if isinstance(keys, SecretKeys):
            keys.require_strong()


def _name(index: int) -> str:
    return f"secret_key[{index}] (an old key)" if index else "secret_key"


def _weakness(key: str) -> str:
    """Returns why a key could be guessed; "" if it could not."""
    if PLACEHOLDER in "".join(filter(str.isalnum, key.lower())):
        return "is a placeholder from the documentation"
    if len(key.strip()) < MIN_KEY_LENGTH:
        return f"has fewer than {MIN_KEY_LENGTH} characters"
    if len(set(visible_characters(key))) < MIN_DIFFERENT_CHARACTERS:
        return f"has fewer than {MIN_DIFFERENT_CHARACTERS} different characters"
    return ""


def _doubt(key: str) -> str:
    """Returns what else Django's check security.W009 finds in a key."""
    if key.startswith("django-insecure-"):
        return "begins with django-insecure-: Django made it for development"
    if len(key) < RECOMMENDED_KEY_LENGTH:
        return f"has fewer than {RECOMMENDED_KEY_LENGTH} characters"
    return ""


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
