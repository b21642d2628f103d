"""Sessions in signed cookies."""

import hashlib
import time
from collections.abc import Sequence

from itsdangerous import BadData, BadSignature, URLSafeSerializer

from ..core.clock import Clock
from ..core.exceptions import SessionTooLarge
from ..core.signing import SecretKeys
from .base import SessionBase
from .records import SessionRecord, decode, encode, time_to_keep, user_in
from .store import SessionStore, cookie_value

SALT = "starlette_auth.sessions.cookie"
LIMIT = 4096  # bytes that every browser keeps of a cookie: name, value and attributes (RFC 6265 §6.1)
ROOM_FOR_NAME_AND_FLAGS = 160
LIMIT_UNPACKED = 16 * 1024


class CookieStore(SessionStore):
    """Nothing is kept on the server: whoever has the cookie can read it, nobody can change it.

    A signed cookie cannot be called back: after a logout a copy works on, until its time is over or the password
    changes, as the cookie names a hash of that. `session_key` is an identifier that the cookie carries. One that an
    older secret key signed is signed anew at once. Of requests at the same time, the last answer wins.
    """

    is_server_side = False

    def __init__(self, secret_key: str | Sequence[str] | SecretKeys, *, clock: Clock = time.time) -> None:
        keys = secret_key if isinstance(secret_key, SecretKeys) else SecretKeys(secret_key)
        self._clock = clock
        self._newest, self._any = _signer(keys.all[:1]), _signer(keys.all)

    async def load(self, cookie: str) -> SessionBase:
        try:
            record, is_renewed = self._read(cookie)
        except (BadData, ValueError, TypeError, UnicodeError):
            return SessionBase(clock=self._clock)
        if record.expires <= self._clock():
            return SessionBase(clock=self._clock)
        session = SessionBase(decode(record.data), session_key=record.public_id, record=record, clock=self._clock)
        # What others write down after the response has to travel with it here.
        session.modified = is_renewed or session.needs_touch
        return session

    async def save(self, session: SessionBase, max_age: int) -> str:
        data, now = session.encode(), int(self._clock())
        if len(data) > LIMIT_UNPACKED:
            # A few bytes of a cookie can stand for a megabyte, to be unpacked at each request.
            raise SessionTooLarge(
                f"The session takes {len(data)} bytes, more than {LIMIT_UNPACKED}. Use DatabaseStore."
            )
        record = SessionRecord(
            data=data,
            public_id=session.next_key,
            user_id=session.user_id,
            created=session.created,
            last_seen=now,
            expires=now + time_to_keep(data, max_age),
        )
        times = [record.created, record.last_seen, record.expires]
        text = _as_text(self._newest.dumps([record.public_id, times, session]))
        if len(text) > LIMIT - ROOM_FOR_NAME_AND_FLAGS:
            raise SessionTooLarge(
                f"The session takes {len(text)} bytes as a cookie, and browsers keep {LIMIT} with its name and flags. "
                "Store less in it, or use DatabaseStore."
            )
        session.mark_saved(record.public_id, record, data)
        return cookie_value(text, data)

    async def delete(self, session_key: str) -> None:
        """There is nothing on the server to delete."""

    def _read(self, cookie: str) -> tuple[SessionRecord, bool]:
        """What the cookie says, and whether it should be signed anew."""
        try:
            content, is_old = self._newest.loads(cookie), False
        except BadSignature:
            content, is_old = self._any.loads(cookie), True
        key, (created, last_seen, expires), data = content
        if not (isinstance(key, str) and isinstance(data, dict) and isinstance(created + last_seen + expires, int)):
            raise ValueError("This was signed by us, but is no session.")
        return SessionRecord(encode(data), key, user_in(data), created, last_seen, expires), is_old


def _signer(keys: Sequence[str]) -> URLSafeSerializer:
    return URLSafeSerializer(
        list(reversed(keys)),  # itsdangerous signs with the last key, we with the first
        salt=SALT,
        serializer_kwargs={"ensure_ascii": True},
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
