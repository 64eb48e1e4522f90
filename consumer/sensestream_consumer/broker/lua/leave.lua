-- Removes a consumer from both lanes, unless it still holds entries: XGROUP DELCONSUMER would
-- drop them from the pending list, and no worker would ever read them again.
--
-- KEYS 1 requests:high  2 requests  3 worker:<consumer>   ARGV 1 group  2 consumer
-- Returns how many entries it still holds (0: removed)

local held = 0
for i = 1, 2 do
  local pending = redis.pcall('XPENDING', KEYS[i], ARGV[1], '-', '+', 1000, ARGV[2])
  if not pending.err then held = held + #pending end
end
if held == 0 then
  for i = 1, 2 do redis.pcall('XGROUP', 'DELCONSUMER', KEYS[i], ARGV[1], ARGV[2]) end
end
redis.pcall('DEL', KEYS[3])
return held
