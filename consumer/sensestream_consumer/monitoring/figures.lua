-- The figures of the streams at one moment. It only reads, at a cost that does not grow with them.
--
-- KEYS 1, 2 the lanes  3 dead  4 transcripts  5 stats
-- ARGV 1 group  2 handed-back consumer  3… names of counters
-- Returns {now in ms, dead letters, outcomes kept, {counters}, then for each lane {entries, pending,
--   of these handed back, the oldest pending id, the oldest id not delivered yet}}; an id is ''
--   for none

local function length(key)
  local count = redis.pcall('XLEN', key)
  return type(count) == 'number' and count or 0
end

local function first_undelivered(key)
  local start = '-'
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  if groups.err then return '' end
  for _, group in ipairs(groups) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts.name == ARGV[1] then start = '(' .. facts['last-delivered-id'] end
  end
  local next = redis.call('XRANGE', key, start, '+', 'COUNT', 1)
  return next[1] and next[1][1] or ''
end

local function lane(key)
  local pending = redis.pcall('XPENDING', key, ARGV[1])
  if pending.err then return {length(key), 0, 0, '', first_undelivered(key)} end
  local handed_back = 0
  for _, owner in ipairs(pending[4] or {}) do
    if owner[1] == ARGV[2] then handed_back = tonumber(owner[2]) end
  end
  return {length(key), pending[1], handed_back, pending[2] or '', first_undelivered(key)}
end

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local counters = {}
for i = 3, #ARGV do
  local count = redis.pcall('HGET', KEYS[5], ARGV[i])
  counters[i - 2] = type(count) == 'string' and count or '0'
end
return {now, length(KEYS[3]), length(KEYS[4]), counters, lane(KEYS[1]), lane(KEYS[2])}
