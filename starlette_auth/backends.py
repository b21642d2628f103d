"""Ways of telling who somebody is."""

import asyncio
import contextlib
import functools
import inspect
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from .addresses import Proxies
from .clock import Clock
from .devices import Devices
from .fields import normalize_username
from .limits import SessionLimits
from .models import AnonymousUser, User
from .sessions.base import AUTH_TIME, USER_ID, SessionBase
from .signing import SecretKeys
from .throttling import Attempt, Throttle
from .users import Users

BACKEND = "_auth_user_backend"  # Django's names
AUTH_HASH = "_auth_user_hash"
REMEMBERED = "_auth_remembered"
SHORTEST_REFUSAL = 0.05  # seconds
# Django's, so that both frameworks can read one session.
AUTH_HASH_SALT = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash"


class AuthenticationBackend:
    """One way of telling who somebody is. Override what you need; the rest says "not mine"."""

    #: Whether browsers send the credentials by themselves (a proxy's header, HTTP Basic, a client certificate): say
    #: True then, and requests from other sites are refused even where none of our cookies comes along.
    ambient = False
    #: Whether whom this backend identifies is logged in to the session.
    remembered = False
    #: Whether it has an `identify` of its own, and is to be asked.
    identifies = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.identifies = cls.identify is not AuthenticationBackend.identify

    @functools.cached_property
    def path(self) -> str:
        """What a session notes of who let its user in. In a Django project's sessions, one of AUTHENTICATION_BACKENDS."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    async def identify(self, conn: HTTPConnection) -> User | None:
        """Who is making this request? None: not somebody that this backend knows."""
        return None

    async def authenticate(self, conn: HTTPConnection, **credentials: Any) -> User | None:
        """Whose credentials are these? None: nobody's. PermissionDenied: nobody's, and no other backend is asked.

        A signature that names what it takes is only called with that.
        """
        return None

    async def has_perm(self, user: User, perm: str, obj: object = None) -> bool:
        """Whether an active user has a permission, on one object where one is given. PermissionDenied ends the search."""
        return False

    def takes(self, credentials: Mapping[str, Any]) -> bool:
        """Whether `authenticate` has a name for each of them."""
        try:
            self._signature.bind(None, **credentials)
        except TypeError:
            return False
        return True

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.authenticate)


class SessionBackend(AuthenticationBackend):
    """The user whom the session remembers. The only place that writes the session's keys of a login."""

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
        user = await self.user_of(session)
        if user is None:
            # Not only ignored: it must not come back to life when the account is switched on again.
            session.flush()
        return user

    async def user_of(self, session: SessionBase) -> User | None:
        """Who is logged in to a session; None when it has been ended, or is over."""
        row = session.user_row
        if row is not None and str(row["user_id"]) == session[USER_ID]:
            user: User | None = self.users.from_row(row)
        else:
            user = await self.users.get(session[USER_ID])
        return user if user is not None and self.lets_in(session, user) else None

    def lets_in(self, session: SessionBase, user: User) -> bool:
        """Whether this session of the user's is still good: the account, the password, and the time."""
        if not user.is_active or not self._verify(session, user):
            return False
        if self.limits is not None:
            session.limit = self.limits.of(user, is_remembered=REMEMBERED in session)
        return not session.is_over

    def remember(self, session: SessionBase, user: User, backend: str, *, is_remembered: bool = False) -> None:
        """Binds the session to a user, under a new key. What an anonymous visitor stored stays; another user's goes.

        `is_remembered`: for as long as `SessionLimits.remembered` says.
        """
        if USER_ID in session and not (session[USER_ID] == str(user.id) and self._verify(session, user)):
            session.flush()
        session.begin_anew()
        session[USER_ID], session[BACKEND] = str(user.id), backend
        session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)
        session[AUTH_TIME] = int(self._clock())
        session.pop(REMEMBERED, None)
        if is_remembered:
            session[REMEMBERED] = True
        session.limit = self.limits.of(user, is_remembered=is_remembered) if self.limits is not None else None

    def refresh(self, session: SessionBase, user: User) -> None:
        """Keeps this session alive, under a new key, after the user's password changed."""
        if session.get(USER_ID) == str(user.id):
            session.cycle_key()
            session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)

    def renew_proof(self, session: SessionBase) -> None:
        """Notes that the user has just proved once more who they are. The login does not last longer for it."""
        session.cycle_key()
        session[AUTH_TIME] = int(self._clock())

    def age_of_proof(self, session: SessionBase | None, user: User | AnonymousUser) -> float:
        """Seconds since this user last proved in this session who they are; infinite where they did elsewhere."""
        moment = session.get(AUTH_TIME) if session is not None and session.get(USER_ID) == user.identity else None
        return self._clock() - moment if isinstance(moment, int) else math.inf

    @staticmethod
    def is_of(session: SessionBase | None, user: User) -> bool:
        """Whether it is this user whom the session remembers; yes too where there is no session to remember in."""
        return session is None or session.get(USER_ID) == str(user.id)

    def holds(self, session: SessionBase, user: User) -> bool:
        """Whether it remembers this user, and still may. Of other sessions it says nothing."""
        return self.is_of(session, user) and self.lets_in(session, user)

    @staticmethod
    def backend_of(session: SessionBase) -> str:
        """The path of the backend that let the session's user in."""
        return str(session.get(BACKEND, ""))

    def _verify(self, session: SessionBase, user: User) -> bool:
        key = self.keys.verify(AUTH_HASH_SALT, user.password, str(session.get(AUTH_HASH, "")))
        # Signed with an older key, which will be retired. Where only we look, the session keeps its own key: requests
        # that are under way at the same time know it by this one. Django gives it a new one.
        if key and self.cycle_key:
            session.renew(AUTH_HASH, self.keys.sign(AUTH_HASH_SALT, user.password))
        elif key:
            session[AUTH_HASH] = self.keys.sign(AUTH_HASH_SALT, user.password)
        return key is not None


class ModelBackend(AuthenticationBackend):
    """Username or e-mail, and a password. Given a `guard`, it makes whoever guesses wait."""

    def __init__(
        self, users: Users[Any], *, login_fields: Sequence[str] = ("username",), guard: "Guard | None" = None
    ) -> None:
        self.users = users
        self.login_fields = login_fields
        self.guard = guard

    async def authenticate(
        self, conn: HTTPConnection, *, username: str = "", password: str = "", **credentials: Any
    ) -> User | None:
        username, password = str(username), str(password)  # JSON may bring anything
        begun = time.perf_counter()
        user = await self._find(username)
        try:
            return user if await self.check_password(conn, user, password, username=username) else None
        except HTTPException:
            # Nothing was hashed that would cover how long the look-up took, and refusals may be had without end.
            await asyncio.sleep(begun + SHORTEST_REFUSAL - time.perf_counter())
            raise

    async def check_password(
        self, conn: HTTPConnection, user: User | None, password: str, *, username: str = "", action: str = "login"
    ) -> bool:
        """Whether it is the password of an active user, None being nobody. HTTPException 429 for too many tries.

        What counts is the `username` that was typed, whether there is such an account or not: both answer alike.
        """
        if self.guard is None:
            return await self._matches(user, password)
        async with self.guard.attempt(conn, user, username, action) as attempt:
            attempt.succeeded = await self._matches(user, password)
        return attempt.succeeded

    async def _matches(self, user: User | None, password: str) -> bool:
        # One hash, whoever is asked about: the time says nothing about whether there is such a user.
        if user is None or not user.is_active:
            await self.users.passwords.check(None, password)
            return False
        return await self.users.check_password(user, password)

    async def has_perm(self, user: User, perm: str, obj: object = None) -> bool:
        return obj is None and user.has_perm(perm)

    async def _find(self, login: str) -> User | None:
        """By address first, where it looks like one: a name that is somebody's address must not lock its owner out."""
        user: User | None = None
        if "email" in self.login_fields and "@" in login:
            user = await self.users.get_by_email(login)
        if user is None and "username" in self.login_fields:
            user = await self.users.get_by_username(login)
        return user


class Guard:
    """Counts the passwords that are tried, by account, by address, and apart for browsers that are known."""

    def __init__(self, throttle: Throttle, *, devices: Devices, proxies: Proxies) -> None:
        self.throttle = throttle
        self.devices = devices
        self.proxies = proxies

    def attempt(
        self, conn: HTTPConnection, user: User | None, username: str, action: str
    ) -> AbstractAsyncContextManager[Attempt]:
        device = "" if user is None else self.devices.known(conn, user)
        return self.throttle.attempt(action, account=username, address=self.proxies.client_address(conn), device=device)


class RemoteUserBackend(AuthenticationBackend):
    """The user whom a proxy in front of us has checked, and names in a header.

    The header is believed only when it comes from one of `trusted_proxies` (addresses or networks; "unix" for a
    socket): anybody else could write it. The server must not put a client's X-Forwarded-For in the place of the
    proxy's address: run uvicorn with `--no-proxy-headers`. When the header is gone the user is logged out, unless
    `persistent`.
    """

    ambient = True
    remembered = True

    def __init__(
        self,
        users: Users[Any],
        *,
        trusted_proxies: Sequence[str],
        header: str = "remote-user",
        create_unknown_user: bool = True,
        persistent: bool = False,
    ) -> None:
        self.users = users
        self.header = header
        self.create_unknown_user = create_unknown_user
        self.persistent = persistent
        self.proxies = Proxies(trusted_proxies)

    async def identify(self, conn: HTTPConnection) -> User | None:
        named = conn.headers.getlist(self.header) if self.proxies.trusts(conn) else []
        # Twice means that the proxy added its own to one that the client had sent.
        username = normalize_username(named[0]) if len(named) == 1 else ""
        user = await self._find(username) if username else None
        session = session_of(conn)
        is_ours = session is not None and SessionBackend.backend_of(session) == self.path
        # The proxy names nobody (any more), or somebody whom we do not let in: not the one before, in any case.
        if session is not None and is_ours and user is None and (username or not self.persistent):
            session.flush()
        return user

    async def _find(self, username: str) -> User | None:
        user: User | None = await self.users.get_by_username(username)
        if user is None and self.create_unknown_user:
            # Another request of the same newcomer may have been faster; a name that cannot be stored is nobody's.
            with contextlib.suppress(ValueError):
                await self.users.create_user(username)
            user = await self.users.get_by_username(username)
        return user if user is not None and user.is_active else None


def session_of(conn: HTTPConnection) -> SessionBase | None:
    """The session of this package, without marking it as looked at; None where there is none."""
    session = conn.scope.get("session")
    return session if isinstance(session, SessionBase) else None
