-- Answers requests whose results are kept: their outcomes are written, and nothing is queued.
--
-- What a worker's commit leaves of a hit, in one step with the look at the request's id. Adding an
-- entry to the lane and deleting it at once would wake every worker that waits there; so the
-- outcome's `entry` is a number of its own, from 2^32 on, which XADD never comes to by itself.
--
-- KEYS  1 requests  2 requests:high  3 transcripts  4 webhooks  5 stats  6 reuse-policy, then for
--       each request  1 request:<id>  2 result:<identity>  3 audio:<decode revision>:<digest>
-- ARGV  1 the recogniser whose results these are  2 the decode revision whose aliases led to them
--       3 request_ttl s, then for each request
--       1 lane's name  2 its digest is only claimed (1/0)  3 SHA-1 of the transcript that must still
--       be kept, or ''  4 result_ttl ms, 0 to leave it  5 webhook url or ''  6 request id
--       7 how many fields and values the outcome has  8 the request's own, as members of a JSON
--       object  9… the fields and values, the request's own first  then the others, as members of
--       a JSON object
-- Gives for each request
--       {'answered', entry, outcome id, now in ms}
--       {'duplicate', entry, lane, state, status, outcome}
--       {'gone'}             it cannot be answered so (any more); nothing was written
--       {'refused', error}   a key holds something else, or Redis is full; nothing was written
--
-- What a request needs is looked at before its first write, because Lua does not roll back. That is
-- an XADD, which fails and leaves nothing where the key is no stream or Redis has no memory.

local requests, high, transcripts, webhooks, stats, terms = unpack(KEYS, 1, 6)
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
local kept = redis.pcall('HMGET', terms, 'recogniser', 'decode_revision', 'untrusted_digest_until')
local ours = kept[1] == recogniser and kept[2] == decode_revision
local wary = ours and kept[3] and (tonumber(kept[3]) or at) >= at
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
  local lane, claimed, wanted, ttl, url, id, count, own = unpack(ARGV, a, a + OWN_ARGUMENTS - 1)
  local first = a + OWN_ARGUMENTS
  local last = first + tonumber(count) - 1
  local following = last + 2  -- between them is JSON

  local known = {}
  if redis.pcall('EXISTS', request) ~= 0 then  -- mostly it is 0, which costs less than five fields
    known = redis.pcall('HMGET', request, 'state', 'entry', 'lane', 'status', 'outcome')
  end
  if known.err then return {'refused', foreign(request, 'hash') or known.err}, following end
  local state, entry, status = known[1], known[2], known[4]
  local stands = state == 'done' and status == 'completed'
  if (state == 'queued' or state == 'started') and entry then
    local queued = redis.pcall('XRANGE', known[3] == 'high' and high or requests, entry, entry)
    stands = #queued > 0  -- where it is no stream, nothing is queued
  end
  if stands then
    duplicates = duplicates + 1
    return {'duplicate', entry or '', known[3] or '', state, status or '', known[5] or ''}, following
  end

  local misplaced = url ~= '' and foreign(webhooks, 'stream')
  if misplaced then return {'refused', misplaced}, following end
  if not ours or (wary and claimed == '1') then return {'gone'}, following end
  if wanted ~= '' then
    local transcript = redis.pcall('HGET', result, 'transcript')
    if type(transcript) ~= 'string' or redis.sha1hex(transcript) ~= wanted then
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
  if url ~= '' then redis.call('XADD', webhooks, '*', 'outcome', written, 'url', url, 'id', id) end
  redis.call('HSET', request, 'state', 'done', 'entry', entry, 'lane', lane,
    'status', 'completed', 'outcome', written)
  redis.call('EXPIRE', request, request_ttl)
  ttl = tonumber(ttl)
  if ttl > 0 then
    local worn = ttl - math.min(1000, ttl / 100)
    prolong(result, 'hash', ttl, worn)
    prolong(audio, 'string', ttl, worn)
  end
  redis.pcall('PUBLISH', transcripts, '{"entry":"' .. entry .. '","submitted_at":' .. now ..
    ',"started_at":' .. now .. ',"finished_at":' .. now .. ',' .. own .. ',' .. ARGV[last + 1] .. '}')
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
