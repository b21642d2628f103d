"""The backend that trusts a username in a header set by a reverse proxy."""

import contextlib
from collections.abc import Sequence
from typing import Any

from starlette.requests import HTTPConnection

from ..core.text import normalize_username
from ..http.proxies import TrustedProxies
from ..users.models import User
from ..users.users import Users
from .base import AuthenticationBackend
from .session import SessionBackend, session_of


class RemoteUserBackend(AuthenticationBackend):
    """Identifies the user that a reverse proxy has authenticated and names in a header.

    An attacker can send the header too. Therefore it is read only from requests of `trusted_proxies` (addresses or
    networks; "unix" for a Unix socket). The server must not replace the proxy's address by the client's from
    X-Forwarded-For: run uvicorn with `--no-proxy-headers`. A request without the header logs the user out, unless
    `persistent` is True. `create_unknown_user`: whether to create a user for a new name.
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
        self.users = users
        self.header = header
        self.create_unknown_user = create_unknown_user
        self.persistent = persistent
        self.proxies = TrustedProxies(trusted_proxies)

    async def identify(self, conn: HTTPConnection) -> User | None:
        values = conn.headers.getlist(self.header) if self.proxies.is_trusted(conn) else []
        # An attacker sends the header through a proxy that adds its own and does not remove the first, which would let
        # the attacker choose the user. Therefore two headers count as none.
        username = normalize_username(values[0]) if len(values) == 1 else ""
        user = await self._find(username) if username else None
        session = session_of(conn)
        is_own_login = session is not None and SessionBackend.backend_of(session) == self.path
        # The proxy names no user any more, or one who may not log in. The user of the session must not stay logged in.
        if session is not None and is_own_login and user is None and (username or not self.persistent):
            session.flush()
        return user

    async def _find(self, username: str) -> User | None:
        user: User | None = await self.users.get_by_username(username)
        if user is None and self.create_unknown_user:
            # A concurrent request may have created the user already (AlreadyExists), or the name may be invalid. Both
            # are a ValueError; the look-up that follows decides.
            with contextlib.suppress(ValueError):
                await self.users.create_user(username)
            user = await self.users.get_by_username(username)
        return user if user is not None and user.is_active else None
