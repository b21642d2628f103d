"""Sessions in the table `auth_session`."""

import logging
import secrets
import time
from typing import Any

import sqlalchemy as sa
from databases import Database

from ..exceptions import SessionInterrupted
from ..gateway import Gateway
from ..statements import Row, Statement
from ..tables import session_table
from ..users import Users
from .base import Clock, SessionBase, decode, hash_key, is_key, new_key

logger = logging.getLogger("starlette_auth")


class DatabaseStore:
    """Keeps a hash of each key, never the key. Given `users`, it brings the user and all permissions in the same row."""

    def __init__(
        self,
        database: Database,
        *,
        users: Users[Any] | None = None,
        table: sa.Table | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.gateway = Gateway.of(database)
        self._clock = clock
        self.table = t = table if table is not None else _own_table(users)
        source: Any = t
        columns: list[Any] = [t.c.data.label("session_data"), t.c.user_id.label("session_user")]
        if users is not None:
            source = t.outerjoin(users.tables.user, users.tables.user_key == t.c.user_id)
            columns += users.columns()
        by_key: sa.BindParameter[str] = sa.bindparam("key_hash")
        wanted = sa.select(*columns).select_from(source)
        self._load = Statement(
            wanted.where(t.c.key_hash == by_key, t.c.expires > sa.bindparam("now", type_=sa.BigInteger))
        )
        columns_to_change = ("key_hash", "data", "user_id", "last_seen", "expires")
        changes: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in columns_to_change}
        self._update = Statement(sa.update(t).values(changes).where(t.c.key_hash == by_key))
        self._delete = Statement(sa.delete(t).where(t.c.key_hash == by_key))
        self._clear = Statement(sa.delete(t).where(t.c.expires <= sa.bindparam("now", type_=sa.BigInteger)))

    async def load(self, cookie: str) -> SessionBase:
        row = None
        if is_key(cookie):
            row = await self.gateway.fetch_one(self._load, key_hash=hash_key(cookie), now=int(self._clock()))
        try:
            return self._session(cookie, row) if row is not None else SessionBase(clock=self._clock)
        except ValueError:
            logger.error("A row of %s holds no session; its visitor gets a new one.", self.table.name)
            return SessionBase(clock=self._clock)

    async def save(self, session: SessionBase, max_age: int) -> str:
        data, now = session.encode(), int(self._clock())
        changes = {"data": data, "user_id": session.user_id, "last_seen": now, "expires": now + max_age}
        key, before = session.session_key or new_key(), session.predecessor
        changes["key_hash"] = hash_key(key)
        if before is None:
            await self.gateway.insert(
                self.table,
                public_id=secrets.token_urlsafe(16),
                created=now,
                address=_fitting(session.address, 45),
                user_agent=_fitting(session.user_agent, 255),
                **changes,
            )
        else:
            new = {f"new_{name}": value for name, value in changes.items()}
            if not await self.gateway.execute(self._update, key_hash=hash_key(before), **new):
                raise SessionInterrupted("The session was ended while this request was under way.")
        session.mark_saved(key, data)
        return key

    async def delete(self, session_key: str) -> None:
        await self.gateway.execute(self._delete, key_hash=hash_key(session_key))

    async def clear_expired(self) -> int:
        return await self.gateway.execute(self._clear, now=int(self._clock()))

    def _session(self, cookie: str, row: Row) -> SessionBase:
        data = row["session_data"]
        # The user may be gone, where the outer join found none.
        user_row = row if row.get("user_id") is not None else None
        session = SessionBase(decode(data), session_key=cookie, saved=data, user_row=user_row, clock=self._clock)
        session.user_id = row["session_user"]
        return session


def _own_table(users: Users[Any] | None) -> sa.Table:
    return users.tables.session if users is not None else session_table(sa.MetaData(), sa.Integer())


def _fitting(text: str, length: int) -> str:
    """What a client says of itself, without what a terminal or a column would choke on."""
    return "".join(mark for mark in text if mark.isprintable())[:length]
