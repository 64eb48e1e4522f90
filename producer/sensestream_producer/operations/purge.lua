-- Removes one dead letter for good, with the uploaded bytes that were kept for its replay.
--
-- KEYS  1 dead  2 request:<id>, or a name that no key has
--       3 upload:<id> when the request's audio is that key, or a name that no key has
-- ARGV  1 the letter's id
-- Returns 1, or 0 when there is no such letter

if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
-- If the same id has been submitted again since, the bytes belong to that request.
local state = redis.pcall('HGET', KEYS[2], 'state')
if state ~= 'queued' and state ~= 'started' then redis.call('DEL', KEYS[3]) end
return 1
