"""The table `auth_passkey` and its statements."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ...auth import Auth
from ...database.columns import ForeignKey, derived_name, key_column
from ...database.statements import Row, Statement
from ...database.tables import Tables
from ...security.webauthn.credentials import (
    Credential,
    CredentialRefused,
    StoredCredential,
    decode,
    encode,
    find_signing_key,
    sign_credential,
)
from ...security.webauthn.relying_party import Assertion
from ...users.models import User

logger = logging.getLogger("starlette_auth")
MAX_NAME = 100
BATCH = 500  # rows that `reseal` reads at once
#: The columns in which a row differs from a Credential: texts in base64url, and one with commas.
BINARY = ("credential_id", "public_key", "user_handle")


def passkey_table(tables: Tables) -> sa.Table:
    """Returns the table of passkeys and security keys. Times are in seconds since 1970 (UTC).

    `credential_hash` is the SHA-256 of the credential ID, which may be longer than an index takes, and which MySQL would
    compare regardless of case. `mac` is the signature of `sign_credential`. Django's admin deletes users and does not
    know this table; therefore the database deletes its rows with them.
    """
    name = tables.own_name("auth_passkey")
    user_key: Any = tables.user_key
    names = (derived_name(name, "_user_id_fk"), derived_name(name, "_user_id"))
    return tables.make_own(
        "auth_passkey",
        key_column(big=True),
        sa.Column("user_id", user_key.type, nullable=False),
        sa.Column("credential_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("credential_id", sa.Text, nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("sign_count", sa.BigInteger, nullable=False),
        sa.Column("user_handle", sa.String(64), nullable=False),
        sa.Column("aaguid", sa.String(36), nullable=False),
        sa.Column("transports", sa.String(100), nullable=False),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("backup_eligible", sa.Boolean, nullable=False),
        sa.Column("backed_up", sa.Boolean, nullable=False),
        sa.Column("name", sa.String(MAX_NAME), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.BigInteger, nullable=True),
        sa.Column("mac", sa.String(80), nullable=False),
        ForeignKey(*names, "user_id", user_key, on_delete="CASCADE"),  # type: ignore[arg-type]
        sqlite_autoincrement=True,
    )


@dataclass(frozen=True, kw_only=True)
class Passkey:
    """A passkey or security key of a user. Times are in seconds since 1970, UTC.

    `name` is that which the user gave. `stored` is the credential with the signature of its row.
    """

    id: int
    name: str
    created: int
    last_used: int | None
    stored: StoredCredential = field(repr=False)

    @property
    def credential(self) -> Credential:
        return self.stored.credential


class PasskeyStore:
    """Reads and writes passkeys. One statement finds a passkey together with its user and the user's permissions."""

    def __init__(self, auth: Auth, table: sa.Table) -> None:
        self.gateway, self.users, self.keys, self.clock = auth.gateway, auth.users, auth.keys, auth.clock
        self.table = t = table
        key, count = auth.tables.user_key, sa.bindparam("count", type_=sa.BigInteger)
        columns = [column.label(f"passkey_{column.name}") for column in t.columns]
        with_user = sa.select(*self.users.columns(), *columns).select_from(auth.tables.user.join(t, t.c.user_id == key))
        self._find = Statement(with_user.where(t.c.credential_hash == sa.bindparam("credential_hash")))
        of_user = t.c.user_id == sa.bindparam("of_user", type_=key.type)
        by_id = t.c.id == sa.bindparam("passkey_id", type_=sa.BigInteger)
        of_one_user = sa.select(*columns).where(of_user).order_by(t.c.id)
        self._list, self._list_latest = Statement(of_one_user), Statement(of_one_user.with_for_update())
        self._rename = Statement(sa.update(t).values(name=sa.bindparam("new_name")).where(of_user, by_id))
        self._delete = Statement(sa.delete(t).where(of_user, by_id))
        is_rising = sa.or_(
            t.c.sign_count < count,
            t.c.backup_eligible.is_(sa.true()),
            sa.and_(t.c.sign_count == 0, count == 0),
        )
        used = {
            "sign_count": count,
            "backed_up": sa.bindparam("is_backed_up", type_=sa.Boolean),
            "last_used": sa.bindparam("now", type_=sa.BigInteger),
            "mac": sa.bindparam("new_mac", type_=sa.String),
        }
        self._record = Statement(sa.update(t).values(used).where(by_id, is_rising))
        self._batch = Statement(
            with_user.where(t.c.id > sa.bindparam("after", type_=sa.BigInteger)).order_by(t.c.id).limit(BATCH)
        )
        by_mac = t.c.mac == sa.bindparam("old_mac", type_=sa.String)
        new_mac = sa.bindparam("new_mac", type_=sa.String)
        self._reseal = Statement(sa.update(t).values(mac=new_mac).where(by_id, by_mac))

    async def find(self, credential_id: bytes) -> tuple[Passkey, User] | None:
        """Returns the passkey with this credential ID and its user; None if it is unknown."""
        row = await self.gateway.fetch_one(self._find, credential_hash=hash_of(credential_id))
        if row is None:
            return None
        user = self.users.from_row(row)
        passkeys = self._passkeys([row], user)
        return (passkeys[0], user) if passkeys else None

    async def list_latest(self, user: User) -> Sequence[Passkey]:
        """Returns the passkeys of a user as committed last; the snapshot of a transaction on MySQL may lack some."""
        return self._passkeys(await self.gateway.fetch_all(self._list_latest, of_user=user.id), user)

    async def list(self, user: User) -> Sequence[Passkey]:
        """Returns the passkeys of a user, the oldest first."""
        return self._passkeys(await self.gateway.fetch_all(self._list, of_user=user.id), user)

    async def insert(self, user: User, credential: Credential, name: str) -> Passkey:
        """Stores a new passkey. Raises IntegrityError if any user has one with this credential ID."""
        mac, now = sign_credential(self.keys, user.identity, credential), int(self.clock())
        columns = {**dataclasses.asdict(credential), "transports": ",".join(credential.transports)}
        columns |= {column: encode(columns[column]) for column in BINARY}
        number = await self.gateway.insert(
            self.table,
            user_id=user.id,
            credential_hash=hash_of(credential.credential_id),
            name=name,
            created=now,
            last_used=None,
            mac=mac,
            **columns,
        )
        stored = StoredCredential(credential=credential, user=user.identity, mac=mac)
        return Passkey(id=number, name=name, created=now, last_used=None, stored=stored)

    async def record_use(self, passkey: Passkey, assertion: Assertion) -> bool:
        """Notes a login. Returns False if the counter has not risen since another login that came first.

        An attacker with a copy of a security key logs in at the same moment as its owner. Both have the same counter,
        and both were compared with the older one. Therefore the statement compares it again.
        """
        stored = passkey.stored
        mac = sign_credential(self.keys, stored.user, stored.credential) if assertion.has_old_mac else stored.mac
        values = {"count": assertion.sign_count, "is_backed_up": assertion.backed_up, "new_mac": mac}
        return await self.gateway.execute(self._record, passkey_id=passkey.id, now=int(self.clock()), **values) == 1

    async def rename(self, user: User, passkey_id: int, name: str) -> bool:
        """Renames a passkey of a user. Returns False if the user has no such passkey."""
        return await self.gateway.execute(self._rename, of_user=user.id, passkey_id=passkey_id, new_name=name) == 1

    async def delete(self, user: User, passkey_id: int) -> bool:
        """Deletes a passkey of a user. Returns False if the user has no such passkey."""
        return await self.gateway.execute(self._delete, of_user=user.id, passkey_id=passkey_id) == 1

    async def reseal(self) -> tuple[int, int]:
        """Signs the rows anew that an older key signed. Returns their number, and that of rows whose key is lost."""
        resealed = lost = after = 0
        while rows := await self.gateway.fetch_all(self._batch, after=after):
            after = rows[-1]["passkey_id"]
            for row in rows:
                for passkey in self._passkeys([row], self.users.from_row(row)):
                    stored = passkey.stored
                    index = find_signing_key(self.keys, stored)
                    lost += index is None
                    if index:
                        mac = sign_credential(self.keys, stored.user, stored.credential)
                        values = {"old_mac": stored.mac, "new_mac": mac}
                        resealed += await self.gateway.execute(self._reseal, passkey_id=passkey.id, **values)
        return resealed, lost

    def _passkeys(self, rows: Iterable[Row], user: User) -> Sequence[Passkey]:
        """Returns the passkeys in rows of a user. A damaged row is left out, and logged."""
        passkeys = []
        for row in rows:
            try:
                passkeys.append(self._passkey_of(row, user))
            except CredentialRefused:
                logger.error("The row %s of %s is damaged: a text is no base64url.", row["passkey_id"], self.table.name)
        return passkeys

    def _passkey_of(self, row: Row, user: User) -> Passkey:
        values = {column.name: row[f"passkey_{column.name}"] for column in self.table.columns}
        fields = {item.name: values[item.name] for item in dataclasses.fields(Credential)}
        fields |= {column: decode(values[column]) for column in BINARY}
        fields["transports"] = tuple(filter(None, values["transports"].split(",")))
        stored = StoredCredential(credential=Credential(**fields), user=user.identity, mac=values["mac"])
        return Passkey(stored=stored, **{name: values[name] for name in ("id", "name", "created", "last_used")})


def hash_of(credential_id: bytes) -> str:
    return hashlib.sha256(credential_id).hexdigest()
