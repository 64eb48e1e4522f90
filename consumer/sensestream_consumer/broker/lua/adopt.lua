-- Finds requests that were delivered and belong to no consumer, and lets any worker take them.
--
-- XGROUP DELCONSUMER by hand drops what its consumer held from the pending list, and no reader is
-- ever given it again. An answered request is deleted, so whatever stands in the stream up to the
-- last delivered id should be pending.
--
-- KEYS 1 requests   ARGV 1 group  2 handed-back consumer  3 idle ms  4 most entries looked at
-- Returns the ids adopted

local last
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local facts = {}
  for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
  if facts.name == ARGV[1] then last = facts['last-delivered-id'] end
end
if not last then return {} end

local adopted = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', last, 'COUNT', ARGV[4])) do
  local id = entry[1]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) == 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[3], 'FORCE', 'JUSTID')
    adopted[#adopted + 1] = id
  end
end
return adopted
