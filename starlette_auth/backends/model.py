"""The backend that checks a username or e-mail address and a password."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ..core.exceptions import ImproperlyConfigured
from ..http.proxies import TrustedProxies
from ..security.known_devices import KnownDevices
from ..security.throttle import Attempt, Throttle
from ..users.models import User
from ..users.users import Users
from .base import AuthenticationBackend, has_stored_perm

MIN_REFUSAL_TIME = 0.05  # seconds


class ModelBackend(AuthenticationBackend):
    """Authenticates by username or e-mail address, and password. `throttle` limits the rate of wrong passwords."""

    path = "starlette_auth.ModelBackend"
    has_perm = has_stored_perm

    def __init__(
        self, users: Users[Any], *, login_fields: Sequence[str] = ("username",), throttle: "LoginThrottle | None" = None
    ) -> None:
        if not login_fields or set(login_fields) - {"username", "email"}:
            raise ImproperlyConfigured(
                f'login_fields={login_fields!r} is not known. Pass ("username",), ("email",) or ("username", "email").'
            )
        if "email" in login_fields:
            # An attacker takes the address of another user, who could not log in any more: two accounts have it.
            users.tables.require_unique_email()
        self.users = users
        self.login_fields = tuple(login_fields)
        self.throttle = throttle

    async def authenticate(
        self, conn: HTTPConnection, *, username: str = "", password: str = "", **credentials: Any
    ) -> User | None:
        if not isinstance(username, str):  # a JSON request may contain other types
            username = ""
        started_at = time.perf_counter()
        user = await self._find(username)
        try:
            return user if await self.check_password(conn, user, password, username=username) else None
        except HTTPException:
            # No password was hashed, so the response time would show how long the look-up of the user took. An
            # attacker can measure it with any number of refused requests, which would reveal whether the account
            # exists. Therefore every refusal takes at least 50 milliseconds.
            await asyncio.sleep(started_at + MIN_REFUSAL_TIME - time.perf_counter())
            raise

    async def check_password(
        self, conn: HTTPConnection, user: User | None, password: str, *, username: str = "", action: str = "login"
    ) -> bool:
        """Returns whether the password is that of an active user; False if `user` is None, or for other types than str.

        Attempts are counted for the `username` that was entered, whether or not the account exists, so that both cases
        have the same result. Raises HTTPException (429) after too many attempts.
        """
        if self.throttle is None:
            return await self._matches(user, password)
        async with self.throttle.attempt(conn, user, username, action) as attempt:
            attempt.succeeded = await self._matches(user, password)
        return attempt.succeeded

    async def _matches(self, user: User | None, password: str) -> bool:
        # An unknown user costs one hash too: the response time would otherwise reveal whether the account exists.
        if user is None or not user.is_active:
            await self.users.passwords.check(None, password)
            return False
        return await self.users.check_password(user, password)

    async def _find(self, login: str) -> User | None:
        """Returns the user with this e-mail address or username.

        A text with "@" is looked up as an e-mail address first. An attacker could otherwise register the address of
        another user as a username, which would prevent that user from logging in.
        """
        user: User | None = None
        if "email" in self.login_fields and "@" in login:
            user = await self.users.get_by_email(login)
        if user is None and "username" in self.login_fields:
            user = await self.users.get_by_username(login)
        return user


class LoginThrottle:
    """Counts password attempts by account and by client address, and separately for known devices."""

    def __init__(self, throttle: Throttle, *, devices: KnownDevices, proxies: TrustedProxies) -> None:
        self.throttle = throttle
        self.devices = devices
        self.proxies = proxies

    @contextlib.asynccontextmanager
    async def attempt(
        self, conn: HTTPConnection, user: User | None, username: str, action: str
    ) -> AsyncIterator[Attempt]:
        device = "" if user is None else await self.devices.known(conn, user)
        address = self.proxies.client_address(conn)
        async with self.throttle.attempt(action, account=username, address=address, device=device) as attempt:
            yield attempt
