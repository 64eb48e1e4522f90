-- Answers cache hits: writes their outcomes, and queues nothing.
--
-- It leaves what a worker's commit of a hit leaves, in one step with the check of the request's id.
-- An entry that is added to the lane and deleted at once would wake every worker that waits there;
-- so the outcome's `entry` is a number of its own, from 2^32 on, which XADD never comes to by itself.
--
-- KEYS 1 requests  2 requests_high  3 transcripts  4 webhooks  5 stats  6 reuse_policy, then for
--      each request
--      1 request            request:<id>
--      2 result             result:<identity>
--      3 audio              audio:<decode revision>:<digest>, the alias
-- ARGV 1 recogniser  2 decode_revision, of the aliases  3 request_ttl s, then for each request
--      1 lane               normal or high
--      2 digest_unverified  1: the sender has only named the digest, 0: its process hashed the bytes
--      3 expected_sha1      of the transcript that must still be kept; empty: of any
--      4 result_ttl         ms; 0: leave the retention
--      5 webhook_url        or empty
--      6 id                 of the request
--      7 field_count        how many names and values the outcome has
--      8 own_members        the request's own fields, as members of a JSON object
--      then the names and values, the request's own first, and one argument: the fields that are not
--      the request's own, as members of a JSON object
-- Returns for each request
--      {'answered', entry, outcome id, now in ms}
--      {'duplicate', entry, lane, state, status, outcome}
--      {'gone'}             the result is kept no longer or may not be used; nothing was written
--      {'refused', error}   a key holds something else, or Redis is full; nothing was written
--
-- All that a request needs is checked before its first write, because Lua does not roll back. That
-- write is an XADD, which fails and leaves nothing where the key is no stream or memory is full.

local requests, requests_high, transcripts, webhooks, stats, reuse_policy = unpack(KEYS, 1, 6)
local recogniser, decode_revision, request_ttl = unpack(ARGV, 1, 3)
local OWN_KEYS, OWN_ARGUMENTS = 3, 8

local function foreign(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found == 'none' or found == wanted then return nil end
  return 'WRONGKEY ' .. key .. ' holds a ' .. found .. ' where a ' .. wanted .. ' belongs'
end

local submitted = redis.pcall('HGET', stats, 'submitted')
if type(submitted) == 'table' then
  return redis.error_reply(foreign(stats, 'hash') or submitted.err)
end

local time = redis.call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000)
local now = string.format('%.0f', at)  -- a Lua number of this size would print as 1.7e+12
local policy =
  redis.pcall('HMGET', reuse_policy, 'recogniser', 'decode_revision', 'untrusted_digest_until')
local policy_agrees = policy[1] == recogniser and policy[2] == decode_revision
local digests_untrusted = policy[3] and (tonumber(policy[3]) or at) >= at
local answered, duplicates = 0, 0

-- Of two retentions the longer one wins; what it is longer by, a second at most, is not worth a
-- write for every hit. PTTL is -2 for a key that is gone.
local function prolong(key, kind, ttl, worn)
  local left = redis.pcall('PTTL', key)
  if type(left) == 'number' and left >= 0 and left < worn and not foreign(key, kind) then
    redis.pcall('PEXPIRE', key, ttl)
  end
end

local function answer(k, a)
  local request, result, audio = unpack(KEYS, k, k + OWN_KEYS - 1)
  local lane, digest_unverified, expected_sha1, result_ttl, webhook_url, id, field_count,
    own_members = unpack(ARGV, a, a + OWN_ARGUMENTS - 1)
  local first = a + OWN_ARGUMENTS
  local last = first + tonumber(field_count) - 1
  local following = last + 2  -- between them is JSON

  local known = {}
  if redis.pcall('EXISTS', request) ~= 0 then  -- mostly it is 0, which costs less than five fields
    known = redis.pcall('HMGET', request, 'state', 'entry', 'lane', 'status', 'outcome')
  end
  if known.err then return {'refused', foreign(request, 'hash') or known.err}, following end
  local state, entry, status = known[1], known[2], known[4]
  local stands = state == 'done' and status == 'completed'
  if (state == 'queued' or state == 'started') and entry then
    local queued = redis.pcall('XRANGE', known[3] == 'high' and requests_high or requests, entry, entry)
    stands = #queued > 0  -- where it is no stream, nothing is queued
  end
  if stands then
    duplicates = duplicates + 1
    return {'duplicate', entry or '', known[3] or '', state, status or '', known[5] or ''}, following
  end

  local misplaced = webhook_url ~= '' and foreign(webhooks, 'stream')
  if misplaced then return {'refused', misplaced}, following end
  local untrusted = digests_untrusted and digest_unverified == '1'
  if not policy_agrees or untrusted then return {'gone'}, following end
  if expected_sha1 ~= '' then
    local transcript = redis.pcall('HGET', result, 'transcript')
    if type(transcript) ~= 'string' or redis.sha1hex(transcript) ~= expected_sha1 then
      return {'gone'}, following
    end
  end

  entry = now .. '-' .. string.format('%.0f', 4294967297 + (submitted or 0) + answered)
  local written = redis.pcall('XADD', transcripts, '*', 'entry', entry, 'submitted_at', now,
    'started_at', now, 'finished_at', now, unpack(ARGV, first, last))
  if type(written) == 'table' then
    local reason = foreign(transcripts, 'stream')
    if string.find(written.err, 'OOM', 1, true) then reason = reason or written.err end
    if reason then return {'refused', reason}, following end
    redis.call('XADD', transcripts, '*', unpack(ARGV, first, last))  -- fails again, and as itself
  end
  if webhook_url ~= '' then
    redis.call('XADD', webhooks, '*', 'outcome', written, 'url', webhook_url, 'id', id)
  end
  redis.call('HSET', request, 'state', 'done', 'entry', entry, 'lane', lane,
    'status', 'completed', 'outcome', written)
  redis.call('EXPIRE', request, request_ttl)
  local ttl = tonumber(result_ttl)
  if ttl > 0 then
    local worn = ttl - math.min(1000, ttl / 100)
    prolong(result, 'hash', ttl, worn)
    prolong(audio, 'string', ttl, worn)
  end
  redis.pcall('PUBLISH', transcripts, '{"entry":"' .. entry .. '","submitted_at":' .. now ..
    ',"started_at":' .. now .. ',"finished_at":' .. now .. ',' .. own_members .. ',' .. ARGV[last + 1] .. '}')
  answered = answered + 1
  return {'answered', entry, written, now}, following
end

local replies, argument = {}, 4
for key = 7, #KEYS, OWN_KEYS do
  replies[#replies + 1], argument = answer(key, argument)
end
if answered > 0 then
  redis.pcall('HINCRBY', stats, 'submitted', answered)
  redis.pcall('HINCRBY', stats, 'completed', answered)
  redis.pcall('HINCRBY', stats, 'hits', answered)
end
if duplicates > 0 then redis.pcall('HINCRBY', stats, 'duplicates', duplicates) end
return replies
