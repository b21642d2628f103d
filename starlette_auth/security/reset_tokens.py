"""Password reset tokens, and how links and tokens refer to users."""

import base64
from typing import Protocol

from ..core.signing import sha256_hex
from ..users.models import User
from .tokens import Token, TokenHash, Tokens

PASSWORD_RESET = "password_reset"  # noqa: S105  a purpose
HALF_AN_HOUR = 30 * 60


class ResetTokens(Protocol):
    """Makes and checks the tokens in password reset mails. `max_age` is in seconds."""

    max_age: int

    async def make(self, user: User) -> str: ...

    async def check(self, user: User, token: str) -> bool:
        """Returns whether the token is valid for this user. Does not use it up."""
        ...

    async def consume(self, user: User, token: str) -> bool:
        """Uses the token up. Returns whether it was valid and this caller was the first to use it."""
        ...

    def to_session(self, token: str) -> str:
        """Returns the text that represents the token in a session."""
        ...

    def from_session(self, text: str) -> str:
        """Returns the token for `check` and `consume`, from the text that `to_session` returned."""
        ...


class DatabaseResetTokens:
    """Stores a row for each password reset mail, with a single-use token.

    A token is valid for `max_age` seconds (default: half an hour). A change of the user's password or email address
    makes it invalid.
    """

    def __init__(self, tokens: Tokens, *, max_age: int = HALF_AN_HOUR) -> None:
        self.tokens = tokens
        self.max_age = max_age

    async def make(self, user: User) -> str:
        return await self.tokens.create(
            PASSWORD_RESET, user_subject(user), max_age=self.max_age, binding=user_binding(user)
        )

    async def check(self, user: User | None, token: str | None) -> bool:
        return await self._find(user, token) is not None

    async def consume(self, user: User | None, token: str | None) -> bool:
        row = await self._find(user, token)
        return row is not None and await self.tokens.consume(row)

    def to_session(self, token: str) -> str:
        return sha256_hex(token)

    def from_session(self, text: str) -> str:
        return TokenHash(text)

    async def _find(self, user: User | None, token: str | None) -> Token | None:
        if user is None or token is None:
            return None
        row = await self.tokens.find(PASSWORD_RESET, token)
        if row is None or row.subject != sha256_hex(user_subject(user)):
            return None
        return row if self.tokens.binding_matches(row, user_binding(user)) else None


async def make_reset_link(tokens: ResetTokens, user: User) -> dict[str, str]:
    """Returns the parameters of the page `password_reset_confirm`, with a new token for a user."""
    return {"uidb64": encode_uid(user), "token": await tokens.make(user)}


def encode_uid(user: User) -> str:
    """Returns the user's primary key in URL-safe base64, as Django's `uidb64`."""
    return base64.urlsafe_b64encode(str(user.id).encode()).decode().rstrip("=")


def decode_uid(text: str) -> str:
    """Returns the primary key, as text, that `encode_uid` encoded; "" for malformed text."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True).decode()
    except ValueError:
        return ""


def user_subject(user: User) -> str:
    return f"user {user.id}"


def user_binding(user: User) -> str:
    return f"{user.password}\n{user.email}"
