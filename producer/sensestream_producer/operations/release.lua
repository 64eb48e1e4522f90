-- Takes an entry from the consumer that holds it, for the next worker with a free slot.
--
-- The effect is that of a worker's own hand-back. The check of the holder is part of the same step:
-- no entry is taken from a worker that has just come back, or that has taken it over since.
-- An attempt charged by a living holder is taken back, because it did not end in a crash; that of a
-- dead holder counts, as it does when an entry is reclaimed.
--
-- KEYS 1 requests  2 worker:<consumer>
-- ARGV 1 group  2 entry  3 its consumer, as seen  4 handed-back consumer  5 idle ms  6 force (1/0)
-- Returns 'released', or, with nothing changed, 'alive', 'waiting' (handed back already) or 'moved'

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
