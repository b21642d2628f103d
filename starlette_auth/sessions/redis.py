"""Sessions in Redis or Valkey."""

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ..core.clock import Clock
from ..core.signing import hash_key, is_key
from ..database.drivers import database_location
from ..database.redis import RedisClients
from ..database.tables import namespace_of
from .base import SessionBase
from .expiry import TOUCH_EVERY
from .records import GRACE, USER_ID, SessionRecord, decode, encode_value, touched_record
from .store import SessionStore, first_record, interrupted

logger = logging.getLogger("starlette_auth")
DELETE_BATCH = 500  # names
# Each session is a Redis hash. It has these fields of the record, and one field for each entry of the session, named
# "." plus the entry's name as JSON. Concurrent requests that change different entries thus change different fields.
RECORD_FIELDS = ("public_id", "user_id", "created", "last_seen", "expires", "address", "user_agent")
# The index of a user is a sorted set of the keys of their sessions, with the expiry time as score. For all scripts,
# ARGV[1] is the prefix of the index names and ARGV[2] is the current time.
LUA_HELPERS = """
local now = tonumber(ARGV[2])
local function is_unexpired(key)
  local expires = tonumber(redis.call('HGET', key, 'expires') or '')
  return expires and expires > now
end
local function index_of(key)
  local user = redis.call('HGET', key, 'user_id')
  return user and user ~= '' and ARGV[1] .. user
end
local function remove_from_index(key)
  local index = index_of(key)
  if index then redis.call('ZREM', index, key) end
end
local function extend(key, seconds)
  redis.call('HSET', key, 'last_seen', now, 'expires', now + seconds)
  local index = index_of(key)
  if index then
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
    redis.call('ZADD', index, now + seconds, key)
    if redis.call('TTL', index) < seconds then redis.call('EXPIRE', index, seconds) end
  end
  redis.call('EXPIRE', key, seconds)
end
"""
SAVE = f"""{LUA_HELPERS}
local old_key, new_key, seconds, last_pair = KEYS[1], KEYS[2], tonumber(ARGV[3]), 4 + 2 * tonumber(ARGV[4])
if old_key ~= '' then
  if is_unexpired(old_key) then
    remove_from_index(old_key)
    if old_key ~= new_key then redis.call('RENAME', old_key, new_key) end
  elseif old_key == new_key or not is_unexpired(new_key) then
    return -1
  end -- otherwise this is a retry: the first call was executed, but its reply was lost
end
for i = 5, last_pair, 2 do redis.call('HSET', new_key, ARGV[i], ARGV[i + 1]) end
for i = last_pair + 1, #ARGV do redis.call('HDEL', new_key, ARGV[i]) end
local entry_count = redis.call('HLEN', new_key) - {len(RECORD_FIELDS)}
if entry_count == 0 then seconds = math.min(seconds, {GRACE}) end
extend(new_key, seconds)
return entry_count
"""
TOUCH = f"""{LUA_HELPERS}
if is_unexpired(KEYS[1]) and tonumber(redis.call('HGET', KEYS[1], 'last_seen')) <= now - {TOUCH_EVERY} then
  redis.call('HSET', KEYS[1], 'address', ARGV[4])
  extend(KEYS[1], tonumber(ARGV[3]))
end
"""
DELETE = f"""{LUA_HELPERS}
remove_from_index(KEYS[1])
return redis.call('DEL', KEYS[1])
"""
# One script, because a session that got a new key between two commands would not be found. ARGV[5] is '1' to end only
# the session with the public id ARGV[4], and '0' to end all others.
REVOKE = f"""{LUA_HELPERS}
local count = 0
for _, key in ipairs(redis.call('ZRANGEBYSCORE', ARGV[1] .. ARGV[3], '(' .. ARGV[2], '+inf')) do
  local fields = redis.call('HMGET', key, 'user_id', 'public_id')
  local has_public_id = fields[2] == ARGV[4]
  if is_unexpired(key) and fields[1] == ARGV[3] and has_public_id == (ARGV[5] == '1') then
    remove_from_index(key)
    count = count + redis.call('DEL', key)
  end
end
return count
"""


class RedisStore(SessionStore):
    """Keeps sessions in Redis or Valkey, under a hash of the session key. Redis deletes expired sessions itself.

    `url` is redis://user:password@host:6379/0, rediss://… for TLS or unix:///path. Without persistence (`appendonly yes`),
    a restart of Redis deletes all sessions and logs all users out. Redis Cluster is not supported, because the scripts
    use keys that a cluster may place on different nodes. Replicas are supported.

    All names in Redis begin with `prefix`, and with the name of a custom user table after it. The default differs for each
    database and user table: two sites with the same prefix would list and end each other's sessions. Pass a prefix if the
    processes of one site connect to its database under different hosts, or if the sessions shall survive a move of the
    database.
    """

    supports_user_lookup = True

    def __init__(self, url: str, *, prefix: str | None = None, clock: Clock = time.time) -> None:
        self.redis = RedisClients(url)
        self._clock = clock
        self._given_prefix = prefix
        self._set_prefix("starlette_auth:" if prefix is None else prefix)

    def attach(self, database_url: str, user_table: sa.Table) -> None:
        super().attach(database_url, user_table)
        if self._given_prefix is None:
            site = f"{database_location(database_url)} {user_table.fullname}"
            self._set_prefix(f"starlette_auth:{hash_key(site)[:16]}:")
        elif namespace := namespace_of(user_table):
            self._set_prefix(f"{self._given_prefix}{namespace}:")

    def _set_prefix(self, prefix: str) -> None:
        self._session, self._user = f"{prefix}session:", f"{prefix}user:"

    async def load(self, cookie: str) -> SessionBase:
        if is_key(cookie):
            fields = await self.redis.execute(self.redis.client.hgetall(self._name(cookie)))
            session = self._read(fields, cookie)
            if session is not None:
                return session
        return SessionBase(clock=self._clock)

    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key, stored_key = session.encode(), session.next_key, session.stored_key
        values, removed = session.changes()
        record = first_record(session, saved, max_age=max_age, now=self._now())
        fields = {name: getattr(record, name) for name in RECORD_FIELDS} | {"user_id": record.user_id or ""}
        if stored_key is not None:
            record = (session.record or record)._replace(data=saved, last_seen=record.last_seen, expires=record.expires)
            fields = {"user_id": fields["user_id"]} if USER_ID in values or USER_ID in removed else {}
            if fields.get("user_id") == "":
                fields |= {"address": "", "user_agent": ""}  # are not kept for anonymous visitors
        pairs = fields | {_field(name): encode_value(value) for name, value in values.items()}
        flat_pairs = [part for pair in pairs.items() for part in pair]
        keys = [self._name(stored_key) if stored_key else "", self._name(key)]
        entry_count = await self._run(SAVE, keys, max_age, len(pairs), *flat_pairs, *map(_field, removed))
        if entry_count < 0:
            raise interrupted()
        session.mark_saved(key, record, saved)
        return key if entry_count else ""

    async def delete(self, session_key: str) -> None:
        await self._run(DELETE, [self._name(session_key)])

    async def touch(self, session: SessionBase, max_age: int) -> None:
        if session.session_key is not None and session.record is not None:
            touched = touched_record(session.record, session.address, max_age=max_age, now=self._now())
            await self._run(TOUCH, [self._name(session.session_key)], max_age, touched.address)

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        listed = [self._read(fields) for fields in await self._hashes_of(user_id)]
        sessions = [session for session in listed if session and session.record and session.record.user_id == user_id]
        return sorted(sessions, key=lambda session: session.last_seen, reverse=True)

    async def revoke(self, user_id: str, public_id: str) -> bool:
        return await self._run(REVOKE, [], user_id, public_id, 1) == 1

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        return await self._run(REVOKE, [], user_id, keep, 0)

    async def revoke_everybody(self) -> int:
        """Deletes all sessions, and then the indexes of their users. Other data in Redis stays."""
        number = 0
        # Repeated until no session is left: a session that got a new key during the scan may have been missed.
        while deleted := await self._delete_below(self._session):
            number += deleted
        await self._delete_below(self._user)
        return number

    async def _delete_below(self, prefix: str) -> int:
        pattern, number = re.sub(r"([*?\[\]\\^-])", r"\\\1", prefix) + "*", 0

        async def names() -> list[str]:
            return [name async for name in self.redis.client.scan_iter(pattern, count=1000)]

        found = await self.redis.execute(names())
        for start in range(0, len(found), DELETE_BATCH):
            pipeline = self.redis.client.pipeline(transaction=False)
            for name in found[start : start + DELETE_BATCH]:
                pipeline.unlink(name)
            number += sum(await self.redis.execute(pipeline.execute()))
        return number

    async def close(self) -> None:
        await self.redis.close()

    async def _hashes_of(self, user_id: str) -> list[dict[str, str]]:
        now, client = self._now(), self.redis.client
        names = await self.redis.execute(client.zrange(self._user + user_id, f"({now}", "+inf", byscore=True))
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(name)
        return list(await self.redis.execute(pipeline.execute()))

    async def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> int:
        return int(await self.redis.run_script(script, keys, self._user, self._now(), *arguments) or 0)

    def _read(self, fields: Mapping[str, str], session_key: str | None = None) -> SessionBase | None:
        """Returns the session in a hash; None if there is none, or it has expired or is damaged."""
        try:
            is_live = bool(fields) and int(fields["expires"]) > self._now()
            return self._session_of(fields, session_key) if is_live else None
        except (LookupError, ValueError):
            logger.warning("A hash in Redis is not a valid session record and is ignored.")
            return None

    def _session_of(self, fields: Mapping[str, str], session_key: str | None = None) -> SessionBase:
        entries = (f"{name[1:]}:{value}" for name, value in fields.items() if name[0] == ".")
        record = SessionRecord(
            data=f"{{{','.join(entries)}}}",
            public_id=fields["public_id"],
            user_id=fields["user_id"] or None,
            created=int(fields["created"]),
            last_seen=int(fields["last_seen"]),
            expires=int(fields["expires"]),
            address=fields["address"],
            user_agent=fields["user_agent"],
        )
        return SessionBase(decode(record.data), session_key=session_key, record=record, clock=self._clock)

    def _name(self, session_key: str) -> str:
        return self._session + hash_key(session_key)

    def _now(self) -> int:
        return int(self._clock())


def _field(name: str) -> str:
    return f".{json.dumps(name)}"
