"""Sessions that the browser keeps, signed."""

import hashlib
import secrets
import time
from collections.abc import Sequence
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from ..exceptions import SessionTooLarge
from ..signing import SecretKeys
from .base import Clock, SessionBase, encode

SALT = "starlette_auth.sessions.cookie"
LIMIT = 4096  # bytes that every browser keeps of a cookie: name, value and attributes (RFC 6265 §6.1)
ROOM_FOR_NAME_AND_FLAGS = 160
LIMIT_UNPACKED = 16 * 1024


class CookieStore:
    """Nothing is kept on the server: whoever has the cookie can read it, nobody can change it.

    A signed cookie cannot be called back: after a logout a copy works, and renews itself, until the password changes.
    `session_key` is an identifier that the cookie carries.
    """

    def __init__(self, secret_key: str | Sequence[str] | SecretKeys, *, clock: Clock = time.time) -> None:
        self._keys = secret_key if isinstance(secret_key, SecretKeys) else SecretKeys(secret_key)
        self._clock = clock
        # itsdangerous signs with the last key, we with the first.
        self._signer = URLSafeSerializer(
            list(reversed(self._keys.all)),
            salt=SALT,
            serializer_kwargs={"ensure_ascii": True},
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    async def load(self, cookie: str) -> SessionBase:
        try:
            expires, key, data = self._read(cookie)
        except (BadData, ValueError, TypeError, UnicodeError):
            return SessionBase(clock=self._clock)
        if expires <= self._clock():
            return SessionBase(clock=self._clock)
        return SessionBase(data, session_key=key, saved=encode(data), clock=self._clock)

    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key = session.encode(), session.session_key or secrets.token_urlsafe(16)
        if len(saved) > LIMIT_UNPACKED:
            # A few bytes of a cookie can stand for a megabyte, to be unpacked at each request.
            raise SessionTooLarge(
                f"The session takes {len(saved)} bytes, more than {LIMIT_UNPACKED}. Use DatabaseStore."
            )
        value = self._signer.dumps([int(self._clock()) + max_age, key, session])
        text = value.decode() if isinstance(value, bytes) else value
        if len(text) > LIMIT - ROOM_FOR_NAME_AND_FLAGS:
            raise SessionTooLarge(
                f"The session takes {len(text)} bytes as a cookie, and browsers keep {LIMIT} with its name and flags. "
                "Store less in it, or use DatabaseStore."
            )
        session.mark_saved(key, saved)
        return text

    async def delete(self, session_key: str) -> None:
        """There is nothing on the server to delete."""

    async def clear_expired(self) -> int:
        """There is nothing on the server to clear."""
        return 0

    def _read(self, cookie: str) -> tuple[int, str, dict[str, Any]]:
        expires, key, data = self._signer.loads(cookie)
        if not (isinstance(expires, int) and isinstance(key, str) and isinstance(data, dict)):
            raise ValueError("This was signed by us, but is no session.")
        return expires, key, data
