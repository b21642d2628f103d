"""Sessions in signed cookies."""

import hashlib
import logging
import re
import time
from collections.abc import Sequence

from itsdangerous import BadData, BadSignature, URLSafeSerializer

from ..core.arguments import require_clock
from ..core.clock import Clock
from ..core.exceptions import ImproperlyConfigured, SessionTooLarge
from ..core.signing import SecretKeys
from ..database.tables import Tables
from .base import SessionBase
from .records import SessionRecord, decode, encode, time_to_keep, user_in
from .store import SessionStore, cookie_value

logger = logging.getLogger("starlette_auth")
SALT = "starlette_auth.sessions.cookie"
USE = "starlette_auth.sessions.use"
NOTE = re.compile("([0-9]{1,12})-([0-9]{1,12})-([0-9a-f]{64})")  # last use, expiry (Unix time), and the signature
LIMIT = 4096  # bytes of name, value and attributes that every browser stores for a cookie (RFC 6265 §6.1)
ROOM_FOR_NAME_AND_FLAGS = 160  # bytes
INVALID = (BadData, ValueError, TypeError)  # the exceptions for an invalid cookie
LIMIT_UNPACKED = 16 * 1024  # bytes


class CookieStore(SessionStore):
    """Keeps each session in its cookie, signed and not encrypted. The server stores nothing.

    The user can read the cookie but not change it. It cannot be revoked: after a logout, a copy of the cookie works
    until it expires or the password changes, because the cookie contains a hash that depends on the password.
    `session_key` is an identifier inside the cookie. A cookie that an older secret key signed is signed again with the
    newest key by the next response. If several requests change the session at once, the last response wins.

    A request that was under way at the logout must not set the cookie again. Therefore a request that only reads the
    session does not: the browser keeps the last use in a second cookie, which grants no access. A third cookie names
    the sessions that ended in this browser, in case a late response sets the cookie of one of them again. It names them
    by the first key in their cookies, which `cycle_key()` does not change.
    """

    is_server_side = False

    def __init__(self, secret_key: str | Sequence[str] | SecretKeys, *, clock: Clock = time.time) -> None:
        self.keys = secret_key if isinstance(secret_key, SecretKeys) else SecretKeys(secret_key)
        require_clock(clock)
        self._clock = clock
        self._use_keys(self.keys)

    def _use_keys(self, keys: SecretKeys) -> None:
        self.keys, salt = keys, keys.salt(SALT)
        self._newest_signer, self._any_signer = _signer(keys.all[:1], salt), _signer(keys.all, salt)

    def attach(self, database_url: str, tables: Tables) -> None:
        """Signs cookies for the users of these tables only.

        An attacker sends a cookie of one site to another one with the same secret key, where the user of the same number
        is another person; therefore the signature depends on the user table.
        """
        if self._owner not in ("", tables.user.fullname):
            raise ImproperlyConfigured(
                f"This CookieStore signs the sessions of users of {self._owner}. Make a CookieStore for each Auth."
            )
        self._owner = tables.user.fullname
        self._use_keys(self.keys.scoped(tables.namespace))

    async def load(self, cookie: str) -> SessionBase:
        return await self.load_used(cookie, ())

    async def load_used(self, cookie: str, notes: Sequence[str]) -> SessionBase:
        try:
            record, first_key, is_old = self._decode_cookie(cookie)
        except BadSignature:  # another application set it, or its key was removed
            return SessionBase(clock=self._clock)
        except INVALID:
            logger.warning("A cookie with a valid signature does not contain a session and is ignored.")
            return SessionBase(clock=self._clock)
        for note in notes:
            record = self._last_used(record, cookie, note)
        if record.expires <= self._clock():
            return SessionBase(clock=self._clock)
        session = SessionBase(
            decode(record.data),
            session_key=record.public_id,
            first_key=first_key,
            record=record,
            clock=self._clock,
        )
        if is_old:
            session.modified = True
        return session

    def key_in(self, cookie: str) -> str:
        try:
            return self._decode_cookie(cookie)[0].public_id
        except INVALID:
            return ""

    def note_use(self, session: SessionBase, cookie: str) -> str:
        """Returns a note of the last use, after at least 5 % of the idle timeout.

        The note is valid for this cookie only, not for the cookie after a change of the session.
        """
        if not session.needs_touch:
            return ""
        now, age = int(self._clock()), session.get_expiry_age()
        if now - session.last_seen < age // 20:
            return ""
        return f"{now}-{now + age}-{self.keys.sign(USE, f'{cookie}:{now}:{now + age}')}"

    def _last_used(self, record: SessionRecord, cookie: str, note: str) -> SessionRecord:
        """Returns the record with the last use of a note, if the note belongs to this cookie and is newer."""
        match = NOTE.fullmatch(note)
        if match is None or int(match[1]) <= record.last_seen:
            return record
        if self.keys.verify(USE, f"{cookie}:{match[1]}:{match[2]}", match[3]) is None:
            return record
        return record._replace(last_seen=int(match[1]), expires=int(match[2]))

    async def save(self, session: SessionBase, max_age: int) -> str:
        data, now = session.encode(), int(self._clock())
        if len(data) > LIMIT_UNPACKED:
            # The cookie is compressed: a small cookie could hold megabytes that every request would decompress.
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
        first_key = session.first_key or record.public_id
        text = _as_text(self._newest_signer.dumps([record.public_id, times, session, first_key]))
        if len(text) > LIMIT - ROOM_FOR_NAME_AND_FLAGS:
            raise SessionTooLarge(
                f"The session takes {len(text)} bytes as a cookie. Browsers keep {LIMIT} with name and attributes. "
                "Store less in it, or use DatabaseStore."
            )
        session.mark_saved(record.public_id, record, data)
        return cookie_value(text, data)

    async def delete(self, session_key: str) -> None:
        """Does nothing: the server stores no session."""

    def _decode_cookie(self, cookie: str) -> tuple[SessionRecord, str, bool]:
        """Returns the record in a cookie, its first key, and whether an older secret key signed it."""
        try:
            content, is_old = self._newest_signer.loads(cookie), False
        except BadSignature:
            content, is_old = self._any_signer.loads(cookie), True
        key, (created, last_seen, expires), data, first_key = content
        if not (
            isinstance(key + first_key, str)
            and isinstance(data, dict)
            and isinstance(created + last_seen + expires, int)
        ):
            raise ValueError("The cookie has a valid signature but does not contain a session.")
        return SessionRecord(encode(data), key, user_in(data), created, last_seen, expires), first_key, is_old


def _signer(keys: Sequence[str], salt: str) -> URLSafeSerializer:
    return URLSafeSerializer(
        list(reversed(keys)),  # itsdangerous signs with the last key, this package with the first
        salt=salt,
        serializer_kwargs={"ensure_ascii": True},
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
