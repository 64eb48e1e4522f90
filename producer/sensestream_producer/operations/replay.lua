-- Puts one dead letter back into its lane, as it was sent, and removes the letter.
--
-- KEYS  1 dead  2 requests  3 requests:high  4 request:<id>, or a name that no key has
--       5 stats  6 upload:<id> when the request's audio is that key, or a name that no key has
--       7 crashes:<digest> of the letter's bytes, or a name that no key has
-- ARGV  1 the letter's id  2 max_backlog  3 '1' if KEYS[4] is real  4 '1' if KEYS[6] is
--       5 '1' to leave out a deadline that has passed
-- Returns {'queued', entry}, or the reason why nothing was done: {'not_found'},
--       {'already_queued', entry}, {'already_completed', outcome}, {'full', backlog},
--       {'upload_missing'} or {'expired'}
--
-- Every check comes before the first write, which is XADD: Lua does not roll back, and a Redis
-- without memory then refuses the whole script.

for i, wanted in ipairs({'stream', 'stream', 'stream', 'hash', 'hash', 'string'}) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply(
      'WRONGKEY ' .. KEYS[i] .. ' holds a ' .. found .. ' where a ' .. wanted .. ' belongs')
  end
end

local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return {'not_found'} end

if ARGV[3] == '1' then
  local known = redis.call('HMGET', KEYS[4], 'state', 'entry', 'lane', 'status', 'outcome')
  local stream = known[3] == 'high' and KEYS[3] or KEYS[2]
  if (known[1] == 'queued' or known[1] == 'started') and known[2]
    and #redis.call('XRANGE', stream, known[2], known[2]) > 0 then
    return {'already_queued', known[2]}
  end
  if known[1] == 'done' and known[4] == 'completed' then return {'already_completed', known[5] or ''} end
end
local backlog = redis.call('XLEN', KEYS[2]) + redis.call('XLEN', KEYS[3])
if backlog >= tonumber(ARGV[2]) then return {'full', backlog} end
if ARGV[4] == '1' and redis.call('EXISTS', KEYS[6]) == 0 then return {'upload_missing'} end

local now = redis.call('TIME')[1] * 1000
local fields, lane = {}, 'normal'
local raw = letter[2]
for i = 1, #raw, 2 do
  local name, value = raw[i], raw[i + 1]
  local passed = name == 'deadline' and (tonumber(value) or now) < now
  if passed and ARGV[5] ~= '1' then return {'expired'} end
  if name == 'dead:lane' then lane = value end
  if string.sub(name, 1, 5) ~= 'dead:' and not passed then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
if lane ~= 'high' then lane = 'normal' end

local entry = redis.call('XADD', lane == 'high' and KEYS[3] or KEYS[2], '*', unpack(fields))
redis.call('XDEL', KEYS[1], ARGV[1])
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[4], 'state', 'queued', 'entry', entry, 'lane', lane)
  redis.call('HDEL', KEYS[4], 'status', 'outcome')
  redis.call('PERSIST', KEYS[4])
end
if ARGV[4] == '1' then redis.call('PERSIST', KEYS[6]) end
-- A replay is a person's decision to try these bytes again, so their crashes no longer count.
redis.pcall('DEL', KEYS[7])
redis.pcall('HINCRBY', KEYS[5], 'submitted', 1)
return {'queued', entry}
