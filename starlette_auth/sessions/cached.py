"""Sessions in a database, with Redis as a cache in front of it."""

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..core.clock import Clock
from ..core.exceptions import Unavailable
from ..core.signing import hash_key, is_key
from ..database.redis import RedisClients
from .base import SessionBase
from .database import DatabaseStore
from .records import SessionRecord, decode, user_in
from .store import Progress, SessionStore

logger = logging.getLogger("starlette_auth")
CACHE_SECONDS = 60  # seconds for which what stands in Redis may be believed
RECORD, VERSION = "record", "version"
# A request that read the database before another one changed it must not put back what was there then.
PUT = f"""
if tonumber(redis.call('HGET', KEYS[1], '{VERSION}') or -1) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], '{VERSION}', ARGV[1], '{RECORD}', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""
# What ended leaves a stone in its place for as long, which no version is newer than.
TOMBSTONE = f"""
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], '{VERSION}', '9007199254740991')
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""


class CachedStore(SessionStore):
    """Reads from Redis, and writes to the database and to Redis.

    The database has the last word on who is logged in: the statement that brings a session's user says whether the
    session is still there, and whether Redis knows its newest state. So one that was ended is never served, even when
    Redis was away at that moment. An anonymous visitor's session comes from Redis alone, for a minute at most before
    the database is asked again.

    A session is saved when the response starts: if that is inside a transaction of the application that fails later,
    Redis holds for a minute what never was.

    While Redis is away everything comes from the database; it is tried again after a minute, when nothing that it
    holds can be older than that.
    """

    supports_user_lookup = True

    def __init__(
        self, store: DatabaseStore, url: str, *, prefix: str = "starlette_auth:cached:", clock: Clock = time.time
    ) -> None:
        self.store, self.table = store, store.table
        # Who waits for a cache waits in vain.
        self.redis = RedisClients(url, timeout=0.25, retries=1)
        self._prefix = prefix
        self._clock = clock
        self._retry_at = 0.0

    async def load(self, cookie: str) -> SessionBase:
        if not is_key(cookie):
            return SessionBase(clock=self._clock)
        begun = self._clock()
        record = await self._get(cookie)
        if record is not None and user_in(decode(record.data)) is None:
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
            await self._put(cookie, session.record, begun)
        return session

    async def save(self, session: SessionBase, max_age: int) -> str:
        begun, before = self._clock(), session.stored_key
        cookie = await self.store.save(session, max_age)
        assert session.record is not None  # noqa: S101  it has just been saved
        if before is not None and before != session.session_key:
            await self._put_tombstone(before)
        await self._put(session.next_key, session.record, begun)
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

    async def close(self) -> None:
        await self.redis.close()

    async def _get(self, session_key: str) -> SessionRecord | None:
        """None for what is not there, has ended, or cannot be asked about."""
        text = await self._try(lambda: self.redis.execute(self.redis.client.hget(self._name(session_key), RECORD)))
        try:
            record = SessionRecord(**json.loads(text)) if text else None
        except (ValueError, TypeError):  # what another version of this package wrote
            return None
        return record if record is not None and record.expires > self._clock() else None

    async def _put(self, session_key: str, record: SessionRecord, begun: float) -> None:
        """The lease begins with the look at the database, not with the end of a request that was held up since."""
        seconds = int(begun + CACHE_SECONDS - self._clock())
        if seconds > 0:
            content = (record.version, json.dumps(record._asdict()), seconds)
            await self._try(lambda: self.redis.run_script(PUT, [self._name(session_key)], *content))

    async def _put_tombstone(self, session_key: str) -> None:
        await self._try(lambda: self.redis.run_script(TOMBSTONE, [self._name(session_key)], CACHE_SECONDS))

    async def _try(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        now = self._clock()
        if now < self._retry_at:
            return None
        # If it was away, one request finds out whether it is back, and the others go on without it.
        was_away, self._retry_at = self._retry_at > 0, now + CACHE_SECONDS if self._retry_at else 0.0
        try:
            answer = await ask()
        except Unavailable as error:
            # Others may meanwhile read what we could not replace. All of that is gone after a minute.
            self._retry_at = self._clock() + CACHE_SECONDS
            logger.warning("Sessions come from the database alone for %d seconds. %s", CACHE_SECONDS, error)
            return None
        if was_away:
            self._retry_at = 0.0
        return answer

    def _name(self, session_key: str) -> str:
        return self._prefix + hash_key(session_key)
