-- Removes acknowledged deliveries.
--
-- KEYS     Q:done, Q:data, Q:meta
-- ARGV[1]  most entries per call
-- Returns  number of entries removed

local ids = redis.call('SPOP', KEYS[1], tonumber(ARGV[1]))
if #ids == 0 then return 0 end
redis.call('HDEL', KEYS[2], unpack(ids))
for i, id in ipairs(ids) do ids[i] = KEYS[3] .. ':' .. id end
redis.call('UNLINK', unpack(ids))
return #ids
