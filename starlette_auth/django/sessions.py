"""Sessions in the table `django_session`, shared with Django."""

import logging
import secrets
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import sqlalchemy as sa
from databases import Database
from itsdangerous import BadData

from ..core.clock import TWO_WEEKS, Clock
from ..core.signing import sha256_hex
from ..database.deletion import BATCH, delete_batch, delete_in_batches
from ..database.gateway import Gateway
from ..database.statements import Row, Statement
from ..database.table_definitions import django_session_table
from ..sessions.base import AUTH_TIME, EXPIRY, SessionBase
from ..sessions.records import SessionRecord, check_keys, decode, encode, time_to_keep, user_in
from ..sessions.store import Progress, SessionStore, cookie_value, interrupted
from ..users.queries import UserQueries
from .signing import DjangoSigner

logger = logging.getLogger("starlette_auth")
SALT = "django.contrib.sessions.SessionStore"
#: Told the key of each session that was changed or ended: to take it out of a cache of Django's.
InvalidateSession = Callable[[str], Awaitable[None]]


def new_django_key() -> str:
    """32 letters and digits, 165 bits: Django's form, for Django's column."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(32))


class DjangoSession(SessionBase):
    """One that may hold what Django stored there."""

    new_key = staticmethod(new_django_key)
    #: What was read, signature and all.
    text = ""

    def __init__(self, *data: Any, zone: tzinfo | None = None, **options: Any) -> None:
        """`zone` is the project's TIME_ZONE where it says USE_TZ=False: then moments are stored without one."""
        super().__init__(*data, **options)
        self.zone = zone

    def encode(self) -> str:
        check_keys(self)
        return encode(self)

    def format_expiry(self, end: datetime) -> str:
        return (
            super().format_expiry(end)
            if self.zone is None
            else end.astimezone(self.zone).replace(tzinfo=None).isoformat()
        )

    def parse_expiry(self, text: str) -> datetime:
        stored = datetime.fromisoformat(text)
        return stored if stored.tzinfo is not None else stored.replace(tzinfo=self.zone or UTC)


def django_record(session_key: str, data: dict[str, Any], expires: int, now: int, max_age: int) -> SessionRecord:
    """As far as Django knows: when a session was last changed, unless it ends at a time of its own; of ours, the login."""
    changed = now if EXPIRY in data else min(now, expires - max_age)
    begun = data.get(AUTH_TIME)
    return SessionRecord(
        data=encode(data),
        public_id=sha256_hex(session_key)[:32],
        user_id=user_in(data),
        created=begun if isinstance(begun, int) else changed,
        last_seen=changed,
        expires=expires,
    )


def is_django_key(cookie: str) -> bool:
    """Whether a cookie has the form of a key of Django's, or of another engine's."""
    return 8 <= len(cookie) <= 40 and cookie.isascii() and cookie.isalnum()


class DjangoStore(SessionStore):
    """Sessions in the table `django_session`, as Django's engines `db` and `cached_db` write and read them.

    What a request changed is merged into what is stored then, so that nothing is lost that Django had stored before; it
    is Django that may still overwrite what we stored while its own request was under way. Django keeps the keys
    themselves. The table does not know whose its sessions are: listing those of a user, and ending them, looks at all.

    Given `users`, it brings the user and all permissions on the same connection. `time_zone` is TIME_ZONE where the
    project says USE_TZ=False; `max_age` is SESSION_COOKIE_AGE, in seconds. `secret_key` is SECRET_KEY, followed by
    SECRET_KEY_FALLBACKS. `salt` is another for an engine whose class is not called SessionStore
    ("django.contrib.sessions." and its name). `forget` is for `cached_db`.
    """

    def __init__(
        self,
        database: Database,
        secret_key: str | Sequence[str],
        *,
        users: UserQueries[Any] | None = None,
        table: sa.Table | None = None,
        salt: str = SALT,
        invalidate: InvalidateSession | None = None,
        save_every_request: bool = False,
        max_age: int = TWO_WEEKS,
        time_zone: tzinfo | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._users = users
        self._max_age = max_age
        self._zone = time_zone
        self.gateway = Gateway.of(database)
        self.table: sa.Table = table if table is not None else django_session_table(sa.MetaData())
        self._signer = DjangoSigner([secret_key] if isinstance(secret_key, str) else secret_key, salt, clock=clock)
        self._statements = DjangoSessionStatements(self.table, dialect=self.gateway.dialect)
        self._invalidate = invalidate
        self._save_every_request = save_every_request
        self._clock = clock

    async def load(self, cookie: str) -> SessionBase:
        session = None
        if is_django_key(cookie):
            async with self.gateway.single_connection():
                row = await self.gateway.fetch_one(self._statements.load, key=cookie, now=self._now())
                session = self._read(row) if row is not None else None
                if session is not None and session.user_id is not None and self._users is not None:
                    session.user_row = await self._users.get_row(session.user_id)
        if session is None:
            return self.new_session(self._clock)
        if self._save_every_request:
            session.modified = True
        return session

    def new_session(self, clock: Clock = time.time) -> SessionBase:
        return DjangoSession(clock=clock, zone=self._zone)

    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key, before = session.encode(), session.next_key, session.stored_key
        if before is None:
            data = dict(session)
            await self.gateway.insert(self.table, session_key=key, **self._values(data, max_age))
        else:
            data = await self._change(session, before, key, max_age)
        session.mark_saved(key, self._record(key, data, self._expires(data, max_age)), saved)
        if before is not None:
            await self._invalidate_cached(before)
        return cookie_value(key, encode(data))

    async def delete(self, session_key: str) -> None:
        await self.gateway.execute(self._statements.delete, key=session_key)
        await self._invalidate_cached(session_key)

    async def clear_expired(self, progress: Progress | None = None) -> int:
        return await delete_in_batches(self.gateway, self._statements.clear, progress, now=self._now())

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        theirs = [session async for _, session in self._of(user_id)]
        return sorted(theirs, key=lambda session: session.last_seen, reverse=True)

    async def revoke(self, user_id: str, public_id: str) -> bool:
        return await self._end([key async for key, one in self._of(user_id) if one.public_id == public_id]) == 1

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        number = 0
        # Until none is found: one that got a new key meanwhile was missed.
        while keys := [key async for key, one in self._of(user_id) if one.public_id != keep]:
            number += await self._end(keys)
        return number

    async def _of(self, user_id: str) -> AsyncIterator[tuple[str, SessionBase]]:
        after, is_last = "", False
        while not is_last:
            rows = await self.gateway.fetch_all(self._statements.some, after=after, now=self._now())
            is_last = len(rows) < BATCH
            for row in rows:
                session = self._read(row)
                if session is not None and session.user_id == user_id:
                    session.session_key = None
                    yield row["session_key"], session
            after = rows[-1]["session_key"] if rows else ""

    async def _end(self, keys: Sequence[str]) -> int:
        number = 0
        for key in keys:
            number += await self.gateway.execute(self._statements.delete, key=key)
            await self._invalidate_cached(key)
        return number

    def _read(self, row: Row) -> DjangoSession | None:
        try:
            data = self._signer.loads(row["session_data"])
        except BadData:
            # Signed with a key that is no longer accepted, or by an engine of another kind: to Django it is empty too.
            logger.info("A row of %s was not signed by SECRET_KEY, or is no JSON, and is passed over.", self.table.name)
            return None
        record = self._record(row["session_key"], data, row["expire_date"])
        key = row["session_key"]
        session = DjangoSession(data, session_key=key, record=record, clock=self._clock, zone=self._zone)
        session.text = row["session_data"]
        return session

    async def _change(self, session: SessionBase, before: str, after: str, max_age: int) -> dict[str, Any]:
        """In one statement, where nobody else changed it meanwhile."""
        assert session.record is not None  # noqa: S101  it came from here
        data = session.changes().applied_to(decode(session.record.data))
        text = getattr(session, "text", "")
        new = self._new(after, data, max_age)
        if await self.gateway.execute(self._statements.update, key=before, old=text, now=self._now(), **new):
            return data
        return await self.gateway.run_in_transaction(lambda: self._merge(session, before, after, max_age))

    async def _merge(self, session: SessionBase, before: str, after: str, max_age: int) -> dict[str, Any]:
        row = await self.gateway.fetch_one(self._statements.lock, key=before, now=self._now())
        stored = self._read(row) if row is not None else None
        if stored is None:
            raise interrupted()
        data = session.changes().applied_to(stored)
        await self.gateway.execute(self._statements.overwrite, key=before, **self._new(after, data, max_age))
        return data

    def _new(self, key: str, data: dict[str, Any], max_age: int) -> dict[str, Any]:
        return {f"new_{name}": value for name, value in {"session_key": key, **self._values(data, max_age)}.items()}

    def _values(self, data: dict[str, Any], max_age: int) -> dict[str, Any]:
        return {"session_data": self._signer.dumps(data), "expire_date": self._expires(data, max_age)}

    def _expires(self, data: dict[str, Any], max_age: int) -> datetime:
        return datetime.fromtimestamp(self._clock() + time_to_keep(encode(data), max_age), UTC)

    def _record(self, key: str, data: dict[str, Any], expires: datetime) -> SessionRecord:
        return django_record(key, data, int(expires.timestamp()), int(self._clock()), self._max_age)

    async def close(self) -> None:
        close = getattr(self._invalidate, "close", None)
        if close is not None:
            await close()

    async def _invalidate_cached(self, session_key: str) -> None:
        """Not before others see it: Django would put what it still finds in the table into its cache again."""
        forget = self._invalidate
        if forget is not None:
            await self.gateway.after_commit(lambda: forget(session_key))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


class DjangoSessionStatements:
    """What is said to the table."""

    def __init__(self, table: sa.Table, *, dialect: str) -> None:
        t = table
        columns = [t.c.session_key, t.c.session_data, t.c.expire_date]
        by_key = t.c.session_key == sa.bindparam("key")
        now: sa.BindParameter[datetime] = sa.bindparam("now", type_=t.c.expire_date.type)
        is_alive = t.c.expire_date > now
        self.load = Statement(sa.select(*columns).where(by_key, is_alive))
        self.lock = Statement(sa.select(*columns).where(by_key, is_alive).with_for_update())
        after = t.c.session_key > sa.bindparam("after")
        self.some = Statement(sa.select(*columns).where(after, is_alive).order_by(t.c.session_key).limit(BATCH))
        new: dict[str, Any] = {column.name: sa.bindparam(f"new_{column.name}") for column in columns}
        is_unchanged = t.c.session_data == sa.bindparam("old")
        self.update = Statement(sa.update(t).values(new).where(by_key, is_alive, is_unchanged))
        self.overwrite = Statement(sa.update(t).values(new).where(by_key))
        self.delete = Statement(sa.delete(t).where(by_key))
        self.clear = delete_batch(t, t.c.expire_date <= now, t.c.expire_date, dialect=dialect)
