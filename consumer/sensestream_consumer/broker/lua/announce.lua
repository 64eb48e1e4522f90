-- Announces a living worker, the recogniser of its group, and the terms on which clients and
-- gateways may answer cache hits. One script, so that no key is ever without a TTL; a key that a
-- full Redis refuses to write keeps its value, and lives on.
--
-- KEYS 1 worker:<consumer>  2 recogniser  3 reuse-policy
-- ARGV 1 milliseconds of the worker  2 of the others  3 fingerprint  4 a digest is trusted (1/0)
--      5 result_ttl s  6 request_ttl s  7 decode revision  8 the worker is joining (1/0)
--      then field, value, …

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + ARGV[2])

-- Whether this worker's decode revision is the one by which clients answer. Where workers have
-- several, it is that of the last to join, until all that have it have been silent: with each beat
-- another, clients would find nothing in what they looked up a moment ago.
local function decides()
  local revision = redis.pcall('HGET', KEYS[3], 'decode_revision')
  if ARGV[8] == '1' or type(revision) ~= 'string' or revision == ARGV[7] then return true end
  local silent_at = redis.pcall('HGET', KEYS[3], 'decode_revision_until')
  return type(silent_at) ~= 'string' or (tonumber(silent_at) or 0) < now
end

redis.pcall('HSET', KEYS[1], unpack(ARGV, 9))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.pcall('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[2])
if redis.call('GET', KEYS[2]) == ARGV[3] then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  redis.pcall('HSET', KEYS[3], 'recogniser', ARGV[3], 'result_ttl', ARGV[5], 'request_ttl', ARGV[6])
  if decides() then
    redis.pcall('HSET', KEYS[3], 'decode_revision', ARGV[7], 'decode_revision_until', ends)
  end
end

-- One worker that trusts no digest is enough for none to be trusted, until it has been silent.
if ARGV[4] == '0' then
  redis.pcall('HSET', KEYS[3], 'untrusted_digest_until', ends)
else
  local untrusted = redis.pcall('HGET', KEYS[3], 'untrusted_digest_until')
  if type(untrusted) == 'string' and untrusted ~= '0' and (tonumber(untrusted) or 0) < now then
    redis.pcall('HSET', KEYS[3], 'untrusted_digest_until', '0')
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[2])
