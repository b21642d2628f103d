"""The backend that identifies the user of a request by its API token."""

import json
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from ...auth import Auth
from ...backends.base import AuthenticationBackend
from ...backends.bearer import read_bearer
from ...backends.model import report_throttled
from ...backends.session import session_of
from ...backends.ways import Way
from ...core.events import TokenExpired
from ...core.exceptions import ImproperlyConfigured, Throttled
from ...security.throttling.descriptions import describe_rates
from ...sessions.detached import DetachedSession
from ...users.models import User
from .store import USED_EVERY, TokenStore, token_of
from .tokens import APIToken, TokenFormat


class TokenBackend(AuthenticationBackend):
    """Identifies users by `Authorization: Bearer …` (RFC 6750 §2.1).

    The token comes first: a request with one has no session, whatever its cookies are. Its user is no member of the
    staff, and has the permissions that both the owner and the scopes of the token have at the time of the request.
    """

    path = "starlette_auth.TokenBackend"
    scheme = "Bearer"

    def __init__(self, auth: Auth, token_format: TokenFormat, store: TokenStore) -> None:
        self.auth, self.format, self.store = auth, token_format, store

    def describe(self) -> Sequence[Way]:
        rates = describe_rates(self.auth.throttle, "token")
        limits = f"A random text, for programs, which opens no account page. Unknown ones: {rates}"
        return [Way(name="token", is_second_factor=False, level=1, phishing_resistant=False, limits=limits)]

    async def identify(self, conn: HTTPConnection) -> User | None:
        text = self._read(conn)
        if text is None or not self.format.is_valid(text):
            return None
        row = await self.store.find(text)
        if row is None:
            await self._count_guess(conn)
            return None
        token, user = token_of(row), self.auth.users.from_row(row)
        if not user.is_active:
            return None
        if token.expires <= self.store.now():
            await self._report_expired(conn, user, token)
            return None
        await self._note_use(conn, token)
        return self.limited(user, token)

    async def identify_again(self, conn: HTTPConnection, user: User) -> User | None:
        text = self._read(conn)
        row = await self.store.find(text) if text is not None else None
        if row is None or row["token_expires"] <= self.store.now():
            return None
        return self.limited(self.auth.users.from_row(row), token_of(row))

    def limited(self, user: User, token: APIToken) -> User:
        """Returns the user with the rights of a token."""
        user.backend, user.is_staff = self.path, False
        if token.scopes is not None:
            user.token_scopes = frozenset(token.scopes)
            if user.is_superuser:
                # A superuser may do what the scopes name, and nothing else.
                user.is_superuser, user.permission_json = False, (json.dumps(token.scopes), None)
        return user

    def _read(self, conn: HTTPConnection) -> str | None:
        """Returns the bearer token of a request; None if it has none. Raises Refused for a malformed request."""
        text = read_bearer(conn, self.format.is_valid)
        if text is None:
            return None
        session = session_of(conn)
        if session is not None and not session.is_in_header:
            raise ImproperlyConfigured(
                "SessionMiddleware reads the session of a request with a token. Pass middleware=middleware(auth) to your "
                "app, after Auth(features=[APITokens(…)]), or SessionMiddleware(has_token=…)."
            )
        return text

    async def _count_guess(self, conn: HTTPConnection) -> None:
        """Counts an unknown token. Raises Throttled after too many of one address; known tokens go on."""
        try:
            await self.auth.throttle.hit("token", ip=self.auth.proxies.client_address(conn))
        except Throttled as error:
            await report_throttled(self.auth.events, conn, error)
            raise

    async def _report_expired(self, conn: HTTPConnection, user: User, token: APIToken) -> None:
        """Emits TokenExpired at the first use after the end."""
        if token.last_used is not None and token.last_used >= token.expires:
            return
        address = self.auth.proxies.client_address(conn)
        if await self.store.record_use(token.id, address, unused_since=token.expires - 1):
            event = TokenExpired(user=user, token_id=token.id, name=token.name, request=conn)
            async with self.auth.events.transaction(TokenExpired):
                await self.auth.events.emit(event)

    async def _note_use(self, conn: HTTPConnection, token: APIToken) -> None:
        """Records the use of a token after the response, at most once a minute."""
        if token.last_used is not None and self.store.now() - token.last_used < USED_EVERY:
            return
        address, session = self.auth.proxies.client_address(conn), session_of(conn)

        async def record() -> None:
            await self.store.record_use(token.id, address)

        if isinstance(session, DetachedSession) and conn.scope["type"] == "http":
            session.after_response = record
        else:
            await record()
