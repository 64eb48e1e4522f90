-- The heartbeat: renews the entries of one lane that this consumer still owns.
--
-- A plain XCLAIM would steal back what another worker has reclaimed (it ignores the owner), and
-- without JUSTID it would count a delivery.
--
-- KEYS 1 requests   ARGV 1 group  2 consumer, then entry ids   Returns the ids that were lost

local lost = {}
for i = 3, #ARGV do
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if pending.err or #pending == 0 then
    lost[#lost + 1] = ARGV[i]
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end
return lost
