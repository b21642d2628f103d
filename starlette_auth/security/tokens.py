"""Single-use tokens for links in mails."""

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ..core.clock import Clock
from ..core.exceptions import IntegrityError
from ..core.signing import SecretKeys, sha256_hex
from ..database.deletion import delete_batch, delete_in_batches
from ..database.gateway import Gateway
from ..database.statements import Statement

BINDING = "starlette_auth.tokens"
EMAIL_UNDO = "email_undo"
MAX_RECENT = 1000
MAX_CLAIM = 120  # seconds until a claim ends if its process was killed
MAX_LENGTH = 128  # characters; a valid token has 43


class TokenHash(str):
    """Marks a text as the hash of a token. `find` accepts it in place of the token; links do not.

    An attacker who reads the session table could use a token that is stored in a session. Therefore a session stores
    the hash, which works in no link.
    """


@dataclass(frozen=True, kw_only=True)
class Token:
    """Represents a row of `auth_token`: an action that the token's holder may perform once.

    `subject` is a SHA-256 hash, `binding` a signature, and `expires` a Unix time in seconds.
    """

    token_hash: str
    purpose: str
    subject: str
    binding: str
    data: Mapping[str, Any] = field(repr=False)
    expires: int


class Tokens:
    """Creates, finds and consumes tokens in the table `auth_token`. A token has 256 bits; only its SHA-256 is stored.

    `subject` names the user or address that a token is about. `binding` is a text, such as the password hash, that must
    not change while the token is valid; the table holds only its signature.
    """

    def __init__(self, gateway: Gateway, *, table: sa.Table, keys: SecretKeys, clock: Clock = time.time) -> None:
        self.gateway = gateway
        self.table = t = table
        self.keys = keys
        self.clock = clock
        by_hash = t.c.token_hash == sa.bindparam("token_hash")
        now: sa.BindParameter[int] = sa.bindparam("now", type_=sa.BigInteger)
        self._find = Statement(
            sa.select(*t.columns).where(by_hash, t.c.purpose == sa.bindparam("purpose"), t.c.expires > now)
        )
        of_subject = (t.c.subject == sa.bindparam("subject"), t.c.purpose != EMAIL_UNDO)
        self._recent = Statement(
            sa.select(*t.columns)
            .where(t.c.subject == sa.bindparam("subject"), t.c.purpose == sa.bindparam("purpose"), t.c.expires > now)
            .order_by(t.c.expires.desc(), t.c.token_hash)
            .limit(MAX_RECENT)
        )
        self._consume = Statement(sa.delete(t).where(by_hash, t.c.expires > now))
        self._revoke_all = Statement(sa.delete(t).where(*of_subject))
        undo = (t.c.subject == sa.bindparam("subject"), t.c.purpose == EMAIL_UNDO)
        self._revoke_undos = Statement(sa.delete(t).where(*undo, t.c.expires >= now))
        self._release = Statement(sa.delete(t).where(by_hash, t.c.purpose == "claim", t.c.expires <= now))
        self._clear = delete_batch(t, t.c.expires <= now, t.c.expires, dialect=gateway.dialect)

    async def create(
        self, purpose: str, subject: str, *, max_age: int, binding: str = "", data: Mapping[str, Any] | None = None
    ) -> str:
        """Returns a new token, valid for `max_age` seconds. It cannot be read again: the table stores only its hash."""
        token = secrets.token_urlsafe(32)
        await self.gateway.insert(
            self.table,
            token_hash=sha256_hex(token),
            purpose=purpose,
            subject=sha256_hex(subject),
            binding=self.keys.sign(BINDING, binding) if binding else "",
            data=json.dumps(data or {}),
            expires=int(self.clock()) + max_age,
        )
        return token

    async def find(self, purpose: str, token: str) -> Token | None:
        """Returns the row of a token, which stays usable.

        Returns None if the token is unknown, used, expired or for another purpose.
        """
        if not token.isascii() or len(token) > MAX_LENGTH:
            return None
        token_hash = token if isinstance(token, TokenHash) else sha256_hex(token)
        row = await self.gateway.fetch_one(
            self._find, token_hash=str(token_hash), purpose=purpose, now=int(self.clock())
        )
        return _token(row) if row else None

    async def recent(self, purpose: str, subject: str) -> list[Token]:
        """Returns the valid tokens of a subject, at most 1,000, the latest expiry first."""
        values = {"subject": sha256_hex(subject), "purpose": purpose, "now": int(self.clock())}
        return [_token(row) for row in await self.gateway.fetch_all(self._recent, **values)]

    async def lock(self, name: str) -> None:
        """Locks a name until the current transaction ends, on every database.

        Other transactions that lock the same name wait. The lock is the primary key of a row that is inserted and
        deleted at once.
        """
        key = sha256_hex(f"claim {name}")
        row = {"purpose": "claim", "subject": key, "binding": "", "data": "{}", "expires": 1}
        await self.gateway.insert(self.table, token_hash=key, **row)
        await self.gateway.execute(self._consume, token_hash=key, now=0)

    @contextlib.asynccontextmanager
    async def claim(self, name: str) -> AsyncIterator[bool]:
        """Yields True to one of several concurrent callers until its block ends, and False to the others.

        An attacker posts one mailed link many times at once, each of which would cost a password hash. Therefore a
        request claims the link before it hashes. Check the link again inside the block: another request may have used
        it just before. Unlike `lock` it needs no transaction, so that none is open while a password is hashed.
        """
        key, now = sha256_hex(f"turn {name}"), int(self.clock())
        await self.gateway.execute(self._release, token_hash=key, now=now)  # a claim whose process was killed
        expires = now + MAX_CLAIM
        row = {"purpose": "claim", "subject": key, "binding": "", "data": "{}", "expires": expires}
        is_claimed = True
        try:
            await self.gateway.insert(self.table, token_hash=key, **row)
        except IntegrityError:
            is_claimed = False
        try:
            yield is_claimed
        finally:
            if is_claimed:
                await self.gateway.execute(self._release, token_hash=key, now=expires)

    async def burn(self, name: str, max_age: int) -> bool:
        """Notes that `name` was used. Returns True to exactly one of all callers, on every database.

        `name` stands for something that is valid once and is not stored before its use, such as a signed challenge.
        `max_age` is the time for which it may be valid at most, in seconds; `clear_expired` forgets it after that.
        """
        key = sha256_hex(f"used {name}")
        row = {"purpose": "used", "subject": key, "binding": "", "data": "{}", "expires": int(self.clock()) + max_age}
        try:
            async with self.gateway.atomic():  # the caller's transaction survives the error
                await self.gateway.insert(self.table, token_hash=key, **row)
        except IntegrityError:
            return False
        return True

    def binding_matches(self, token: Token, binding: str) -> bool:
        """Returns whether `binding` is the text that the token was created with. False for a token without one."""
        return self.keys.verify(BINDING, binding, token.binding) is not None

    async def consume(self, token: Token) -> bool:
        """Uses the token up. Returns True to exactly one of several concurrent callers, on every database."""
        return await self.gateway.execute(self._consume, token_hash=token.token_hash, now=int(self.clock())) == 1

    async def discard(self, purpose: str, token: str) -> None:
        """Deletes a token that was created but will not be sent."""
        row = await self.find(purpose, token)
        if row is not None:
            await self.consume(row)

    async def revoke_all(self, subject: str) -> None:
        """Revokes all tokens of a subject, except those that undo an email change.

        An attacker with a stolen account could otherwise revoke the token with which its owner takes it back.
        """
        await self.gateway.execute(self._revoke_all, subject=sha256_hex(subject))

    async def revoke_undos(self, subject: str, *, made_after: Token) -> None:
        """Revokes the undo token `made_after` and all later undo tokens of the subject. Earlier ones stay valid.

        An attacker changes the email address of a stolen account again. The undo token for that change goes to the
        attacker's address and could reverse the owner's undo. Therefore an undo revokes all later undo tokens, and the
        first owner's token has precedence.
        """
        await self.gateway.execute(self._revoke_undos, subject=sha256_hex(subject), now=made_after.expires)

    async def clear_expired(self) -> int:
        """Deletes expired tokens. Returns their number."""
        return await delete_in_batches(self.gateway, self._clear, now=int(self.clock()))


def _token(row: dict[str, Any]) -> Token:
    fields = {name: row[name] for name in ("token_hash", "purpose", "subject", "binding", "expires")}
    return Token(data=json.loads(row["data"]), **fields)
