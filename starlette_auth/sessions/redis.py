"""Sessions in Redis or Valkey."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..clock import Clock
from ..redis_clients import RedisClients, Script, script
from .base import TOUCH_EVERY, USER_ID, Record, SessionBase, decode, encode_value
from .keys import hash_key, is_key
from .store import GRACE, SessionStore, first_record, interrupted, touched_record

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
SAVE = script(f"""{TOOLS}
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
""")
TOUCH = script(f"""{TOOLS}
if is_alive(KEYS[1]) and tonumber(redis.call('HGET', KEYS[1], 'last_seen')) <= now - {TOUCH_EVERY} then
  redis.call('HSET', KEYS[1], 'address', ARGV[4])
  keep(KEYS[1], tonumber(ARGV[3]))
end
""")
DELETE = script(f"""{TOOLS}
forget(KEYS[1])
return redis.call('DEL', KEYS[1])
""")


class RedisStore(SessionStore):
    """Keeps a hash of each key, never the key. Redis forgets old sessions by itself.

    Without persistence (`appendonly yes`) it forgets all of them when it is restarted, and everybody is logged out.
    `url` is redis://user:password@host:6379/0, rediss://… for TLS or unix:///path; what is kept begins with `prefix`.
    One server, with replicas or without: the scripts reach for keys that Redis Cluster would keep apart.
    """

    def __init__(self, url: str, *, prefix: str = "starlette_auth:", clock: Clock = time.time) -> None:
        self.redis = RedisClients(url)
        self._session, self._user = f"{prefix}session:", f"{prefix}user:"
        self._clock = clock

    async def load(self, cookie: str) -> SessionBase:
        if is_key(cookie):
            fields = await self.redis.answer(self.redis.client.hgetall(self._name(cookie)))
            if fields and int(fields["expires"]) > self._now():
                return self._session_of(fields, cookie)
        return SessionBase(clock=self._clock)

    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key, before = session.encode(), session.key_to_be, session.predecessor
        values, removed = session.changes()
        record = first_record(session, max_age, self._clock())
        own = {name: getattr(record, name) for name in OWN} | {"user_id": record.user_id or ""}
        if before is not None:
            record = (session.record or record)._replace(data=saved, last_seen=record.last_seen, expires=record.expires)
            own = {"user_id": own["user_id"]} if USER_ID in values or USER_ID in removed else {}
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
            seen = touched_record(session.record, session, max_age, self._now())
            await self._run(TOUCH, [self._name(session.session_key)], max_age, seen.address)

    async def sessions_of(self, user_id: str) -> list[SessionBase]:
        theirs = [self._session_of(fields) for fields in (await self._of(user_id)).values()]
        return sorted(theirs, key=lambda session: session.last_seen, reverse=True)

    async def revoke(self, user_id: str, public_id: str) -> bool:
        theirs = await self._of(user_id)
        return await self._drop([name for name, own in theirs.items() if own["public_id"] == public_id]) == 1

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        theirs = await self._of(user_id)
        return await self._drop([name for name, own in theirs.items() if own["public_id"] != keep])

    async def close(self) -> None:
        await self.redis.close()

    async def _of(self, user_id: str) -> dict[str, dict[str, str]]:
        """A user's sessions, by the names that they have in Redis."""
        now, client = self._now(), self.redis.client
        names = await self.redis.answer(client.zrange(self._user + user_id, f"({now}", "+inf", byscore=True))
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(name)
        found = dict(zip(names, await self.redis.answer(pipeline.execute()), strict=True))
        return {
            name: fields
            for name, fields in found.items()
            if fields and fields["user_id"] == user_id and int(fields["expires"]) > now
        }

    async def _drop(self, names: Sequence[str]) -> int:
        return sum([await self._run(DELETE, [name]) for name in names])

    async def _run(self, what: Script, keys: Sequence[str], *arguments: Any) -> int:
        return int(await self.redis.run(what, keys, self._user, self._now(), *arguments) or 0)

    def _session_of(self, fields: Mapping[str, str], session_key: str | None = None) -> SessionBase:
        entries = (f"{name[1:]}:{value}" for name, value in fields.items() if name[0] == ".")
        record = Record(
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
