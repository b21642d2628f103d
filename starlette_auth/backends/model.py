"""The backend that checks a username or e-mail address and a password."""

import asyncio
import contextlib
import functools
import logging
import shlex
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ..core.arguments import as_texts, require_instance
from ..core.events import Events, LoginsBlocked, PasswordChanged, PasswordRefused, TooManyAttempts, UserCreated
from ..core.exceptions import ImproperlyConfigured, Throttled, TooManyFailures
from ..http.proxies import TrustedProxies, client_network
from ..http.scope import CLAIMED_USER
from ..security.known_devices import KnownDevices
from ..security.throttle import Attempt, Policy, Throttle
from ..security.throttling.descriptions import NO_LIMITS, describe_passwords
from ..users.models import User
from ..users.users import Users
from .base import AuthenticationBackend, has_stored_perm
from .login_methods import PASSWORD
from .ways import Way

logger = logging.getLogger("starlette_auth")
LOGIN_FIELDS = 'Pass login_fields=("username",), ("email",) or ("username", "email").'
MIN_REFUSAL_TIME = 0.05  # seconds


def parse_login_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """Validates the setting `login_fields` and returns it as a tuple."""
    names = tuple(as_texts(fields, "login_fields", LOGIN_FIELDS))
    if not names or set(names) - {"username", "email"} or len(set(names)) < len(names):
        raise ImproperlyConfigured(f"login_fields={names!r} is not known. {LOGIN_FIELDS}")
    return names


class ModelBackend(AuthenticationBackend):
    """Authenticates by username or e-mail address, and password. `throttle` limits the rate of wrong passwords."""

    path = "starlette_auth.ModelBackend"
    has_perm = has_stored_perm

    def __init__(
        self, users: Users[Any], *, login_fields: Sequence[str] = ("username",), throttle: "LoginThrottle | None" = None
    ) -> None:
        require_instance(users, Users, "users", "Pass auth.users.")
        if throttle is not None:
            require_instance(throttle, LoginThrottle, "throttle", "Leave it out, or pass a LoginThrottle.")
        login_fields = parse_login_fields(login_fields)
        if "email" in login_fields:
            # An attacker takes the address of another user, who could not log in any more: two accounts have it.
            users.tables.require_unique_email()
        self.users = users
        self.login_fields = login_fields
        if login_fields == ("email",):
            users.address_is_typed = True
        self.throttle = throttle
        if throttle is not None:
            throttle.throttle.find_names = self._find_names
            throttle.events.on(PasswordChanged)(self._forgive)
            throttle.events.on(UserCreated)(self._forgive)

    def describe(self) -> Sequence[Way]:
        limits = describe_passwords(self.throttle.throttle) if self.throttle is not None else NO_LIMITS
        return [Way(name=PASSWORD, is_second_factor=False, level=1, phishing_resistant=False, limits=limits)]

    async def authenticate(
        self,
        conn: HTTPConnection,
        *,
        username: str | None = None,
        password: str | None = None,
        **credentials: Any,
    ) -> User | None:
        """Returns the user with this name and password, or None.

        Without `username`, the name is the credential that is called as the column of the usernames (USERNAME_FIELD in
        Django), or `email` where users log in with their addresses.
        """
        is_email = False
        if username is None:
            username = credentials.get(self.users.tables.username.name)
            is_email = username is None and "email" in self.login_fields
            username = credentials.get("email") if is_email else username
        if not isinstance(username, str):  # a JSON request may contain other types
            username = ""
        started_at = time.perf_counter()
        user = await self._find(username, is_email=is_email)
        if conn is not None:
            conn.scope[CLAIMED_USER] = user
        try:
            return user if await self._check(conn, user, password, username=username) else None
        except HTTPException as error:
            # No password was hashed, so the response time would show how long the look-up of the user took. An
            # attacker can measure it with any number of refused requests, which would reveal whether the account
            # exists. Therefore every refusal takes at least 50 milliseconds.
            duration = MIN_REFUSAL_TIME
            if isinstance(error, TooManyFailures) and error.looks_checked:
                duration = max(duration, self.users.passwords.usual_duration)
            await asyncio.sleep(started_at + duration - time.perf_counter())
            raise

    async def check_password(
        self,
        conn: HTTPConnection,
        user: User | None,
        password: str | None,
        *,
        username: str = "",
        action: str = "login",
        upgrade: bool = True,
    ) -> bool:
        """Returns whether this is the password of an active user.

        It is not if `user` is None or the password is no str. Attempts are counted for the `username` that was entered,
        whether or not the account exists, so that both cases have the same result; by default it is the name with which
        the user logs in. With `upgrade` a weak hash is replaced. Raises HTTPException (429) after too many attempts.
        Emits PasswordRefused for a wrong password.
        """
        is_right = await self._check(conn, user, password, username=username, action=action, upgrade=upgrade)
        if not is_right and user is not None:
            async with self.users.events.transaction(PasswordRefused):
                await self.users.events.emit(PasswordRefused(user=user, request=conn, action=action))
        return is_right

    async def _check(
        self,
        conn: HTTPConnection,
        user: User | None,
        password: str | None,
        *,
        username: str = "",
        action: str = "login",
        upgrade: bool = True,
    ) -> bool:
        if self.throttle is None:
            return await self._matches(user, password, upgrade=upgrade)
        if user is not None:
            username = username or self.names_of(user)[0]
        client = client_network(self.throttle.proxies.client_address(conn))
        owner = user if user is not None and user.is_active and self.users.has_usable_password(user) else None
        async with self.throttle.attempt(conn, user, username, action, owner=owner) as attempt:
            with self.users.passwords.for_client(client):
                attempt.succeeded = await self._matches(user, password, upgrade=upgrade)
        return attempt.succeeded

    async def _matches(self, user: User | None, password: str | None, *, upgrade: bool = True) -> bool:
        # An unknown user costs one hash too: the response time would otherwise reveal whether the account exists.
        if user is None or not user.is_active:
            await self.users.passwords.check(None, password)
            return False
        if not upgrade:
            return (await self.users.passwords.check(user.password, password)).matches
        return await self.users.check_password(user, password)

    def names_of(self, user: User) -> list[str]:
        """Returns the names with which the user can log in: the username, the e-mail address or both."""
        fields = {"username": user.username, "email": user.email}
        names = [name for field, name in fields.items() if field in self.login_fields and name]
        return names or [user.username]

    def login_name(self, user: User) -> str:
        """Returns the name under which password managers store the password: username or e-mail address."""
        return user.email if self.login_fields == ("email",) and user.email else user.username

    async def _find(self, login: str, *, is_email: bool = False) -> User | None:
        """Returns the user with this e-mail address or username.

        A text with "@" is looked up as an e-mail address first. An attacker could otherwise register the address of
        another user as a username, which would prevent that user from logging in.
        """
        user: User | None = None
        if "email" in self.login_fields and "@" in login:
            user = await self.users.get_by_email(login)
        if user is None and not is_email and "username" in self.login_fields:
            user = await self.users.get_by_username(login)
        return user

    async def _find_names(self, login: str) -> Sequence[str]:
        user = await self._find(login)
        return [] if user is None else self.names_of(user)

    async def _forgive(self, event: PasswordChanged | UserCreated) -> None:
        """Ends a block: the wrong passwords were guesses of another password, or of none."""
        if self.throttle is not None:
            await self.throttle.throttle.forgive(self.names_of(event.user))


class LoginThrottle:
    """Counts password attempts by account and by client address, and separately for known devices.

    `offers_reset` tells whether the site sends reset mails and has the page for them.
    """

    def __init__(
        self,
        throttle: Throttle,
        *,
        devices: KnownDevices,
        proxies: TrustedProxies,
        events: Events | None = None,
        offers_reset: Callable[[HTTPConnection], bool] = lambda conn: False,
    ) -> None:
        self.throttle = throttle
        self.devices = devices
        self.proxies = proxies
        self.events = events or Events()
        self.offers_reset = offers_reset

    @contextlib.asynccontextmanager
    async def attempt(
        self, conn: HTTPConnection, user: User | None, username: str, action: str, *, owner: User | None = None
    ) -> AsyncIterator[Attempt]:
        """Counts the attempt. Raises Throttled if it has to wait, and TooManyFailures if the account is blocked.

        `owner` is the user if the user can log in with a password. Only an owner learns of a block.
        """
        device = "" if user is None else await self.devices.known(conn, user)
        counted = self.throttle.attempt(
            action,
            account=username,
            address=self.proxies.client_address(conn),
            device=device,
            policy=functools.partial(self._policy, conn, owner),
            on_block=functools.partial(self._report_block, conn, owner),
        )
        try:
            async with counted as attempt:
                yield attempt
            if attempt.is_blocked and not attempt.succeeded and self.offers_reset(conn):
                # The owner gets no reset mail, so the password was checked. An attacker compares this response with
                # that of a refused account, which would show that this account exists; therefore both are equal.
                raise TooManyFailures(self.throttle.longest_wait, looks_checked=True)
        except Throttled as error:
            error.action = error.action or action
            await report_throttled(self.events, conn, error, user)
            raise

    def _policy(self, conn: HTTPConnection, owner: User | None) -> Policy:
        """Returns what happens to a blocked account: it is refused, unless its owner has no other way to log in."""
        if not self.offers_reset(conn):
            return "wait"
        return "refuse" if owner is None or owner.email else "wait_hidden"

    async def _report_block(self, conn: HTTPConnection, owner: User | None) -> None:
        if owner is None:
            return
        can_reset = self._policy(conn, owner) == "refuse"
        effect = (
            "Unknown browsers are refused until the password is reset by mail."
            if can_reset
            else f"No reset mail can be sent, so each attempt in an unknown browser waits {self.throttle.longest_wait} s."
        )
        logger.warning(
            "Too many wrong passwords in a row were entered for the user %r. %s To end this, run: starlette-auth unlock %s",
            *(owner.username, effect, shlex.quote(owner.username)),
        )
        async with self.events.transaction(LoginsBlocked):
            await self.events.emit(LoginsBlocked(user=owner, request=conn, can_reset=can_reset))


async def report_throttled(events: Events, conn: HTTPConnection, error: Throttled, user: User | None = None) -> None:
    """Emits TooManyAttempts, unless it was emitted for this exception already."""
    if not error.is_reported:
        error.is_reported = True
        async with events.transaction(TooManyAttempts):
            await events.emit(
                TooManyAttempts(action=error.action, retry_after=error.retry_after, request=conn, user=user)
            )
