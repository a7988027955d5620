-- Removes metas that no payload is left of, whoever wrote them, in one step of SCAN, and the keys that verifyd never
-- writes and a producer may. Names and values stay in Redis, however long they are.
--
-- KEYS     Q:data, Q:meta, Q:signal
-- ARGV[1]  where SCAN goes on
-- ARGV[2]  keys to look at
-- Returns  {where to go on, number of keys removed}

local removed = redis.call('UNLINK', KEYS[2], KEYS[3])
local step = redis.call('SCAN', ARGV[1], 'MATCH', KEYS[2] .. ':*', 'COUNT', tonumber(ARGV[2]))
for _, key in ipairs(step[2]) do
  if redis.call('HEXISTS', KEYS[1], string.sub(key, #KEYS[2] + 2)) == 0 then
    removed = removed + redis.call('UNLINK', key)
  end
end
return { step[1], removed }
