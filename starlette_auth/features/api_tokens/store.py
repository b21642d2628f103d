"""The table `auth_api_token` and its statements."""

import json
from typing import Any

import sqlalchemy as sa

from ...auth import Auth
from ...core.signing import sha256_hex
from ...database.columns import ForeignKey, derived_name, key_column, long_text
from ...database.gateway import runs_apart
from ...database.statements import Row, Statement
from ...database.tables import Tables
from .tokens import APIToken, parse_scopes

USED_EVERY = 60  # seconds between two updates of `last_used`
KEEP_EXPIRED = 30 * 24 * 60 * 60  # seconds for which the owner sees an expired token
FIELDS = ("id", "name", "hint", "scopes", "created", "expires", "last_used", "last_address")


def token_table(tables: Tables) -> sa.Table:
    """Returns the table. It stores the SHA-256 hash of each token, and times in seconds since 1970 (UTC).

    A token has 178 random bits, so that a fast hash is enough. An attacker who reads the database learns no token.
    """
    name = tables.own_name("auth_api_token")
    user_key: Any = tables.user_key
    return tables.make_own(
        "auth_api_token",
        key_column(big=True),
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("hint", sa.String(32), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("user_id", user_key.type, nullable=False),
        sa.Column("scopes", long_text(), nullable=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.BigInteger, nullable=True),
        sa.Column("last_address", sa.String(45), nullable=False),
        ForeignKey(derived_name(name, "_user_id_fk"), derived_name(name, "_user_id"), "user_id", user_key),  # type: ignore[arg-type]
        sqlite_autoincrement=True,
    )


class TokenStore:
    """Reads and writes tokens. One statement finds a token together with its user and the user's permissions."""

    def __init__(self, auth: Auth, table: sa.Table) -> None:
        self.gateway, self.users, self.table, self.clock = auth.gateway, auth.users, table, auth.clock
        t, key, now = table.c, auth.tables.user_key, sa.bindparam("now", type_=sa.BigInteger)
        self._columns = [t[name].label(f"token_{name}") for name in FIELDS]
        with_user = sa.select(*self.users.columns(), *self._columns).select_from(
            auth.tables.user.join(table, t.user_id == key)
        )
        self._find = Statement(with_user.where(t.token_hash == sa.bindparam("token_hash")))
        of_user = t.user_id == sa.bindparam("of_user", type_=key.type)
        by_id = t.id == sa.bindparam("token_id", type_=sa.BigInteger)
        of_one_user = sa.select(*self._columns).where(of_user).order_by(t.id.desc())
        self._list, self._list_latest = Statement(of_one_user), Statement(of_one_user.with_for_update())
        self._delete = Statement(sa.delete(table).where(of_user, by_id))
        self._delete_old = Statement(
            sa.delete(table).where(of_user, t.expires <= sa.bindparam("until", type_=sa.BigInteger))
        )
        is_unused = sa.or_(t.last_used.is_(None), t.last_used <= sa.bindparam("unused_since", type_=sa.BigInteger))
        used = {"last_used": now, "last_address": sa.bindparam("address", type_=sa.String)}
        self._touch = Statement(sa.update(table).values(used).where(by_id, is_unused), durable=False)

    def now(self) -> int:
        return int(self.clock())

    async def find(self, token: str) -> Row | None:
        """Returns the row of a token and its user, also of a token that has expired; None if the token is unknown."""
        return await self.gateway.fetch_one(self._find, token_hash=sha256_hex(token))

    async def list_latest(self, user_id: Any) -> list[APIToken]:
        """Returns the tokens of a user as committed last; the snapshot of a transaction on MySQL may lack some."""
        return [token_of(row) for row in await self.gateway.fetch_all(self._list_latest, of_user=user_id)]

    async def list(self, user_id: Any) -> list[APIToken]:
        return [token_of(row) for row in await self.gateway.fetch_all(self._list, of_user=user_id)]

    async def insert(self, user_id: Any, token: str, **fields: Any) -> APIToken:
        scopes = fields.pop("scopes")
        values = {**fields, "last_used": None, "last_address": ""}
        stored = None if scopes is None else json.dumps(scopes)
        number = await self.gateway.insert(
            self.table, token_hash=sha256_hex(token), user_id=user_id, scopes=stored, **values
        )
        return APIToken(id=number, token=token, scopes=scopes, **values)

    async def delete(self, user_id: Any, token_id: int) -> bool:
        return await self.gateway.execute(self._delete, of_user=user_id, token_id=token_id) == 1

    async def delete_old(self, user_id: Any) -> None:
        """Deletes the tokens of a user that expired more than 30 days ago."""
        await self.gateway.execute(self._delete_old, of_user=user_id, until=self.now() - KEEP_EXPIRED)

    @runs_apart
    async def record_use(self, token_id: int, address: str, *, unused_since: int | None = None) -> bool:
        """Records the use of a token. Returns False if it was used after `unused_since`, by default a minute ago."""
        now = self.now()
        since = now - USED_EVERY if unused_since is None else unused_since
        values = {"now": now, "address": address[:45], "unused_since": since}
        return await self.gateway.execute(self._touch, token_id=token_id, **values) == 1


def token_of(row: Row) -> APIToken:
    """Returns the token of a row that was selected with its columns."""
    fields = {name: row[f"token_{name}"] for name in FIELDS}
    return APIToken(**{**fields, "scopes": parse_scopes(fields["scopes"])})
