"""What Redis does in one step, in its own language.

Each script decides by the server's clock, only updates (but for `CREATE`), and runs alone, so no save
or touch can bring back what another has ended. Times are whole microseconds since the epoch: a double
of Lua holds them until the year 2255, if they are never printed as one.

A session is two keys of one slot: a hash with its times, its user and why it ended, and its data. The
fields are `user`, `created`, `seen`, `active`, `idle_at`, `absolute_at` (missing without such a
deadline), `ended_at` and `reason`.

How long a key lives is garbage collection, with slack: the deadlines inside decide.
"""

_COMMON = """
local DAY, SLACK = 86400000000, 60000000

-- Tests bring their own time, as ARGV[1].
local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
local now = clock()

local function whole(number) return string.format('%.0f', number) end

-- The times of a session, and why it is over; nothing for one that never was.
local function find(key)
  local it = redis.call('HMGET', key, 'idle_at', 'absolute_at', 'reason', 'active')
  if not it[1] then return nil end
  local life = {over = it[3], idle_at = tonumber(it[1]), absolute_at = 1 / 0, active = tonumber(it[4])}
  if it[2] then life.absolute_at = tonumber(it[2]) end
  if not life.over and now >= life.idle_at then  -- which is never beyond absolute_at
    life.over = life.idle_at < life.absolute_at and 'idle' or 'absolute'
  end
  return life
end

-- What remains in microseconds, the second as -1 without such a deadline; or the reason.
local function left(life)
  if not life then return 'unknown' end
  if life.over then return life.over end
  return {life.idle_at - now, life.absolute_at < 1 / 0 and life.absolute_at - now or -1}
end

-- Whether the data is there: Redis may have thrown it out, to make room.
local function expire(key, data, life)
  local last = life.idle_at + DAY
  if life.absolute_at < 1 / 0 and life.absolute_at > last then last = life.absolute_at end
  redis.call('PEXPIREAT', key, whole((last + SLACK) / 1000))
  return redis.call('PEXPIREAT', data, whole((life.idle_at + SLACK) / 1000)) == 1
end

local function create(key, data, value, user, idle, absolute)
  local life = {idle_at = now + idle, absolute_at = absolute == '' and 1 / 0 or now + absolute}
  local at = whole(now)
  redis.call('HSET', key, 'created', at, 'seen', at, 'active', at, 'idle_at', whole(life.idle_at))
  if absolute ~= '' then redis.call('HSET', key, 'absolute_at', whole(life.absolute_at)) end
  if user ~= '' then redis.call('HSET', key, 'user', user) end
  redis.call('SET', data, value)
  expire(key, data, life)
  return left(life)
end

-- `name` is what the others know the session by, and `channel` where they listen.
local function finish(key, data, name, reason, channel)
  local life = find(key)
  if not life or life.over then return 0 end
  redis.call('HSET', key, 'ended_at', whole(now), 'reason', reason)
  redis.call('HDEL', key, 'user')
  redis.call('DEL', data)
  redis.call('PUBLISH', channel, name .. reason)
  return 1
end
"""

_HEAD = "#!lua\n" + _COMMON
_FREE = "#!lua flags=allow-oom\n" + _COMMON
"""For what takes no memory, and so runs also when Redis has none left: what lives may live on."""

CREATE = (
    _HEAD
    + """
-- KEYS session data; ARGV now value user idle absolute. A user is '' for none, else 'u' and the name.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
return create(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
"""
)

ROTATE = (
    _HEAD
    + """
-- KEYS new newdata old olddata; ARGV now value user idle absolute oldname channel
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
local ended = finish(KEYS[3], KEYS[4], ARGV[6], 'rotated', ARGV[7])
local began = create(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
return {ended, began[1], began[2]}
"""
)

LOAD = (
    _FREE
    + """
-- KEYS session data
local answer = left(find(KEYS[1]))
if type(answer) == 'string' then return answer end
local rest = redis.call('HMGET', KEYS[1], 'user', 'created')
return {answer[1], answer[2], redis.call('GET', KEYS[2]), rest[1], tonumber(rest[2])}
"""
)

SAVE = (
    _HEAD
    + """
-- KEYS session data; ARGV now value user listed. A user who is not listed yet has to be, first.
local life = find(KEYS[1])
if life and not life.over then
  local user = redis.call('HGET', KEYS[1], 'user') or ''
  if user ~= ARGV[3] then
    if ARGV[3] == '' then redis.call('HDEL', KEYS[1], 'user')
    elseif ARGV[4] == '' then return {left(life)[2]}
    else redis.call('HSET', KEYS[1], 'user', ARGV[3]) end
  end
  if not redis.call('SET', KEYS[2], ARGV[2], 'XX', 'KEEPTTL') then return 'unknown' end
end
return left(life)
"""
)

# A batch counts from when it was asked for, as far as that is known: Redis may have been hung since.
TOUCH = (
    _FREE
    + """
-- KEYS session data, for each line; ARGV now asked, then keep idle for each line, '' for none
local asked = math.min(now, tonumber(ARGV[2]))
local answers = {whole(now)}
for line = 1, #KEYS / 2 do
  local key, data = KEYS[line * 2 - 1], KEYS[line * 2]
  local keep, idle = ARGV[line * 2 + 1], ARGV[line * 2 + 2]
  local life = find(key)
  if life and not life.over and keep .. idle ~= '' then
    if keep ~= '' then
      life.idle_at = math.min(math.max(life.idle_at, asked + keep), life.absolute_at)
    end
    if idle ~= '' then life.active = math.max(life.active, asked - idle) end
    local seen, active = whole(asked), whole(life.active)
    redis.call('HSET', key, 'seen', seen, 'active', active, 'idle_at', whole(life.idle_at))
    if not expire(key, data, life) then life = nil end
  end
  answers[line + 1] = left(life)
end
return answers
"""
)

LIST = (
    _HEAD
    + """
-- KEYS list; ARGV now name absolute. The sessions of a user, by when nobody asks for them any more.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now))
if ARGV[3] == '' then
  redis.call('ZADD', KEYS[1], 'inf', ARGV[2])
  redis.call('PERSIST', KEYS[1])
else
  local last = now + ARGV[3] + SLACK
  redis.call('ZADD', KEYS[1], whole(last), ARGV[2])
  if redis.call('ZCARD', KEYS[1]) == 1 then redis.call('PEXPIREAT', KEYS[1], whole(last / 1000))
  else redis.call('PEXPIREAT', KEYS[1], whole(last / 1000), 'GT') end
end
return 1
"""
)

END = (
    _FREE
    + """
-- KEYS session data; ARGV now name reason channel user. With a user, only a session of theirs.
if ARGV[5] ~= '' and redis.call('HGET', KEYS[1], 'user') ~= ARGV[5] then return 0 end
return finish(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4])
"""
)
