-- Renews a key of ours: works on a full Redis, where SET is refused, and never another's.
-- KEYS 1 key   ARGV 1 our value  2 ttl ms   Returns 1 when it was ours, else 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
