-- Reads new entries, the high lane first, but for those reserved for the normal lane. A share that
-- the normal lane has no entries for goes to the high lane.
--
-- KEYS 1 requests:high  2 requests
-- ARGV 1 group  2 consumer  3 count  4 how many of these are reserved for the normal lane
-- Returns {entries of the high lane, entries of the normal lane, more of the high lane}

local function read(key, count)
  if count <= 0 then return {} end
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', count,
    'STREAMS', key, '>')
  return reply and reply[1][2] or {}
end
local count = tonumber(ARGV[3])
local unreserved = count - tonumber(ARGV[4])
local high = read(KEYS[1], unreserved)
local normal = read(KEYS[2], count - #high)
local more = #high == unreserved and read(KEYS[1], count - #high - #normal) or {}
return {high, normal, more}
