-- Takes requests into their lanes, each unless its id stands there already or the backlog is full.
--
-- KEYS 1 requests  2 requests_high  3 stats, then for each request
--      1 request      request:<id>
--      then, if it uploads
--      1 staged       the staged upload
--      2 upload       upload:<id>
-- ARGV 1 max_backlog, then for each request
--      1 lane         normal or high
--      2 time_left    ms to the deadline, or empty
--      3 uploads      1: it uploads, 0: it does not
--      4 field_count  how many names and values follow
--      then the names and values of its fields
-- Returns for each request
--      {'queued', entry}
--      {'duplicate', entry, lane, state, status, outcome}
--      {'full', backlog}    nothing was written
--      {'unstaged'}         the staged upload is gone: stage it again
--      {'refused', error}   a key holds something else, or Redis is full; nothing was written
--
-- Everything of a request is checked before its first write, because Lua does not roll back. The
-- first write of all is an XADD: a full Redis refuses nothing of a script that has written once.

local requests, requests_high, stats = KEYS[1], KEYS[2], KEYS[3]
local max_backlog = tonumber(ARGV[1])
local OWN_KEYS, OWN_UPLOAD_KEYS, OWN_ARGUMENTS = 1, 2, 4

-- The error where a key holds something else, and whether there is such a key.
local function foreign(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found == 'none' or found == wanted then return nil, found ~= 'none' end
  return 'WRONGKEY ' .. key .. ' holds a ' .. found .. ' where a ' .. wanted .. ' belongs'
end

-- A wrong type here is one for every request.
local wrong = foreign(requests, 'stream') or foreign(requests_high, 'stream') or foreign(stats, 'hash')
if wrong then return redis.error_reply(wrong) end
local backlog = redis.call('XLEN', requests) + redis.call('XLEN', requests_high)

local counts = {submitted = 0, duplicates = 0, refused = 0}
local superfluous = {}  -- staged uploads of duplicates
local now

local function stamped(fields, time_left)
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  -- Whole milliseconds as text: a Lua number of this size would print as 1.7e+12.
  fields[#fields + 1] = 'submitted_at'
  fields[#fields + 1] = string.format('%.0f', now)
  if time_left ~= '' then
    fields[#fields + 1] = 'deadline'
    fields[#fields + 1] = string.format('%.0f', now + tonumber(time_left))
  end
  return fields
end

local function take(request, staged, upload, lane, time_left, fields)
  local uploads = staged ~= nil
  local wrong, before = foreign(request, 'hash')
  if uploads then wrong = wrong or foreign(staged, 'string') or foreign(upload, 'string') end
  if wrong then return {'refused', wrong} end

  local known = redis.call('HMGET', request, 'state', 'entry', 'lane', 'status', 'outcome')
  local state, entry, status = known[1], known[2], known[4]
  local stands = state == 'done' and status == 'completed'
  if (state == 'queued' or state == 'started') and entry then
    stands = #redis.call('XRANGE', known[3] == 'high' and requests_high or requests, entry, entry) > 0
  end
  if stands then
    if uploads then superfluous[#superfluous + 1] = staged end
    counts.duplicates = counts.duplicates + 1
    return {'duplicate', entry or '', known[3] or '', state, status or '', known[5] or ''}
  end

  if backlog >= max_backlog then
    counts.refused = counts.refused + 1
    return {'full', backlog}
  end
  if uploads and redis.call('EXISTS', staged) == 0 then return {'unstaged'} end

  local add = {'XADD', lane == 'high' and requests_high or requests, '*', unpack(stamped(fields, time_left))}
  entry = redis.pcall(unpack(add))
  if type(entry) == 'table' then
    if string.find(entry.err, 'OOM', 1, true) then return {'refused', entry.err} end
    redis.call(unpack(add))  -- fails again, and as itself
  end
  backlog = backlog + 1
  redis.call('HSET', request, 'state', 'queued', 'entry', entry, 'lane', lane)
  if before then
    redis.call('HDEL', request, 'status', 'outcome')
    redis.call('PERSIST', request)
  end
  if uploads then
    redis.call('RENAME', staged, upload)
    redis.call('PERSIST', upload)
  end
  counts.submitted = counts.submitted + 1
  return {'queued', entry}
end

local answers, k, a = {}, 4, 2
while k <= #KEYS do
  local request = unpack(KEYS, k, k + OWN_KEYS - 1)
  k = k + OWN_KEYS
  local lane, time_left, uploads, field_count = unpack(ARGV, a, a + OWN_ARGUMENTS - 1)
  local first = a + OWN_ARGUMENTS
  a = first + tonumber(field_count)
  local staged, upload
  if uploads == '1' then
    staged, upload = unpack(KEYS, k, k + OWN_UPLOAD_KEYS - 1)
    k = k + OWN_UPLOAD_KEYS
  end
  answers[#answers + 1] = take(request, staged, upload, lane, time_left, {unpack(ARGV, first, a - 1)})
end
for _, staged in ipairs(superfluous) do redis.call('DEL', staged) end
for name, count in pairs(counts) do
  if count > 0 then redis.pcall('HINCRBY', stats, name, count) end
end
return answers
