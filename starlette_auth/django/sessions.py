"""Sessions in the table `django_session`, shared with Django."""

import logging
import secrets
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import sqlalchemy as sa
from itsdangerous import BadData

from ..core.arguments import (
    require_bool,
    require_clock,
    require_function,
    require_instance,
    require_integer,
    require_text,
)
from ..core.clock import TWO_WEEKS, Clock
from ..core.signing import SecretKeys, sha256_hex
from ..database.deletion import BATCH, delete_in_batches
from ..database.gateway import runs_apart, runs_apart_if_possible
from ..database.gateways import AnyDatabase, gateway_of
from ..database.statements import Row
from ..database.table_definitions import TableFactory, django_session_table
from ..sessions.base import AUTH_TIME, SessionBase
from ..sessions.expiry import EXPIRY
from ..sessions.records import SessionRecord, check_keys, decode, encode, time_to_keep, user_in
from ..sessions.store import Progress, SessionStore, cookie_value, interrupted
from ..users.queries import UserQueries
from .session_statements import DjangoSessionStatements
from .signing import DjangoSigner

logger = logging.getLogger("starlette_auth")
SALT = "django.contrib.sessions.SessionStore"
FIRST_KEY = "_auth_first_key"  # an entry of this package, which identifies the login of a session in a cookie
#: Deletes a session from Django's cache, given its key. Called for each session that was changed or ended.
InvalidateSession = Callable[[str], Awaitable[None]]


def new_django_key() -> str:
    """Returns a random session key in Django's format: 32 lower-case letters and digits, 165 bits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(32))


class DjangoSession(SessionBase):
    """A session that reads and writes Django's session data."""

    new_key = staticmethod(new_django_key)
    #: The signed text as it was read from the database.
    text = ""

    def __init__(self, *data: Any, zone: tzinfo | None = None, **options: Any) -> None:
        """With USE_TZ=False, `zone` is the project's TIME_ZONE, in which times are stored without an offset."""
        super().__init__(*data, **options)
        self.zone = zone

    @property
    def first_key(self) -> str | None:
        """Returns the key in the entry of this package, or else that of the stored session."""
        return self.get(FIRST_KEY) or super().first_key

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
    """Returns the record of a Django session, with estimated times.

    Django stores only the expiry. The last change is the expiry minus `max_age`, or `now` for a session with an expiry
    set by the application. The creation is the time of the login if this application performed it, and the last change
    otherwise.
    """
    changed = now if EXPIRY in data else min(now, expires - max_age)
    logged_in_at = data.get(AUTH_TIME)
    return SessionRecord(
        data=encode(data),
        public_id=sha256_hex(session_key)[:32],
        user_id=user_in(data),
        created=logged_in_at if isinstance(logged_in_at, int) else changed,
        last_seen=changed,
        expires=expires,
    )


def require_django_options(max_age: object, save_every_request: object, time_zone: object) -> None:
    """Raises ImproperlyConfigured for wrong types of the options that both stores of Django's sessions have."""
    require_integer(max_age, "max_age")
    require_bool(save_every_request, "save_every_request")
    if time_zone is not None:
        require_instance(time_zone, tzinfo, "time_zone", 'Pass zoneinfo.ZoneInfo("Europe/Berlin"), or None.')


def is_django_key(cookie: str) -> bool:
    """Returns whether a cookie has the format of a session key of Django or a custom engine."""
    return 8 <= len(cookie) <= 40 and cookie.isascii() and cookie.isalnum()


class DjangoStore(SessionStore):
    """Stores sessions in the table `django_session`, as Django's engines `db` and `cached_db` do.

    When a session is saved, the changes of the request are merged into the stored data, so no change made by Django is
    lost. Django itself overwrites the whole session, including changes stored here during Django's request.
    The table stores session keys, not their hashes. It has no user column, so listing or ending the sessions of a user
    reads all sessions.

    - `secret_key` is SECRET_KEY, followed by SECRET_KEY_FALLBACKS.
    - `users`: if given, loading a session also loads the user and all permissions on the same connection.
    - `salt` is "django.contrib.sessions." and the name of the engine's class, if that is not SessionStore.
    - `invalidate` is needed with `cached_db`: it deletes a session from Django's cache.
    - `max_age` is SESSION_COOKIE_AGE, in seconds.
    - `time_zone` is TIME_ZONE if the project has USE_TZ=False.
    """

    def __init__(
        self,
        database: AnyDatabase,
        secret_key: str | Sequence[str] | SecretKeys,
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
        require_django_options(max_age, save_every_request, time_zone)
        require_clock(clock)
        require_text(salt, "salt", "Leave it out for Django's own engines.")
        if users is not None:
            require_instance(users, UserQueries, "users", "Pass users=auth.users.")
        if table is not None:
            require_instance(table, sa.Table, "table", "Pass a Table of SQLAlchemy.")
        if invalidate is not None:
            require_function(invalidate, "invalidate", "Pass a coroutine function, such as DjangoCache(url).")
        self._users = users
        self._max_age = max_age
        self._zone = time_zone
        self.gateway = gateway_of(database)
        self.table: sa.Table = table if table is not None else django_session_table(TableFactory())
        self.keys = secret_key if isinstance(secret_key, SecretKeys) else SecretKeys(secret_key)
        self._signer = DjangoSigner(self.keys.all, salt, clock=clock)
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

    @runs_apart
    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key, stored_key = session.encode(), session.next_key, session.stored_key
        if stored_key is None:
            data = dict(session)
            await self.gateway.insert(self.table, session_key=key, **self._values(data, max_age))
        else:
            data = await self._update(session, stored_key, key, max_age)
        session.mark_saved(key, self._record(key, data, self._expires(data, max_age)), saved)
        if stored_key is not None:
            await self._invalidate_cached(stored_key)
        return cookie_value(key, encode(data))

    @runs_apart
    async def delete(self, session_key: str) -> None:
        await self.gateway.execute(self._statements.delete, key=session_key)
        await self._invalidate_cached(session_key)

    @runs_apart
    async def clear_expired(self, progress: Progress | None = None) -> int:
        return await delete_in_batches(self.gateway, self._statements.clear, progress, now=self._now())

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        sessions = [session async for _, session in self._find(user_id)]
        return sorted(sessions, key=lambda session: session.last_seen, reverse=True)

    @runs_apart_if_possible
    async def revoke(self, user_id: str, public_id: str) -> bool:
        keys = [key async for key, session in self._find(user_id) if session.public_id == public_id]
        return await self._delete_all(keys) == 1

    @runs_apart_if_possible
    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        number = 0
        # Repeated until no session is left: a session whose key changed during the search was missed.
        while keys := [key async for key, session in self._find(user_id) if session.public_id != keep]:
            number += await self._delete_all(keys)
        return number

    @runs_apart_if_possible
    async def revoke_everybody(self) -> int:
        number = 0
        # A second pass, because the first one may miss a session that gets a new key meanwhile. Not more, because
        # visitors may start sessions all the time.
        for _ in range(2):
            after = ""
            while rows := await self.gateway.fetch_all(self._statements.any_batch, after=after):
                number += await self._delete_all([row["session_key"] for row in rows])
                after = rows[-1]["session_key"]
        return number

    async def _find(self, user_id: str) -> AsyncIterator[tuple[str, SessionBase]]:
        """Yields the keys and sessions of a user. Reads all sessions in batches."""
        after, is_last = "", False
        while not is_last:
            rows = await self.gateway.fetch_all(self._statements.next_batch, after=after, now=self._now())
            is_last = len(rows) < BATCH
            for row in rows:
                session = self._read(row, is_listed=True)
                if session is not None and session.user_id == user_id:
                    yield row["session_key"], session
            after = rows[-1]["session_key"] if rows else ""

    async def _delete_all(self, keys: Sequence[str]) -> int:
        number = 0
        for key in keys:
            number += await self.gateway.execute(self._statements.delete, key=key)
            await self._invalidate_cached(key)
        return number

    def _read(self, row: Row, *, is_listed: bool = False) -> DjangoSession | None:
        """Returns the session of a row; without its key if it is one of a list. None if it is not readable."""
        try:
            data = self._signer.loads(row["session_data"])
        except BadData:
            # The row was signed with a removed key or by another session engine. Django too reads it as empty.
            logger.warning("Ignored a row of %s that is not signed with SECRET_KEY or is not JSON.", self.table.name)
            return None
        record = self._record(row["session_key"], data, row["expire_date"])
        key = None if is_listed else row["session_key"]
        session = DjangoSession(data, session_key=key, record=record, clock=self._clock, zone=self._zone)
        session.text = row["session_data"]
        return session

    async def _update(self, session: SessionBase, old_key: str, new_key: str, max_age: int) -> dict[str, Any]:
        """Saves a stored session with one UPDATE, or merges it if another request changed the row."""
        assert session.record is not None  # noqa: S101  `load` set it
        data = session.changes().applied_to(decode(session.record.data))
        text = getattr(session, "text", "")
        values = self._new_values(new_key, data, max_age)
        if await self.gateway.execute(self._statements.update, key=old_key, old=text, now=self._now(), **values):
            return data
        return await self.gateway.run_in_transaction(lambda: self._merge(session, old_key, new_key, max_age))

    async def _merge(self, session: SessionBase, old_key: str, new_key: str, max_age: int) -> dict[str, Any]:
        row = await self.gateway.fetch_one(self._statements.lock, key=old_key, now=self._now())
        stored = self._read(row) if row is not None else None
        if stored is None:
            raise interrupted()
        data = session.changes().applied_to(stored)
        values = self._new_values(new_key, data, max_age)
        await self.gateway.execute(self._statements.overwrite, key=old_key, **values)
        return data

    def _new_values(self, key: str, data: dict[str, Any], max_age: int) -> dict[str, Any]:
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
        """Deletes a session from Django's cache, after the transaction commits.

        Before the commit, Django would read the old row and put it back into the cache.
        """
        invalidate = self._invalidate
        if invalidate is not None:
            await self.gateway.after_commit(lambda: invalidate(session_key))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
