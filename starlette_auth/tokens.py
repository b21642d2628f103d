"""Secrets that are sent by mail, and work once."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol

import sqlalchemy as sa

from .cleaning import delete_in_batches, old_rows
from .clock import Clock
from .gateway import Gateway
from .models import User
from .signing import SecretKeys, salted_hmac
from .statements import Statement

BINDING = "starlette_auth.tokens"
HIDDEN = "starlette_auth.tokens.hidden"
PASSWORD_RESET = "password_reset"  # noqa: S105  a purpose
EMAIL_UNDO = "email_undo"
MAX_LENGTH = 128  # characters of a token; ours have 43
HALF_AN_HOUR = 30 * 60
# Django's, so that a link made by either framework works in both.
DJANGO_SALT = "django.contrib.auth.tokens.PasswordResetTokenGenerator"
DJANGO_EPOCH = datetime(2001, 1, 1)
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class Token:
    """A row of `auth_token`: what somebody may do once, and whoever holds the secret."""

    token_hash: str
    purpose: str
    subject: str
    binding: str
    data: Mapping[str, Any] = field(repr=False)
    expires: int


class Tokens:
    """Tokens in the table `auth_token`: 256 bits, of which only a SHA-256 is kept.

    `subject` says whom a token is about, `binding` what must not change meanwhile.
    """

    def __init__(self, gateway: Gateway, *, table: sa.Table, keys: SecretKeys, clock: Clock = time.time) -> None:
        self.gateway = gateway
        self.table = t = table
        self.keys = keys
        self._clock = clock
        by_hash = t.c.token_hash == sa.bindparam("token_hash")
        now: sa.BindParameter[int] = sa.bindparam("now", type_=sa.BigInteger)
        self._look = Statement(
            sa.select(*t.columns).where(by_hash, t.c.purpose == sa.bindparam("purpose"), t.c.expires > now)
        )
        of_subject = (t.c.subject == sa.bindparam("subject"), t.c.purpose != EMAIL_UNDO)
        self._recent = Statement(
            sa.select(*t.columns)
            .where(t.c.subject == sa.bindparam("subject"), t.c.purpose == sa.bindparam("purpose"), t.c.expires > now)
            .order_by(t.c.expires.desc())
            .limit(50)
        )
        self._consume = Statement(sa.delete(t).where(by_hash, t.c.expires > now))
        self._void = Statement(sa.delete(t).where(*of_subject))
        undo = (t.c.subject == sa.bindparam("subject"), t.c.purpose == EMAIL_UNDO)
        self._void_undos = Statement(sa.delete(t).where(*undo, t.c.expires >= now))
        self._clear = old_rows(t, t.c.expires <= now, t.c.expires, dialect=gateway.dialect)

    async def make(
        self, purpose: str, subject: str, *, max_age: int, binding: str = "", data: Mapping[str, Any] | None = None
    ) -> str:
        """A new secret, good for `max_age` seconds. It is given out here, and cannot be had again."""
        token = secrets.token_urlsafe(32)
        await self.gateway.insert(
            self.table,
            token_hash=_sha256(token),
            purpose=purpose,
            subject=_sha256(subject),
            binding=self.keys.sign(BINDING, binding) if binding else "",
            data=json.dumps(data or {}),
            expires=int(self._clock()) + max_age,
        )
        return token

    async def look(self, purpose: str, token: str) -> Token | None:
        """What a secret stands for; None when it is unknown, used, too old or for something else. It stays usable."""
        if not token.isascii() or len(token) > MAX_LENGTH:
            return None
        row = await self.gateway.fetch_one(
            self._look, token_hash=_sha256(token), purpose=purpose, now=int(self._clock())
        )
        return _token(row) if row else None

    async def recent(self, purpose: str, subject: str) -> list[Token]:
        """The tokens of a subject, at most fifty, the one that stays longest first."""
        values = {"subject": _sha256(subject), "purpose": purpose, "now": int(self._clock())}
        return [_token(row) for row in await self.gateway.fetch_all(self._recent, **values)]

    async def claim(self, name: str) -> None:
        """Inside a transaction: whoever claims the same name waits until it is over, on every database."""
        key = _sha256(f"claim {name}")
        row = {"purpose": "claim", "subject": key, "binding": "", "data": "{}", "expires": 1}
        await self.gateway.insert(self.table, token_hash=key, **row)
        await self.gateway.execute(self._consume, token_hash=key, now=0)

    def is_bound(self, token: Token, binding: str) -> bool:
        """Whether nothing that the token is bound to has changed."""
        return self.keys.verify(BINDING, binding, token.binding) is not None

    async def consume(self, token: Token) -> bool:
        """Uses the token up. True for one caller only, however many try at once, on every database."""
        return await self.gateway.execute(self._consume, token_hash=token.token_hash, now=int(self._clock())) == 1

    async def discard(self, purpose: str, token: str) -> None:
        """Ends one that was made and will not be sent."""
        found = await self.look(purpose, token)
        if found is not None:
            await self.consume(found)

    async def void(self, subject: str) -> None:
        """Ends all tokens of a subject, but for the one that brings a stolen account back."""
        await self.gateway.execute(self._void, subject=_sha256(subject))

    async def void_undos(self, subject: str, *, made_after: Token) -> None:
        """Ends what could take back what was done after this one. Older ones stay: the first owner has the last word."""
        await self.gateway.execute(self._void_undos, subject=_sha256(subject), now=made_after.expires)

    async def clear_expired(self) -> int:
        return await delete_in_batches(self.gateway, self._clear, now=int(self._clock()))


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


class DatabaseResetTokens:
    """One row for each mail; a token works once, for half an hour, while password and address stay as they are."""

    def __init__(self, tokens: Tokens, *, max_age: int = HALF_AN_HOUR) -> None:
        self.tokens = tokens
        self.max_age = max_age

    async def make(self, user: User) -> str:
        return await self.tokens.make(PASSWORD_RESET, subject_of(user), max_age=self.max_age, binding=binding_of(user))

    async def check(self, user: User, token: str) -> bool:
        return await self._look(user, token) is not None

    async def consume(self, user: User, token: str) -> bool:
        found = await self._look(user, token)
        return found is not None and await self.tokens.consume(found)

    async def _look(self, user: User, token: str) -> Token | None:
        found = await self.tokens.look(PASSWORD_RESET, token)
        if found is None or found.subject != _sha256(subject_of(user)):
            return None
        return found if self.tokens.is_bound(found, binding_of(user)) else None


class PasswordResetTokens:
    """Django's: nothing is stored, the token signs what a use of it changes (django.contrib.auth.tokens, 3.1 and later).

    `time_zone` is the project's TIME_ZONE: Django counts in local time, and links would live hours too long or too
    short otherwise. `use_tz` is its USE_TZ. `max_age` is in seconds, its PASSWORD_RESET_TIMEOUT.
    """

    def __init__(
        self,
        secret_key: str | Sequence[str] | SecretKeys,
        *,
        max_age: int = HALF_AN_HOUR,
        time_zone: tzinfo = UTC,
        use_tz: bool = True,
        clock: Clock = time.time,
    ) -> None:
        self.keys = secret_key if isinstance(secret_key, SecretKeys) else SecretKeys(secret_key)
        self.max_age = max_age
        self.time_zone = time_zone
        self.use_tz = use_tz
        self._clock = clock

    async def make(self, user: User) -> str:
        return self._sign(user, self._now(), self.keys.all[0])

    async def check(self, user: User, token: str) -> bool:
        stamp, dash, _ = token.partition("-")
        # As Django's own: longer ones would be numbers of any size.
        if not dash or not 0 < len(stamp) <= 13 or not all(mark in DIGITS for mark in stamp):
            return False
        made = int(stamp, 36)
        # All keys are tried: the time says nothing about which one signed.
        good = [
            hmac.compare_digest(self._sign(user, made, key).encode(), token.encode("utf-8", "replace"))
            for key in self.keys.all
        ]
        return any(good) and self._now() - made <= self.max_age

    async def consume(self, user: User, token: str) -> bool:
        """As `check`: once the password is another, the token is no more. `Users.replace_password` lets one win."""
        return await self.check(user, token)

    def _sign(self, user: User, made: int, key: str) -> str:
        last_login = ""
        if user.last_login is not None:
            zone = UTC if self.use_tz else self.time_zone
            last_login = str(user.last_login.astimezone(zone).replace(microsecond=0, tzinfo=None))
        state = f"{user.id}{user.password}{last_login}{made}{user.email}"
        return f"{_base36(made)}-{salted_hmac(DJANGO_SALT, state, key)[::2]}"

    def _now(self) -> int:
        local = datetime.fromtimestamp(self._clock(), self.time_zone).replace(tzinfo=None)
        return (local - DJANGO_EPOCH) // timedelta(seconds=1)


def hide(keys: SecretKeys, token: str) -> str:
    """For a session: whoever reads the database, or what its driver logs, could follow the link otherwise."""
    nonce = secrets.token_hex(16)
    return nonce + _masked(keys, nonce, token.encode()).hex()


def unhide(keys: SecretKeys, hidden: str) -> str:
    """The token; anything else for what was not hidden under the newest key."""
    try:
        return _masked(keys, hidden[:32], bytes.fromhex(hidden[32:])).decode()
    except ValueError:
        return ""


def encode_uid(user: User) -> str:
    """How links name a user: Django's `uidb64`."""
    return base64.urlsafe_b64encode(str(user.id).encode()).decode().rstrip("=")


def decode_uid(text: str) -> str:
    """The user's primary key as text; "" for what is none."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True).decode()
    except ValueError:
        return ""


def subject_of(user: User) -> str:
    return f"user {user.id}"


def binding_of(user: User) -> str:
    return f"{user.password}\n{user.email}"


def _masked(keys: SecretKeys, nonce: str, text: bytes) -> bytes:
    """Each nonce has a pad of its own, which nobody knows without the secret key."""
    pad = hashlib.shake_256(f"{HIDDEN}:{nonce}:{keys.all[0]}".encode()).digest(len(text))
    return bytes(a ^ b for a, b in zip(text, pad, strict=True))


def _token(row: dict[str, Any]) -> Token:
    kept = {name: row[name] for name in ("token_hash", "purpose", "subject", "binding", "expires")}
    return Token(data=json.loads(row["data"]), **kept)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _base36(number: int) -> str:
    digits = ""
    while number > 0:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return digits or "0"
