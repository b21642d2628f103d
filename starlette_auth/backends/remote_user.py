"""The backend that trusts a user name in a header set by a proxy."""

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
    """The user whom a proxy in front of us has checked, and names in a header.

    The header is believed only when it comes from one of `trusted_proxies` (addresses or networks; "unix" for a
    socket): anybody else could write it. The server must not put a client's X-Forwarded-For in the place of the
    proxy's address: run uvicorn with `--no-proxy-headers`. When the header is gone the user is logged out, unless
    `persistent`.
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
        named = conn.headers.getlist(self.header) if self.proxies.is_trusted(conn) else []
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
