"""The backend that checks a username or e-mail address and a password."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ..core.exceptions import ImproperlyConfigured
from ..http.proxies import TrustedProxies
from ..security.known_devices import KnownDevices
from ..security.throttle import Attempt, Throttle
from ..users.models import User
from ..users.users import Users
from .base import AuthenticationBackend

SHORTEST_REFUSAL = 0.05  # seconds


class ModelBackend(AuthenticationBackend):
    """Username or e-mail, and a password. Given a `guard`, it makes whoever guesses wait."""

    path = "starlette_auth.ModelBackend"

    def __init__(
        self, users: Users[Any], *, login_fields: Sequence[str] = ("username",), throttle: "LoginThrottle | None" = None
    ) -> None:
        if not login_fields or set(login_fields) - {"username", "email"}:
            raise ImproperlyConfigured(
                'login_fields is ("username",), ("email",) or ("username", "email"). Choose one.'
            )
        self.users = users
        self.login_fields = tuple(login_fields)
        self.throttle = throttle

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
        if self.throttle is None:
            return await self._matches(user, password)
        async with self.throttle.attempt(conn, user, username, action) as attempt:
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


class LoginThrottle:
    """Counts the passwords that are tried, by account, by address, and apart for browsers that are known."""

    def __init__(self, throttle: Throttle, *, devices: KnownDevices, proxies: TrustedProxies) -> None:
        self.throttle = throttle
        self.devices = devices
        self.proxies = proxies

    def attempt(
        self, conn: HTTPConnection, user: User | None, username: str, action: str
    ) -> AbstractAsyncContextManager[Attempt]:
        device = "" if user is None else self.devices.known(conn, user)
        return self.throttle.attempt(action, account=username, address=self.proxies.client_address(conn), device=device)
