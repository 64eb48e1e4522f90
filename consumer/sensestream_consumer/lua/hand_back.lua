-- Gives entries back that this consumer still owns, for any worker with room to take at once.
--
-- They go to a consumer of that name, with an idle time that no living worker's entries reach,
-- so that they can be told from entries whose worker has merely gone silent.
--
-- KEYS 1 requests
-- ARGV 1 group  2 consumer  3 handed-back consumer  4 idle ms  5 uncharge a start (1/0), then ids
-- Returns how many were given back

local given = 0
for i = 6, #ARGV do
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if not pending.err and #pending > 0 then
    local deliveries = pending[1][4]
    if ARGV[5] == '1' and deliveries > 1 then deliveries = deliveries - 1 end
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i],
      'IDLE', ARGV[4], 'RETRYCOUNT', deliveries, 'JUSTID')
    given = given + 1
  end
end
return given
