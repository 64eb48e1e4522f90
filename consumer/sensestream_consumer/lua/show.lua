-- How a living worker shows itself, and what its group runs. One script, so that neither key is
-- ever without an end; what a full Redis refuses to write is left as it was, and lives on.
--
-- KEYS 1 worker:<consumer>  2 recogniser
-- ARGV 1 milliseconds of the worker  2 of the recogniser  3 fingerprint  then field, value, …

redis.pcall('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.pcall('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[2])
if redis.call('GET', KEYS[2]) == ARGV[3] then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
