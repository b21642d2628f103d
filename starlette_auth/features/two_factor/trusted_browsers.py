"""Browsers in which a user has asked for no second factor for some time."""

from dataclasses import dataclass, replace

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from ...auth import Auth
from ...core.signing import is_key, sha256_hex
from ...http.cookies import MAX_VALUES
from ...http.user_agents import describe_user_agent
from ...security.tokens import Token, Tokens
from ...users.models import User

PURPOSE = "trusted_browser"
MAX_USERS = 5  # per browser


@dataclass(frozen=True, kw_only=True)
class TrustedBrowser:
    """A trusted browser as its user sees it. Times are in seconds since 1970, UTC."""

    id: str
    device: str
    created: int
    expires: int
    is_this: bool


class TrustedBrowsers:
    """Knows the browsers in which a user has ticked "Do not ask again".

    The browser has a random cookie, with a value for each user, and the table `auth_token` has its hash. The row is bound
    to the password of the user and to the generation of the user's devices. Therefore it ends with a new password, also
    one that was set by Django, with the account, and when the user logs out everywhere.
    """

    def __init__(self, auth: Auth, lifetime: int) -> None:
        self.tokens, self.devices, self.lifetime = auth.tokens, auth.devices, lifetime
        self.cookie = replace(auth.cookie, name="trusted", max_age=lifetime)

    async def is_trusted(self, conn: HTTPConnection, user: User) -> bool:
        """Returns whether the user trusts this browser. Without a cookie no statement is sent."""
        hashes = self._hashes(conn)
        return bool(hashes) and any(row.token_hash in hashes for row in await self._rows(user))

    async def trust(self, request: Request, response: Response, user: User) -> None:
        """Stores that the user trusts this browser, and sets its cookie. An earlier value of this user is replaced."""
        earlier = await self.tokens.recent(PURPOSE, _subject(user))
        own, sent = {row.token_hash for row in earlier}, self._hashes(request)
        for row in earlier:
            if row.token_hash in sent:
                await self.tokens.consume(row)
        browser = describe_user_agent(request.headers.get("user-agent", ""))
        data = {"device": browser, "created": int(self.tokens.clock())}
        binding = await self._binding(user)
        token = await self.tokens.create(PURPOSE, _subject(user), max_age=self.lifetime, binding=binding, data=data)
        others = [value for hash_, value in sent.items() if hash_ not in own]
        value = ".".join([token, *others[: MAX_USERS - 1]])
        response.raw_headers.append(self.cookie.header(request.scope, value, self.lifetime))

    async def browsers(self, conn: HTTPConnection, user: User) -> list[TrustedBrowser]:
        """Returns the browsers that the user trusts, the newest first."""
        hashes = self._hashes(conn)
        return [
            TrustedBrowser(
                id=row.token_hash,
                device=str(row.data["device"]),
                created=int(row.data["created"]),
                expires=row.expires,
                is_this=row.token_hash in hashes,
            )
            for row in await self._rows(user)
        ]

    async def end(self, user: User, id: str) -> bool:
        """Ends one trusted browser of the user. Returns whether there was one with this id."""
        rows = await self.tokens.recent(PURPOSE, _subject(user))
        return any([await self.tokens.consume(row) for row in rows if row.token_hash == id])

    async def _rows(self, user: User) -> list[Token]:
        rows = await self.tokens.recent(PURPOSE, _subject(user))
        binding = await self._binding(user) if rows else ""
        return [row for row in rows if self.tokens.binding_matches(row, binding)]

    async def _binding(self, user: User) -> str:
        return f"{user.identity} {await self.devices.generation(user)} {user.password}"

    def _hashes(self, conn: HTTPConnection) -> dict[str, str]:
        """Returns the values that the browser sends, by their hashes."""
        cookies = self.cookie.values(conn.scope)[:MAX_VALUES]
        values = [value for cookie in cookies for value in cookie.split(".")[:MAX_USERS] if is_key(value)]
        return {sha256_hex(value): value for value in values}


async def end_all(tokens: Tokens, user: User) -> None:
    """Ends all trusted browsers of the user, also while `trust_device` is switched off."""
    await tokens.revoke_all(_subject(user))


def _subject(user: User) -> str:
    return f"trusted browsers of user {user.id}"
