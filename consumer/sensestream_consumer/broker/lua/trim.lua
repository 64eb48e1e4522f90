-- The janitor's trim, on Redis's own clock and exact. The highest id it removes is kept, so that
-- a subscriber can tell whether something after its position is gone.
--
-- KEYS 1 transcripts  2 trimmed  3 dead  4 webhooks
-- ARGV 1 transcripts_ttl ms  2 transcripts_max  3 dead_max
-- Returns {outcomes trimmed, dead letters trimmed, webhooks trimmed}

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = string.format('%.0f-0', math.max(0, now - tonumber(ARGV[1])))
local most = tonumber(ARGV[2])

local last
local function remember(entries) if #entries > 0 then last = entries[1][1] end end
remember(redis.call('XREVRANGE', KEYS[1], '(' .. oldest, '-', 'COUNT', 1))
local outcomes = redis.call('XTRIM', KEYS[1], 'MINID', oldest)
if redis.call('XLEN', KEYS[1]) > most then
  -- First down to one too many: the first entry is then the last one to go.
  outcomes = outcomes + redis.call('XTRIM', KEYS[1], 'MAXLEN', most + 1)
  remember(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1))
  outcomes = outcomes + redis.call('XTRIM', KEYS[1], 'MAXLEN', most)
end
if last then redis.pcall('SET', KEYS[2], last) end
return {outcomes, redis.call('XTRIM', KEYS[3], 'MAXLEN', ARGV[3]),
  redis.call('XTRIM', KEYS[4], 'MINID', oldest)}
