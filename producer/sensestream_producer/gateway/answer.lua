-- Answers a request whose result is known already: its outcome is written, and nothing is queued.
--
-- What a worker's commit leaves of a hit, in one step with the look at the request's id. Adding an
-- entry to the lane and deleting it at once would wake every worker that waits there; so the
-- outcome's `entry` is a number of its own, from 2^32 on, which XADD never comes to by itself.
--
-- KEYS  1 requests  2 requests:high  3 transcripts  4 webhooks  5 request:<id>  6 stats
--       7 result:<identity>  8 audio:<digest>
-- ARGV  1 lane's name  2 request_ttl s  3 result_ttl ms, 0 to leave it  4 the outcome as JSON,
--       without entry and times  5 webhook url or ''  6 request id  7… outcome: field, value, …
-- Gives {'answered', entry, outcome id, now in ms}
--       {'duplicate', entry, lane, state, status, outcome}
--
-- Everything is looked at before the first write, because Lua does not roll back; and the first
-- write is one that a Redis without memory refuses, and with it the whole.

for i, wanted in ipairs({'stream', 'stream', 'stream', 'stream', 'hash', 'hash'}) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply(
      'WRONGKEY ' .. KEYS[i] .. ' holds a ' .. found .. ' where a ' .. wanted .. ' belongs')
  end
end

local known = redis.call('HMGET', KEYS[5], 'state', 'entry', 'lane', 'status', 'outcome')
local state, entry, lane, status = known[1], known[2], known[3], known[4]
local stands = state == 'done' and status == 'completed'
if (state == 'queued' or state == 'started') and entry then
  local stream = lane == 'high' and KEYS[2] or KEYS[1]
  stands = #redis.call('XRANGE', stream, entry, entry) > 0
end
if stands then
  redis.pcall('HINCRBY', KEYS[6], 'duplicates', 1)
  return {'duplicate', entry or '', lane or '', state, status or '', known[5] or ''}
end

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local number = redis.call('HINCRBY', KEYS[6], 'submitted', 1)
entry = now .. '-' .. string.format('%.0f', 4294967296 + number)
local fields = {'entry', entry, 'submitted_at', now, 'started_at', now, 'finished_at', now}
for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
local id = redis.call('XADD', KEYS[3], '*', unpack(fields))
if ARGV[5] ~= '' then
  redis.call('XADD', KEYS[4], '*', 'outcome', id, 'url', ARGV[5], 'id', ARGV[6])
end

redis.pcall('HSET', KEYS[5], 'state', 'done', 'entry', entry, 'lane', ARGV[1],
  'status', 'completed', 'outcome', id)
redis.pcall('EXPIRE', KEYS[5], ARGV[2])
local wanted = tonumber(ARGV[3])
if wanted > 0 then
  for i = 7, 8 do
    local left = redis.pcall('PTTL', KEYS[i])
    if type(left) == 'number' and left >= 0 and left < wanted then
      redis.pcall('PEXPIRE', KEYS[i], wanted)
    end
  end
end
for _, name in ipairs({'completed', 'hits'}) do redis.pcall('HINCRBY', KEYS[6], name, 1) end
redis.pcall('PUBLISH', KEYS[3], '{"entry":"' .. entry .. '","submitted_at":' .. now ..
  ',"started_at":' .. now .. ',"finished_at":' .. now .. ',' .. string.sub(ARGV[4], 2))
return {'answered', entry, id, now}
