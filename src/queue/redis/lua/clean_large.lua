-- Removes payloads that are too long, wherever their entry is, and also where there is none. Only
-- lengths are read. A hash has no order, so each call looks at a random sample.
--
-- KEYS     Q:data, Q:meta, Q:dead
-- ARGV[1]  entries to look at
-- ARGV[2]  most bytes of a payload
-- Returns  number of entries removed

local removed = 0
if redis.call('HLEN', KEYS[1]) == 0 then return 0 end
for _, id in ipairs(redis.call('HRANDFIELD', KEYS[1], tonumber(ARGV[1]))) do
  if redis.call('HSTRLEN', KEYS[1], id) > tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[1], id)
    redis.call('UNLINK', KEYS[2] .. ':' .. id)
    redis.call('SREM', KEYS[3], id)
    removed = removed + 1
  end
end
return removed
