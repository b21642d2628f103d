"""The tables of the second factors, and their statements."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ...auth import Auth
from ...core.exceptions import IntegrityError
from ...database.columns import ForeignKey, UniqueTogether, derived_name, key_column
from ...database.statements import Row, Statement
from ...database.tables import Tables
from ...security.sealing import CannotUnseal, Sealer
from ...users.models import User
from .recovery_codes import hash_code, new_code, normalize
from .totp import find_step

logger = logging.getLogger("starlette_auth")
PURPOSE = "totp"  # of the sealed secrets


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What a user can prove beside the password. Times are in seconds since 1970, UTC.

    `totp_since` is None without an authenticator app. `recovery_codes` is the number of unused ones.
    """

    totp_since: int | None = None
    totp_last_used: int | None = None
    recovery_codes: int = 0

    @property
    def has_totp(self) -> bool:
        return self.totp_since is not None


@dataclass(frozen=True)
class _App:
    """The row of an authenticator app. `secret` is None if it cannot be unsealed."""

    sealed: str = field(repr=False)
    secret: bytes | None = field(repr=False)
    resealed: str = field(repr=False)


def totp_table(tables: Tables) -> sa.Table:
    """Returns the table of authenticator apps: one for each user. It stores the app's secret sealed.

    `last_step` is the time step of the last code that was accepted.
    """
    name, user_key = tables.own_name("auth_totp"), tables.user_key
    user_type: Any = user_key.type
    return tables.make_own(
        "auth_totp",
        sa.Column("user_id", user_type, primary_key=True, autoincrement=False),
        sa.Column("secret", sa.String(255), nullable=False),
        sa.Column("last_step", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.BigInteger, nullable=True),
        ForeignKey(derived_name(name, "_user_id_fk"), None, "user_id", user_key, on_delete="CASCADE"),  # type: ignore[arg-type]
    )


def recovery_code_table(tables: Tables) -> sa.Table:
    """Returns the table of recovery codes. It stores their hashes."""
    name, user_key = tables.own_name("auth_recovery_code"), tables.user_key
    user_type: Any = user_key.type
    return tables.make_own(
        "auth_recovery_code",
        key_column(big=True),
        sa.Column("user_id", user_type, nullable=False),
        sa.Column("code_hash", sa.String(64), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=True),
        UniqueTogether(derived_name(name, "_user_id_code_hash_uniq"), "user_id", "code_hash"),  # type: ignore[arg-type]
        ForeignKey(derived_name(name, "_user_id_fk"), None, "user_id", user_key, on_delete="CASCADE"),  # type: ignore[arg-type]
        sqlite_autoincrement=True,
    )


class FactorStore:
    """Reads and writes the factors of users.

    A code is used by one UPDATE, whose condition it makes false. Of many requests at the same moment, in any number of
    processes, one finds the row.
    """

    def __init__(self, auth: Auth, tables: Sequence[sa.Table], sealer: Sealer, *, drift: int = 1) -> None:
        self.gateway, self.clock, self.locks = auth.gateway, auth.clock, auth.tokens
        self.sealer, self.drift = sealer, drift
        self.totp, self.codes = totp, codes = tables
        t, c = totp.c, codes.c
        user: sa.BindParameter[Any] = sa.bindparam("of_user", type_=auth.tables.user_key.type)
        now, sealed = sa.bindparam("now", type_=sa.BigInteger), sa.bindparam("sealed", type_=sa.String)
        is_unused = sa.and_(c.user_id == user, c.used.is_(None))
        self._count_codes = Statement(sa.select(sa.func.count().label("codes")).select_from(codes).where(is_unused))
        self._app = Statement(sa.select(t.secret, t.created, t.last_used).where(t.user_id == user))
        step = sa.bindparam("step", type_=sa.BigInteger)
        resealed = sa.bindparam("resealed", type_=sa.String)
        self._use_step = Statement(
            sa.update(totp)
            .values(last_step=step, last_used=now, secret=resealed)
            # An attacker uses a code of the old app while the user exchanges it: the row must be the one that was read.
            .where(t.user_id == user, t.secret == sealed, t.last_step < step)
        )
        self._reseal = Statement(sa.update(totp).values(secret=resealed).where(t.user_id == user, t.secret == sealed))
        self._all_apps = Statement(sa.select(t.user_id, t.secret).order_by(t.user_id))
        self._use_code = Statement(
            sa.update(codes)
            .values(used=now)
            .where(is_unused, c.code_hash == sa.bindparam("code_hash", type_=sa.String))
        )
        code_rows = sa.select(c.created, c.used).where(c.user_id == user)
        self._codes, self._latest_codes = Statement(code_rows), Statement(code_rows.with_for_update())
        self._latest_app = Statement(sa.select(t.created, t.last_used).where(t.user_id == user).with_for_update())
        self._delete_app = Statement(sa.delete(totp).where(t.user_id == user))
        self._delete_codes = Statement(sa.delete(codes).where(c.user_id == user))

    def now(self) -> int:
        return int(self.clock())

    async def factors(self, user: User) -> Factors:
        """Returns the factors of a user. Without an authenticator app it is one statement."""
        row = await self.gateway.fetch_one(self._app, of_user=user.id)
        if row is None:
            return Factors()
        left = await self.recovery_codes_left(user)
        return Factors(totp_since=row["created"], totp_last_used=row["last_used"], recovery_codes=left)

    async def list_rows(self, user: User, *, latest: bool = False) -> tuple[list[Row], list[Row]]:
        """Returns the row of the app, if there is one, and those of the recovery codes, used ones too.

        `latest`: as committed last. The snapshot of a transaction on MySQL may be older.
        """
        statements = (self._latest_app, self._latest_codes) if latest else (self._app, self._codes)
        apps, codes = [await self.gateway.fetch_all(statement, of_user=user.id) for statement in statements]
        return apps, codes

    async def has_app(self, user: User) -> bool:
        return await self.gateway.fetch_one(self._app, of_user=user.id) is not None

    async def recovery_codes_left(self, user: User) -> int:
        row = await self.gateway.fetch_one(self._count_codes, of_user=user.id)
        return int(row["codes"]) if row is not None else 0

    async def add_totp(self, user: User, secret: bytes, step: int) -> bool:
        """Stores the app of a user, who has proved it with the code of `step`. Returns False if the user has one."""
        sealed = self.sealer.seal(PURPOSE, owner_of(user), secret)
        values = {"secret": sealed, "last_step": step, "created": self.now(), "last_used": None}
        try:
            async with self.gateway.atomic():
                await self.gateway.insert(self.totp, user_id=user.id, **values)
        except IntegrityError:
            return False
        return True

    async def use_totp(self, user: User, code: str) -> bool:
        """Returns whether a code of the app is right, and uses it: no code is accepted twice.

        An app whose key is lost accepts none, and that is logged. A secret that an older key sealed is sealed again.
        """
        app = await self._find_app(user)
        if app is None or app.secret is None:
            return False
        step = find_step(app.secret, code, self.clock(), self.drift)
        if step is None:
            return False
        values = {"step": step, "now": self.now(), "sealed": app.sealed, "resealed": app.resealed}
        return await self.gateway.execute(self._use_step, of_user=user.id, **values) == 1

    async def use_recovery_code(self, user: User, text: str) -> bool:
        """Returns whether a recovery code is right, and uses it up."""
        code = normalize(text)
        if code is None:
            return False
        code_hash = hash_code(owner_of(user), code)
        return await self.gateway.execute(self._use_code, of_user=user.id, code_hash=code_hash, now=self.now()) == 1

    async def make_recovery_codes(self, user: User, number: int) -> list[str]:
        """Returns new recovery codes, which replace all earlier ones. They cannot be read again."""
        codes, created = [new_code() for _ in range(number)], self.now()

        async def replace() -> None:
            await self.lock(user)  # of two requests at once, the second replaces the codes of the first
            await self.gateway.execute(self._delete_codes, of_user=user.id)
            for code in codes:
                code_hash = hash_code(owner_of(user), normalize(code) or "")
                values = {"code_hash": code_hash, "created": created, "used": None}
                await self.gateway.insert(self.codes, user_id=user.id, **values)

        await self.gateway.run_in_transaction(replace)
        return codes

    async def remove_app(self, user: User) -> bool:
        """Deletes the app of a user, and leaves the recovery codes. Returns whether there was one."""
        return await self.gateway.execute(self._delete_app, of_user=user.id) == 1

    async def remove_recovery_codes(self, user: User) -> None:
        await self.gateway.execute(self._delete_codes, of_user=user.id)

    async def remove_all(self, user: User) -> bool:
        """Deletes the app and the recovery codes of a user. Returns whether there was an app."""

        async def remove() -> bool:
            await self.lock(user)
            await self.gateway.execute(self._delete_codes, of_user=user.id)
            return await self.gateway.execute(self._delete_app, of_user=user.id) == 1

        return await self.gateway.run_in_transaction(remove)

    async def reseal(self) -> tuple[int, int]:
        """Seals all secrets with the newest key that an older one sealed. Returns their number, and that of lost ones."""
        resealed = lost = 0
        for row in await self.gateway.fetch_all(self._all_apps):
            app = self._unseal(f"user {row['user_id']}", row["secret"])
            if app.secret is None:
                lost += 1
            elif app.resealed != app.sealed:
                values = {"sealed": app.sealed, "resealed": app.resealed}
                resealed += await self.gateway.execute(self._reseal, of_user=row["user_id"], **values)
        return resealed, lost

    async def has_lost_key(self, user: User) -> bool:
        """Returns whether the key that sealed the secret of the user's app is lost, so that no code can be right."""
        row = await self.gateway.fetch_one(self._app, of_user=user.id)
        try:
            return row is not None and not self.sealer.unseal(PURPOSE, owner_of(user), row["secret"])
        except CannotUnseal:
            return True

    async def _find_app(self, user: User) -> _App | None:
        row = await self.gateway.fetch_one(self._app, of_user=user.id)
        return self._unseal(owner_of(user), row["secret"]) if row is not None else None

    def _unseal(self, owner: str, sealed: str) -> _App:
        try:
            secret, is_old = self.sealer.unseal(PURPOSE, owner, sealed)
        except CannotUnseal as error:
            logger.error("%s", error)
            return _App(sealed, None, sealed)
        return _App(sealed, secret, self.sealer.seal(PURPOSE, owner, secret) if is_old else sealed)

    async def lock(self, user: User) -> None:
        """Locks the factors of a user until the transaction ends. Each change of the factors of any feature begins so."""
        await self.locks.lock(f"ways {user.id}")  # as pages/ways_in.py does


def owner_of(user: User) -> str:
    return f"user {user.identity}"
