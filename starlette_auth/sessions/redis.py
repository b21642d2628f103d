"""Sessions in Redis or Valkey."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.clock import Clock
from ..core.signing import hash_key, is_key
from ..database.redis import RedisClients
from .base import TOUCH_EVERY, SessionBase
from .records import GRACE, USER_ID, SessionRecord, decode, encode_value, first_record, touched_record
from .store import SessionStore, interrupted

logger = logging.getLogger("starlette_auth")
# A session is a hash. These fields are the store's own; each entry of the session has one too, called by its name in
# JSON behind a dot, so that requests that change different entries do not meet.
OWN = ("public_id", "user_id", "created", "last_seen", "expires", "address", "user_agent")
# ARGV begins with the prefix of the sorted sets that hold each user's sessions by their end, and with the time.
TOOLS = """
local now = tonumber(ARGV[2])
local function is_alive(key)
  local expires = redis.call('HGET', key, 'expires')
  return expires and tonumber(expires) > now
end
local function index_of(key)
  local user = redis.call('HGET', key, 'user_id')
  return user and user ~= '' and ARGV[1] .. user
end
local function forget(key)
  local index = index_of(key)
  if index then redis.call('ZREM', index, key) end
end
local function keep(key, seconds)
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
SAVE = f"""{TOOLS}
local before, after, seconds, last_pair = KEYS[1], KEYS[2], tonumber(ARGV[3]), 4 + 2 * tonumber(ARGV[4])
if before ~= '' then
  if is_alive(before) then
    forget(before)
    if before ~= after then redis.call('RENAME', before, after) end
  elseif before == after or not is_alive(after) then
    return -1
  end -- else this is the second try of what went through, and lost its answer
end
for i = 5, last_pair, 2 do redis.call('HSET', after, ARGV[i], ARGV[i + 1]) end
for i = last_pair + 1, #ARGV do redis.call('HDEL', after, ARGV[i]) end
local left = redis.call('HLEN', after) - {len(OWN)}
if left == 0 then seconds = math.min(seconds, {GRACE}) end
keep(after, seconds)
return left
"""
TOUCH = f"""{TOOLS}
if is_alive(KEYS[1]) and tonumber(redis.call('HGET', KEYS[1], 'last_seen')) <= now - {TOUCH_EVERY} then
  redis.call('HSET', KEYS[1], 'address', ARGV[4])
  keep(KEYS[1], tonumber(ARGV[3]))
end
"""
DELETE = f"""{TOOLS}
forget(KEYS[1])
return redis.call('DEL', KEYS[1])
"""
# In one step: a session that gets a new key between two would be missed. ARGV[5]: this one ('1'), or all but it ('0').
REVOKE = f"""{TOOLS}
local number = 0
for _, key in ipairs(redis.call('ZRANGEBYSCORE', ARGV[1] .. ARGV[3], '(' .. ARGV[2], '+inf')) do
  local own = redis.call('HMGET', key, 'user_id', 'public_id')
  local is_named = own[2] == ARGV[4]
  if is_alive(key) and own[1] == ARGV[3] and is_named == (ARGV[5] == '1') then
    forget(key)
    number = number + redis.call('DEL', key)
  end
end
return number
"""


class RedisStore(SessionStore):
    """Keeps a hash of each key, never the key. Redis forgets old sessions by itself.

    Without persistence (`appendonly yes`) it forgets all of them when it is restarted, and everybody is logged out.
    `url` is redis://user:password@host:6379/0, rediss://… for TLS or unix:///path; what is kept begins with `prefix`.
    One server, with replicas or without: the scripts reach for keys that Redis Cluster would keep apart.
    """

    supports_user_lookup = True

    def __init__(self, url: str, *, prefix: str = "starlette_auth:", clock: Clock = time.time) -> None:
        self.redis = RedisClients(url)
        self._session, self._user = f"{prefix}session:", f"{prefix}user:"
        self._clock = clock

    async def load(self, cookie: str) -> SessionBase:
        if is_key(cookie):
            fields = await self.redis.execute(self.redis.client.hgetall(self._name(cookie)))
            try:
                if fields and int(fields["expires"]) > self._now():
                    return self._session_of(fields, cookie)
            except (LookupError, ValueError):
                logger.error("A hash in Redis holds no session, and is passed over.")
        return SessionBase(clock=self._clock)

    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key, before = session.encode(), session.next_key, session.stored_key
        values, removed = session.changes()
        record = first_record(
            saved,
            session.user_id,
            max_age=max_age,
            now=self._clock(),
            address=session.address,
            user_agent=session.user_agent,
        )
        own = {name: getattr(record, name) for name in OWN} | {"user_id": record.user_id or ""}
        if before is not None:
            record = (session.record or record)._replace(data=saved, last_seen=record.last_seen, expires=record.expires)
            own = {"user_id": own["user_id"]} if USER_ID in values or USER_ID in removed else {}
            if own.get("user_id") == "":
                own |= {"address": "", "user_agent": ""}  # of anonymous visitors nothing is kept
        pairs = own | {_field(name): encode_value(value) for name, value in values.items()}
        flat = [part for pair in pairs.items() for part in pair]
        keys = [self._name(before) if before else "", self._name(key)]
        left = await self._run(SAVE, keys, max_age, len(pairs), *flat, *map(_field, removed))
        if left < 0:
            raise interrupted()
        session.mark_saved(key, record, saved)
        return key if left else ""

    async def delete(self, session_key: str) -> None:
        await self._run(DELETE, [self._name(session_key)])

    async def touch(self, session: SessionBase, max_age: int) -> None:
        if session.session_key is not None and session.record is not None:
            seen = touched_record(session.record, session.address, max_age=max_age, now=self._now())
            await self._run(TOUCH, [self._name(session.session_key)], max_age, seen.address)

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        theirs = [self._session_of(fields) for fields in await self._of(user_id)]
        return sorted(theirs, key=lambda session: session.last_seen, reverse=True)

    async def revoke(self, user_id: str, public_id: str) -> bool:
        return await self._run(REVOKE, [], user_id, public_id, 1) == 1

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        return await self._run(REVOKE, [], user_id, keep, 0)

    async def close(self) -> None:
        await self.redis.close()

    async def _of(self, user_id: str) -> list[dict[str, str]]:
        now, client = self._now(), self.redis.client
        names = await self.redis.execute(client.zrange(self._user + user_id, f"({now}", "+inf", byscore=True))
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(name)
        found = await self.redis.execute(pipeline.execute())
        return [own for own in found if own and own["user_id"] == user_id and int(own["expires"]) > now]

    async def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> int:
        return int(await self.redis.run_script(script, keys, self._user, self._now(), *arguments) or 0)

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
