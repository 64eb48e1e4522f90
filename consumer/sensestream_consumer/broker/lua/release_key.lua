-- Deletes a key of ours, never another's.
-- KEYS 1 key   ARGV 1 our value   Returns 1 when it was ours, else 0
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
