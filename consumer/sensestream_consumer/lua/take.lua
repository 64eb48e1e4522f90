-- Takes over entries that nobody has renewed for `min_idle`: handed back, or their worker died.
--
-- JUSTID leaves the delivery counts alone (they count starts). An id whose body is gone (somebody
-- deleted the entry) is acknowledged, or it would be claimed again forever.
--
-- KEYS 1 requests  2 stats   ARGV 1 group  2 consumer  3 min_idle ms  4 count  5 handed-back consumer
-- Returns {entries as {id, fields}, how many of them came from silent workers}

local taken, cursor, rounds, vanished, reclaimed = {}, '0-0', 0, 0, 0
local most = tonumber(ARGV[4])
local waiting = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', most)
if #waiting == 0 then return {taken, 0} end
local handed_back = {}
for _, row in ipairs(waiting) do
  if row[2] == ARGV[5] then handed_back[row[1]] = true end
end

repeat
  local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], cursor,
    'COUNT', most - #taken, 'JUSTID')
  cursor, rounds = reply[1], rounds + 1
  for _, id in ipairs(reply[2]) do
    local body = redis.call('XRANGE', KEYS[1], id, id)
    if #body == 0 then
      redis.call('XACK', KEYS[1], ARGV[1], id)
      vanished = vanished + 1
    else
      taken[#taken + 1] = body[1]
      if not handed_back[id] then reclaimed = reclaimed + 1 end
    end
  end
  if reply[3] then vanished = vanished + #reply[3] end
until cursor == '0-0' or #taken >= most or rounds >= 100
if vanished > 0 then redis.pcall('HINCRBY', KEYS[2], 'vanished', vanished) end
if reclaimed > 0 then redis.pcall('HINCRBY', KEYS[2], 'reclaimed', reclaimed) end
return {taken, reclaimed}
