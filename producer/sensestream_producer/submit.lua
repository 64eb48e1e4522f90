-- Takes one request into its lane, unless its id stands there already or the backlog is full.
--
-- KEYS  1 the lane  2 requests  3 requests:high  4 request:<id>  5 stats
--       [6 the staged upload  7 upload:<id>]
-- ARGV  1 lane's name  2 max_backlog  3 milliseconds to the deadline or ''  4… field, value, …
-- Gives {'queued', entry}
--       {'duplicate', entry, lane, state, status, outcome}
--       {'full', backlog}            nothing was written
--       {'unstaged'}                 the staged upload is gone: stage it again
--
-- Everything is looked at before the first write, because Lua does not roll back; and the first
-- write is XADD, so that a Redis without memory refuses the whole.

local function foreign(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply(
      'WRONGKEY ' .. key .. ' holds a ' .. found .. ' where a ' .. wanted .. ' belongs')
  end
end

local wrong = foreign(KEYS[2], 'stream') or foreign(KEYS[3], 'stream')
  or foreign(KEYS[4], 'hash') or foreign(KEYS[5], 'hash')
  or (KEYS[6] and (foreign(KEYS[6], 'string') or foreign(KEYS[7], 'string')))
if wrong then return wrong end

local known = redis.call('HMGET', KEYS[4], 'state', 'entry', 'lane', 'status', 'outcome')
local state, entry, lane, status = known[1], known[2], known[3], known[4]
local stands = state == 'done' and status == 'completed'
if (state == 'queued' or state == 'started') and entry then
  local stream = lane == 'high' and KEYS[3] or KEYS[2]
  stands = #redis.call('XRANGE', stream, entry, entry) > 0
end
if stands then
  if KEYS[6] then redis.call('DEL', KEYS[6]) end
  redis.pcall('HINCRBY', KEYS[5], 'duplicates', 1)
  return {'duplicate', entry or '', lane or '', state, status or '', known[5] or ''}
end

local backlog = redis.call('XLEN', KEYS[2]) + redis.call('XLEN', KEYS[3])
if backlog >= tonumber(ARGV[2]) then
  redis.pcall('HINCRBY', KEYS[5], 'refused', 1)
  return {'full', backlog}
end
if KEYS[6] and redis.call('EXISTS', KEYS[6]) == 0 then return {'unstaged'} end

local time = redis.call('TIME')
-- Whole milliseconds as text: a Lua number of this size would print as 1.7e+12.
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local fields = {}
for i = 4, #ARGV do fields[#fields + 1] = ARGV[i] end
fields[#fields + 1] = 'submitted_at'
fields[#fields + 1] = now
if ARGV[3] ~= '' then
  fields[#fields + 1] = 'deadline'
  fields[#fields + 1] = string.format('%.0f', tonumber(now) + tonumber(ARGV[3]))
end

entry = redis.call('XADD', KEYS[1], '*', unpack(fields))
redis.call('HSET', KEYS[4], 'state', 'queued', 'entry', entry, 'lane', ARGV[1])
redis.call('HDEL', KEYS[4], 'status', 'outcome')
redis.call('PERSIST', KEYS[4])
if KEYS[6] then
  redis.call('RENAME', KEYS[6], KEYS[7])
  redis.call('PERSIST', KEYS[7])
end
redis.pcall('HINCRBY', KEYS[5], 'submitted', 1)
return {'queued', entry}
