-- Queues recordings to be transcribed, once for each list and recogniser.
--
-- KEYS 1 warmed:<list and recogniser>  2 requests
-- ARGV 1 seconds until it may be queued again  2 metadata  then audio, language and itn of each
-- Returns how many were queued; 0 where a worker has queued them before

if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then return 0 end
local added = 0
for i = 3, #ARGV, 3 do
  redis.call('XADD', KEYS[2], '*', 'audio', ARGV[i], 'language', ARGV[i + 1], 'itn', ARGV[i + 2],
    'metadata', ARGV[2])
  added = added + 1
end
return added
