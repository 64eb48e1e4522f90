-- Takes an entry from the consumer that holds it, for any worker with room to take at once.
--
-- As when a worker hands back what it holds, in one step with the look at who holds it and whether
-- that one lives: nothing is taken from a worker that has just come back, or got hold of it since.
-- A start that a living holder may have charged is taken back, for it ended in no crash; one of a
-- holder that is gone stays, as it does when the entry is reclaimed.
--
-- KEYS 1 requests  2 worker:<consumer>
-- ARGV 1 group  2 entry  3 its consumer, as seen  4 handed-back consumer  5 idle ms  6 force (1/0)
-- Returns 'released', or, with nothing changed, 'alive', 'waiting' (nobody holds it) or 'moved'

local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
if #pending == 0 or pending[1][2] ~= ARGV[3] then return 'moved' end
if ARGV[3] == ARGV[4] then return 'waiting' end
local alive = redis.call('EXISTS', KEYS[2]) == 1
if alive and ARGV[6] ~= '1' then return 'alive' end
local deliveries = pending[1][4]
if alive then deliveries = math.max(1, deliveries - 1) end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[4], 0, ARGV[2],
  'IDLE', ARGV[5], 'RETRYCOUNT', deliveries, 'JUSTID')
return 'released'
