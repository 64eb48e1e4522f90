-- Answers one request: acknowledge, publish the outcome, delete the request, keep the result.
--
-- The order is the promise. Everything is looked at before anything is written, because Lua does
-- not roll back. XACK is the first write: it tells whether somebody answered before us, and a
-- Redis at its memory limit lets a script go on that has already written, so a full Redis drains.
-- After the first three writes the request is answered; the rest is reported, never fatal.
--
-- KEYS 1 requests  2 transcripts  3 dead  4 webhooks  5 request:<id>  6 upload:<id>
--      7 result:<identity>  8 audio:<digest>  9 lease:<identity>  10 crashes:<digest>  11 stats
-- ARGV 1 group  2 consumer  3 entry  4 owner must be us (1/0)  5 outcome as JSON  6 status
--      7 request_ttl s  8 carried an id (1/0)  9 upload_ttl ms (0: delete)  10 result_ttl ms
--      11 alias value  12 lease value, then five lists, each preceded by its length:
--      outcome fields, dead letter fields, webhook fields, result fields, counter names
-- Returns {1, outcome id, problems…}, or {0} when the entry was not ours to answer any more.

local requests, transcripts, dead, webhooks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, entry = ARGV[1], ARGV[2], ARGV[3]

local position = 13
local function list()
  local length = tonumber(ARGV[position])
  local values = {}
  for i = 1, length do values[i] = ARGV[position + i] end
  position = position + length + 1
  return values
end
local outcome, letter, webhook, result, counters = list(), list(), list(), list(), list()

local function must_be_stream(key)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'stream' and kind ~= 'none' then
    return redis.error_reply('NOTSTREAM ' .. key .. ' holds a ' .. kind .. ', not a stream')
  end
end
local wrong = must_be_stream(requests) or must_be_stream(transcripts)
  or (#letter > 0 and must_be_stream(dead)) or (#webhook > 0 and must_be_stream(webhooks))
if wrong then return wrong end

if ARGV[4] == '1' then
  local pending = redis.pcall('XPENDING', requests, group, entry, entry, 1, consumer)
  if pending.err or #pending == 0 then return {0} end
end

if redis.call('XACK', requests, group, entry) == 0 then return {0} end
local id = redis.call('XADD', transcripts, '*', unpack(outcome))
local letter_id
if #letter > 0 then letter_id = redis.call('XADD', dead, '*', unpack(letter)) end
if #webhook > 0 then redis.call('XADD', webhooks, '*', 'outcome', id, unpack(webhook)) end
redis.call('XDEL', requests, entry)

local reply = {1, id}
local function attempt(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then reply[#reply + 1] = answer.err end
  return answer
end

-- Keys that carry a TTL are written with it in one command, so that none is ever left without.
local result_ttl = tonumber(ARGV[10])
if result_ttl > 0 then
  if #result > 0 then
    -- What has another type here could be neither read nor written, and PEXPIRE would keep it.
    attempt('DEL', KEYS[7])
    attempt('HSET', KEYS[7], unpack(result))
    attempt('PEXPIRE', KEYS[7], result_ttl)
    if ARGV[11] ~= '' then attempt('SET', KEYS[8], ARGV[11], 'PX', result_ttl) end
  else
    -- A hit: of the two retentions the longer one wins. PTTL is -2 for a key that is gone.
    local left = attempt('PTTL', KEYS[7])
    if type(left) == 'number' and left >= 0 and left < result_ttl then
      attempt('PEXPIRE', KEYS[7], result_ttl)
    end
    -- Written anew: what has another type here leads nowhere, and PEXPIRE would keep it for days.
    left = attempt('PTTL', KEYS[8])
    if type(left) == 'number' and left < result_ttl and ARGV[11] ~= '' then
      attempt('SET', KEYS[8], ARGV[11], 'PX', result_ttl)
    end
  end
end

-- The request's state is this entry's to change, unless the id has since been submitted again.
local owner = attempt('HGET', KEYS[5], 'entry')
if owner == entry or (owner == false and ARGV[8] == '1') then
  attempt('HSET', KEYS[5], 'state', 'done', 'entry', entry, 'status', ARGV[6], 'outcome', id)
  attempt('EXPIRE', KEYS[5], ARGV[7])
end
if ARGV[9] == '0' then
  attempt('DEL', KEYS[6])
else
  attempt('PEXPIRE', KEYS[6], ARGV[9])
end
if ARGV[12] ~= '' and attempt('GET', KEYS[9]) == ARGV[12] then attempt('DEL', KEYS[9]) end
attempt('DEL', KEYS[10])
for _, name in ipairs(counters) do attempt('HINCRBY', KEYS[11], name, 1) end
attempt('PUBLISH', transcripts, ARGV[5])
return reply
