-- Charges one start of an entry, kept in Redis as its delivery count minus one.
--
-- Called just before work that could take the process down. An entry that was started before and
-- never answered ended in a crash, and so may every copy of its bytes: such a suspect is charged
-- only when it runs alone, so that no neighbour is charged for its crash.
--
-- KEYS 1 requests  2 request:<id>  3 crashes:<digest>
-- ARGV 1 group  2 consumer  3 entry  4 max_attempts  5 ttl of the crash count in ms  6 alone (1/0)
--      7 how many starts it had when this consumer took it
-- Returns {what, starts, crashes}, what being 'started' (charged: starts includes this one), or,
-- with nothing charged, 'lost', 'exhausted' or 'suspect' (to be called again when alone)

local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if pending.err or #pending == 0 then return {'lost', 0, 0} end
local starts, most = pending[1][4] - 1, tonumber(ARGV[4])
local crashes = tonumber(redis.pcall('GET', KEYS[3])) or 0

-- One more than it came with, and still ours: an earlier call charged it, whose reply was lost.
if starts == tonumber(ARGV[7]) + 1 then return {'started', starts, crashes} end

if (starts > 0 or crashes > 0) and starts < most and crashes < most and ARGV[6] == '0' then
  return {'suspect', starts, crashes}
end

-- Every start before this one is a crash, proven by the entry's being here again.
local function count_crash()
  if starts == 0 then return end
  local counted = redis.pcall('INCR', KEYS[3])
  if type(counted) == 'number' then
    crashes = counted
    redis.pcall('PEXPIRE', KEYS[3], ARGV[5])
  end
end

if starts >= most or crashes >= most then
  count_crash()
  return {'exhausted', starts, crashes}
end
-- XCLAIM first: a Redis at its memory limit refuses INCR and HSET as a script's first write.
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'RETRYCOUNT', starts + 2, 'JUSTID')
count_crash()
if redis.pcall('HGET', KEYS[2], 'entry') == ARGV[3] then
  redis.pcall('HSET', KEYS[2], 'state', 'started')
end
return {'started', starts + 1, crashes}
