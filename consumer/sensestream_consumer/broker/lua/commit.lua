-- Answers requests: acknowledge, publish the outcome, delete the request, keep the result.
--
-- The order is the promise. Everything is looked at before anything of a request is written,
-- because Lua does not roll back. XACK is the first write: it tells whether another worker has
-- answered, and a Redis at its memory limit lets a script go on that has already written, so a
-- full Redis drains. After the first three writes a request is answered; the rest is reported,
-- never fatal.
--
-- KEYS 1 transcripts  2 dead  3 webhooks  4 stats, then for each request
--      1 lane            its stream
--      2 request         request:<id>
--      3 upload          upload:<id>
--      4 result          result:<identity>
--      5 audio           audio:<decode revision>:<digest>, the alias
--      6 lease           lease:<identity>
--      7 crashes         crashes:<digest>
-- ARGV 1 group  2 consumer  3 request_ttl s, then for each request
--      1 entry           its id in the stream
--      2 must_own        1: only if this consumer owns the entry, 0: from any consumer
--      3 outcome         as JSON
--      4 status          of the outcome
--      5 carried_id      1: the request carried an id, 0: it did not
--      6 upload_ttl      ms; 0: delete the upload, empty: there is none
--      7 result_ttl      ms
--      8 alias_value     of the alias: the identity of the audio, and warnings
--      9 lease_value     with which the lease is ours
--     10 forget_crashes  1: delete the crash count, 0: keep it
--     11 expected_sha1   of the transcript that must still be kept, or empty
--      then these lists, each preceded by its length:
--      1 fields          of the outcome, in pairs
--      2 dead_letter     its fields, in pairs; none: no dead letter
--      3 webhook         its fields, in pairs; none: no webhook
--      4 stored          fields of the result, in pairs; none: it is a hit
--      5 counters        names in stats
-- Returns for each request {1, outcome id, problems…}, {0} when it was not ours to answer any more,
--      {2} when another transcript is kept, or none, or {-1, error}; the last two wrote nothing

local transcripts, dead, webhooks, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, request_ttl = ARGV[1], ARGV[2], ARGV[3]
local OWN_KEYS, OWN_ARGUMENTS = 7, 11

local kinds = {}
local function foreign(key)
  if not kinds[key] then kinds[key] = redis.call('TYPE', key).ok end
  if kinds[key] ~= 'stream' and kinds[key] ~= 'none' then
    return 'NOTSTREAM ' .. key .. ' holds a ' .. kinds[key] .. ', not a stream'
  end
end

local counts, names = {}, {}
local function count(name)
  if not counts[name] then names[#names + 1] = name end
  counts[name] = (counts[name] or 0) + 1
end

-- Keys that carry a TTL are written with it in one command, so that none is ever left without.
local function keep(attempt, result, audio, ttl, alias, fields)
  if #fields > 0 then
    -- A key of another type could be neither read nor written, and PEXPIRE would keep it.
    attempt('DEL', result)
    attempt('HSET', result, unpack(fields))
    attempt('PEXPIRE', result, ttl)
    if alias ~= '' then attempt('SET', audio, alias, 'PX', ttl) end
    return
  end
  -- A hit: of the two retentions the longer one wins. A difference of a second at most is not worth
  -- a write for every hit. PTTL is -2 for a key that is gone.
  local worn = ttl - math.min(1000, ttl / 100)
  local left = attempt('PTTL', result)
  if type(left) == 'number' and left >= 0 and left < worn then attempt('PEXPIRE', result, ttl) end
  if alias == '' then return end
  -- Written anew: a key of another type leads nowhere, and PEXPIRE would keep it for days.
  left = attempt('PTTL', audio)
  if type(left) == 'number' and left < worn then attempt('SET', audio, alias, 'PX', ttl) end
end

local function answer(k, a)
  local lane, request, upload, result, audio, lease, crashes = unpack(KEYS, k, k + OWN_KEYS - 1)
  local entry, must_own, outcome, status, carried_id, upload_ttl, result_ttl, alias_value,
    lease_value, forget_crashes, expected_sha1 = unpack(ARGV, a, a + OWN_ARGUMENTS - 1)
  local position = a + OWN_ARGUMENTS
  local function list()
    local length = tonumber(ARGV[position])
    local values = {unpack(ARGV, position + 1, position + length)}
    position = position + length + 1
    return values
  end
  local fields, dead_letter, webhook, stored, counters = list(), list(), list(), list(), list()

  local wrong = foreign(lane) or foreign(transcripts)
    or (#dead_letter > 0 and foreign(dead)) or (#webhook > 0 and foreign(webhooks))
  if wrong then return {-1, wrong}, position end
  if expected_sha1 ~= '' then
    local transcript = redis.pcall('HGET', result, 'transcript')
    if type(transcript) ~= 'string' or redis.sha1hex(transcript) ~= expected_sha1 then
      return {2}, position
    end
  end
  if must_own == '1' then
    local pending = redis.pcall('XPENDING', lane, group, entry, entry, 1, consumer)
    if pending.err or #pending == 0 then return {0}, position end
  end

  if redis.call('XACK', lane, group, entry) == 0 then return {0}, position end
  local id = redis.call('XADD', transcripts, '*', unpack(fields))
  if #dead_letter > 0 then redis.call('XADD', dead, '*', unpack(dead_letter)) end
  if #webhook > 0 then redis.call('XADD', webhooks, '*', 'outcome', id, unpack(webhook)) end
  redis.call('XDEL', lane, entry)

  local reply = {1, id}
  local function attempt(...)
    local got = redis.pcall(...)
    if type(got) == 'table' and got.err then reply[#reply + 1] = got.err end
    return got
  end
  result_ttl = tonumber(result_ttl)
  if result_ttl > 0 then keep(attempt, result, audio, result_ttl, alias_value, stored) end
  -- The request's state is this entry's to change, unless the id has since been submitted again.
  local owner = attempt('HGET', request, 'entry')
  if owner == entry or (owner == false and carried_id == '1') then
    attempt('HSET', request, 'state', 'done', 'entry', entry, 'status', status, 'outcome', id)
    attempt('EXPIRE', request, request_ttl)
  end
  if upload_ttl == '0' then
    attempt('DEL', upload)
  elseif upload_ttl ~= '' then
    attempt('PEXPIRE', upload, upload_ttl)
  end
  if lease_value ~= '' and attempt('GET', lease) == lease_value then attempt('DEL', lease) end
  if forget_crashes == '1' then attempt('DEL', crashes) end
  for _, name in ipairs(counters) do count(name) end
  attempt('PUBLISH', transcripts, outcome)
  return reply, position
end

local replies, argument, answered = {}, 4, nil
for key = 5, #KEYS, OWN_KEYS do
  local reply
  reply, argument = answer(key, argument)
  replies[#replies + 1] = reply
  if reply[1] == 1 then answered = reply end
end
for _, name in ipairs(names) do
  local counted = redis.pcall('HINCRBY', stats, name, counts[name])
  if type(counted) == 'table' and counted.err then answered[#answered + 1] = counted.err end
end
return replies
