"""Sessions in a database, with Redis as a cache in front of it."""

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..core.arguments import require_clock, require_instance, require_text
from ..core.clock import Clock
from ..core.exceptions import Unavailable
from ..core.signing import hash_key, is_key
from ..database.redis import RedisClient, RedisClients
from ..database.tables import Tables
from .base import SessionBase
from .database import DatabaseStore
from .records import SessionRecord, decode, user_in
from .store import Progress, SessionStore

logger = logging.getLogger("starlette_auth")
CACHE_SECONDS = 60  # how long a cached record may be used
RECORD, VERSION = "record", "version"
# Stores a record unless a newer version is cached. A slow request could otherwise cache a record that another request
# has changed since.
PUT = f"""
if tonumber(redis.call('HGET', KEYS[1], '{VERSION}') or -1) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], '{VERSION}', ARGV[1], '{RECORD}', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""
# Deleting writes a tombstone with the highest version, so a slow request cannot cache the old record again.
TOMBSTONE = f"""
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], '{VERSION}', '9007199254740991')
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""


class CachedStore(SessionStore):
    """Keeps sessions in the database and caches them in Redis for up to 60 seconds.

    The database decides who is logged in. The statement that loads the user of a session also checks that the session
    still exists and that the cached version is the newest. A login that was ended is therefore never served, even if
    Redis could not be reached when it was ended. An anonymous visitor's session is read from Redis only, for at most
    60 seconds before the database is read again.

    A session is saved when the response starts. If the application has a transaction open at that time and rolls it
    back later, Redis keeps the unsaved session for up to 60 seconds.

    `url` names a single Redis, Sentinels or a Redis Cluster, or is a client of redis.asyncio, as for `RedisStore`.

    If Redis cannot be reached, sessions are read from the database. Redis is tried again after 60 seconds; by then
    every record that was cached before has expired.
    """

    supports_user_lookup = True

    def __init__(
        self,
        store: DatabaseStore,
        url: str | RedisClient,
        *,
        prefix: str = "starlette_auth:cached:",
        clock: Clock = time.time,
    ) -> None:
        require_instance(store, DatabaseStore, "store", "Pass CachedStore(DatabaseStore(database, users=users), url).")
        require_text(prefix, "prefix", 'Pass text, as in prefix="shop:".')
        require_clock(clock)
        self.store, self.table, self.gateway = store, store.table, store.gateway
        # A short timeout and one retry: the database answers sooner than a slow cache.
        self.redis = RedisClients(url, timeout=0.25, retries=1)
        self._prefix = self._given_prefix = prefix
        self._clock = clock
        self._retry_at = 0.0

    def attach(self, database_url: str, tables: Tables) -> None:
        super().attach(database_url, tables)
        self.store.attach(database_url, tables)
        self.table = self.store.table
        # Two stores with one prefix would serve each other's sessions of anonymous visitors, for which the database is
        # not asked.
        if tables.namespace:
            self._prefix = f"{self._given_prefix}{tables.namespace}:"

    async def load(self, cookie: str) -> SessionBase:
        if not is_key(cookie):
            return SessionBase(clock=self._clock)
        read_at = self._clock()
        record, user_id = await self._get(cookie)
        if record is not None and user_id is None:
            return self.store.session_of(record, None, cookie)
        if record is not None:
            row = await self.store.load_without_data(cookie)
            if row is None:
                return SessionBase(clock=self._clock)
            if row["session_version"] == record.version:
                record = record._replace(last_seen=row["session_last_seen"], expires=row["session_expires"])
                return self.store.session_of(record, row, cookie)
        session = await self.store.load(cookie)
        if session.record is not None:
            await self._put(cookie, session.record, read_at)
        return session

    async def save(self, session: SessionBase, max_age: int) -> str:
        read_at, stored_key = self._clock(), session.stored_key
        cookie = await self.store.save(session, max_age)
        assert session.record is not None  # noqa: S101  it has just been saved
        if stored_key is not None and stored_key != session.session_key:
            await self._put_tombstone(stored_key)
        await self._put(session.next_key, session.record, read_at)
        return cookie

    async def delete(self, session_key: str) -> None:
        await self.store.delete(session_key)
        await self._put_tombstone(session_key)

    async def touch(self, session: SessionBase, max_age: int) -> None:
        await self.store.touch(session, max_age)

    async def clear_expired(self, progress: Progress | None = None) -> int:
        return await self.store.clear_expired(progress)

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        return await self.store.list_sessions(user_id)

    async def revoke(self, user_id: str, public_id: str) -> bool:
        return await self.store.revoke(user_id, public_id)

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        return await self.store.revoke_all(user_id, keep=keep)

    async def revoke_everybody(self) -> int:
        """Deletes all sessions. The cached sessions of anonymous visitors end within 60 seconds."""
        return await self.store.revoke_everybody()

    async def close(self) -> None:
        await self.redis.close()

    async def _get(self, session_key: str) -> tuple[SessionRecord | None, str | None]:
        """Returns the cached record and its user id; None without a valid record.

        Also returns None if Redis cannot be reached.
        """
        text = await self._try(lambda: self.redis.run("HGET", self._name(session_key), RECORD))
        try:
            record = SessionRecord(**decode(text)) if text else None
            if record is not None and record.expires > self._clock():
                return record, user_in(decode(record.data))
        except (ValueError, TypeError):  # also if another version of this package wrote it
            logger.warning("A record in Redis is not a valid session record. The database is asked instead.")
        return None, None

    async def _put(self, session_key: str, record: SessionRecord, read_at: float) -> None:
        """Caches a record until 60 seconds after `read_at`, the time at which the database was read or written.

        A record that a slow request caches late expires no later than others.
        """
        seconds = int(read_at + CACHE_SECONDS - self._clock())
        if seconds > 0:
            content = (record.version, json.dumps(record._asdict()), seconds)
            await self._try(lambda: self.redis.run_script(PUT, [self._name(session_key)], *content))

    async def _put_tombstone(self, session_key: str) -> None:
        await self._try(lambda: self.redis.run_script(TOMBSTONE, [self._name(session_key)], CACHE_SECONDS))

    async def _try(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        """Returns the result of an operation on Redis; None if Redis cannot be reached or is not to be tried yet."""
        now = self._clock()
        if now < self._retry_at:
            return None
        # After an outage one request tries Redis, and all others skip the cache until that request has an answer.
        was_unavailable, self._retry_at = self._retry_at > 0, now + CACHE_SECONDS if self._retry_at else 0.0
        try:
            answer = await operation()
        except Unavailable as error:
            # The cache may hold records that could not be replaced. All of them expire within these 60 seconds.
            self._retry_at = self._clock() + CACHE_SECONDS
            logger.warning("Sessions are read from the database only, for %d seconds. %s", CACHE_SECONDS, error)
            return None
        if was_unavailable:
            self._retry_at = 0.0
        return answer

    def _name(self, session_key: str) -> str:
        return self._prefix + hash_key(session_key)
