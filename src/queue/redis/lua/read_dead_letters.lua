-- Reads some of the dead letters, with their payloads where these are not too long.
--
-- KEYS     Q:dead, Q:data
-- ARGV[1]  most entries
-- ARGV[2]  most bytes of a payload, and of an id that is returned
-- Returns  {number of all, {id, length of the payload, payload, ...}}

local found = {}
for _, id in ipairs(redis.call('SRANDMEMBER', KEYS[1], tonumber(ARGV[1]))) do
  local length = -1
  local payload = ''
  if redis.call('HEXISTS', KEYS[2], id) == 1 then
    length = redis.call('HSTRLEN', KEYS[2], id)
    if length <= tonumber(ARGV[2]) then payload = redis.call('HGET', KEYS[2], id) end
  end
  found[#found + 1] = string.sub(id, 1, tonumber(ARGV[2]))
  found[#found + 1] = length
  found[#found + 1] = payload
end
return { redis.call('SCARD', KEYS[1]), found }
