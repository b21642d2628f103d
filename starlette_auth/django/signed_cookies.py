"""Sessions in signed cookies, shared with Django."""

import logging
import time
from collections.abc import Sequence
from datetime import tzinfo
from typing import Any

from itsdangerous import BadData, BadSignature

from ..core.arguments import require_clock
from ..core.clock import TWO_WEEKS, Clock
from ..core.exceptions import SessionTooLarge
from ..core.signing import SecretKeys
from ..sessions.base import SessionBase
from ..sessions.cookie import LIMIT, ROOM_FOR_NAME_AND_FLAGS
from ..sessions.expiry import EXPIRY
from ..sessions.records import SessionRecord
from ..sessions.store import SessionStore, cookie_value
from .sessions import FIRST_KEY, DjangoSession, django_record, new_django_key, require_django_options
from .signing import DjangoSigner

logger = logging.getLogger("starlette_auth")
COOKIE_SALT = "django.contrib.sessions.backends.signed_cookies"


class DjangoCookieStore(SessionStore):
    """Stores sessions in signed cookies, as Django's engine `signed_cookies` does.

    The server cannot revoke a copied cookie; a password change invalidates it. If several requests change a session at
    the same time, the last response wins. `max_age` is SESSION_COOKIE_AGE, in seconds.

    A request that was in progress during the logout may set the cookie again: always with `save_every_request`
    (SESSION_SAVE_EVERY_REQUEST), otherwise only if it changed the session. In this package the user stays logged out:
    it adds an entry with a random key to each session of a user that it saves, and a second cookie lists the keys of
    the sessions that ended in this browser. Django does not read that cookie, so in Django the user is logged in again.
    The user is also logged in again here if Django created the session and this package has not saved it yet.
    """

    is_server_side = False

    def __init__(
        self,
        secret_key: str | Sequence[str] | SecretKeys,
        *,
        max_age: int = TWO_WEEKS,
        save_every_request: bool = False,
        time_zone: tzinfo | None = None,
        clock: Clock = time.time,
    ) -> None:
        require_django_options(max_age, save_every_request, time_zone)
        require_clock(clock)
        self._save_every_request = save_every_request
        self._zone = time_zone
        self.keys = secret_key if isinstance(secret_key, SecretKeys) else SecretKeys(secret_key)
        self._signer = DjangoSigner(self.keys.all, COOKIE_SALT, clock=clock)
        self._max_age = max_age
        self._clock = clock

    async def load(self, cookie: str) -> SessionBase:
        try:
            data = self._signer.loads(cookie, self._max_age)
            if isinstance(age := data.get(EXPIRY), int) and age:
                self._signer.loads(cookie, age)
        except BadSignature:  # another application set it, it is too old, or its key was removed
            return self.new_session(self._clock)
        except BadData:
            logger.warning("A cookie with a valid signature does not contain a session and is ignored.")
            return self.new_session(self._clock)
        record = self._record(cookie, data)
        session = DjangoSession(data, session_key=cookie, record=record, clock=self._clock, zone=self._zone)
        if self._has_ended(session):
            return self.new_session(self._clock)
        if self._save_every_request:
            session.modified = True
        return session

    def _has_ended(self, session: SessionBase) -> bool:
        """Returns whether the datetime that `set_expiry()` stored has passed or is malformed.

        An attacker sends a copy of a cookie that the browser has deleted at that time, which would work until
        SESSION_COOKIE_AGE has passed. Therefore the server checks the time.
        """
        try:
            return isinstance(session.get(EXPIRY), str) and session.get_expiry_age() <= 0
        except ValueError:
            logger.warning("A session in a cookie has an expiry that is no time and is ignored.")
            return True

    def new_session(self, clock: Clock = time.time) -> SessionBase:
        return DjangoSession(clock=clock, zone=self._zone)

    async def save(self, session: SessionBase, max_age: int) -> str:
        if session.user_id is not None:
            session.setdefault(FIRST_KEY, new_django_key())
        data, text = session.encode(), self._signer.dumps(dict(session))
        if len(text) > LIMIT - ROOM_FOR_NAME_AND_FLAGS:
            raise SessionTooLarge(
                f"The session needs a cookie of {len(text)} bytes. Browsers accept {LIMIT} with name and attributes. "
                "Store less in the session, or use another SESSION_ENGINE."
            )
        session.mark_saved(text, self._record(text, dict(session)), data)
        return cookie_value(text, data)

    async def delete(self, session_key: str) -> None:
        """Does nothing: the server stores no session."""

    def _record(self, key: str, data: dict[str, Any]) -> SessionRecord:
        now = int(self._clock())
        return django_record(key, data, now + self._max_age, now, self._max_age)
