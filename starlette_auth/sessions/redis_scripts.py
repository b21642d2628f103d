"""The Lua scripts of RedisStore, which change a session and its user's index in one step."""

from .expiry import TOUCH_EVERY
from .records import GRACE

# Each session is a Redis hash. It has these fields of the record, and one field for each entry of the session, named
# "." plus the entry's name as JSON. Concurrent requests that change different entries thus change different fields.
RECORD_FIELDS = ("public_id", "user_id", "created", "last_seen", "expires", "address", "user_agent")
# Seconds for which it is known that sessions were revoked: browsers keep a cookie for at most 400 days (RFC 6265bis).
REMEMBERED = 400 * 24 * 60 * 60
# The index of a user is a sorted set of the keys of their sessions, with the expiry time as score. For all scripts,
# ARGV[1] is the prefix of the index names and ARGV[2] is the current time. A session and its index are in one slot of a
# Redis Cluster.
#
# Redis may evict an index and keep its sessions. A session that is missing in its index is added when it is loaded. An
# attacker uses a stolen session that the index lacks, which `revoke_all` would not find; therefore `revoke_all` leaves
# the member "!revoked" in the index: from then on, the sessions that the index lacks have ended. "!kept <public id>" is
# an exception.
LUA_HELPERS = """
local now = tonumber(ARGV[2])
local function index_of(key)
  local user = redis.call('HGET', key, 'user_id')
  return user and user ~= '' and ARGV[1] .. user
end
local function is_revoked(key)
  local index = index_of(key)
  if not index or redis.call('ZSCORE', index, key) or not redis.call('ZSCORE', index, '!revoked') then return false end
  return not redis.call('ZSCORE', index, '!kept ' .. tostring(redis.call('HGET', key, 'public_id')))
end
local function is_live(key)
  local expires = redis.call('HGET', key, 'expires')
  return expires and (tonumber(expires) or 0) > now and not is_revoked(key)
end
local function remove_from_index(key)
  local index = index_of(key)
  if index then redis.call('ZREM', index, key) end
end
local function add_to_index(key, seconds)
  local index = index_of(key)
  if index then
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
    redis.call('ZADD', index, now + seconds, key)
    if redis.call('TTL', index) < seconds then redis.call('EXPIRE', index, seconds) end
  end
end
local function extend(key, seconds)
  redis.call('HSET', key, 'last_seen', now, 'expires', now + seconds)
  add_to_index(key, seconds)
  redis.call('EXPIRE', key, seconds)
end
"""
# The session stays usable if it cannot be added to the index.
LOAD = f"""{LUA_HELPERS}
local index = index_of(KEYS[1])
if index and not redis.call('ZSCORE', index, KEYS[1]) then
  if is_revoked(KEYS[1]) then return {{}} end
  if is_live(KEYS[1]) then pcall(add_to_index, KEYS[1], redis.call('HGET', KEYS[1], 'expires') - now) end
end
return redis.call('HGETALL', KEYS[1])
"""
SAVE = f"""{LUA_HELPERS}
local old_key, new_key, seconds, last_pair = KEYS[1], KEYS[#KEYS], tonumber(ARGV[3]), 5 + 2 * tonumber(ARGV[4])
if ARGV[5] == '1' then
  if is_live(old_key) then
    remove_from_index(old_key)
    if old_key ~= new_key then redis.call('RENAME', old_key, new_key) end
  elseif old_key == new_key or not is_live(new_key) then
    return -1
  end -- otherwise this is a retry: the first call was executed, but its reply was lost
end
for i = 6, last_pair, 2 do redis.call('HSET', new_key, ARGV[i], ARGV[i + 1]) end
for i = last_pair + 1, #ARGV do redis.call('HDEL', new_key, ARGV[i]) end
local entry_count = redis.call('HLEN', new_key) - {len(RECORD_FIELDS)}
if entry_count == 0 then seconds = math.min(seconds, {GRACE}) end
extend(new_key, seconds)
return entry_count
"""
# Takes a session away from its key, and returns it. It is kept under KEYS[2] for as long as a retry may ask for it.
TAKE = f"""{LUA_HELPERS}
if is_live(KEYS[1]) then
  remove_from_index(KEYS[1])
  redis.call('RENAME', KEYS[1], KEYS[2])
  redis.call('EXPIRE', KEYS[2], {GRACE})
end
return redis.call('HGETALL', KEYS[2])
"""
TOUCH = f"""{LUA_HELPERS}
if is_live(KEYS[1]) and tonumber(redis.call('HGET', KEYS[1], 'last_seen')) <= now - {TOUCH_EVERY} then
  redis.call('HSET', KEYS[1], 'address', ARGV[4])
  extend(KEYS[1], tonumber(ARGV[3]))
end
"""
DELETE = f"""{LUA_HELPERS}
remove_from_index(KEYS[1])
return redis.call('DEL', KEYS[1])
"""
# KEYS[1] is the index. An entry without a session is removed: Redis has evicted the session.
LIST = f"""{LUA_HELPERS}
local sessions = {{}}
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[2], '(+inf')) do
  local fields = redis.call('HGETALL', key)
  if #fields > 0 then sessions[#sessions + 1] = fields else redis.call('ZREM', KEYS[1], key) end
end
return sessions
"""
# One script, because a session that got a new key between two commands would not be found. KEYS[1] is the index of the
# user ARGV[3]. ARGV[5] is '1' to end only the session with the public id ARGV[4], and '0' to end all others.
REVOKE = f"""{LUA_HELPERS}
local count, is_single = 0, ARGV[5] == '1'
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now) -- after this, Redis does not refuse to add for lack of memory
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[2], '(+inf')) do
  local fields = redis.call('HMGET', key, 'user_id', 'public_id')
  if fields[1] == ARGV[3] and (fields[2] == ARGV[4]) == is_single and is_live(key) then
    remove_from_index(key)
    count = count + redis.call('DEL', key)
  end
end
if is_single and count > 0 then return count end
-- Otherwise a session that the index lacks has ended already, unless it was kept then, too.
local may_keep = not is_single and ARGV[4] ~= '' and not redis.call('ZSCORE', KEYS[1], '!revoked')
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '+inf', '+inf')) do
  if (member == '!kept ' .. ARGV[4]) == is_single then redis.call('ZREM', KEYS[1], member) end
end
redis.call('ZADD', KEYS[1], '+inf', '!revoked')
if may_keep then redis.call('ZADD', KEYS[1], '+inf', '!kept ' .. ARGV[4]) end
if redis.call('TTL', KEYS[1]) < {REMEMBERED} then redis.call('EXPIRE', KEYS[1], {REMEMBERED}) end
return count
"""
