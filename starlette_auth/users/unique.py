"""Is a username or an email address taken by another user?"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import sqlalchemy as sa

from ..core.clock import DAY, Clock
from ..core.exceptions import AlreadyExists, IntegrityError
from ..core.signing import sha256_hex
from ..core.text import ascii_lower
from ..database.columns import parse_key, unique_index_name
from ..database.gateway import Gateway
from ..database.statements import Statement, insert_into
from ..database.tables import Tables

CLAIM = "address"
CLAIM_AGE = DAY  # longer than any transaction


class KeysByEmail(Protocol):
    """Returns the primary keys of all users with an address. With `lock` it reads the latest rows on every database."""

    def __call__(self, email: str, *, lock: bool = False) -> Awaitable[list[Any]]: ...


class UniqueNames:
    """Keeps usernames and, where users log in with them, email addresses unique.

    An attacker takes the address of another user, who could not log in any more: two accounts have it. The database
    prevents that with an index. The tables of a Django project get none. There, a transaction that writes an address
    first claims it: with a row in `auth_token` whose primary key is a hash of the address. Another transaction with that
    address waits, and then finds the user who has it. A claim counts only while its user has the address, so it cannot
    be out of date if Django deletes or changes a user. Addresses that Django itself writes are not claimed.
    """

    def __init__(
        self,
        gateway: Gateway,
        tables: Tables,
        *,
        keys_by_username: Callable[[str], Awaitable[list[Any]]],
        keys_by_email: KeysByEmail,
        clock: Clock,
    ) -> None:
        self.gateway = gateway
        self.tables = tables
        self._keys_by_username = keys_by_username
        self._keys_by_email = keys_by_email
        self._clock = clock
        token = tables.token
        # Locking reads: MySQL's plain SELECT would read the snapshot of the transaction's start.
        if tables.email is not None:
            of_user = tables.user_key == sa.bindparam("id")
            self._email_of = Statement(sa.select(tables.email.label("email")).where(of_user).with_for_update(read=True))
        by_hash = token.c.token_hash == sa.bindparam("hash")
        self._claim_row = Statement(sa.select(token.c.data).where(by_hash).with_for_update())
        self._hold = Statement(sa.update(token).where(by_hash).values(data=sa.bindparam("holder")))
        self._insert_claim = _insert_claim(token, gateway.dialect)

    async def claim(self, email: str | None, key: Any = None) -> None:
        """Claims an address for the user with this key, or for a new user, until the transaction ends.

        Raises AlreadyExists if another user has the address. Does nothing where addresses need not be unique.
        """
        if not email or not self.tables.unique_email:
            return
        if await self._is_taken(email, key):
            raise _taken(email)
        if not self.tables.django_tables:
            return
        claim = self._hash(email)
        await self.gateway.execute(self._insert_claim, hash=claim, until=int(self._clock()) + CLAIM_AGE)
        row = await self.gateway.fetch_one(self._claim_row, hash=claim)
        holder = json.loads(row["data"])["user"] if row is not None else None
        if holder not in (None, str(key)) and await self._has_email(holder, email):
            raise _taken(email)
        if key is not None:
            await self.hold(email, key)

    async def hold(self, email: str | None, key: Any) -> None:
        """Records the key of the new user for whom the address was claimed."""
        if email and self.tables.unique_email and self.tables.django_tables:
            await self.gateway.execute(self._hold, hash=self._hash(email), holder=json.dumps({"user": str(key)}))

    @contextlib.asynccontextmanager
    async def report(self, username: str | None, email: str | None, key: Any = None) -> AsyncIterator[None]:
        """Raises AlreadyExists in place of an IntegrityError if another user has this username or address."""
        try:
            yield
        except IntegrityError as error:
            holders = [] if username is None else await self._keys_by_username(username)
            if any(holder != key for holder in holders):
                message = f"There is a user called {username!r} already. Choose another name."
                raise AlreadyExists(message) from error
            if email and self._is_about_email(error) and await self._is_taken(email, key, lock=True):
                raise _taken(email) from error
            raise

    def _is_about_email(self, error: IntegrityError) -> bool:
        """Returns whether the error may be about an address.

        The index may be in the database although this process does not know that users log in with their addresses.
        """
        column = self.tables.email
        return column is not None and (
            self.tables.unique_email or bool(column.unique) or unique_index_name(column) in str(error)
        )

    async def _is_taken(self, email: str, key: Any, *, lock: bool = False) -> bool:
        return any(holder != key for holder in await self._keys_by_email(email, lock=lock))

    async def _has_email(self, holder: str, email: str) -> bool:
        """Returns whether a user, found by a key as text, has this address now."""
        row = await self.gateway.fetch_one(self._email_of, id=parse_key(self.tables.user_key.type.python_type, holder))
        return row is not None and ascii_lower(row["email"] or "") == ascii_lower(email)

    def _hash(self, email: str) -> str:
        """Returns the primary key of the claim. Several user tables may share the table of tokens."""
        return sha256_hex(f"address {self.tables.user.fullname} {ascii_lower(email)}")


def _insert_claim(table: sa.Table, dialect: str) -> Statement:
    """Returns the statement that inserts a claim, or locks the row of an earlier one and prolongs it."""
    until: sa.BindParameter[int] = sa.bindparam("until", type_=sa.BigInteger)
    claim = {"token_hash": sa.bindparam("hash"), "purpose": CLAIM, "subject": "", "binding": "", "expires": until}
    insert = insert_into(table, dialect).values({**claim, "data": json.dumps({"user": None})})
    if dialect == "mysql":
        return Statement(insert.on_duplicate_key_update(expires=until))
    return Statement(insert.on_conflict_do_update(table.primary_key, set_={"expires": until}))


def _taken(email: str) -> AlreadyExists:
    return AlreadyExists(f"There is a user with the email address {email!r} already. Choose another address.", "email")
