"""Sessions in a table, by default `auth_session`."""

import logging
import operator
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..core.arguments import require_clock, require_instance
from ..core.clock import Clock
from ..core.exceptions import ImproperlyConfigured
from ..core.signing import hash_key, is_key
from ..database.columns import parse_key
from ..database.deletion import delete_batch, delete_in_batches
from ..database.gateway import runs_apart, runs_apart_if_possible
from ..database.gateways import AnyDatabase, gateway_of
from ..database.statements import Row, Statement
from ..database.table_definitions import TableFactory, session_table
from ..database.tables import Tables
from ..users.queries import UserQueries
from .base import SessionBase
from .expiry import TOUCH_EVERY
from .records import SessionRecord, decode, next_record, touched_record
from .store import Progress, SessionStore, cookie_value, first_record, interrupted

logger = logging.getLogger("starlette_auth")


class DatabaseStore(SessionStore):
    """Keeps sessions in a table, under a hash of the session key.

    The key itself is never stored: an attacker who reads the database could otherwise use every session. With `users`,
    one statement loads the session, its user and the user's permissions. The default table is `auth_session`, and for
    another user table than `auth_user` a separate one (`Tables.session`).
    """

    supports_user_lookup = True

    def __init__(
        self,
        database: AnyDatabase,
        *,
        users: UserQueries[Any] | None = None,
        table: sa.Table | None = None,
        clock: Clock = time.time,
    ) -> None:
        if users is not None:
            require_instance(users, UserQueries, "users", "Pass users=auth.users.")
        if table is not None:
            require_instance(table, sa.Table, "table", "Pass a Table of SQLAlchemy.")
        require_clock(clock)
        self.gateway = gateway_of(database)
        self._users = users
        self._has_default_table = table is None
        self._clock = clock
        self._use_table(table if table is not None else _default_table(users))

    def _use_table(self, table: sa.Table) -> None:
        self.table: sa.Table = table
        self._statements = SessionStatements(table, self._users, dialect=self.gateway.dialect)

    def attach(self, database_url: str, tables: Tables) -> None:
        super().attach(database_url, tables)
        if self._users is None and self._has_default_table:
            self._use_table(tables.native_session)
        elif self._users is not None and self._users.tables.user.fullname != tables.user.fullname:
            raise ImproperlyConfigured(
                f"This DatabaseStore loads users of {self._users.tables.user.fullname}, but the user table is "
                f"{tables.user.fullname}. Pass sessions=lambda users: DatabaseStore(database, users=users)."
            )

    async def load(self, cookie: str) -> SessionBase:
        row = None
        if is_key(cookie):
            row = await self.gateway.fetch_one(self._statements.load, key_hash=hash_key(cookie), now=self._now())
        session = self._session_from_row(row, cookie) if row is not None else None
        return session if session is not None else SessionBase(clock=self._clock)

    async def load_without_data(self, session_key: str) -> Row | None:
        """Returns the row of a session without its data, but with its user; None if the session has ended."""
        return await self.gateway.fetch_one(
            self._statements.load_without_data, key_hash=hash_key(session_key), now=self._now()
        )

    def session_of(self, record: SessionRecord, row: Row | None, session_key: str | None) -> SessionBase:
        # The outer join has no user columns if the user was deleted.
        user_row = row if row is not None and row.get("user_id") is not None else None
        data = decode(record.data)
        return SessionBase(data, session_key=session_key, record=record, user_row=user_row, clock=self._clock)

    @runs_apart
    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key, stored_key = session.encode(), session.next_key, session.stored_key
        if stored_key is None:
            record = first_record(session, saved, max_age=max_age, now=self._now())
            await self.gateway.insert(self.table, key_hash=hash_key(key), **self._values(record))
        else:
            old_hash = hash_key(stored_key)
            new_hash = old_hash if key == stored_key else hash_key(key)
            record = await self._change(session, saved, old_hash, new_hash, max_age)
        session.mark_saved(key, record, saved)
        return cookie_value(key, record.data)

    @runs_apart
    async def delete(self, session_key: str) -> None:
        await self.gateway.execute(self._statements.delete, key_hash=hash_key(session_key))

    @runs_apart
    async def touch(self, session: SessionBase, max_age: int) -> None:
        if session.session_key is None or session.record is None:
            return
        now = self._now()
        touched = touched_record(session.record, session.address, max_age=max_age, now=now)
        await self.gateway.execute(
            self._statements.touch,
            key_hash=hash_key(session.session_key),
            now=now,
            seen_until=now - TOUCH_EVERY,  # another request may have touched the session in the meantime
            new_last_seen=touched.last_seen,
            new_expires=touched.expires,
            new_address=touched.address,
        )

    @runs_apart
    async def clear_expired(self, progress: Progress | None = None) -> int:
        return await delete_in_batches(self.gateway, self._statements.clear, progress, now=self._now())

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        rows = await self.gateway.fetch_all(self._statements.of_user, of_user=self._key(user_id), now=self._now())
        return [session for row in rows if (session := self._session_from_row(row)) is not None]

    @runs_apart_if_possible
    async def revoke(self, user_id: str, public_id: str) -> bool:
        values = {"of_user": self._key(user_id), "public_id": public_id, "now": self._now()}
        return await self.gateway.execute(self._statements.revoke, **values) == 1

    @runs_apart_if_possible
    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        values = {"of_user": self._key(user_id), "public_id": keep, "now": self._now()}
        return await self.gateway.execute(self._statements.revoke_others, **values)

    @runs_apart_if_possible
    async def revoke_everybody(self) -> int:
        # A second pass, because the first one may miss a session that gets a new key meanwhile. Not more, because
        # visitors may start sessions all the time.
        number = await delete_in_batches(self.gateway, self._statements.delete_all)
        return number + await delete_in_batches(self.gateway, self._statements.delete_all)

    def _session_from_row(self, row: Row, session_key: str | None = None) -> SessionBase | None:
        try:
            return self.session_of(_record_from_row(row), row, session_key)
        except (ValueError, TypeError):
            logger.warning("A row of %s is not a valid session record and is ignored.", self.table.name)
            return None

    async def _change(
        self, session: SessionBase, saved: str, old_hash: str, new_hash: str, max_age: int
    ) -> SessionRecord:
        """Updates the row in one statement, or merges the changes if another request has updated it."""
        assert session.record is not None  # noqa: S101  every stored session has one
        record = self._next_record(session.record, session, saved, max_age)
        is_rewrite = old_hash == new_hash and record.user_id == session.record.user_id
        if await self._write(record, old_hash, new_hash, is_rewrite=is_rewrite):
            return record
        return await self.gateway.run_in_transaction(lambda: self._merge(session, saved, old_hash, new_hash, max_age))

    async def _merge(
        self, session: SessionBase, saved: str, old_hash: str, new_hash: str, max_age: int
    ) -> SessionRecord:
        """Locks the row and applies the changes to it, so that this succeeds with any number of concurrent writers."""
        row = await self.gateway.fetch_one(self._statements.lock, key_hash=old_hash, now=self._now())
        record = self._next_record(_record_from_row(row), session, saved, max_age) if row is not None else None
        if record is None or not await self._write(record, old_hash, new_hash):
            raise interrupted()
        return record

    def _next_record(self, stored: SessionRecord, session: SessionBase, saved: str, max_age: int) -> SessionRecord:
        data, user_id = session.merge_into(stored.data, saved)
        return next_record(stored, data, user_id, max_age=max_age, now=self._now())

    async def _write(self, record: SessionRecord, old_hash: str, new_hash: str, *, is_rewrite: bool = False) -> bool:
        """Updates the row if its version is still the previous one; returns whether it did.

        `is_rewrite`: key and user stay the same, so a smaller statement is enough that updates no index on them.
        """
        old = {"key_hash": old_hash, "old_version": record.version - 1, "now": self._now()}
        if is_rewrite:
            new = {f"new_{name}": getattr(record, name) for name in CONTENT}
            return await self.gateway.execute(self._statements.rewrite, **old, **new) == 1
        new = {f"new_{name}": value for name, value in self._values(record).items() if name in CHANGING}
        return await self.gateway.execute(self._statements.update, new_key_hash=new_hash, **old, **new) == 1

    def _values(self, record: SessionRecord) -> dict[str, Any]:
        return {**record._asdict(), "user_id": self._key(record.user_id)}

    def _key(self, user_id: str | None) -> Any:
        return parse_key(self.table.c.user_id.type.python_type, user_id)

    def _now(self) -> int:
        return int(self._clock())


CONTENT = ("data", "last_seen", "expires", "version")
CHANGING = (*CONTENT, "user_id", "address", "user_agent")
LOADED = (*CHANGING, "public_id", "created")


class SessionStatements:
    """The SQL statements for the session table."""

    def __init__(self, table: sa.Table, users: UserQueries[Any] | None, *, dialect: str) -> None:
        t = table
        by_key = t.c.key_hash == sa.bindparam("key_hash")
        is_unexpired = t.c.expires > _timestamp("now")
        user_columns: list[Any] = []
        source: Any = t
        if users is not None:
            user_columns = users.columns()
            source = t.outerjoin(users.tables.user, users.tables.user_key == t.c.user_id)
        self.load = Statement(
            sa.select(*_columns(t, LOADED), *user_columns).select_from(source).where(by_key, is_unexpired)
        )
        without_data = sa.select(*_columns(t, LOADED[1:]), *user_columns)
        self.load_without_data = Statement(without_data.select_from(source).where(by_key, is_unexpired))
        self.lock = Statement(sa.select(*_columns(t, LOADED)).where(by_key, is_unexpired).with_for_update())
        of_user = t.c.user_id == sa.bindparam("of_user")
        all_columns = _columns(t, SessionRecord._fields)
        newest_first = (t.c.last_seen.desc(), t.c.created.desc())
        self.of_user = Statement(sa.select(*all_columns).where(of_user, is_unexpired).order_by(*newest_first))
        is_unchanged = t.c.version == _timestamp("old_version")
        changes = _new_values("key_hash", *CHANGING)
        self.update = Statement(sa.update(t).values(changes).where(by_key, is_unexpired, is_unchanged))
        self.rewrite = Statement(sa.update(t).values(_new_values(*CONTENT)).where(by_key, is_unexpired, is_unchanged))
        needs_touch = t.c.last_seen <= _timestamp("seen_until")
        touched = _new_values("last_seen", "expires", "address")
        self.touch = Statement(sa.update(t).values(touched).where(by_key, is_unexpired, needs_touch), durable=False)
        self.delete = Statement(sa.delete(t).where(by_key))
        public_id: sa.BindParameter[str] = sa.bindparam("public_id")
        self.revoke = Statement(sa.delete(t).where(of_user, is_unexpired, t.c.public_id == public_id))
        self.revoke_others = Statement(sa.delete(t).where(of_user, is_unexpired, t.c.public_id != public_id))
        self.delete_all = delete_batch(t, t.c.expires >= sa.literal_column("0"), t.c.expires, dialect=dialect)
        self.clear = delete_batch(t, t.c.expires <= _timestamp("now"), t.c.expires, dialect=dialect)


def _columns(table: sa.Table, names: Sequence[str]) -> list[Any]:
    return [table.c[name].label(f"session_{name}") for name in names]


def _new_values(*names: str) -> dict[str, Any]:
    return {name: sa.bindparam(f"new_{name}") for name in names}


def _timestamp(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger)


_fields_of = operator.itemgetter(*(f"session_{name}" for name in SessionRecord._fields))


def _record_from_row(row: Row) -> SessionRecord:
    data, public_id, user_id, *further_fields = _fields_of(row)
    return SessionRecord(data, public_id, None if user_id is None else str(user_id), *further_fields)


def _default_table(users: UserQueries[Any] | None) -> sa.Table:
    return users.tables.session if users is not None else session_table(TableFactory(), sa.Integer())
