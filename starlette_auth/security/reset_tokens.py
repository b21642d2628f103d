"""Tokens for password resets, and how links and tokens refer to users."""

import base64
from typing import Protocol

from ..core.signing import sha256_hex
from ..users.models import User
from .tokens import Token, TokenHash, Tokens

PASSWORD_RESET = "password_reset"  # noqa: S105  a purpose
HALF_AN_HOUR = 30 * 60


class ResetTokens(Protocol):
    """Makes and checks the secret in a mail about a forgotten password."""

    max_age: int

    async def make(self, user: User) -> str: ...

    async def check(self, user: User, token: str) -> bool:
        """Whether it is good. It stays usable."""
        ...

    async def consume(self, user: User, token: str) -> bool:
        """Whether it is good, and this caller the first to use it."""
        ...

    def to_session(self, token: str) -> str:
        """Returns what stands for the token in a session."""
        ...

    def from_session(self, text: str) -> str:
        """Returns what `check` and `consume` take, from the text that `to_session` returned."""
        ...


class DatabaseResetTokens:
    """One row for each mail; a token works once, for half an hour, while password and address stay as they are."""

    def __init__(self, tokens: Tokens, *, max_age: int = HALF_AN_HOUR) -> None:
        self.tokens = tokens
        self.max_age = max_age

    async def make(self, user: User) -> str:
        return await self.tokens.create(
            PASSWORD_RESET, user_subject(user), max_age=self.max_age, binding=user_binding(user)
        )

    async def check(self, user: User, token: str) -> bool:
        return await self._look(user, token) is not None

    async def consume(self, user: User, token: str) -> bool:
        found = await self._look(user, token)
        return found is not None and await self.tokens.consume(found)

    def to_session(self, token: str) -> str:
        return sha256_hex(token)

    def from_session(self, text: str) -> str:
        return TokenHash(text)

    async def _look(self, user: User, token: str) -> Token | None:
        found = await self.tokens.find(PASSWORD_RESET, token)
        if found is None or found.subject != sha256_hex(user_subject(user)):
            return None
        return found if self.tokens.binding_matches(found, user_binding(user)) else None


def encode_uid(user: User) -> str:
    """How links name a user: Django's `uidb64`."""
    return base64.urlsafe_b64encode(str(user.id).encode()).decode().rstrip("=")


def decode_uid(text: str) -> str:
    """The user's primary key as text; "" for what is none."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True).decode()
    except ValueError:
        return ""


def user_subject(user: User) -> str:
    return f"user {user.id}"


def user_binding(user: User) -> str:
    return f"{user.password}\n{user.email}"
