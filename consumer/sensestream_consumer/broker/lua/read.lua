-- Reads new entries, the high lane first, without letting it starve the other: so many entries of
-- the normal lane come along however many wait in the high one.
--
-- KEYS 1 requests:high  2 requests   ARGV 1 group  2 consumer  3 count  4 of the normal lane anyhow
-- Returns {entries of the high lane, entries of the normal lane}

local function read(key, count)
  if count <= 0 then return {} end
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', count,
    'STREAMS', key, '>')
  return reply and reply[1][2] or {}
end
local count = tonumber(ARGV[3])
local high = read(KEYS[1], count)
return {high, read(KEYS[2], math.max(tonumber(ARGV[4]), count - #high))}
