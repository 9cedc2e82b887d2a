"""What Redis does in one step, in its own language.

Each script decides by the server's clock, only updates (but for `CREATE`), and runs alone, so no save
or touch can bring back what another has ended. Times are whole microseconds since the epoch: a double
of Lua holds them until the year 2255, if they are never printed as one.

A session is two keys of one slot: a hash with its times, its user and why it ended, and its data. The
fields are `user`, `created`, `seen`, `active`, `idle_at`, `absolute_at` (missing without such a
deadline), `ended_at` and `reason`; and for a session that ends with its last page `pages`, the ids of
those that are open, and `closes_at`, when that end comes (missing while there is a page).

How long a key lives is garbage collection, with slack: the deadlines inside decide.
"""

_COMMON = """
local DAY, SLACK, STEP = 86400000000, 60000000, 600000000

-- Tests bring their own time, as ARGV[1].
local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
local now = clock()

local function whole(number) return string.format('%.0f', number) end

-- How long the keys live: at least SLACK longer than they are of use, in steps of STEP since the epoch. So
-- most touches need not tell Redis, nor it the log and the replicas.
local function steps(life)
  local last = life.idle_at + DAY
  if life.absolute_at < 1 / 0 and life.absolute_at > last then last = life.absolute_at end
  return math.ceil((last + SLACK) / STEP), math.ceil((math.min(life.idle_at, life.closes_at) + SLACK) / STEP)
end

-- The times of a session, and why it is over; nothing for one that never was.
local function find(key)
  local it = redis.call('HMGET', key, 'idle_at', 'absolute_at', 'reason', 'active', 'closes_at', 'pages')
  if not it[1] then return nil end
  local life = {over = it[3], idle_at = tonumber(it[1]), absolute_at = 1 / 0, active = tonumber(it[4])}
  life.closes_at, life.pages = 1 / 0, it[6] or ''
  if it[2] then life.absolute_at = tonumber(it[2]) end
  if it[5] then life.closes_at = tonumber(it[5]) end
  life.step, life.data_step = steps(life)
  if not life.over and now >= math.min(life.idle_at, life.closes_at) then
    if life.closes_at < life.idle_at then life.over = 'logout'  -- idle_at is never beyond absolute_at
    else life.over = life.idle_at < life.absolute_at and 'idle' or 'absolute' end
  end
  return life
end

-- What remains in microseconds, the second as -1 without such a deadline, and whether it ends for its
-- last page; or the reason.
local function left(life)
  if not life then return 'unknown' end
  if life.over then return life.over end
  local absolute = life.absolute_at < 1 / 0 and life.absolute_at - now or -1
  return {math.min(life.idle_at, life.closes_at) - now, absolute, life.closes_at < 1 / 0 and 1 or 0}
end

-- Whether the data is there: Redis may have thrown it out, to make room.
local function expire(key, data, life)
  local step, data_step = steps(life)
  if step ~= life.step then redis.call('PEXPIREAT', key, whole(step * STEP / 1000)) end
  if data_step == life.data_step then return redis.call('EXISTS', data) == 1 end
  return redis.call('PEXPIREAT', data, whole(data_step * STEP / 1000)) == 1
end

local function create(key, data, value, user, idle, absolute)
  local absolute_at = absolute == '' and 1 / 0 or now + absolute
  local life = {idle_at = now + idle, absolute_at = absolute_at, closes_at = 1 / 0}
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
  redis.call('SPUBLISH', channel, name .. reason)
  return 1
end
"""

_HEAD = "#!lua\n" + _COMMON
_FREE = "#!lua flags=allow-oom\n" + _COMMON
"""For what takes hardly any memory, and so runs also when Redis has none left: what lives may live on."""

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
return {ended, began[1], began[2], began[3]}
"""
)

LOAD = (
    _FREE
    + """
-- KEYS session data
local answer = left(find(KEYS[1]))
if type(answer) == 'string' then return answer end
local rest = redis.call('HMGET', KEYS[1], 'user', 'created')
return {answer[1], answer[2], answer[3], redis.call('GET', KEYS[2]), rest[1], tonumber(rest[2])}
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
-- KEYS session data, for each line; ARGV now asked most, then keep idle pages for each line, '' for none.
-- Pages are what remains after the last of them, then ' +ID' for one that is here and ' -ID' for one gone.
local asked, most = math.min(now, tonumber(ARGV[2])), tonumber(ARGV[3])

local function count(life, pages)
  local named, here = {}, {}
  for sign, page in pages:gmatch(' ([+-])(%S+)') do
    named[page] = true
    if sign == '+' then here[#here + 1] = page end
  end
  local open = {}
  for page in life.pages:gmatch('%S+') do
    if not named[page] then open[#open + 1] = page end
  end
  for _, page in ipairs(here) do open[#open + 1] = page end
  life.pages = table.concat(open, ' ', math.max(1, #open - most + 1))
  if #here > 0 then life.closes_at = 1 / 0
  elseif next(named) and #open == 0 then
    life.closes_at = math.min(life.closes_at, asked + pages:match('^%d+'))
  end
end

local answers = {whole(now)}
for line = 1, #KEYS / 2 do
  local key, data = KEYS[line * 2 - 1], KEYS[line * 2]
  local keep, idle, pages = ARGV[line * 3 + 1], ARGV[line * 3 + 2], ARGV[line * 3 + 3]
  local life = find(key)
  if life and not life.over and keep .. idle .. pages ~= '' then
    local before, counted = life.closes_at, life.pages
    if keep ~= '' then
      life.idle_at = math.min(math.max(life.idle_at, asked + keep), life.absolute_at)
    end
    if idle ~= '' then life.active = math.max(life.active, asked - idle) end
    local seen, active = whole(asked), whole(life.active)
    redis.call('HSET', key, 'seen', seen, 'active', active, 'idle_at', whole(life.idle_at))
    if pages ~= '' then count(life, pages) else life.closes_at = 1 / 0 end
    if life.pages ~= counted then redis.call('HSET', key, 'pages', life.pages) end
    if life.closes_at < before then redis.call('HSET', key, 'closes_at', whole(life.closes_at))
    elseif life.closes_at > before then redis.call('HDEL', key, 'closes_at') end
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
-- KEYS list; ARGV now name absolute most. The sessions of a user, by when it is time to see whether they
-- are over, which for one without an absolute deadline is once a day. Answers with those whose time has come.
local due = redis.call('ZRANGE', KEYS[1], '-inf', whole(now), 'BYSCORE', 'LIMIT', 0, ARGV[4])
for _, name in ipairs(due) do redis.call('ZADD', KEYS[1], whole(now + DAY), name) end
local last = now + (ARGV[3] == '' and DAY or ARGV[3]) + SLACK
redis.call('ZADD', KEYS[1], whole(last), ARGV[2])
if ARGV[3] == '' then redis.call('PERSIST', KEYS[1])
elseif redis.call('ZCARD', KEYS[1]) == 1 then redis.call('PEXPIREAT', KEYS[1], whole(last / 1000))
else redis.call('PEXPIREAT', KEYS[1], whole(last / 1000), 'GT') end
return due
"""
)

UNLIST = (
    _FREE
    + """
-- KEYS list; ARGV now, then names
return redis.call('ZREM', KEYS[1], unpack(ARGV, 2))
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

# Who is here. Three keys: the names of the nodes, by when their last report expires; the pages of each
# session, and under `pages` of all; and the sessions of each user, those on two nodes twice, and one field
# that is nobody's. Beside them each node has a hash: `number` and `stats` of its last report, and its
# sessions, each with its pages, a colon and its user. All are of one slot, whatever their number. They live
# or die together: should one be missing, the others go, too, and every node tells its roll anew.
#
# To take out a node takes about 10 microseconds for each of its sessions, so that is done in slices: a script
# that finds one which has died takes out some of them, answers nothing, and has to be run again.
_ROLL = """
local SLICE = 300
local NODES, SESSIONS, USERS = KEYS[1], KEYS[2], KEYS[3]

local function hash_of(name) return NODES .. ':' .. name end

-- Of a count that comes to nothing, nothing is kept.
local function count(key, field, by)
  if redis.call('HINCRBY', key, field, by) == 0 then redis.call('HDEL', key, field) end
end

local function parse(line)
  local colon = string.find(line, ':', 1, true)
  return tonumber(string.sub(line, 1, colon - 1)), string.sub(line, colon + 1)
end

-- From now on the node counts as dead, whatever becomes of the clock.
local function drop(name) redis.call('ZADD', NODES, 'XX', 0, name) end

-- Take out a slice of a dead node's sessions; with the last of them, the node.
local function clear(name)
  drop(name)
  local hash, total = hash_of(name), 0
  local some = redis.call('HRANDFIELD', hash, SLICE, 'WITHVALUES')
  for field = 1, #some, 2 do
    local session = some[field]
    if #session == 32 then
      local pages, user = parse(some[field + 1])
      count(SESSIONS, session, -pages)
      if user ~= '' then count(USERS, user, -1) end
      redis.call('HDEL', hash, session)
      total = total + pages
    end
  end
  redis.call('HINCRBY', SESSIONS, 'pages', 0 - total)  -- for Lua writes -0, which is no number to Redis
  if #some < 2 * SLICE then
    redis.call('DEL', hash)
    redis.call('ZREM', NODES, name)
  end
end

-- The nodes that are alive; nothing while one that has died is being taken out.
local function nodes()
  local names, keys = redis.call('ZRANGE', NODES, 0, -1), {SESSIONS, USERS}
  for _, name in ipairs(names) do keys[#keys + 1] = hash_of(name) end
  if #names == 0 or redis.call('EXISTS', unpack(keys)) < #keys then
    redis.call('DEL', NODES, unpack(keys))
    return {}
  end
  local dead = redis.call('ZRANGE', NODES, '-inf', whole(now), 'BYSCORE')
  if #dead == 0 then return names end
  clear(dead[1])
end

local function has(names, name)
  for _, each in ipairs(names) do if each == name then return true end end
  return false
end
"""

REPORT = (
    _HEAD
    + _ROLL
    + """
-- KEYS nodes sessions users; ARGV now name number anew stats kept, then session pages user for each line
local name, number, names = ARGV[2], tonumber(ARGV[3]), nodes()
if not names then return nil end
local known, hash = has(names, name), hash_of(name)
local last = known and tonumber(redis.call('HGET', hash, 'number'))
if ARGV[4] == '' then
  if not known or number ~= last + 1 then return 0 end
else
  if known and number <= last then return 0 end
  if known then return drop(name) end
  redis.call('DEL', hash)
end
local total = 0
for line = 7, #ARGV, 3 do
  local session, pages, user = ARGV[line], tonumber(ARGV[line + 1]), ARGV[line + 2]
  local before, were, whose = redis.call('HGET', hash, session), 0, ''
  if before then were, whose = parse(before) end
  if pages == 0 then
    user = ''
    redis.call('HDEL', hash, session)
  else
    redis.call('HSET', hash, session, ARGV[line + 1] .. ':' .. user)
  end
  if pages ~= were then count(SESSIONS, session, pages - were) end
  if user ~= whose then
    if user ~= '' then count(USERS, user, 1) end
    if whose ~= '' then count(USERS, whose, -1) end
  end
  total = total + pages - were
end
redis.call('HINCRBY', SESSIONS, 'pages', total)
redis.call('HSET', USERS, '', 0)
redis.call('HSET', hash, 'number', ARGV[3], 'stats', ARGV[5])
redis.call('ZADD', NODES, whole(now + ARGV[6]), name)
local last = whole((now + ARGV[6] + SLACK) / 1000)
for _, key in ipairs({NODES, SESSIONS, USERS}) do redis.call('PEXPIREAT', key, last) end
if not known then names[#names + 1] = name end
for _, each in ipairs(names) do redis.call('PEXPIREAT', hash_of(each), last) end
return 1
"""
)

LEAVE = (
    _FREE
    + _ROLL
    + """
-- KEYS nodes sessions users; ARGV now name
drop(ARGV[2])
return nodes() and 1
"""
)

PRESENCE = (
    _FREE
    + _ROLL
    + """
-- KEYS nodes sessions users
local names = nodes()
if not names then return nil end
if #names == 0 then return {0, 0, 0, 0} end
return {
  tonumber(redis.call('HGET', SESSIONS, 'pages')), redis.call('HLEN', SESSIONS) - 1,
  redis.call('HLEN', USERS) - 1, #names,
}
"""
)

PAGES = (
    _FREE
    + _ROLL
    + """
-- KEYS nodes sessions users; ARGV now session
return nodes() and tonumber(redis.call('HGET', SESSIONS, ARGV[2]) or 0)
"""
)

STATS = (
    _FREE
    + _ROLL
    + """
-- KEYS nodes sessions users. The nodes, each with its newest figures.
local names, answer = nodes(), {}
if not names then return nil end
for _, name in ipairs(names) do
  answer[#answer + 1] = name
  answer[#answer + 1] = redis.call('HGET', hash_of(name), 'stats')
end
return answer
"""
)

IDLE = (
    _FREE
    + """
-- KEYS session. Microseconds since the last input in a session that lives.
local life = find(KEYS[1])
if not life or life.over then return false end
return now - life.active
"""
)
