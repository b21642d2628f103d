"""The backend that reads the logged-in user from the session."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import HTTPConnection

from ..core.arguments import require_bool, require_clock, require_instance
from ..core.clock import Clock
from ..core.events import Events, SessionExpired
from ..core.exceptions import ImproperlyConfigured
from ..core.signing import SecretKeys
from ..sessions.base import AUTH_TIME, SessionBase
from ..sessions.limits import SessionLimits
from ..sessions.records import USER_ID
from ..users.models import AnonymousUser, User
from ..users.users import Users
from .assurance import Assurance
from .base import AuthenticationBackend
from .login_methods import ENTRY as METHODS
from .login_methods import PASSWORD, PENDING, PROXY, SECOND_FACTORS, LoginMethod, level_of, methods_in, with_method

BACKEND = "_auth_user_backend"  # this and the next name as in Django
AUTH_HASH = "_auth_user_hash"
OWN_BACKEND = "_auth_own_backend"  # of this package, in sessions that it shares with Django
REMEMBERED = "_auth_remembered"
# Django's salt, so that both frameworks can use the same session.
AUTH_HASH_SALT = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash"


class SessionBackend(AuthenticationBackend):
    """Identifies the user who is logged in to the session. Only this class writes the login entries of a session."""

    path = "starlette_auth.SessionBackend"
    #: What logins must have proved; set by a feature such as `TwoFactor`.
    assurance: Assurance | None = None

    def __init__(
        self,
        users: Users[Any],
        keys: SecretKeys,
        *,
        limits: SessionLimits | None = None,
        cycle_key: bool = False,
        clock: Clock = time.time,
    ) -> None:
        """Without `limits`, a session lasts as long as its store keeps it.

        `cycle_key`: whether a session whose login was signed with an older secret key also gets a new session key.
        """
        require_instance(users, Users, "users", "Pass auth.users.")
        require_instance(keys, SecretKeys, "keys", "Pass auth.keys.")
        if limits is not None:
            require_instance(limits, SessionLimits, "limits", "Pass auth.session_limits.")
        require_bool(cycle_key, "cycle_key")
        require_clock(clock)
        self.users = users
        self.keys = keys
        self.limits = limits
        self.cycle_key = cycle_key
        self._clock = clock
        self._backends: Callable[[], Sequence[AuthenticationBackend]] | None = None
        self._is_shared = False

    def require_backend(
        self, backends: Callable[[], Sequence[AuthenticationBackend]], *, is_shared: bool = False
    ) -> None:
        """Accepts a login only while its backend is one of `backends()`, as Django does.

        `is_shared`: whether Django writes logins to the same sessions. Those count with any backend, because only the
        Django project knows its own backends.
        """
        self._backends, self._is_shared = backends, is_shared
        if is_shared:
            self.keys = self.keys.scoped("")  # as Django signs logins

    async def identify(self, conn: HTTPConnection) -> User | None:
        session = session_of(conn)
        if session is None or USER_ID not in session:
            return None
        user = await self._load_user(session)
        if user is not None and self.is_valid(session, user):
            return user
        # The session is deleted, because it would otherwise be valid again when the account is reactivated.
        await self.expire(session, conn, self.users.events, self._why_invalid(session, user))
        return None

    @staticmethod
    async def expire(session: SessionBase, conn: HTTPConnection, events: Events, reason: str) -> None:
        """Deletes a session whose login is no longer valid, and emits SessionExpired."""
        user_id = str(session.get(USER_ID, ""))
        session.flush()
        await events.emit(SessionExpired(user_id=user_id, reason=reason, request=conn))

    async def get_user(self, session: SessionBase) -> User | None:
        """Returns the user who is logged in to a session; None if the login is not valid any more."""
        user = await self._load_user(session)
        return user if user is not None and self.is_valid(session, user) else None

    async def _load_user(self, session: SessionBase) -> User | None:
        row = session.user_row
        is_complete = row is not None and (not self.users.reads_groups or "group_names" in row)
        if row is not None and is_complete and str(row["user_id"]) == session[USER_ID]:
            user: User | None = self.users.from_row(row)
        else:
            user = await self.users.get(session[USER_ID])
        return user

    def _why_invalid(self, session: SessionBase, user: User | None) -> str:
        if user is None:
            return "user deleted"
        if not user.is_active:
            return "user inactive"
        if not self._has_backend(session):
            return "backend removed"
        return "timeout" if self._verify(session, user) else "password changed"

    def is_valid(self, session: SessionBase, user: User) -> bool:
        """Returns whether the user is active, has the backend and the password of the login, and no timeout has passed.

        Sets the timeouts of the session (`session.limit`).
        """
        if not user.is_active or not self._has_backend(session) or not self._verify(session, user):
            return False
        if self.limits is not None:
            session.limit = self.limits.of(user, is_remembered=REMEMBERED in session)
        return not session.is_expired

    def bind(
        self,
        session: SessionBase,
        user: User,
        backend: str,
        *,
        is_remembered: bool = False,
        methods: Sequence[LoginMethod] = (),
    ) -> None:
        """Logs the user in to the session, under a new key against session fixation.

        The data of an anonymous visitor stays; the data of another user is deleted. `is_remembered`: whether
        `SessionLimits.remembered` applies. `methods` are the proofs, by default a password. Without them, a later request
        asks whether the user has a second factor.
        """
        if USER_ID in session and not (session[USER_ID] == str(user.id) and self._verify(session, user)):
            session.flush()
        session.start_new()
        session[USER_ID], session[BACKEND] = str(user.id), backend
        session.pop(OWN_BACKEND, None)
        if self._is_shared and self._is_configured(backend):
            session[OWN_BACKEND] = backend
        session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)
        # An attacker with a stolen session and a code of the app continues the login of that session, which would count as
        # fresh. Therefore the time is that of the first factor; Django writes none.
        entered = max((proof.at for proof in methods if proof.name not in SECOND_FACTORS), default=int(self._clock()))
        session.pop(AUTH_TIME, None)
        if entered:
            session[AUTH_TIME] = entered
        for name in (REMEMBERED, PENDING, METHODS):
            session.pop(name, None)
        if methods and (self.assurance is not None or [method.name for method in methods] != [PASSWORD]):
            session[METHODS] = [list(method) for method in methods]
        if is_remembered:
            session[REMEMBERED] = True
        session.limit = self.limits.of(user, is_remembered=is_remembered) if self.limits is not None else None

    async def is_finished(self, session: SessionBase, user: User) -> bool:
        """Returns whether the login of a session has given all the proofs that its user must give.

        A session without the list of its methods did not begin by our login pages: its user is asked about once. With a
        second factor the login is not finished. The session of another user, or of none, is no login of this user.
        """
        if self.assurance is None or session.get(USER_ID) != user.identity:
            return True
        if METHODS not in session:
            if await self.assurance.has_factor(user):
                return False
            session[METHODS] = [list(method) for method in self.proofs(session)]
        return level_of(methods_in(session)) >= self.required_level(user)

    def required_level(self, user: User) -> int:
        """Returns the level that the policy requires of the logins of this user; 0 without a policy."""
        return self.assurance.required_level(user) if self.assurance is not None else 0

    def proofs(self, session: SessionBase) -> tuple[LoginMethod, ...]:
        """Returns the methods of a login, also of one that did not begin by our pages: a proxy's header, or a password.

        Django writes no time into its sessions. Their proof has the time 0, and so is never a recent one.
        """
        if METHODS in session:
            return methods_in(session)
        auth_time = session.get(AUTH_TIME)
        return (LoginMethod(self.method_of(self.backend_of(session)), auth_time if isinstance(auth_time, int) else 0),)

    def method_of(self, path: str) -> str:
        """Returns the login method of a backend: "proxy" for one that reads a proxy's header, otherwise "password"."""
        backends = self._backends() if self._backends is not None else ()
        is_proxy = any(backend.persists_login and backend.path == path for backend in backends)
        return PROXY if is_proxy else PASSWORD

    def refresh_auth_hash(self, session: SessionBase, user: User) -> None:
        """Keeps the session valid after the user changed the password, and requests a new session key."""
        if session.get(USER_ID) == str(user.id):
            session.cycle_key()
            session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)

    def renew_auth_time(self, session: SessionBase, method: str = PASSWORD) -> None:
        """Notes that the user has just given this proof again. The absolute timeout does not change."""
        now, methods = int(self._clock()), methods_in(session)
        session.cycle_key()
        session[AUTH_TIME] = now
        if METHODS in session or method != PASSWORD:
            session[METHODS] = [list(proof) for proof in with_method(methods, method, now)]

    def add_method(self, session: SessionBase, method: str) -> None:
        """Notes one more proof of the user who is logged in, such as "totp", and requests a new session key.

        The time of the login stays: a second factor does not replace the password where a fresh login is required.
        """
        session.cycle_key()
        session[METHODS] = [list(proof) for proof in with_method(self.proofs(session), method, int(self._clock()))]

    def auth_age(self, session: SessionBase | None, user: User | AnonymousUser) -> float:
        """Returns the seconds since the user last entered credentials in this session; infinity if never."""
        auth_time = session.get(AUTH_TIME) if session is not None and session.get(USER_ID) == user.identity else None
        return self._clock() - auth_time if isinstance(auth_time, int) else math.inf

    @staticmethod
    def belongs_to(session: SessionBase | None, user: User) -> bool:
        """Returns whether this user is logged in to the session; True if there is no session."""
        return session is None or session.get(USER_ID) == str(user.id)

    def is_valid_for(self, session: SessionBase, user: User) -> bool:
        """Returns whether this user is logged in to the session and the login is still valid."""
        return self.belongs_to(session, user) and self.is_valid(session, user)

    @staticmethod
    def backend_of(session: SessionBase) -> str:
        """Returns the path of the backend that logged the user in; "" if there is none."""
        return str(session.get(BACKEND, ""))

    def check_backend(self, path: str) -> None:
        """Raises ImproperlyConfigured if a session with this backend would not count."""
        if self._backends is not None and not self._is_shared and not self._is_configured(path):
            paths = ", ".join(sorted({backend.path for backend in self._backends()}))
            raise ImproperlyConfigured(
                f"No backend has the path {path!r}, so the login would not count. Pass one of these to login(), or add "
                f"the backend to Auth(backends=[…]): {paths}."
            )

    def _is_configured(self, path: object) -> bool:
        return self._backends is None or any(backend.path == path for backend in self._backends())

    def _has_backend(self, session: SessionBase) -> bool:
        """Returns whether the backend of the login is still configured.

        An operator removes a backend that is not trusted any more. Its sessions would otherwise continue.
        """
        path = session.get(BACKEND)
        return self._is_configured(path) or (self._is_shared and session.get(OWN_BACKEND) != path)

    def _verify(self, session: SessionBase, user: User) -> bool:
        """Returns whether the login was signed with the user's current password, and signs it again if necessary."""
        key_index = self.keys.verify(AUTH_HASH_SALT, user.password, str(session.get(AUTH_HASH, "")))
        # An index above 0 means an older secret key, which will be retired. The session key stays, because concurrent
        # requests use it; with `cycle_key` it changes, as in Django.
        if key_index and self.cycle_key:
            session.cycle_key_for(AUTH_HASH, self.keys.sign(AUTH_HASH_SALT, user.password))
        elif key_index:
            session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)
        return key_index is not None


def session_of(conn: HTTPConnection) -> SessionBase | None:
    """Returns the session of a request without marking it as accessed; None if this package has not set one."""
    session = conn.scope.get("session")
    return session if isinstance(session, SessionBase) else None


def is_in_header(conn: HTTPConnection) -> bool:
    """Returns whether the client sends the key of its session, or a token, in a header, and not in a cookie."""
    session = session_of(conn)
    return session is not None and session.is_in_header


def require_session(conn: HTTPConnection) -> SessionBase:
    """Returns the session of this package. Raises ImproperlyConfigured if the request has none."""
    session = session_of(conn)
    if session is None:
        raise ImproperlyConfigured(
            "login() and logout() need SessionMiddleware. Pass middleware=middleware(auth) to your app."
        )
    return session
