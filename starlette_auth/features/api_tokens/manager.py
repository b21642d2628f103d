"""Creates, lists and revokes the API tokens of a user."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from starlette.requests import HTTPConnection

from ...auth import Auth
from ...core.events import TokenCreated, TokenRevoked
from ...core.exceptions import PermissionDenied, ValidationError
from ...core.translation import gettext
from ...users.models import User, require_connection, require_stored
from .backend import TokenBackend
from .store import TokenStore, token_of
from .tokens import APIToken, TokenFormat, is_permission

MAX_NAME = 100
DAY = timedelta(days=1)


class ManagesTokens:
    """Provides the methods of `APITokens` for application code."""

    auth: Auth
    format: TokenFormat
    store: TokenStore
    backend: TokenBackend
    max_per_user: int
    default_expiry: timedelta
    longest: timedelta

    async def create(
        self,
        user: User,
        name: str,
        *,
        scopes: Iterable[str] | None = None,
        expires: timedelta | None = None,
        request: HTTPConnection | None = None,
    ) -> APIToken:
        """Creates a token and returns it, with the text in `token`, which cannot be read again.

        `scopes` are names of permissions that the user has; None stands for all that the user has at each request.
        `expires` is the time until the end, by default that of the feature. Raises ValidationError for invalid
        arguments and for too many tokens, PermissionDenied for an inactive user, for one whose password has changed
        since `user` was loaded, and for one who was identified by a token, NotImplementedError for a visitor. `request`
        is passed to the event TokenCreated.
        """
        require_stored(user)
        require_connection(request)
        _require_active(user)
        if user.backend == self.backend.path:
            # An attacker with a stolen token would otherwise make one that outlives it.
            raise PermissionDenied("A request with a token cannot create a token. Log in with a browser.")
        name = _checked_name(name)
        checked = await self._checked_scopes(user, scopes)
        created = self.store.now()
        ends = created + self._checked_expiry(expires)
        text = self.format.make()

        async def insert() -> APIToken:
            # The lock serialises the requests of a user, so that there are never more than `max_per_user`.
            await self._lock(user)
            await self._require_unchanged(user)
            await self.store.delete_old(user.id)
            if sum(token.expires > created for token in await self.store.list_latest(user.id)) >= self.max_per_user:
                raise ValidationError(
                    gettext("You have too many tokens. Revoke one that you do not need."), "max_tokens"
                )
            fields: dict[str, Any] = {"name": name, "scopes": checked, "created": created, "expires": ends}
            token = await self.store.insert(user.id, text, hint=self.format.hint(text), **fields)
            await self.auth.events.emit(TokenCreated(user=user, token_id=token.id, name=name, request=request))
            return token

        return await self.auth.gateway.run_in_transaction(insert)

    async def list(self, user: User) -> list[APIToken]:
        """Returns the tokens of a user, the newest first. Expired ones are among them for 30 days or longer."""
        require_stored(user)
        return await self.store.list(user.id)

    async def revoke(self, user: User, token_id: int, *, request: HTTPConnection | None = None) -> bool:
        """Revokes one token of a user; returns whether it existed. `request` is passed to the event TokenRevoked."""
        require_stored(user)
        require_connection(request)
        tokens = [token for token in await self.store.list(user.id) if token.id == token_id]
        return await self._revoke(user, tokens, request) == 1

    async def revoke_all(self, user: User, *, request: HTTPConnection | None = None) -> int:
        """Revokes all tokens of a user; returns their number."""
        require_stored(user)
        require_connection(request)

        async def revoke() -> int:
            await self._lock(user)
            return await self._revoke(user, await self.store.list_latest(user.id), request)

        return await self.auth.gateway.run_in_transaction(revoke)

    async def check(self, token: str) -> tuple[User, APIToken] | None:
        """Returns the owner and the details of a token that is valid now; None for other texts.

        The owner has the rights of the token. Nothing is counted or recorded, so do not call it for texts that come
        from visitors.
        """
        row = await self.store.find(token) if self.format.is_valid(token) else None
        if row is None or row["token_expires"] <= self.store.now():
            return None
        user, details = self.auth.users.from_row(row), token_of(row)
        return (self.backend.limited(user, details), details) if user.is_active else None

    async def _lock(self, user: User) -> None:
        """Lets one transaction at a time create tokens of a user, or revoke all of them."""
        await self.auth.tokens.lock(f"api tokens {user.id}")

    async def _require_unchanged(self, user: User) -> None:
        """Raises PermissionDenied if the account was deactivated, or got another password, since the request began.

        An attacker creates a token at the moment in which the owner takes the account back, which would outlive that.
        """
        current = await self.auth.users.get(user.id)
        if current is None or current.password != user.password:
            raise PermissionDenied(f"{user.username!r} has changed meanwhile. Load the user again.")
        _require_active(current)

    async def _revoke(self, user: User, tokens: Sequence[APIToken], request: HTTPConnection | None) -> int:
        number = 0
        async with self.auth.gateway.atomic():
            for token in tokens:
                if await self.store.delete(user.id, token.id):
                    number += 1
                    event = TokenRevoked(user=user, token_id=token.id, name=token.name, request=request)
                    await self.auth.events.emit(event)
        return number

    async def _checked_scopes(self, user: User, scopes: Iterable[str] | None) -> tuple[str, ...] | None:
        if scopes is None:
            return None
        if isinstance(scopes, str) or not isinstance(scopes, Iterable):
            raise TypeError('`scopes` is a list of permissions. Pass scopes=["shop.view_order"].')
        names = tuple(dict.fromkeys(scopes))
        for perm in names:
            if not is_permission(perm):
                text = gettext("%(perm)s is not the name of one permission, such as shop.view_order.") % {"perm": perm}
                raise ValidationError(text, "unknown_scope", {"field": "scopes"})
            if not await self.auth.has_perm(user, perm):
                text = gettext("You do not have the permission %(perm)s.") % {"perm": perm}
                raise ValidationError(text, "unknown_scope", {"field": "scopes"})
        return names

    def _checked_expiry(self, expires: timedelta | None) -> int:
        expires = self.default_expiry if expires is None else expires
        if not isinstance(expires, timedelta):
            raise TypeError("`expires` is the time until the end. Pass expires=timedelta(days=30).")
        if not timedelta(seconds=1) <= expires <= self.longest:
            text = gettext("Enter a number of days from 1 to %(number)d.") % {"number": self.longest // DAY}
            raise ValidationError(text, "expires", {"field": "expires"})
        return int(expires.total_seconds())


def _require_active(user: User) -> None:
    if not user.is_active:
        raise PermissionDenied(f"{user.username!r} is not active. Activate the account before you create a token.")


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError('The name of a token is text. Pass a name such as "backup".')
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        text = gettext("Give the token a name with at most %(number)d characters.") % {"number": MAX_NAME}
        raise ValidationError(text, "name", {"field": "name"})
    return name
