"""The backend that trusts a username in a header set by a reverse proxy."""

import contextlib
from collections.abc import Sequence
from typing import Any

from starlette.requests import HTTPConnection

from ..core.arguments import require_bool, require_instance, require_text
from ..core.text import normalize_email
from ..http.proxies import TrustedProxies
from ..users.models import User
from ..users.users import Users
from .base import AuthenticationBackend
from .login_methods import PROXY
from .session import SessionBackend, session_of
from .ways import Way


class RemoteUserBackend(AuthenticationBackend):
    """Identifies the user that a reverse proxy has authenticated and names in a header.

    An attacker can send the header too. Therefore it is read only from requests of `trusted_proxies` (addresses or
    networks; "unix" for a Unix socket). The server must not replace the proxy's address by the client's from
    X-Forwarded-For: run uvicorn with `--no-proxy-headers`. A request without the header logs the user out, unless
    `persistent` is True. `create_unknown_user`: whether to create a user for a new name. The name is taken from the
    header as it is; `clean_username` and `configure_user` can be overridden to change it and its user.
    """

    path = "starlette_auth.RemoteUserBackend"

    ambient = True
    persists_login = True

    def __init__(
        self,
        users: Users[Any],
        *,
        trusted_proxies: Sequence[str],
        header: str = "remote-user",
        create_unknown_user: bool = True,
        persistent: bool = False,
    ) -> None:
        require_text(header, "header", 'Pass header="remote-user".', may_be_empty=False)
        require_bool(create_unknown_user, "create_unknown_user")
        require_bool(persistent, "persistent")
        require_instance(users, Users, "users", "Pass auth.users.")
        self.users = users
        self.header = header
        self.create_unknown_user = create_unknown_user
        self.persistent = persistent
        self.proxies = TrustedProxies(trusted_proxies)

    def describe(self) -> Sequence[Way]:
        limits = "Those of the reverse proxy."
        return [Way(name=PROXY, is_second_factor=False, level=1, phishing_resistant=False, limits=limits)]

    def clean_username(self, username: str) -> str:
        """Returns the username for the text in the header. Override it, for example to remove a Kerberos realm."""
        return username

    async def configure_user(self, conn: HTTPConnection, user: User, *, created: bool) -> User:
        """Returns the user of a new login. Override it, for example to copy groups from a directory.

        `created` tells whether the user is new. If this method raises an exception, a new user is not saved.
        """
        return user

    async def identify(self, conn: HTTPConnection) -> User | None:
        values = conn.headers.getlist(self.header) if self.proxies.is_trusted(conn) else []
        # An attacker sends the header through a proxy that adds its own and does not remove the first, which would let
        # the attacker choose the user. Therefore two headers count as none.
        username = self.clean_username(values[0]) if len(values) == 1 and values[0] else ""
        session = session_of(conn)
        is_own_login = session is not None and SessionBackend.backend_of(session) == self.path
        user = await self.users.get_by_username(username) if username else None
        if user is None and username and self.create_unknown_user:
            user = await self._create(conn, username)
        elif user is not None and not (is_own_login and session and SessionBackend.belongs_to(session, user)):
            user = await self._configure(conn, user, created=False)
        if user is not None and not user.is_active:
            user = None
        # The proxy names no user any more, or one who may not log in. The user of the session must not stay logged in.
        if session is not None and is_own_login and user is None and (username or not self.persistent):
            await SessionBackend.expire(session, conn, self.users.events, "proxy")
        return user

    async def _create(self, conn: HTTPConnection, username: str) -> User | None:
        """Returns a new user. Returns another request's new user of this name, or None if the name is invalid.

        An attacker asks the proxy for the name "ªdmin", which Unicode's form NFKC would turn into "admin". Therefore
        the name is not normalized.
        """
        is_email = self.users.tables.username is self.users.tables.email
        if is_email and normalize_email(username) != username:
            return None
        async with self.users.gateway.atomic():
            user = None
            # AlreadyExists and UnstorableValue are a ValueError.
            with contextlib.suppress(ValueError):
                user = await self.users.create_user(username, normalize=False)
            if user is not None:
                return await self._configure(conn, user, created=True)
        user = await self.users.get_by_username(username)
        return user if user is None else await self._configure(conn, user, created=False)

    async def _configure(self, conn: HTTPConnection, user: User, *, created: bool) -> User:
        user = await self.configure_user(conn, user, created=created)
        if not isinstance(user, User):
            raise TypeError(f"{type(self).__name__}.configure_user() returned no user. Return the user at its end.")
        return user
