-- Charges one start of an entry, kept in Redis as its delivery count minus one.
--
-- Called before anything that could take the process down. An entry that was started before and
-- never answered ended in a crash: it is told so (the caller runs it alone), and the crash is
-- counted for its bytes too, so that copies of a poison clip do not each cost three workers.
--
-- KEYS 1 requests  2 request:<id>  3 crashes:<digest>
-- ARGV 1 group  2 consumer  3 entry  4 max_attempts  5 ttl of the crash count in ms
-- Returns {'lost'}, {'exhausted', starts, crashes} (nothing charged) or {'started', starts, crashes}

local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if pending.err or #pending == 0 then return {'lost'} end
local starts, most = pending[1][4] - 1, tonumber(ARGV[4])
local crashes = tonumber(redis.pcall('GET', KEYS[3])) or 0

if starts >= most or crashes >= most then
  return {'exhausted', starts, crashes}
end
-- XCLAIM first: a Redis at its memory limit refuses INCR and HSET as a script's first write.
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'RETRYCOUNT', starts + 2, 'JUSTID')
if starts > 0 then
  local counted = redis.pcall('INCR', KEYS[3])
  if type(counted) == 'number' then
    crashes = counted
    redis.pcall('PEXPIRE', KEYS[3], ARGV[5])
  end
end
if redis.pcall('HGET', KEYS[2], 'entry') == ARGV[3] then
  redis.pcall('HSET', KEYS[2], 'state', 'started')
end
return {'started', starts + 1, crashes}
