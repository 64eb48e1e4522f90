-- Removes a webhook from its stream after it was delivered or given up.
--
-- KEYS 1 webhooks  2 stats   ARGV 1 group  2 entry  3 counter's name
-- Returns 1, or 0 when another gateway has settled it.

if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], ARGV[2])
redis.pcall('HINCRBY', KEYS[2], ARGV[3], 1)
return 1
