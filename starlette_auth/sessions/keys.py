"""The keys of sessions: 256 bits, of which stores keep a hash."""

import hashlib
import secrets
import time

KEY_LENGTH = 43  # characters of base64 that hold 256 bits


def new_key() -> str:
    return secrets.token_urlsafe(32)


def new_public_id() -> str:
    """What a session is called in front of its owner: 32 hexadecimal digits, those of later ones being greater.

    As long as the clocks of all machines agree: of sessions that begin on several, the order is theirs.
    """
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def is_key(cookie: str) -> bool:
    """Whether a cookie has the form of a key; anything else is not worth a question to the database."""
    return len(cookie) == KEY_LENGTH and cookie.isascii() and cookie.replace("-", "a").replace("_", "a").isalnum()


def hash_key(session_key: str) -> str:
    """What is stored in place of the key: whoever reads the database cannot log in with it."""
    return hashlib.sha256(session_key.encode()).hexdigest()
