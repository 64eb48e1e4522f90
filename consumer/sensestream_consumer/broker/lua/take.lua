-- Takes over entries that have not been renewed for `min_idle`: handed back, or their worker died.
--
-- JUSTID leaves the delivery counts alone (they count starts). An id whose entry was deleted is
-- acknowledged, or it would be claimed again forever.
--
-- KEYS 1 requests  2 stats   ARGV 1 group  2 consumer  3 min_idle ms  4 count  5 handed-back consumer
-- Returns {entries as {id, fields, deliveries}, how many of them came from silent workers}

local taken, vanished, reclaimed = {}, 0, 0
-- The idle ones are picked by XPENDING: XAUTOCLAIM looks at a bounded stretch of the list, and
-- finds nothing behind a few thousand entries that are held.
local idle = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])
for _, row in ipairs(idle) do
  local id, owner, deliveries = row[1], row[2], row[4]
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], id, 'JUSTID')
  local body = redis.call('XRANGE', KEYS[1], id, id)
  if #body == 0 then
    redis.call('XACK', KEYS[1], ARGV[1], id)
    vanished = vanished + 1
  else
    taken[#taken + 1] = {id, body[1][2], deliveries}
    if owner ~= ARGV[5] then reclaimed = reclaimed + 1 end
  end
end
if vanished > 0 then redis.pcall('HINCRBY', KEYS[2], 'vanished', vanished) end
if reclaimed > 0 then redis.pcall('HINCRBY', KEYS[2], 'reclaimed', reclaimed) end
return {taken, reclaimed}
