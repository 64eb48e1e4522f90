-- Gives entries back that this consumer still owns, for any worker with room to take at once.
--
-- They go to a consumer of that name, with an idle time that no living worker's entries reach, so
-- that they can be told from entries whose worker has merely gone silent; and with the delivery
-- count they had when this consumer took them, so that a start of its own is not charged.
--
-- KEYS 1 requests
-- ARGV 1 group  2 consumer  3 handed-back consumer  4 idle ms, then pairs of id and delivery count
-- Returns how many were given back

local given = 0
for i = 5, #ARGV, 2 do
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if not pending.err and #pending > 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i],
      'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
    given = given + 1
  end
end
return given
