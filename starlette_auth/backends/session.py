"""The backend that reads the logged-in user from the session."""

import math
import time
from typing import Any

from starlette.requests import HTTPConnection

from ..core.clock import Clock
from ..core.signing import SecretKeys
from ..sessions.base import AUTH_TIME, SessionBase
from ..sessions.limits import SessionLimits
from ..sessions.records import USER_ID
from ..users.models import AnonymousUser, User
from ..users.users import Users
from .base import AuthenticationBackend

BACKEND = "_auth_user_backend"  # Django's names
AUTH_HASH = "_auth_user_hash"
REMEMBERED = "_auth_remembered"
# Django's, so that both frameworks can read one session.
AUTH_HASH_SALT = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash"


class SessionBackend(AuthenticationBackend):
    """The user whom the session remembers. The only place that writes the session's keys of a login."""

    path = "starlette_auth.SessionBackend"

    def __init__(
        self,
        users: Users[Any],
        keys: SecretKeys,
        *,
        limits: SessionLimits | None = None,
        cycle_key: bool = False,
        clock: Clock = time.time,
    ) -> None:
        """Without `limits` a session lasts as long as its store keeps it. `cycle_key`: where an old key signed it."""
        self.users = users
        self.keys = keys
        self.limits = limits
        self.cycle_key = cycle_key
        self._clock = clock

    async def identify(self, conn: HTTPConnection) -> User | None:
        session = session_of(conn)
        if not session or USER_ID not in session:
            return None
        user = await self.get_user(session)
        if user is None:
            # Not only ignored: it must not come back to life when the account is switched on again.
            session.flush()
        return user

    async def get_user(self, session: SessionBase) -> User | None:
        """Who is logged in to a session; None when it has been ended, or is over."""
        row = session.user_row
        if row is not None and str(row["user_id"]) == session[USER_ID]:
            user: User | None = self.users.from_row(row)
        else:
            user = await self.users.get(session[USER_ID])
        return user if user is not None and self.is_valid(session, user) else None

    def is_valid(self, session: SessionBase, user: User) -> bool:
        """Whether this session of the user's is still good: the account, the password, and the time."""
        if not user.is_active or not self._verify(session, user):
            return False
        if self.limits is not None:
            session.limit = self.limits.of(user, is_remembered=REMEMBERED in session)
        return not session.is_expired

    def bind(self, session: SessionBase, user: User, backend: str, *, is_remembered: bool = False) -> None:
        """Binds the session to a user, under a new key. What an anonymous visitor stored stays; another user's goes.

        `is_remembered`: for as long as `SessionLimits.remembered` says.
        """
        if USER_ID in session and not (session[USER_ID] == str(user.id) and self._verify(session, user)):
            session.flush()
        session.start_new()
        session[USER_ID], session[BACKEND] = str(user.id), backend
        session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)
        session[AUTH_TIME] = int(self._clock())
        session.pop(REMEMBERED, None)
        if is_remembered:
            session[REMEMBERED] = True
        session.limit = self.limits.of(user, is_remembered=is_remembered) if self.limits is not None else None

    def refresh_auth_hash(self, session: SessionBase, user: User) -> None:
        """Keeps this session alive, under a new key, after the user's password changed."""
        if session.get(USER_ID) == str(user.id):
            session.cycle_key()
            session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)

    def renew_auth_time(self, session: SessionBase) -> None:
        """Notes that the user has just proved once more who they are. The login does not last longer for it."""
        session.cycle_key()
        session[AUTH_TIME] = int(self._clock())

    def auth_age(self, session: SessionBase | None, user: User | AnonymousUser) -> float:
        """Seconds since this user last proved in this session who they are; infinite where they did elsewhere."""
        moment = session.get(AUTH_TIME) if session is not None and session.get(USER_ID) == user.identity else None
        return self._clock() - moment if isinstance(moment, int) else math.inf

    @staticmethod
    def belongs_to(session: SessionBase | None, user: User) -> bool:
        """Whether it is this user whom the session remembers; yes too where there is no session to remember in."""
        return session is None or session.get(USER_ID) == str(user.id)

    def is_valid_for(self, session: SessionBase, user: User) -> bool:
        """Whether it remembers this user, and still may. Of other sessions it says nothing."""
        return self.belongs_to(session, user) and self.is_valid(session, user)

    @staticmethod
    def backend_of(session: SessionBase) -> str:
        """The path of the backend that let the session's user in."""
        return str(session.get(BACKEND, ""))

    def _verify(self, session: SessionBase, user: User) -> bool:
        key = self.keys.verify(AUTH_HASH_SALT, user.password, str(session.get(AUTH_HASH, "")))
        # Signed with an older key, which will be retired. Where only we look, the session keeps its own key: requests
        # that are under way at the same time know it by this one. Django gives it a new one.
        if key and self.cycle_key:
            session.cycle_key_for(AUTH_HASH, self.keys.sign(AUTH_HASH_SALT, user.password))
        elif key:
            session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)
        return key is not None


def session_of(conn: HTTPConnection) -> SessionBase | None:
    """The session of this package, without marking it as looked at; None where there is none."""
    session = conn.scope.get("session")
    return session if isinstance(session, SessionBase) else None
