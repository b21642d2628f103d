"""Browsers in which a user has asked for no second factor for some time, and the page that ends them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login
from ...auth import Auth
from ...core.signing import is_key, sha256_hex
from ...core.translation import gettext
from ...http.cookies import MAX_VALUES
from ...http.user_agents import describe_user_agent
from ...pages.base import account_page
from ...pages.factors.reauthentication import fresh_login_required
from ...pages.forms import Field, Form
from ...security.tokens import Token
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

    async def end_all(self, user: User) -> None:
        """Ends all trusted browsers of the user."""
        await self.tokens.revoke_all(_subject(user))

    def routes(self) -> Sequence[BaseRoute]:
        path, name = "/trusted_devices/end", "trusted_devices_end"
        return [Route(path, account_page(self.end_page), name=name, methods=["POST"])]

    async def end_page(self, auth: Auth, request: Request) -> Response:
        """Ends the trusted browser with the id `device`, or with `all` every one. Then redirects to the list."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._end(auth, request, user)

    @fresh_login_required(keep=("device", "all"))
    async def _end(self, auth: Auth, request: Request, user: User) -> Response:
        form = Form(device=Field(required=False, max_length=64), all=Field(type="checkbox", required=False))
        await form.fill_in(request)
        if form.data["all"]:
            await self.end_all(user)
        elif form.data["device"] and form.is_valid:
            await self.end(user, form.data["device"])
        else:
            raise HTTPException(400, gettext("No browser was selected. Go back and select one."))
        url = auth.find_url(request, "security") or auth.url_for(request, "totp")
        return RedirectResponse(url, status_code=303)

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


def _subject(user: User) -> str:
    return f"trusted browsers of user {user.id}"
