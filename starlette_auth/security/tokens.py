"""Single-use tokens that are sent by mail."""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ..core.clock import Clock
from ..core.signing import SecretKeys, sha256_hex
from ..database.deletion import delete_batch, delete_in_batches
from ..database.gateway import Gateway
from ..database.statements import Statement

BINDING = "starlette_auth.tokens"
EMAIL_UNDO = "email_undo"
MAX_LENGTH = 128  # characters of a token; ours have 43


class TokenHash(str):
    """The hash of a token: it finds the token's row, as the token does, and opens no link.

    It may stand in a session. An attacker who reads the database finds only hashes there, and no link works with one.
    """


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
        self._find = Statement(
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
        self._revoke_all = Statement(sa.delete(t).where(*of_subject))
        undo = (t.c.subject == sa.bindparam("subject"), t.c.purpose == EMAIL_UNDO)
        self._revoke_undos = Statement(sa.delete(t).where(*undo, t.c.expires >= now))
        self._clear = delete_batch(t, t.c.expires <= now, t.c.expires, dialect=gateway.dialect)

    async def create(
        self, purpose: str, subject: str, *, max_age: int, binding: str = "", data: Mapping[str, Any] | None = None
    ) -> str:
        """A new secret, good for `max_age` seconds. It is given out here, and cannot be had again."""
        token = secrets.token_urlsafe(32)
        await self.gateway.insert(
            self.table,
            token_hash=sha256_hex(token),
            purpose=purpose,
            subject=sha256_hex(subject),
            binding=self.keys.sign(BINDING, binding) if binding else "",
            data=json.dumps(data or {}),
            expires=int(self._clock()) + max_age,
        )
        return token

    async def find(self, purpose: str, token: str) -> Token | None:
        """What a secret stands for; None when it is unknown, used, too old or for something else. It stays usable."""
        if not token.isascii() or len(token) > MAX_LENGTH:
            return None
        token_hash = token if isinstance(token, TokenHash) else sha256_hex(token)
        row = await self.gateway.fetch_one(
            self._find, token_hash=str(token_hash), purpose=purpose, now=int(self._clock())
        )
        return _token(row) if row else None

    async def recent(self, purpose: str, subject: str) -> list[Token]:
        """The tokens of a subject, at most fifty, the one that stays longest first."""
        values = {"subject": sha256_hex(subject), "purpose": purpose, "now": int(self._clock())}
        return [_token(row) for row in await self.gateway.fetch_all(self._recent, **values)]

    async def lock(self, name: str) -> None:
        """Inside a transaction: whoever claims the same name waits until it is over, on every database."""
        key = sha256_hex(f"claim {name}")
        row = {"purpose": "claim", "subject": key, "binding": "", "data": "{}", "expires": 1}
        await self.gateway.insert(self.table, token_hash=key, **row)
        await self.gateway.execute(self._consume, token_hash=key, now=0)

    def binding_matches(self, token: Token, binding: str) -> bool:
        """Whether nothing that the token is bound to has changed."""
        return self.keys.verify(BINDING, binding, token.binding) is not None

    async def consume(self, token: Token) -> bool:
        """Uses the token up. True for one caller only, however many try at once, on every database."""
        return await self.gateway.execute(self._consume, token_hash=token.token_hash, now=int(self._clock())) == 1

    async def discard(self, purpose: str, token: str) -> None:
        """Ends one that was made and will not be sent."""
        found = await self.find(purpose, token)
        if found is not None:
            await self.consume(found)

    async def revoke_all(self, subject: str) -> None:
        """Ends all tokens of a subject, but for the one that brings a stolen account back."""
        await self.gateway.execute(self._revoke_all, subject=sha256_hex(subject))

    async def revoke_undos(self, subject: str, *, made_after: Token) -> None:
        """Ends what could take back what was done after this one. Older ones stay: the first owner has the last word."""
        await self.gateway.execute(self._revoke_undos, subject=sha256_hex(subject), now=made_after.expires)

    async def clear_expired(self) -> int:
        return await delete_in_batches(self.gateway, self._clear, now=int(self._clock()))


def _token(row: dict[str, Any]) -> Token:
    kept = {name: row[name] for name in ("token_hash", "purpose", "subject", "binding", "expires")}
    return Token(data=json.loads(row["data"]), **kept)
